"""The objective of all ratings at once, with a gradient that needs no scatter of ratings."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from probmf.inference.point.objective import (
    RatingObjective,
    Terms,
    add_means,
    own_parameters,
    to_sites,
)
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.scores import Parameters, squared_scores
from probmf.models.table import ALIGNMENT
from probmf.rows import conditionals
from probmf.rows.blocks import Bucket, build_blocks
from probmf.rows.store import SIDES
from probmf.rows.sweep import own_rows
from probmf.rows.values import RowValues


class RatingTerms(NamedTuple):
    """The ratings by row, and what weighs on their scores; a pytree.

    Attributes:
        buckets: Ratings of the rows of both sides.
        scales: The likelihood's own scales.
        zero_weight: Precision of the weak zeros that stand for unobserved pairs, or None.
    """

    buckets: tuple[Bucket, ...]
    scales: dict[str, Array]
    zero_weight: Float[Array, ""] | None


class FullBatchObjective(RatingObjective):
    """The objective of a factorization. Value and gradient read each rating's rows twice."""

    by_rows = False

    @classmethod
    def build(
        cls, model: MatrixFactorization, observations: Observations
    ) -> tuple["FullBatchObjective", tuple[Terms, RatingTerms]]:
        """The objective of a model, and its data by row."""
        terms = Terms.build(model, observations)
        zero_weight = None
        if model.unobserved_weight > 0:
            zero_weight = model.unobserved_weight / jnp.square(terms.scales["noise_scale"])
        buckets = build_blocks(observations.by_row()).buckets
        ratings = RatingTerms(buckets, terms.scales, zero_weight)
        return cls(model.likelihood.canonical()), (terms, ratings)

    def whole(self, moved: dict[str, Array], given: tuple[Terms, RatingTerms]) -> Float[Array, ""]:
        """Minus log posterior up to a constant."""
        terms, ratings = given
        sites = to_sites(moved)
        values = add_means(sites, terms)
        total = terms.prior_loss(sites, terms.precision)
        inputs = Moved(_pack(values, terms), values["intercept"], own_parameters(sites))
        total = total + rating_loss(self.likelihood, inputs, ratings)
        if ratings.zero_weight is not None:
            sizes = [len(terms.has_data[side]) for side in SIDES]
            total = total + 0.5 * ratings.zero_weight * squared_scores(values, *sizes)
        return total


def _pack(values: Parameters, terms: Terms) -> RowValues:
    """Rows of both sides in the numbering of the buckets."""
    bias, factors = [], []
    for side in SIDES:
        size = len(terms.has_data[side])
        bias.append(values.get(f"{side}_bias", jnp.zeros(size)))
        block = values.get(f"{side}_factors", jnp.zeros((size, 0)))
        factors.append(jnp.pad(block, ((0, 0), (0, -block.shape[1] % ALIGNMENT))))
    last = jnp.zeros((1, factors[0].shape[1]))
    return RowValues(jnp.concatenate([*bias, jnp.zeros(1)]), jnp.concatenate([*factors, last]))


class Moved(NamedTuple):
    """Arguments that the losses of ratings are differentiated in; a pytree.

    Attributes:
        rows: Rows of both sides.
        intercept: Added to every score.
        own: Those parameters of the likelihood that are optimized, too.
    """

    rows: RowValues
    intercept: Float[Array, ""]
    own: dict[str, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rating_loss(likelihood: Likelihood, moved: Moved, ratings: RatingTerms) -> Float[Array, ""]:
    """Sum of the losses of all ratings, less what the weak zeros count of observed pairs."""
    return _loss_and_slopes(likelihood, moved, ratings)[0]


def _loss_and_slopes(
    likelihood: Likelihood, moved: Moved, ratings: RatingTerms
) -> tuple[Array, Moved]:
    """Loss, and its gradient.

    Every rating stands in two buckets, its user's and its item's, so that each row sums over its
    own slots; for the loss, the two are halved.
    """
    rows, intercept = moved.rows, moved.intercept
    zero_row = len(rows.bias) - 1

    def one_chunk(chunk: Bucket) -> tuple[Array, Array, dict[str, Array]]:
        design = rows.factors[chunk.partner]
        offset = intercept + rows.bias[chunk.partner]
        scores = offset + conditionals.project(design, own_rows(rows, chunk.row))
        filled = (chunk.partner != zero_row).astype(scores.dtype)
        weight = filled if chunk.weight is None else chunk.weight

        def chunk_loss(own: dict[str, Array]) -> tuple[Array, Array]:
            losses = weight * likelihood.loss(scores, chunk.rating, ratings.scales | own)
            return jnp.sum(losses), losses

        # Without parameters of its own nothing is differentiated.
        own_slopes, loss = jax.grad(chunk_loss, has_aux=True)(moved.own)
        slope = -weight * likelihood.slope(scores, chunk.rating, ratings.scales | moved.own)
        if ratings.zero_weight is not None:
            loss = loss - 0.5 * ratings.zero_weight * filled * jnp.square(scores)
            slope = slope - ratings.zero_weight * filled * scores
        return jnp.sum(loss, axis=1), conditionals.collect(design, slope), own_slopes

    loss = jnp.zeros((), rows.bias.dtype)
    bias, factors = jnp.zeros_like(rows.bias), jnp.zeros_like(rows.factors)
    own = jax.tree.map(jnp.zeros_like, moved.own)
    for bucket in ratings.buckets:
        losses, slopes, own_slopes = lax.map(one_chunk, bucket)
        loss = loss + 0.5 * jnp.sum(losses)
        own = jax.tree.map(lambda total, x: total + 0.5 * jnp.sum(x, axis=0), own, own_slopes)
        bias = bias.at[bucket.row].set(slopes[..., 0])
        factors = factors.at[bucket.row].set(slopes[..., 1:])
    return loss, Moved(RowValues(bias, factors), 0.5 * jnp.sum(bias), own)


def _forward(likelihood: Likelihood, moved: Moved, ratings: RatingTerms) -> tuple[Array, Moved]:
    return _loss_and_slopes(likelihood, moved, ratings)


def _backward(likelihood: Likelihood, slopes: Moved, cotangent: Array) -> tuple[Moved, None]:
    return jax.tree.map(lambda slope: cotangent * slope, slopes), None


rating_loss.defvjp(_forward, _backward)

"""The objective of all ratings at once, with a gradient that needs no scatter of ratings."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from probmf.inference.point.objective import ObjectiveTerms, RatingObjective, add_means
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.linear_predictor import Parameters, squared_scores
from probmf.models.observations import Observations
from probmf.models.parameter_table import ALIGNMENT
from probmf.rows import conditionals
from probmf.rows.blocks import Bucket, build_blocks
from probmf.rows.placement import deal_rows, sum_devices
from probmf.rows.store import OTHER, SIDES, Side
from probmf.rows.sweep import require_room
from probmf.rows.values import Rows, RowValues

#: Tables of all rows that there are at the same time, with any optimizer: values and gradient.
NUM_TABLES = 2


class RatingTerms(NamedTuple):
    """The ratings by row, and what weighs on their scores; a pytree.

    Attributes:
        buckets: Ratings of the rows of each side.
        scales: The likelihood's own scales.
        zero_weight: Precision of the weak zeros that stand for unobserved pairs, or None.
    """

    buckets: dict[Side, tuple[Bucket, ...]]
    scales: dict[str, Array]
    zero_weight: Float[Array, ""] | None


@dataclass(frozen=True)
class FullBatchObjective(RatingObjective):
    """The objective of a factorization. Value and gradient read each rating's rows twice.

    Attributes:
        mesh: Devices that the rows are dealt out to, or None.
    """

    by_rows = False
    mesh: Mesh | None = None

    @classmethod
    def build(
        cls, model: MatrixFactorization, observations: Observations, mesh: Mesh | None = None
    ) -> tuple["FullBatchObjective", tuple[ObjectiveTerms, RatingTerms]]:
        """The objective of a model, and its data by row."""
        terms = ObjectiveTerms.build(model, observations)
        zero_weight = None
        if model.unobserved_weight > 0:
            zero_weight = model.unobserved_weight / jnp.square(terms.scales["noise_scale"])
        store = observations.by_row()
        require_room(store, NUM_TABLES * (1 + model.num_factors), mesh)
        layout = build_blocks(store) if mesh is None else deal_rows(store, mesh)
        buckets = {side: own.buckets for side, own in layout.sides.items()}
        ratings = RatingTerms(buckets, terms.scales, zero_weight)
        return cls(model.likelihood.canonical(), mesh), (terms, ratings)

    def whole(
        self, moved: dict[str, Array], given: tuple[ObjectiveTerms, RatingTerms]
    ) -> Float[Array, ""]:
        """Minus log posterior up to a constant."""
        terms, ratings = given
        sites = self.likelihood.constrain(moved)
        values = add_means(sites, terms)
        total = terms.prior_loss(sites, terms.precision)
        own = self.likelihood.learned_among(sites)
        inputs = Moved(_pack(values, terms), values["intercept"], own)
        total = total + rating_loss(self.likelihood, self.mesh, inputs, ratings)
        if ratings.zero_weight is not None:
            sizes = [len(terms.has_data[side]) for side in SIDES]
            total = total + 0.5 * ratings.zero_weight * squared_scores(values, *sizes)
        return total


def _pack(values: Parameters, terms: ObjectiveTerms) -> Rows:
    """Rows of both sides."""
    table = {}
    for side in SIDES:
        size = len(terms.has_data[side])
        bias = values.get(f"{side}_bias", jnp.zeros(size))
        block = values.get(f"{side}_factors", jnp.zeros((size, 0)))
        padding = ((0, 0), (0, -block.shape[1] % ALIGNMENT))
        table[side] = RowValues(bias, jnp.pad(block, padding))
    return table


class Moved(NamedTuple):
    """Arguments that the losses of ratings are differentiated in; a pytree.

    Attributes:
        rows: Rows of each side.
        intercept: Added to every score.
        own: Those parameters of the likelihood that are optimized, too.
    """

    rows: Rows
    intercept: Float[Array, ""]
    own: dict[str, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def rating_loss(
    likelihood: Likelihood, mesh: Mesh | None, moved: Moved, ratings: RatingTerms
) -> Float[Array, ""]:
    """Sum of the losses of all ratings, less what the weak zeros count of observed pairs."""
    return _loss_and_slopes(likelihood, mesh, moved, ratings)[0]


def _loss_and_slopes(
    likelihood: Likelihood, mesh: Mesh | None, moved: Moved, ratings: RatingTerms
) -> tuple[Array, Moved]:
    """Loss, and its gradient: with devices, of the rows of each, summed."""
    if mesh is None:
        return _of_buckets(likelihood, moved, ratings)
    given = moved, ratings._replace(buckets={})

    def own(buckets: dict[Side, tuple[Bucket, ...]], given: Any) -> tuple[Array, Moved]:
        return _of_buckets(likelihood, given[0], given[1]._replace(buckets=buckets))

    found: tuple[Array, Moved] = sum_devices(own, mesh, ratings.buckets, given)
    return found


def _of_buckets(likelihood: Likelihood, moved: Moved, ratings: RatingTerms) -> tuple[Array, Moved]:
    """Loss, and its gradient.

    Every rating stands in two buckets, its user's and its item's, so that each row sums over its
    own slots; for the loss, the two are halved.
    """

    def one_chunk(side: Side, chunk: Bucket) -> tuple[Array, Array, dict[str, Array]]:
        other = moved.rows[OTHER[side]]
        design = other.factors[chunk.partner]
        offset = moved.intercept + other.bias[chunk.partner]
        scores = offset + conditionals.project(design, moved.rows[side].at(chunk.row))
        weight = chunk.weights(scores.dtype)

        def chunk_loss(own: dict[str, Array]) -> tuple[Array, Array]:
            losses = weight * likelihood.loss(scores, chunk.rating, ratings.scales | own)
            return jnp.sum(losses), losses

        # Without parameters of its own nothing is differentiated.
        own_slopes, loss = jax.grad(chunk_loss, has_aux=True)(moved.own)
        slope = -weight * likelihood.slope(scores, chunk.rating, ratings.scales | moved.own)
        if ratings.zero_weight is not None:
            filled = chunk._replace(weight=None).weights(scores.dtype)
            loss = loss - 0.5 * ratings.zero_weight * filled * jnp.square(scores)
            slope = slope - ratings.zero_weight * filled * scores
        return jnp.sum(loss, axis=1), conditionals.collect(design, slope), own_slopes

    loss = jnp.zeros_like(moved.intercept)
    rows, own = jax.tree.map(jnp.zeros_like, (moved.rows, moved.own))
    for side, buckets in ratings.buckets.items():
        for bucket in buckets:
            losses, slopes, own_slopes = lax.map(partial(one_chunk, side), bucket)
            loss = loss + 0.5 * jnp.sum(losses)
            own = jax.tree.map(lambda total, x: total + 0.5 * jnp.sum(x, axis=0), own, own_slopes)
            # Lines without a row add zero to the first.
            bias, factors = rows[side]
            bias = bias.at[bucket.row].add(slopes[..., 0])
            rows[side] = RowValues(bias, factors.at[bucket.row].add(slopes[..., 1:]))
    intercept = 0.5 * (jnp.sum(rows["user"].bias) + jnp.sum(rows["item"].bias))
    return loss, Moved(rows, intercept, own)


def _backward(
    likelihood: Likelihood, mesh: Mesh | None, slopes: Moved, cotangent: Array
) -> tuple[Moved, None]:
    return jax.tree.map(lambda slope: cotangent * slope, slopes), None


rating_loss.defvjp(_loss_and_slopes, _backward)

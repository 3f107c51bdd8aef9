"""Ratings in batches, and the part of the objective that a batch stands for."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.inference.point.objective import Terms, own_parameters, prior_loss, side_of, to_sites
from probmf.inference.point.optimizer import take_rows
from probmf.likelihoods import Likelihood
from probmf.models.row_means import prior_means
from probmf.models.scores import Parameters
from probmf.rows.layout import SIDES

#: Ratings whose rows are gathered at once when the objective is computed: they stay in cache.
OBJECTIVE_SLOTS = 4096


class Batch(NamedTuple):
    """Ratings of one update, or with a leading axis, of all updates of an epoch.

    Attributes:
        user: User codes.
        item: Item codes.
        rating: Ratings.
        weight: Their weights; 0 where the last batch has no rating left.
        present: 1 for a rating, 0 where the last batch has none left.
    """

    user: Int[Array, " b"]
    item: Int[Array, " b"]
    rating: Float[Array, " b"]
    weight: Float[Array, " b"]
    present: Float[Array, " b"]


def batch_loss(
    rows: Parameters, batch: Batch, shares: Parameters, terms: Terms, likelihood: Likelihood
) -> Float[Array, ""]:
    """The batch's part of the objective: its losses, and a share of its rows' priors per rating.

    Every rating of a row carries an equal share of the row's prior, so the parts of all batches of
    an epoch sum to the objective, and a batch has a gradient only in its own rows.

    Args:
        rows: Parameters (see `to_sites`) of each rating's own user and item, with one row per
            rating.
        batch: The ratings.
        shares: Prior precision per rating of these rows (see `Terms.shares`).
        terms: Constants and scales.
        likelihood: In canonical form.

    Returns:
        The part of the objective. Cost O(batch x num_factors).
    """
    sites = to_sites(rows)
    values, scales = {**terms.constants, **sites}, terms.scales | own_parameters(sites)
    index = {"user": batch.user, "item": batch.item}
    own = {side: mean.at(index[side]) for side, mean in terms.means.items()}
    for site, mean in prior_means(own, sites).items():
        values[site] = values[site] + mean
    scores = jnp.broadcast_to(values["intercept"], batch.rating.shape)
    for side in SIDES:
        if f"{side}_bias" in values:
            scores = scores + values[f"{side}_bias"]
    if "user_factors" in values:
        scores = scores + jnp.sum(values["user_factors"] * values["item_factors"], axis=-1)
    total = jnp.sum(batch.weight * likelihood.loss(scores, batch.rating, scales))
    for site, share in shares.items():
        value = sites[site] - terms.center if site == "intercept" else sites[site]
        squares = jnp.square(value)
        if side_of(site) not in SIDES:
            squares = jnp.sum(squares)
        elif value.ndim > 1:
            squares = jnp.sum(squares, axis=-1)
        total = total + 0.5 * jnp.sum(batch.present * share * squares)
    return total


def shuffle(key: Array, ratings: Batch, batch_size: int) -> Batch:
    """The ratings in random order, cut in batches.

    Args:
        key: JAX key.
        ratings: All ratings, present.
        batch_size: Ratings per batch; the last batch is filled with absent ones.

    Returns:
        Batches with a leading axis.
    """
    count = len(ratings.rating)
    places = jnp.arange(count, dtype=jnp.int32)
    # One sort by random bits: half the time of jax.random.permutation. A few of the bits tie,
    # and those pairs stay in their order, which harms nothing.
    order = lax.sort((jax.random.bits(key, (count,)), places), num_keys=1, is_stable=False)[1]
    return _cut(jax.tree.map(lambda value: value[order], ratings), batch_size)


def _cut(ratings: Batch, size: int) -> Batch:
    missing = -len(ratings.rating) % size
    return jax.tree.map(lambda value: jnp.pad(value, (0, missing)).reshape(-1, size), ratings)


def chunked_objective(
    parameters: dict[str, Array], ratings: Batch, terms: Terms, likelihood: Likelihood
) -> Array:
    """The whole objective, without gathering all rows at once.

    Args:
        parameters: Values to optimize; see `to_sites`.
        ratings: All ratings.
        terms: Priors and constants.
        likelihood: In canonical form.

    Returns:
        Minus log posterior up to a constant, as of `MatrixFactorization.objective`.
    """
    labels = {site: side_of(site) for site in parameters}
    nothing: dict[str, Array] = {}

    def one_chunk(chunk: Batch) -> Array:
        rows = take_rows(labels, parameters, {"user": chunk.user, "item": chunk.item})
        return batch_loss(rows, chunk, nothing, terms, likelihood)

    chunks = _cut(ratings, min(OBJECTIVE_SLOTS, len(ratings.rating)))
    return prior_loss(to_sites(parameters), terms) + jnp.sum(lax.map(one_chunk, chunks))

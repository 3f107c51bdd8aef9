"""The objective of ratings in parts, one for each minibatch, down to single ratings."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.inference.point.objective import (
    ObjectiveTerms,
    RatingObjective,
    add_means,
    own_parameters,
    side_of,
    to_sites,
)
from probmf.inference.point.row_updates import leaves_rows_alone, take_rows
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.scores import Parameters
from probmf.rows.store import SIDES

#: Ratings whose rows are gathered at once when the objective is computed: they stay in cache.
OBJECTIVE_SLOTS = 4096


class RatingBatch(NamedTuple):
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


@dataclass(frozen=True)
class MinibatchObjective(RatingObjective):
    """The objective of a factorization in parts, one for each batch of an epoch.

    Attributes:
        by_rows: True where an update reads and writes the batch's rows only.
    """

    by_rows: bool

    @classmethod
    def build(
        cls,
        model: MatrixFactorization,
        observations: Observations,
        optimizer: optax.GradientTransformation,
    ) -> tuple["MinibatchObjective", tuple[ObjectiveTerms, RatingBatch]]:
        """The objective of a model, and its ratings."""
        terms = ObjectiveTerms.build(model, observations)
        rating = jnp.asarray(observations.rating)
        ones = jnp.ones_like(rating)
        weight = ones if observations.weight is None else observations.weight
        rows = model.site_shapes(observations.num_users, observations.num_items)
        # What has no rows is tried as one number.
        by_rows = leaves_rows_alone(optimizer, dict.fromkeys(terms.precision, ()) | rows)
        batch = RatingBatch(observations.user, observations.item, rating, weight, ones)
        return cls(model.likelihood.canonical(), by_rows), (terms, batch)

    def whole(
        self, moved: dict[str, Array], given: tuple[ObjectiveTerms, RatingBatch]
    ) -> Float[Array, ""]:
        """Minus log posterior up to a constant, without gathering all rows at once."""
        terms, ratings = given
        unpriored = terms._replace(shares={})
        chunks = cut(ratings, min(OBJECTIVE_SLOTS, len(ratings.rating)))
        losses = lax.map(lambda chunk: self.part(moved, chunk, (unpriored, ratings)), chunks)
        return terms.prior_loss(to_sites(moved), terms.precision) + jnp.sum(losses)

    def batches(
        self, key: Array, given: tuple[ObjectiveTerms, RatingBatch], size: int
    ) -> RatingBatch:
        """The ratings in random order, cut in batches along a leading axis; see `shuffle`."""
        return shuffle(key, given[1], size)

    def index(self, batch: RatingBatch) -> dict[str, Array]:
        """Rows of each side that the batch has."""
        return {"user": batch.user, "item": batch.item}

    def part(
        self, moved: dict[str, Array], batch: RatingBatch, given: tuple[ObjectiveTerms, RatingBatch]
    ) -> Float[Array, ""]:
        """The batch's part of the objective."""
        labels = {site: side_of(site) for site in moved}
        rows = take_rows(labels, moved, self.index(batch))
        return self.part_of_rows(rows, batch, given)

    def part_of_rows(
        self, rows: dict[str, Array], batch: RatingBatch, given: tuple[ObjectiveTerms, RatingBatch]
    ) -> Float[Array, ""]:
        """The same from one row per rating."""
        return batch_loss(rows, batch, given[0], self.likelihood)


def batch_loss(
    rows: Parameters, batch: RatingBatch, terms: ObjectiveTerms, likelihood: Likelihood
) -> Float[Array, ""]:
    """The batch's part of the objective: its losses, and a share of its rows' priors per rating.

    Every rating of a row carries an equal share of the row's prior, so the parts of all batches of
    an epoch sum to the objective, and a batch has a gradient only in its own rows.

    Args:
        rows: Parameters (see `to_sites`) of each rating's own user and item, with one row per
            rating.
        batch: The ratings.
        terms: Shares of the prior, constants and scales.
        likelihood: In canonical form.

    Returns:
        The part of the objective. Cost O(batch x num_factors).
    """
    sites = to_sites(rows)
    index = {"user": batch.user, "item": batch.item}
    own = {side: mean.at(index[side]) for side, mean in terms.means.items()}
    values = add_means(sites, terms._replace(means=own))
    scores = jnp.broadcast_to(values["intercept"], batch.rating.shape)
    for side in SIDES:
        if f"{side}_bias" in values:
            scores = scores + values[f"{side}_bias"]
    if "user_factors" in values:
        scores = scores + jnp.sum(values["user_factors"] * values["item_factors"], axis=-1)
    losses = likelihood.loss(scores, batch.rating, terms.scales | own_parameters(sites))
    shares = {
        site: share[index[side]] * batch.present if side in index else share * batch.present.sum()
        for site, share in terms.shares.items()
        for side in [side_of(site)]
    }
    return jnp.sum(batch.weight * losses) + terms.prior_loss(sites, shares)


def shuffle[T](key: Array, ratings: T, batch_size: int) -> T:
    """The ratings in random order, cut in batches.

    Args:
        key: JAX key.
        ratings: All ratings, present; a pytree of arrays along them.
        batch_size: Ratings per batch; the last batch is filled with absent ones.

    Returns:
        Batches with a leading axis.
    """
    count = len(jax.tree.leaves(ratings)[0])
    places = jnp.arange(count, dtype=jnp.int32)
    # One sort by random bits: half the time of jax.random.permutation. A few of the bits tie,
    # and those pairs stay in their order, which harms nothing.
    order = lax.sort((jax.random.bits(key, (count,)), places), num_keys=1, is_stable=False)[1]
    return cut(jax.tree.map(lambda value: value[order], ratings), batch_size)


def cut[T](ratings: T, size: int) -> T:
    """The ratings in batches along a leading axis, the last one filled with zeros."""
    missing = -len(jax.tree.leaves(ratings)[0]) % size
    return jax.tree.map(lambda value: jnp.pad(value, (0, missing)).reshape(-1, size), ratings)

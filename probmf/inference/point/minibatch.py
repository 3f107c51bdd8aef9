"""The objective of ratings in parts, one for each minibatch, down to single ratings."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from probmf.inference.point.objective import (
    ObjectiveTerms,
    RatingObjective,
    add_means,
    side_of,
)
from probmf.inference.point.row_updates import leaves_rows_alone, take_rows
from probmf.models.factorization import MatrixFactorization
from probmf.models.linear_predictor import Parameters
from probmf.models.observations import Observations
from probmf.rows.placement import share_slots
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

    @classmethod
    def of(cls, observations: Observations) -> "RatingBatch":
        """All ratings."""
        rating = jnp.asarray(observations.rating)
        ones = jnp.ones_like(rating)
        weight = ones if observations.weight is None else observations.weight
        return cls(observations.user, observations.item, rating, weight, ones)


@dataclass(frozen=True)
class BatchObjective(RatingObjective):
    """Base class of objectives in parts, one for each batch of an epoch.

    Each time that a row is part of an update it carries a share of its prior, so that the parts of
    an epoch sum to the objective, and a batch has a gradient only in its own rows. The data begin
    with the terms and the ratings that batches are cut from.

    Attributes:
        by_rows: True where an update reads and writes the batch's rows only.
        mesh: Devices that share each batch, or None.
    """

    by_rows: bool
    mesh: Mesh | None = field(default=None, kw_only=True)

    def batches(self, key: Array, given: Any, size: int) -> Any:
        """The data in random order, cut in batches along a leading axis; see `shuffle`."""
        return self.shared(shuffle(key, given[1], size))

    def chunks(self, given: Any, size: int) -> Any:
        """The data in batches, always the same."""
        return self.shared(cut(given[1], size))

    def shared[Batches](self, batches: Batches) -> Batches:
        """Batches whose slots the devices share."""
        return batches if self.mesh is None else share_slots(batches, self.mesh)

    def index(self, batch: Any) -> dict[str, Array]:
        """Rows of each side that the batch has, some of them several times."""
        raise NotImplementedError

    def present(self, batch: Any) -> dict[str, Array]:
        """1 for each of these rows, 0 for what fills the last batch."""
        raise NotImplementedError

    def loss(
        self, values: Parameters, own: Parameters, batch: Any, terms: ObjectiveTerms
    ) -> Float[Array, ""]:
        """The batch's loss, without priors.

        `values` are those of the rows that `index` names, and of what has no rows; `own` are
        learned parameters of the likelihood.
        """
        raise NotImplementedError

    def whole(self, moved: dict[str, Array], given: Any) -> Float[Array, ""]:
        """Minus log posterior up to a constant, without gathering all rows at once."""
        terms = given[0]
        unpriored = (terms._replace(shares={}), *given[1:])
        losses = lax.map(
            lambda chunk: self.part(moved, chunk, unpriored), self.chunks(given, OBJECTIVE_SLOTS)
        )
        sites = self.likelihood.constrain(moved)
        return terms.prior_loss(sites, terms.precision) + jnp.sum(losses)

    def part(self, moved: dict[str, Array], batch: Any, given: Any) -> Float[Array, ""]:
        """The batch's part of the objective."""
        labels = {site: side_of(site) for site in moved}
        return self.part_of_rows(take_rows(labels, moved, self.index(batch)), batch, given)

    def part_of_rows(self, rows: Parameters, batch: Any, given: Any) -> Float[Array, ""]:
        """The same from the rows that `index` names. Cost O(batch x num_factors)."""
        terms, index, present = given[0], self.index(batch), self.present(batch)
        sites = self.likelihood.constrain(rows)
        means = {side: mean.at(index[side]) for side, mean in terms.means.items()}
        values = add_means(sites, terms._replace(means=means))
        loss = self.loss(values, self.likelihood.learned_among(sites), batch, terms)
        shares = {
            site: share[index[side]] * present[side]
            if side in index
            else share * present["user"].sum()
            for site, share in terms.shares.items()
            for side in [side_of(site)]
        }
        return loss + terms.prior_loss(sites, shares)


@dataclass(frozen=True)
class MinibatchObjective(BatchObjective):
    """The objective of a factorization, whose batches are ratings."""

    @classmethod
    def build(
        cls,
        model: MatrixFactorization,
        observations: Observations,
        optimizer: optax.GradientTransformation,
        mesh: Mesh | None = None,
    ) -> tuple["MinibatchObjective", tuple[ObjectiveTerms, RatingBatch]]:
        """The objective of a model, and its ratings."""
        terms = ObjectiveTerms.build(model, observations)
        by_rows = updates_rows(model, observations, terms, optimizer)
        own = cls(model.likelihood.canonical(), by_rows, mesh=mesh)
        return own, (terms, RatingBatch.of(observations))

    def index(self, batch: RatingBatch) -> dict[str, Array]:
        """See the base class."""
        return {"user": batch.user, "item": batch.item}

    def present(self, batch: RatingBatch) -> dict[str, Array]:
        """See the base class."""
        return {"user": batch.present, "item": batch.present}

    def loss(
        self, values: Parameters, own: Parameters, batch: RatingBatch, terms: ObjectiveTerms
    ) -> Float[Array, ""]:
        """See the base class."""
        scores = jnp.broadcast_to(values["intercept"], batch.rating.shape)
        for side in SIDES:
            if f"{side}_bias" in values:
                scores = scores + values[f"{side}_bias"]
        if "user_factors" in values:
            scores = scores + jnp.sum(values["user_factors"] * values["item_factors"], axis=-1)
        losses = self.likelihood.loss(scores, batch.rating, terms.scales | dict(own))
        return jnp.sum(batch.weight * losses)


def updates_rows(
    model: MatrixFactorization,
    observations: Observations,
    terms: ObjectiveTerms,
    optimizer: optax.GradientTransformation,
) -> bool:
    """True where an optimizer may read and write a batch's rows only."""
    rows = model.site_shapes(observations.num_users, observations.num_items)
    # What has no rows is tried as one number.
    return leaves_rows_alone(optimizer, dict.fromkeys(terms.precision, ()) | rows)


def shuffle[T](key: Array, ratings: T, batch_size: int) -> T:
    """The ratings in random order, cut in batches.

    `ratings` is a pytree of arrays along them. The last batch is filled with absent ones.
    """
    count = len(jax.tree.leaves(ratings)[0])
    places = jnp.arange(count, dtype=jnp.int32)
    # One sort by random bits: half the time of jax.random.permutation. A few of the bits tie,
    # and those pairs stay in their order, which harms nothing.
    order = lax.sort((jax.random.bits(key, (count,)), places), num_keys=1, is_stable=False)[1]
    return cut(jax.tree.map(lambda value: value[order], ratings), batch_size)


def cut[T](ratings: T, size: int) -> T:
    """The ratings in batches along a leading axis, the last one filled with zeros."""
    count = len(jax.tree.leaves(ratings)[0])
    size = min(size, count)
    missing = -count % size
    return jax.tree.map(lambda value: jnp.pad(value, (0, missing)).reshape(-1, size), ratings)

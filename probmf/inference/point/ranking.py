"""The objective of ranking: pairs that occurred beside sampled ones that did not."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.inference.point.minibatch import OBJECTIVE_SLOTS, cut, shuffle
from probmf.inference.point.objective import (
    ObjectiveTerms,
    RatingObjective,
    add_means,
    side_of,
    to_sites,
)
from probmf.inference.point.pairwise import PairLoss
from probmf.inference.point.row_updates import leaves_rows_alone, take_rows
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.scores import Parameters


class UserItemPairs(NamedTuple):
    """Pairs of a user and an item.

    Attributes:
        user: User codes.
        item: Item codes.
    """

    user: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]


class Positives(NamedTuple):
    """Pairs that occurred; with a leading axis, those of the updates of an epoch.

    Attributes:
        user: User codes.
        item: Item codes.
        weight: Their weights; 0 where the last batch has no pair left.
        present: 1 for a pair, 0 where the last batch has none left.
    """

    user: Int[Array, " b"]
    item: Int[Array, " b"]
    weight: Float[Array, " b"]
    present: Float[Array, " b"]


class Unseen(NamedTuple):
    """Items that a user has no pair with, to draw from.

    A pair of weight 0 is one: it says neither that it occurred nor that it did not.

    Attributes:
        start: Where each user's pairs begin, and the end.
        below: For each pair, sorted by user and item, the number of items before it that the user
            has no pair with.
        size: Number of items without a pair, by user.
    """

    start: Int[Array, " users1"]
    below: Int[Array, " n"]
    size: Int[Array, " users"]

    @classmethod
    def of(cls, known: UserItemPairs, num_users: int, num_items: int) -> "Unseen":
        """Those of pairs, each of which is there once."""
        user, item = known
        order = np.lexsort((item, user))
        degree = np.bincount(user, minlength=num_users)
        start = np.concatenate([[0], np.cumsum(degree)])
        below = item[order] - (np.arange(len(user)) - start[user[order]])
        return cls(*(jnp.asarray(own, jnp.int32) for own in (start, below, num_items - degree)))

    def draw(self, key: Array, user: Int[Array, "..."], count: int) -> Int[Array, "... t"]:
        """Items drawn uniformly, with replacement, for each of some users.

        The r-th item without a pair comes after as many pairs as have at most r such items below.
        """
        shape = (*user.shape, count)
        rank = jax.random.randint(key, shape, 0, jnp.maximum(self.size[user], 1)[..., None])

        def halve(ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) // 2
            before = self.below[jnp.minimum(middle, len(self.below) - 1)] <= rank
            open_ = low < high
            return (
                jnp.where(open_ & before, middle + 1, low),
                jnp.where(open_ & ~before, middle, high),
            )

        first = jnp.broadcast_to(self.start[user][..., None], shape)
        last = jnp.broadcast_to(self.start[user + 1][..., None], shape)
        place, _ = lax.while_loop(lambda ends: jnp.any(ends[0] < ends[1]), halve, (first, last))
        return rank + place - first


class RankingData(NamedTuple):
    """Data of the objective besides its terms; a pytree.

    Attributes:
        positives: All pairs that occurred and count, of users who could have another item.
        unseen: Where negatives are drawn from.
    """

    positives: Positives
    unseen: Unseen


class Contest(NamedTuple):
    """Positives with the negatives that were drawn for them.

    Attributes:
        positives: The positives.
        other: Item codes of the negatives.
    """

    positives: Positives
    other: Int[Array, "b t"]


@dataclass(frozen=True)
class RankingObjective(RatingObjective):
    r"""Sum over pairs that occurred of a loss against negatives drawn at random, and the priors.

    .. math:: J = \sum_{(u, i)} w_{ui}\, E_j\, \ell(s_{ui}, s_{uj})
              + \sum_{rows\ r} \frac{|x_r|^2}{2 s_r^2}

    Negatives are items that the user has no pair with, drawn anew for each update. Each time that
    a row is part of an update it carries a share of its prior, so that an epoch's parts sum to
    the objective in expectation. `whole` takes the same negatives whenever it is asked.

    Attributes:
        loss: The loss.
        by_rows: True where an update reads and writes the batch's rows only.
    """

    loss: PairLoss
    by_rows: bool

    @classmethod
    def build(
        cls,
        model: MatrixFactorization,
        observations: Observations,
        known: UserItemPairs,
        optimizer: optax.GradientTransformation,
        loss: PairLoss,
    ) -> tuple["RankingObjective", tuple[ObjectiveTerms, RankingData]]:
        """The objective of a model, and its data.

        Args:
            model: The model.
            observations: Pairs that occurred and count.
            known: Pairs that are no negatives: those, and any others.
            optimizer: The optimizer, which decides whether an update reads a batch's rows only.
            loss: The loss.

        Returns:
            The objective and its data.
        """
        num_users, num_items = observations.num_users, observations.num_items
        unseen = Unseen.of(known, num_users, num_items)
        terms = ObjectiveTerms.build(model, observations)
        often = _appearances(observations, known, np.asarray(unseen.size), loss.num_negatives)
        dtype = jnp.result_type(float)
        shares = {
            site: jnp.asarray(np.asarray(value) / np.where(often > 0, often, np.inf), dtype)
            for site, value in terms.precision.items() if side_of(site) == "item"
        }  # fmt: skip
        drawn = jnp.asarray(often > 0)
        terms = terms._replace(
            shares=terms.shares | shares, has_data=terms.has_data | {"item": drawn}
        )
        rows = model.site_shapes(num_users, num_items)
        by_rows = leaves_rows_alone(optimizer, dict.fromkeys(terms.precision, ()) | rows)
        ones = jnp.ones(len(observations.user), dtype)
        weight = ones if observations.weight is None else observations.weight
        positives = Positives(observations.user, observations.item, weight, ones)
        return cls(model.likelihood.canonical(), loss, by_rows), (
            terms, RankingData(positives, unseen),
        )  # fmt: skip

    def whole(
        self, moved: dict[str, Array], given: tuple[ObjectiveTerms, RankingData]
    ) -> Float[Array, ""]:
        """The objective with one and the same draw of the negatives."""
        terms, data = given
        unpriored = terms._replace(shares={})
        positives = cut(data.positives, min(OBJECTIVE_SLOTS, len(data.positives.user)))
        contests = self._against(jax.random.key(0), positives, data)
        losses = lax.map(lambda own: self.part(moved, own, (unpriored, data)), contests)
        return terms.prior_loss(to_sites(moved), terms.precision) + jnp.sum(losses)

    def batches(self, key: Array, given: tuple[ObjectiveTerms, RankingData], size: int) -> Contest:
        """The positives in random order with new negatives, cut in batches."""
        first, second = jax.random.split(key)
        return self._against(second, shuffle(first, given[1].positives, size), given[1])

    def _against(self, key: Array, positives: Positives, data: RankingData) -> Contest:
        return Contest(positives, data.unseen.draw(key, positives.user, self.loss.num_negatives))

    def index(self, batch: Contest) -> dict[str, Array]:
        """Rows of each side that the batch has: of items the positives, then the negatives."""
        items = jnp.concatenate([batch.positives.item, batch.other.ravel()])
        return {"user": batch.positives.user, "item": items}

    def part(
        self, moved: dict[str, Array], batch: Contest, given: tuple[ObjectiveTerms, RankingData]
    ) -> Float[Array, ""]:
        """The batch's part of the objective."""
        labels = {site: side_of(site) for site in moved}
        return self.part_of_rows(take_rows(labels, moved, self.index(batch)), batch, given)

    def part_of_rows(
        self, rows: Parameters, batch: Contest, given: tuple[ObjectiveTerms, RankingData]
    ) -> Float[Array, ""]:
        """The same from the rows that `index` names."""
        terms, index = given[0], self.index(batch)
        sites = to_sites(rows)
        own = {side: mean.at(index[side]) for side, mean in terms.means.items()}
        values = add_means(sites, terms._replace(means=own))
        positive, negative = _scores(values, *batch.other.shape)
        num_items = len(terms.has_data["item"])
        losses = self.loss.losses(positive, negative, num_items)
        present = batch.positives.present
        there = {
            "user": present,
            "item": jnp.concatenate([present, jnp.repeat(present, batch.other.shape[1])]),
        }
        shares = {
            site: share[index[side]] * there[side] if side in index else share * present.sum()
            for site, share in terms.shares.items()
            for side in [side_of(site)]
        }
        return jnp.sum(batch.positives.weight * losses) + terms.prior_loss(sites, shares)


def _scores(values: Parameters, size: int, count: int) -> tuple[Array, Array]:
    """Scores of positives and negatives, without what is the same for all items of a user."""
    scores = jnp.zeros((size * (1 + count),))
    if "item_bias" in values:
        scores = scores + values["item_bias"]
    positive, negative = scores[:size], scores[size:].reshape(size, count)
    if "user_factors" in values:
        items, users = values["item_factors"], values["user_factors"]
        positive = positive + jnp.sum(users * items[:size], axis=-1)
        others = items[size:].reshape(size, count, -1)
        negative = negative + jnp.einsum("bk,btk->bt", users, others)
    return positive, negative


def _appearances(
    observations: Observations, known: UserItemPairs, unseen: np.ndarray, count: int
) -> np.ndarray:
    """Number of times that each item is expected in an epoch, as a positive or a negative."""
    num_items = observations.num_items
    degree = np.bincount(np.asarray(observations.user), minlength=len(unseen))
    # Chance that one negative of the user is a certain item that the user has no pair with.
    each = np.divide(degree, unseen, out=np.zeros(len(unseen)), where=unseen > 0)
    as_negative = each.sum() - np.bincount(known.item, each[known.user], num_items)
    as_positive = np.bincount(np.asarray(observations.item), minlength=num_items)
    # Where rounding leaves less than the least chance there is, no user can draw the item.
    as_negative[as_negative < 0.5 / num_items] = 0.0
    return as_positive + count * as_negative

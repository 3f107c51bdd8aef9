"""The objective of ranking, and its losses: pairs that occurred beside sampled ones."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from probmf.inference.point.minibatch import BatchObjective, RatingBatch, updates_rows
from probmf.inference.point.objective import ObjectiveTerms, side_of
from probmf.models.factorization import MatrixFactorization
from probmf.models.linear_predictor import Parameters
from probmf.models.observations import Observations

#: Margin by which WARP wants a positive to win.
_MARGIN = 1.0


class PairLoss(Protocol):
    """A loss of one positive item beside sampled negatives of the same user; hashable.

    Attributes:
        num_negatives: Number of negatives that are drawn for each positive.
    """

    num_negatives: ClassVar[int]

    def losses(
        self, positive: Float[Array, " b"], negative: Float[Array, "b t"], num_items: int
    ) -> Float[Array, " b"]:
        """Losses of the positives.

        Negatives are in the order in which they were drawn, of `num_items` items.
        """


@dataclass(frozen=True)
class BPR:
    r"""Bayesian personalized ranking: :math:`-\log \sigma(s_{ui} - s_{uj})` for one negative j.

    References:
        Rendle, Freudenthaler, Gantner and Schmidt-Thieme (2009), BPR: Bayesian personalized
        ranking from implicit feedback.
    """

    num_negatives: ClassVar[int] = 1

    def losses(
        self, positive: Float[Array, " b"], negative: Float[Array, "b t"], num_items: int
    ) -> Float[Array, " b"]:
        """See the class."""
        return jax.nn.softplus(negative[:, 0] - positive)


@dataclass(frozen=True)
class WARP:
    r"""Weighted approximate-rank pairwise loss, of the first negative that violates the margin.

    If it is the q-th that was drawn, the positive's rank is about
    :math:`r = \lfloor (N - 1) / q \rfloor`, and the loss
    :math:`\sum_{k=1}^{r} \tfrac1k \; (1 - s_{ui} + s_{uj})`; 0 if none of ten does.

    References:
        Weston, Bengio and Usunier (2011), WSABIE: Scaling up to large vocabulary image annotation.
    """

    num_negatives: ClassVar[int] = 10

    def losses(
        self, positive: Float[Array, " b"], negative: Float[Array, "b t"], num_items: int
    ) -> Float[Array, " b"]:
        """See the class."""
        short = _MARGIN - positive[:, None] + negative
        violates = short > 0
        first = jnp.argmax(violates, axis=1)
        rank = (num_items - 1) // (first + 1)
        harmonic = jnp.cumsum(1.0 / jnp.arange(1, max(num_items, 2)))
        weight = lax.stop_gradient(harmonic[jnp.maximum(rank - 1, 0)])
        shortfall = jnp.take_along_axis(short, first[:, None], axis=1)[:, 0]
        return jnp.where(violates.any(axis=1), weight * shortfall, 0.0)


#: Objectives of `fit_map` that rank, by name.
LOSSES: dict[str, PairLoss] = {"bpr": BPR(), "warp": WARP()}


class UserItemPairs(NamedTuple):
    """Pairs of a user and an item.

    Attributes:
        user: User codes.
        item: Item codes.
    """

    user: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]


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


class Contest(NamedTuple):
    """Positives with the negatives that were drawn for them.

    Attributes:
        positives: The positives.
        other: Item codes of the negatives.
    """

    positives: RatingBatch
    other: Int[Array, "b t"]


@dataclass(frozen=True)
class RankingObjective(BatchObjective):
    r"""Sum over pairs that occurred of a loss against negatives drawn at random, and the priors.

    .. math:: J = \sum_{(u, i)} w_{ui}\, E_j\, \ell(s_{ui}, s_{uj})
              + \sum_{rows\ r} \frac{|x_r|^2}{2 s_r^2}

    Negatives are items that the user has no pair with, drawn anew for each update; `whole` takes
    the same whenever it is asked.

    Attributes:
        pair_loss: The loss.
    """

    pair_loss: PairLoss

    @classmethod
    def build(
        cls,
        model: MatrixFactorization,
        observations: Observations,
        known: UserItemPairs,
        optimizer: optax.GradientTransformation,
        loss: PairLoss,
        mesh: Mesh | None = None,
    ) -> tuple["RankingObjective", tuple[ObjectiveTerms, RatingBatch, Unseen]]:
        """The objective of a model, and its data.

        `known` are pairs that are no negatives: those that occurred, and any others. The optimizer
        decides whether an update reads a batch's rows only.
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
        by_rows = updates_rows(model, observations, terms, optimizer)
        objective = cls(model.likelihood.canonical(), by_rows, loss, mesh=mesh)
        return objective, (terms, RatingBatch.of(observations), unseen)

    def batches(self, key: Array, given: Any, size: int) -> Contest:
        """The positives in random order with new negatives, cut in batches."""
        first, second = jax.random.split(key)
        return self._against(second, super().batches(first, given, size), given)

    def chunks(self, given: Any, size: int) -> Contest:
        """The same with one and the same draw of the negatives."""
        return self._against(jax.random.key(0), super().chunks(given, size), given)

    def _against(self, key: Array, positives: RatingBatch, given: Any) -> Contest:
        unseen: Unseen = given[2]
        count = self.pair_loss.num_negatives
        return Contest(positives, unseen.draw(key, positives.user, count))

    def index(self, batch: Contest) -> dict[str, Array]:
        """Of items the positives, then the negatives."""
        items = jnp.concatenate([batch.positives.item, batch.other.ravel()])
        return {"user": batch.positives.user, "item": items}

    def present(self, batch: Contest) -> dict[str, Array]:
        """See the base class."""
        own = batch.positives.present
        items = jnp.concatenate([own, jnp.repeat(own, batch.other.shape[1])])
        return {"user": own, "item": items}

    def loss(
        self, values: Parameters, own: Parameters, batch: Contest, terms: ObjectiveTerms
    ) -> Float[Array, ""]:
        """See the base class."""
        positive, negative = _scores(values, *batch.other.shape)
        losses = self.pair_loss.losses(positive, negative, len(terms.has_data["item"]))
        return jnp.sum(batch.positives.weight * losses)


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

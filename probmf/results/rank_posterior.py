"""The posterior of an item's rank among a user's candidates."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from probmf.data import Ratings, as_generator
from probmf.results.asked import check_count, check_interval, read_some
from probmf.results.candidates import Exclude, Exclusions, read_candidates
from probmf.results.mixtures import tails
from probmf.results.predictions import ItemLines, plain_text, told_unknown
from probmf.results.scores import Scores


@dataclass(frozen=True, eq=False)
class RankPosterior(ItemLines):
    """Ranks of items among a user's candidates, over draws of the scores; 1 is the best.

    Attributes:
        user: The user's id.
        item: Item ids, shape (n,).
        code: Item codes.
        top: Probability of a rank of at most k.
        mean: Mean rank.
        lower: Lower end of the interval of the rank.
        upper: Upper end.
        k: How many are the top.
        num_candidates: Number of items that were ranked.
        known_user: False if the user has no ratings in the fit.
        id_column: Name of the column of items in the training data.
    """

    user: Any
    item: np.ndarray
    code: Int[np.ndarray, " n"]
    top: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    lower: Int[np.ndarray, " n"]
    upper: Int[np.ndarray, " n"]
    k: int
    num_candidates: int
    known_user: bool
    id_column: str = "item"

    _lines = ("item", "top", "mean", "lower", "upper")

    def __repr__(self) -> str:
        """The first item, and among how many it is ranked."""
        return (
            f"RankPosterior({len(self)} of {self.num_candidates:,} items for "
            f"{plain_text(self.user)}; {plain_text(self.item[0])}: rank {self.lower[0]} to "
            f"{self.upper[0]}, in the top {self.k} with probability {self.top[0]:.2g}"
            f"{told_unknown(self.known_user)})"
        )


def rank_posterior(
    scores: Scores,
    user: Any,
    items: Any,
    k: int | None,
    *,
    candidates: Any,
    exclude: Exclude,
    interval: float,
    num_draws: int,
    key: ArrayLike | None,
    seen: Exclusions,
) -> RankPosterior:
    """Ranks over draws of the scores; see `RatingsFit.rank_posterior`."""
    check_interval(interval)
    asked, among = read_candidates(scores.data, user, candidates, exclude, seen)
    k = check_count(k, len(among), "candidates that are left")
    data = scores.data
    if scores.is_point:
        if key is None:
            raise ValueError(
                "rank_posterior draws the scores of a point fit at random; give key=, a JAX key "
                "or an int."
            )
        if num_draws < 1:
            raise ValueError(f"num_draws is {num_draws}; expected a whole number, at least 1.")
    # Gone through twice, so that ranks of all items at all draws are never held.
    seed = as_generator(0 if key is None else key).integers(1 << 63)
    code = int(asked.codes[0])

    def ranks() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        for block in scores.draw(code, among, rng, num_draws):
            order = np.argsort(-block, axis=1, kind="stable")
            rank = np.empty(order.shape, np.int32)
            every = np.broadcast_to(np.arange(1, len(among) + 1, dtype=np.int32), order.shape)
            np.put_along_axis(rank, order, every, axis=1)
            yield rank

    if items is None:
        often = np.zeros(len(among))
        for rank in ranks():
            often += (rank <= k).sum(axis=0)
        places = np.argsort(-often, kind="stable")[:k]
    else:
        places = _places(items, among, data)
    found = np.concatenate([rank[:, places] for rank in ranks()])
    lower, upper = np.quantile(found, tails(interval), axis=0, method="inverted_cdf")
    return RankPosterior(
        asked.ids[0], data.items.ids[among[places]], among[places], (found <= k).mean(axis=0),
        found.mean(axis=0), lower, upper, k, len(among),
        bool(scores.known("user", asked.codes)[0]), data.items.column,
    )  # fmt: skip


def _places(items: Any, among: np.ndarray, data: Ratings) -> np.ndarray:
    codes = read_some(items, data.items, "items", known=True).codes
    places = np.minimum(np.searchsorted(among, codes), len(among) - 1)
    missing = among[places] != codes
    if missing.any():
        item = plain_text(data.items.ids[codes[int(np.argmax(missing))]])
        raise ValueError(
            f"items holds {item}, which is not among the candidates: it is none of candidates=, "
            "or excluded. Give exclude=None to rank items that were rated already."
        )
    return places

"""The best items for each user, and the items most like an item."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from probmf.data import Ratings, as_generator, encode_pairs
from probmf.data.columns import objects
from probmf.results.asked import Asked, check_count, check_interval, read_some
from probmf.results.exclusions import Exclusions
from probmf.results.plug_in import PlugIn
from probmf.results.predict import expected, ids_to_arrow, interval_ends, plain_text
from probmf.results.ranking import RankBy as RankBy
from probmf.results.ranking import top_products, top_uncertain


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The k best items of each user, best first.

    Attributes:
        user: User ids, shape (users,).
        item: Item ids, shape (users, k); None where a user has fewer than k items left.
        code: Item codes, shape (users, k); -1 where there is none. For `metrics.recall_at_k`.
        score: Expected rating (probability for yes/no data) at the fit's values, NaN where there
            is no item.
        lower: Lower end of the interval, or None if not asked for.
        upper: Upper end of the interval, or None.
        known_user: False for users without ratings in the fit, who get the prior's ranking.
    """

    user: np.ndarray
    item: np.ndarray
    code: Int[np.ndarray, "users k"]
    score: Float[np.ndarray, "users k"]
    lower: Float[np.ndarray, "users k"] | None
    upper: Float[np.ndarray, "users k"] | None
    known_user: Bool[np.ndarray, " users"]

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user)

    def __repr__(self) -> str:
        """How many there are, and the first line."""
        found = self.code[0] >= 0
        best = [
            f"{plain_text(item)} ({score:.4g})"
            for item, score in zip(self.item[0][found], self.score[0][found], strict=True)
        ]
        first = ", ".join(best[:5]) + ", ..." * (len(best) > 5)
        return (
            f"Recommendations({self.code.shape[1]} items for each of {len(self):,}; "
            f"for {plain_text(self.user[0])}: {first or 'nothing left'})"
        )

    def to_arrow(self) -> pa.Table:
        """One line per recommendation, with its rank from 1; empty places are left out.

        Returns:
            Columns "user", "rank", "item", "score", and "lower" and "upper" if there are any.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        users, places = np.nonzero(self.code >= 0)
        columns: dict[str, Any] = {
            "user": ids_to_arrow(self.user[users], "user"),
            "rank": places + 1,
            "item": ids_to_arrow(self.item[users, places], "item"),
            "score": self.score[users, places],
        }
        for name in ("lower", "upper"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values[users, places]
        return pa.table(columns)


def recommend(
    plug_in: PlugIn,
    users: Any,
    k: int,
    *,
    exclude: Ratings | Literal["seen"] | None,
    candidates: Any,
    rank_by: RankBy,
    interval: float | None,
    key: ArrayLike | None,
    seen: Exclusions,
) -> Recommendations:
    """The k best items of each user; see `Fit.recommend`."""
    if rank_by not in get_args(RankBy):
        names = ", ".join(map(repr, get_args(RankBy)))
        raise ValueError(f"rank_by is {rank_by!r}; expected one of {names}.")
    if rank_by == "thompson" and key is None:
        raise ValueError("rank_by='thompson' draws at random; give key=, a JAX key or an int.")
    if interval is not None:
        check_interval(interval)
    data = plug_in.conditionals.data
    if users is None:
        asked = Asked(data.users.ids, np.arange(data.num_users, dtype=np.int32))
    else:
        asked = read_some(users, data.users, "users")
    if candidates is None:
        items = np.arange(data.num_items)
    else:
        items = np.unique(read_some(candidates, data.items, "candidates", known=True).codes)
    k = check_count(k, len(items), "items" if candidates is None else "candidates")
    exclusions = _exclusions(exclude, asked, data, seen)
    if exclusions is not None and len(items) < data.num_items:
        exclusions = exclusions.among(items, data.num_items)
    if rank_by == "mean":
        places, score = _best_by_mean(plug_in, asked.codes, items, k, exclusions)
        code = np.where(places < 0, -1, items[places])
    else:
        places, _ = top_uncertain(
            plug_in, asked.codes, items, k, exclusions, rank_by=rank_by,
            interval=0.9 if interval is None else interval,
            rng=as_generator(key) if rank_by == "thompson" and key is not None else None,
        )  # fmt: skip
        code = np.where(places < 0, -1, items[places])
        score = plug_in.means(np.repeat(asked.codes, k), code.ravel()).reshape(code.shape)
    if users is not None and (code[:, 0] < 0).any():
        user = plain_text(asked.ids[int(np.argmax(code[:, 0] < 0))])
        raise ValueError(
            f"All {len(items):,} candidates are excluded for user {user}. Give other candidates, "
            "or exclude=None to allow items that were rated already."
        )
    return _described(plug_in, asked, code, score, interval)


def similar_items(plug_in: PlugIn, items: Any, k: int) -> Recommendations:
    """The items whose factors point most nearly the same way; see `Fit.similar_items`."""
    conditionals = plug_in.conditionals
    if not conditionals.model.num_factors:
        raise ValueError("similar_items compares factors, and this model has num_factors=0.")
    asked = read_some(items, conditionals.data.items, "items", known=True)
    if conditionals.data.num_items == 1:
        raise ValueError("The fit knows one item only, so there is nothing to compare it with.")
    k = check_count(k, conditionals.data.num_items - 1, "other items")
    factors = conditionals.rows["item"][:, 1:]
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    unit = np.divide(factors, length, out=np.zeros_like(factors), where=length > 0)
    every = np.arange(len(factors))
    own = Exclusions.from_pairs(every, every, len(factors)).for_lines(asked.codes)
    code, cosine = top_products(unit[asked.codes], unit, k, own)
    return Recommendations(
        user=asked.ids, item=conditionals.data.items.ids[code], code=code, score=cosine,
        lower=None, upper=None, known_user=plug_in.known("item", asked.codes),
    )  # fmt: skip


def _best_by_mean(
    plug_in: PlugIn, codes: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None
) -> tuple[np.ndarray, np.ndarray]:
    lines, table = plug_in.tables["user"][codes], plug_in.tables["item"]
    offset = lines[:, :1].astype(np.float64) + float(plug_in.conditionals.parameters["intercept"])
    # A user's bias does not change the order; the item's has a one to be multiplied with.
    lines[:, 0] = 1.0
    table = table[:-1] if len(items) == len(table) - 1 else table[items]
    places, products = top_products(lines, table, k, exclusions)
    return places, products + offset


def _described(
    plug_in: PlugIn, asked: Asked, code: np.ndarray, score: np.ndarray, interval: float | None
) -> Recommendations:
    """Ids, expected ratings and intervals of chosen items."""
    filled = code >= 0
    columns = {name: np.full(code.shape, np.nan) for name in ("score", "lower", "upper")}
    columns["score"][filled] = expected(plug_in, score[filled])
    if interval is not None:
        user = np.broadcast_to(asked.codes[:, None], code.shape)[filled]
        score_sd = np.sqrt(plug_in.variances(user, code[filled]))
        ends = interval_ends(plug_in, score[filled], score_sd, interval)
        columns["lower"][filled], columns["upper"][filled] = ends
    item = plug_in.conditionals.data.items.ids[code]
    if not filled.all():
        # Dates would turn into numbers as Python objects.
        values = list(item.flat) if item.dtype.kind in "mM" else item.ravel().tolist()
        item = objects(values).reshape(item.shape)
        item[~filled] = None
    return Recommendations(
        user=asked.ids, item=item, code=code, score=columns["score"],
        lower=None if interval is None else columns["lower"],
        upper=None if interval is None else columns["upper"],
        known_user=plug_in.known("user", asked.codes),
    )  # fmt: skip


def _exclusions(
    exclude: Ratings | Literal["seen"] | None, asked: Asked, data: Ratings, seen: Exclusions
) -> Exclusions | None:
    if exclude is None:
        return None
    if not isinstance(exclude, Ratings | str):
        raise TypeError(f"exclude is a {type(exclude).__name__}; expected 'seen', Ratings or None.")
    if isinstance(exclude, str) and exclude != "seen":
        raise ValueError(f"exclude is {exclude!r}; expected 'seen', Ratings or None.")
    if isinstance(exclude, str) or exclude is data:
        return seen.for_lines(asked.codes)
    # By their own users, so that a user whom the fit does not know has exclusions too.
    group = exclude.users.encode(asked.ids, unknown="flag", what="the list of users")
    _, item = encode_pairs(exclude, users=exclude.users, items=data.items)
    there = item >= 0
    pairs = exclude.user[there], item[there]
    return Exclusions.from_pairs(*pairs, exclude.num_users).for_lines(group)

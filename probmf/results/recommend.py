"""The best items for each user, and the items most like an item."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import lax
from jaxtyping import Array, Float, Int

from scipy.special import ndtri

from probmf.data import Ratings
from probmf.results.conditional import BATCH_BYTES, Conditionals, SideRatings
from probmf.results.predict import gaussian_rows, with_prior_row
from probmf.rows import SIDES, Side, num_workers

RankBy = Literal["mean", "lower", "upper", "thompson"]

#: Scores of one block of users; two blocks per worker are in memory at a time.
BLOCK_SCORES = 1 << 20


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The k best items of each user, best first.

    Attributes:
        user: User ids, shape (users,).
        item: Item ids, shape (users, k); None where a user has fewer than k items left.
        code: Item codes, shape (users, k); -1 where there is none. For `metrics.recall_at_k`.
        score: Expected rating (probability for yes/no data), NaN where there is no item.
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
    known_user: np.ndarray

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user)

    def to_arrow(self) -> pa.Table:
        """One line per recommendation, with its rank from 1; empty places are left out."""
        users, places = np.nonzero(self.code >= 0)
        columns = {
            "user": pa.array(self.user[users].tolist()),
            "rank": places + 1,
            "item": pa.array(self.item[users, places].tolist()),
            "score": self.score[users, places],
        }
        for name in ("lower", "upper"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values[users, places]
        return pa.table(columns)


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Items not to recommend, by user code: sorted pairs and where each user's begin."""

    begin: Int[np.ndarray, " users1"]
    item: Int[np.ndarray, " n"]

    @classmethod
    def from_pairs(cls, user: np.ndarray, item: np.ndarray, num_users: int) -> "Exclusions":
        """Group pairs by user; users beyond the last have none."""
        order = np.argsort(user, kind="stable")
        begin = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users))])
        return cls(begin, item[order])

    def block(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(line, item) of the exclusions of a block of users; code -1 has none."""
        count = np.where(codes >= 0, self.begin[codes + 1] - self.begin[codes], 0)
        line = np.repeat(np.arange(len(codes)), count)
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return line, self.item[np.repeat(self.begin[codes], count) + offset]


def top_items(
    user_rows: Float[Array, "users d"],
    item_rows: Float[Array, "items d"],
    codes: Int[np.ndarray, " users"],
    k: int,
    exclusions: Exclusions | None,
) -> tuple[Int[np.ndarray, "users k"], Float[np.ndarray, "users k"]]:
    """Items with the largest products for each user, excluded ones left out.

    Works through blocks of users: memory O(block x items), never O(users x items).

    Args:
        user_rows: Designs (1, u) of all users (the last is the prior's).
        item_rows: Rows (c, v) of the candidate items.
        codes: User codes; -1 is the prior's row.
        k: How many.
        exclusions: Pairs to leave out, their items as positions in `item_rows`.

    Returns:
        Positions in `item_rows` (-1 where none is left) and products, best first.
    """
    num_items = item_rows.shape[0]
    size = min(_power_of_two(len(codes)), max(8, BLOCK_SCORES // _power_of_two(num_items)))
    starts = list(range(0, len(codes), size))
    blocks = [codes[start : start + size] for start in starts]
    pairs = [exclusions.block(block) for block in blocks] if exclusions is not None else None
    width = _power_of_two(max((len(line) for line, _ in pairs), default=1)) if pairs else 1
    places = np.empty((len(codes), k), dtype=np.int64)
    products = np.empty((len(codes), k))

    def work(index: int) -> None:
        block = blocks[index]
        line = np.full(width, size, dtype=np.int32)
        item = np.zeros(width, dtype=np.int32)
        if pairs is not None:
            line[: len(pairs[index][0])], item[: len(pairs[index][1])] = pairs[index]
        padded = np.zeros(size, dtype=np.int32)
        padded[: len(block)] = np.where(block < 0, user_rows.shape[0] - 1, block)
        value, place = _top_block(user_rows, item_rows, padded, line, item, k=k)
        part = slice(starts[index], starts[index] + len(block))
        products[part] = np.asarray(value)[: len(block)]
        places[part] = np.asarray(place)[: len(block)]

    with ThreadPoolExecutor(num_workers()) as pool:
        list(pool.map(work, range(len(blocks))))
    empty = np.isneginf(products)
    return np.where(empty, -1, places), np.where(empty, np.nan, products)


@partial(jax.jit, static_argnames="k")
def _top_block(
    user_rows: Array, item_rows: Array, codes: Array, line: Array, item: Array, *, k: int
) -> tuple[Array, Array]:
    scores = user_rows[codes] @ item_rows.T
    scores = scores.at[line, item].set(-jnp.inf, mode="drop")
    return lax.top_k(scores, k)


def rank_with_uncertainty(
    rows: Conditionals,
    ratings: dict[Side, SideRatings],
    codes: Int[np.ndarray, " users"],
    candidates: Int[np.ndarray, " items"],
    k: int,
    exclusions: Exclusions | None,
    *,
    rank_by: RankBy,
    interval: float,
    rng: np.random.Generator | None = None,
) -> tuple[Int[np.ndarray, "users k"], Float[np.ndarray, "users k"]]:
    """Positions in `candidates` ranked by a bound or a joint draw of the scores.

    Blocks of items are the outer loop, so that each item's covariance is computed once. Costs
    O(users x items x d^2) time, memory bounded by the blocks.

    Args:
        rows: The fit's conditionals.
        ratings: Training ratings of both sides.
        codes: User codes; -1 is a new user.
        candidates: Item codes.
        k: How many.
        exclusions: Pairs to leave out, their items as positions in `candidates`.
        rank_by: "lower", "upper" or "thompson".
        interval: Probability of the central interval whose end is ranked by.
        rng: Draws for "thompson".

    Returns:
        As `top_items`, the values being those ranked by.
    """
    best = np.full((len(codes), k), -np.inf)
    places = np.full((len(codes), k), -1, dtype=np.int64)
    size = max(1, BATCH_BYTES // (8 * rows.num_columns**2))
    half = float(ndtri(0.5 + interval / 2)) * (-1.0 if rank_by == "lower" else 1.0)
    noise = None
    if rank_by == "thompson":
        noise = np.asarray(rng.standard_normal((len(codes), rows.num_columns)))
    for item_start in range(0, len(candidates), size):
        items = candidates[item_start : item_start + size]
        item_side = gaussian_rows(rows, ratings["item"], "item", items)
        for user_start in range(0, len(codes), size):
            part = slice(user_start, min(user_start + size, len(codes)))
            users = gaussian_rows(rows, ratings["user"], "user", codes[part])
            if noise is not None:
                value = _draw_grid(users, item_side, noise[part], rng)
            else:
                mean, variance = _grid(users, item_side)
                value = mean + half * np.sqrt(variance)
            if exclusions is not None:
                line, item = exclusions.block(codes[part])
                inside = (item >= item_start) & (item < item_start + len(items))
                value[line[inside], item[inside] - item_start] = -np.inf
            both = np.concatenate([best[part], value], axis=1)
            here = np.broadcast_to(np.arange(len(items)) + item_start, value.shape)
            both_places = np.concatenate([places[part], here], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best[part] = np.take_along_axis(both, order, axis=1)
            places[part] = np.take_along_axis(both_places, order, axis=1)
    empty = np.isneginf(best)
    return np.where(empty, -1, places), np.where(empty, np.nan, best)


def _grid(
    users: tuple[np.ndarray, np.ndarray], items: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (less the intercept) and variance of every user's score of every item.

    The three terms of the variance (see `predict.score_moments`) are two matrix products.
    """
    (x, c), (y, d) = users, items
    factors_c = np.pad(c[:, 1:, 1:], ((0, 0), (1, 0), (1, 0)))
    left = (factors_c + _outer(x)).reshape(len(x), -1)
    variance = left @ d.reshape(len(y), -1).T + c.reshape(len(x), -1) @ _outer(y).reshape(len(y), -1).T
    mean = x[:, :1] + y[:, 0] + x[:, 1:] @ y[:, 1:].T
    return mean, np.maximum(variance, 0.0)


def _outer(x: np.ndarray) -> np.ndarray:
    """Outer products of the designs (1, factors) of rows."""
    design = np.concatenate([np.ones((len(x), 1)), x[:, 1:]], axis=1)
    return design[:, :, None] * design[:, None, :]


def _draw_grid(
    users: tuple[np.ndarray, np.ndarray],
    items: tuple[np.ndarray, np.ndarray],
    noise: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Scores under one draw of each user's row and, for each user, of every item's row."""
    (x, c), (y, d) = users, items
    values, vectors = np.linalg.eigh(c)
    drawn = x + np.einsum("bde,be->bd", vectors, np.sqrt(np.maximum(values, 0)) * noise)
    variance = _outer(drawn).reshape(len(x), -1) @ d.reshape(len(y), -1).T
    mean = drawn[:, :1] + y[:, 0] + drawn[:, 1:] @ y[:, 1:].T
    return mean + np.sqrt(np.maximum(variance, 0)) * rng.standard_normal(variance.shape)


def nearest_rows(
    rows: Conditionals, items: Int[np.ndarray, " n"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Items whose factors have the largest cosine with those of the given items.

    Args:
        rows: The fit's conditionals.
        items: Item codes.
        k: How many, the item itself left out.

    Returns:
        Item codes and cosines, best first.
    """
    factors = jnp.asarray(rows.parameters["item_factors"])
    length = jnp.linalg.norm(factors, axis=1, keepdims=True)
    unit = jnp.where(length > 0, factors / jnp.where(length > 0, length, 1.0), 0.0)
    own = Exclusions.from_pairs(np.arange(len(factors)), np.arange(len(factors)), len(factors))
    padded = jnp.concatenate([unit, jnp.zeros((1, unit.shape[1]), unit.dtype)])
    return top_items(padded, unit, items, k, own)


def all_rows(rows: Conditionals) -> tuple[Array, Array]:
    """Rows whose products rank items: (1, u) with the prior's at the end, and (c, v)."""
    users = jnp.asarray(with_prior_row(rows, "user")).at[:, 0].set(1.0)
    return users, rows.rows("item")


def ratings_by_side(data: Ratings) -> dict[Side, SideRatings]:
    """Training ratings of both sides, contiguous by row."""
    return {side: SideRatings.from_ratings(data, side) for side in SIDES}


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()

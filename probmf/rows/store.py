"""Ratings by row: the one order of the ratings that every way to solve rows reads.

The ratings stand twice, sorted by user and sorted by item; within a row they keep the order of the
table, so that sums are the same on every machine.
"""

import os
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from probmf.backend import platform

Side = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")
#: Each side's other side.
OTHER: dict[Side, Side] = {"user": "item", "item": "user"}
#: Threads that share a half-sweep, at most.
MOST_WORKERS = 16


class Padded(NamedTuple):
    """Ratings of some rows, padded to one width.

    Attributes:
        filled: True in slots that hold a rating.
        partner: Code of the other side in each slot, `empty` where there is none.
        rating: Rating in each slot, 0 in empty ones.
        weight: Weight in each slot, 0 in empty ones; None when all weights are one.
    """

    filled: Bool[np.ndarray, "lines width"]
    partner: Int[np.ndarray, "lines width"]
    rating: Float[np.ndarray, "lines width"]
    weight: Float[np.ndarray, "lines width"] | None


@dataclass(frozen=True, eq=False)
class RowRatings:
    """The ratings of one side's rows, row after row.

    Attributes:
        start: Place of each row's first rating, and the end of the last row.
        partner: Code of the other side of each rating.
        rating: The ratings.
        weight: Their weights, or None when all are one.
    """

    start: Int[np.ndarray, " rows1"]
    partner: Int[np.ndarray, " n"]
    rating: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"] | None

    @classmethod
    def sort(
        cls,
        own: Int[np.ndarray, " n"],
        partner: Int[np.ndarray, " n"],
        rating: Float[np.ndarray, " n"],
        weight: Float[np.ndarray, " n"] | None,
        *,
        num_rows: int,
    ) -> Self:
        """Sort ratings by row.

        Args:
            own: Code of each rating's row, in 0..num_rows-1.
            partner: Code of its other side.
            rating: The ratings.
            weight: Their weights, or None when all are one.
            num_rows: Number of rows.

        Returns:
            The ratings by row. O(n) time and memory.
        """
        order, start = sort_rows(own, num_rows)
        by_row = None if weight is None else weight[order]
        return cls(start, partner[order].astype(np.int32, copy=False), rating[order], by_row)

    @property
    def degree(self) -> Int[np.ndarray, " rows"]:
        """Number of ratings of each row."""
        return np.diff(self.start)

    def take(self, codes: Int[np.ndarray, " some"], num_rows: int) -> Self:
        """The ratings of some rows, in that order, and of rows without ratings after them."""
        degree = np.zeros(num_rows, np.int64)
        degree[: len(codes)] = self.degree[codes]
        start = np.concatenate([[0], np.cumsum(degree)])
        first = self.start[codes] - start[: len(codes)]
        place = np.arange(start[-1]) + np.repeat(first, degree[: len(codes)])
        weight = None if self.weight is None else self.weight[place]
        return type(self)(start, self.partner[place], self.rating[place], weight)

    def shift(self, unobserved_weight: float) -> Self:
        """Ratings that stand on top of weak zeros; see `shift_weak_zeros`."""
        if not unobserved_weight > 0:
            return self
        rating, weight = shift_weak_zeros(self.rating, self.weight, unobserved_weight)
        dtype = self.rating.dtype
        by_row = None if weight is None else weight.astype(dtype)
        return replace(self, rating=rating.astype(dtype), weight=by_row)

    def pad(
        self, codes: Int[np.ndarray, " rows"], lines: int, width: int, *, empty: int = 0
    ) -> Padded:
        """Ratings of some rows, each in a line of its own.

        Args:
            codes: The rows, at most `lines`; lines beyond them are empty.
            lines: Number of lines.
            width: Slots of a line, at least the ratings of the longest of the rows.
            empty: Partner in empty slots.

        Returns:
            The padded ratings.
        """
        begin, end = np.zeros((2, lines, 1), dtype=np.int64)
        begin[: len(codes), 0] = self.start[codes]
        end[: len(codes), 0] = self.start[codes + 1]
        place = begin + np.arange(width)
        filled = place < end
        place = place[filled]

        def fill(values: np.ndarray, rest: int = 0) -> np.ndarray:
            slots = np.full((lines, width), rest, values.dtype)
            slots[filled] = values[place]
            return slots

        weight = None if self.weight is None else fill(self.weight)
        return Padded(filled, fill(self.partner, empty), fill(self.rating), weight)


@dataclass(frozen=True, eq=False)
class RowStore:
    """The ratings of both sides' rows.

    Attributes:
        user: The ratings by user.
        item: The ratings by item.
    """

    user: RowRatings
    item: RowRatings

    @classmethod
    def of(
        cls,
        user: Int[np.ndarray, " n"],
        item: Int[np.ndarray, " n"],
        rating: Float[np.ndarray, " n"],
        weight: Float[np.ndarray, " n"] | None = None,
        *,
        num_users: int,
        num_items: int,
    ) -> Self:
        """Sort a table of ratings by user and by item.

        Args:
            user: User codes, in 0..num_users-1 (checked at the data door).
            item: Item codes, likewise.
            rating: Ratings.
            weight: Weights, or None when all are one.
            num_users: Number of users.
            num_items: Number of items.

        Returns:
            The store, its numbers in JAX's present precision.
        """
        dtype = np.dtype(jnp.result_type(float))
        user, item, rating = np.asarray(user), np.asarray(item), np.asarray(rating, dtype)
        weight = None if weight is None else np.asarray(weight, dtype)
        return cls(
            RowRatings.sort(user, item, rating, weight, num_rows=num_users),
            RowRatings.sort(item, user, rating, weight, num_rows=num_items),
        )

    def __getitem__(self, side: Side) -> RowRatings:
        """The ratings by one side's rows."""
        return self.user if side == "user" else self.item

    @property
    def dtype(self) -> np.dtype:
        """Precision of the ratings."""
        return self.user.rating.dtype

    @property
    def num_ratings(self) -> int:
        """Number of ratings."""
        return len(self.user.rating)

    def shift(self, unobserved_weight: float) -> Self:
        """Ratings that stand on top of weak zeros; see `shift_weak_zeros`."""
        return replace(
            self, user=self.user.shift(unobserved_weight), item=self.item.shift(unobserved_weight)
        )

    def num_rows(self, side: Side) -> int:
        """Number of rows of one side."""
        return len(self[side].start) - 1


def sort_rows(
    own: Int[np.ndarray, " n"], num_rows: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " rows1"]]:
    """Order that puts ratings row after row, and where each row then starts.

    Args:
        own: Code of each rating's row, in 0..num_rows-1.
        num_rows: Number of rows.

    Returns:
        The order, stable within a row, and the starts. O(n) time.
    """
    # The transpose of a matrix with a single entry in each row is a stable sort by counting.
    ones, short = np.ones(len(own), np.int8), len(own) < np.iinfo(np.int32).max
    begin = np.arange(len(own) + 1, dtype=np.int32 if short else np.int64)
    matrix = csr_array((ones, own, begin), shape=(len(own), num_rows)).tocsc()
    return matrix.indices, matrix.indptr.astype(np.int64)


def shift_weak_zeros(
    rating: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None,
    unobserved_weight: float,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"] | None]:
    r"""Ratings beside weak zeros at all pairs, as ratings that count on top of those zeros.

    Of a pair with rating r and weight w the zero of weight :math:`w_0` does not count, so it adds
    :math:`w (r - \eta)^2 / 2 - w_0 \eta^2 / 2` to the loss of the zeros: that is a rating
    :math:`w r / (w - w_0)` of weight :math:`w - w_0`, up to a constant.

    Args:
        rating: Ratings r.
        weight: Weights w, above the zeros', or None when all are one.
        unobserved_weight: Weight of a zero; at 0 nothing changes.

    Returns:
        The ratings and weights that stand for them.
    """
    if not unobserved_weight > 0:
        return rating, weight
    full = np.ones_like(rating) if weight is None else weight
    return full * rating / (full - unobserved_weight), full - unobserved_weight


def num_workers() -> int:
    """Threads that share a half-sweep: the usable cores on a CPU, one on an accelerator."""
    if platform() != "cpu":
        return 1
    # The system's own limit, as of a batch job; not every system has one.
    own = getattr(os, "sched_getaffinity", None)
    usable = len(own(0)) if own is not None else os.cpu_count() or 1
    return max(1, min(usable, MOST_WORKERS))

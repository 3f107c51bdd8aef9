"""Rows of ratings laid out for fast batched algebra: buckets of equal width, cut in chunks.

Rows of both sides (users, items) live in one numbering, that of the parameter table: users
first, then items, then one row of zeros. An empty slot points at that row of zeros, so padding
adds nothing to any product. Rows are grouped by degree into buckets of few widths, and each
bucket is cut into chunks whose gathered block stays in cache. A row longer than `MAX_WIDTH` is
read in pieces of that many ratings.
"""

import os
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.rows.cpu import RowLists, list_rows

Side = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")

#: Longer rows are read in pieces of this many ratings.
MAX_WIDTH = 4096
#: Ratings gathered at once on a CPU: the block should stay in a level-2 cache.
CPU_SLOTS = 1024
#: The same on an accelerator, where every chunk is a kernel launch.
ACCELERATOR_SLOTS = 1 << 18
#: A bucket must save this share of all slots to be worth its compiled program.
BUCKET_COST = 0.015


class Bucket(NamedTuple):
    """Chunks of rows of one width; a pytree.

    Attributes:
        row: Table row of each line, the zero row where there is none.
        partner: Table row of the other side of each rating, the zero row in empty slots.
        rating: Rating in each slot, 0 in empty ones.
        weight: Weight in each slot (0 in empty ones), or None when all are one.
    """

    row: Int[Array, "chunks lines"]
    partner: Int[Array, "chunks lines width"]
    rating: Float[Array, "chunks lines width"]
    weight: Float[Array, "chunks lines width"] | None


class Span(NamedTuple):
    """Chunks of one bucket, from the `first` on: the share of one worker."""

    bucket: int
    first: int
    num_chunks: int


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Both sides' rows in buckets, and who does which chunks.

    Attributes:
        buckets: The buckets, narrowest first. Each holds rows of both sides, users first.
        spans: For each side, for each worker, its spans (some may be empty).
        capacity: For each bucket, the most chunks that any of its spans has.
        source: For each side, where in the workers' concatenated outputs (worker by worker,
            bucket by bucket, `capacity` chunks each) the result of each table row lies; -1 for
            rows of the other side.
        num_users: Number of users.
        num_items: Number of items.
        num_ratings: Number of ratings.
        lists: On a CPU, the same ratings for the loops of `probmf.rows.cpu`; None elsewhere.
    """

    buckets: tuple[Bucket, ...]
    spans: dict[Side, tuple[tuple[Span, ...], ...]]
    capacity: tuple[int, ...]
    source: dict[Side, Int[Array, " table"]]
    num_users: int
    num_items: int
    num_ratings: int
    lists: dict[Side, RowLists] | None

    @property
    def padding(self) -> float:
        """Slots that are computed on, divided by the ratings of both sides; 1 is no padding."""
        zero_row = self.num_users + self.num_items
        slots = 0
        for bucket in self.buckets:
            chunks, lines, width = bucket.partner.shape
            if width <= MAX_WIDTH:
                slots += chunks * lines * width
            else:
                lengths = np.asarray((bucket.partner != zero_row).sum(axis=2))
                slots += int(np.sum(-(-lengths // MAX_WIDTH) * MAX_WIDTH))
        return slots / (2 * self.num_ratings)


def num_workers() -> int:
    """Threads that share a half-sweep: the usable cores on a CPU, one on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    usable = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return max(1, min(usable, 16))


def choose_widths(degrees: np.ndarray, *, bucket_cost: float = BUCKET_COST) -> np.ndarray:
    """Bucket widths that waste the fewest slots, each bucket costing a fixed share of them.

    Solved exactly by dynamic programming over a fine ladder of candidate widths.

    Args:
        degrees: Number of ratings of every row, users and items together.
        bucket_cost: Slots that a further bucket must save, as a share of all ratings.

    Returns:
        Increasing widths, the last at least the largest degree.
    """
    largest = max(int(degrees.max(initial=1)), 1)
    ladder = [8]
    while ladder[-1] < largest:
        grain = 8 if ladder[-1] < MAX_WIDTH else MAX_WIDTH
        width = -(-int(ladder[-1] * 2**0.25 + 1) // grain) * grain
        # Wider rows are read in whole pieces, so every width beyond MAX_WIDTH is a multiple of it.
        ladder.append(min(width, MAX_WIDTH) if ladder[-1] < MAX_WIDTH else width)
    widths = np.asarray(ladder)
    rows = np.bincount(np.searchsorted(widths, degrees), minlength=len(widths))
    before = np.concatenate([[0], np.cumsum(rows)])
    cost = np.full(len(widths) + 1, np.inf)
    cost[0] = 0.0
    parent = np.zeros(len(widths) + 1, dtype=int)
    penalty = bucket_cost * degrees.sum()
    for last in range(1, len(widths) + 1):
        covered = before[last] - before[:last]
        trial = cost[:last] + covered * widths[last - 1] + penalty * (covered > 0)
        parent[last] = np.argmin(trial)
        cost[last] = trial[parent[last]]
    chosen, last = [], len(widths)
    while last > 0:
        if before[last] > before[parent[last]]:
            chosen.append(widths[last - 1])
        last = parent[last]
    return np.asarray(chosen[::-1])


def build_rows(
    user: np.ndarray,
    item: np.ndarray,
    rating: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    num_users: int,
    num_items: int,
    workers: int | None = None,
    slots: int | None = None,
    lists: bool | None = None,
) -> RowLayout:
    """Lay out ratings by user and by item.

    Args:
        user: User codes, in 0..num_users-1 (checked at the data door), shape (n,).
        item: Item codes, likewise.
        rating: Ratings, shape (n,).
        weight: Weights, or None when all are one.
        num_users: Number of users.
        num_items: Number of items.
        workers: Threads to cut the work for; by default `num_workers()`.
        slots: Ratings gathered at once; by default chosen for the backend.
        lists: Whether to list the ratings for a CPU's loops, too; by default on a CPU.

    Returns:
        The layout, its arrays on the default device. Cost O(n log n) time, O(n) memory.
    """
    workers = workers or num_workers()
    if slots is None:
        slots = CPU_SLOTS if jax.default_backend() == "cpu" else ACCELERATOR_SLOTS
    sizes = {"user": num_users, "item": num_items}
    own = {"user": user, "item": item}
    first = {"user": 0, "item": num_users}
    degree = {side: np.bincount(own[side], minlength=sizes[side]) for side in SIDES}
    widths = choose_widths(np.concatenate([degree[side] for side in SIDES]))
    order = {side: np.argsort(own[side], kind="stable") for side in SIDES}
    begin = {side: np.concatenate([[0], np.cumsum(degree[side])]) for side in SIDES}
    partner = {"user": item.astype(np.int64) + num_users, "item": user.astype(np.int64)}
    zero_row = num_users + num_items
    dtype = np.dtype(jnp.result_type(float))

    buckets: list[Bucket] = []
    capacity: list[int] = []
    spans: dict[Side, list[list[Span]]] = {side: [[] for _ in range(workers)] for side in SIDES}
    places = {side: np.full(zero_row + 1, -1, dtype=np.int64) for side in SIDES}
    located: list[tuple[Side, np.ndarray, int, np.ndarray, np.ndarray]] = []
    for index, width in enumerate(widths):
        members = {
            side: np.flatnonzero(np.searchsorted(widths, degree[side]) == index) for side in SIDES
        }
        longest = max(len(rows) for rows in members.values())
        lines = max(1, min(round(slots / int(width)), -(-longest // workers)))
        fields, num_chunks, most = [], 0, 0
        for side in SIDES:
            rows = members[side]
            count = -(-len(rows) // lines)
            shares = np.diff(np.round(np.linspace(0, count, workers + 1)).astype(int))
            starts = num_chunks + np.concatenate([[0], np.cumsum(shares)])
            for worker, share in enumerate(shares):
                spans[side][worker].append(Span(index, int(starts[worker]), int(share)))
            line = np.arange(len(rows))
            worker_of = np.searchsorted(starts[1:] - num_chunks, line // lines, side="right")
            within = line - (starts[worker_of] - num_chunks) * lines
            located.append((side, first[side] + rows, index, worker_of, within))
            fields.append(
                _fill(rows, begin[side], order[side], partner[side], rating, weight,
                      first[side], zero_row, (count, lines, int(width)), dtype)
            )  # fmt: skip
            num_chunks += count
            most = max(most, int(shares.max(initial=0)))
        row, partners, ratings, weights = zip(*fields, strict=True)
        buckets.append(
            Bucket(
                row=jnp.asarray(np.concatenate(row)),
                partner=jnp.asarray(np.concatenate(partners)),
                rating=jnp.asarray(np.concatenate(ratings)),
                weight=None if weight is None else jnp.asarray(np.concatenate(weights)),
            )
        )
        capacity.append(most)

    lines_of = [bucket.row.shape[1] for bucket in buckets]
    block = np.concatenate(
        [[0], np.cumsum([c * n for c, n in zip(capacity, lines_of, strict=True)])]
    )
    for side, table_rows, index, worker_of, within in located:
        places[side][table_rows] = worker_of * block[-1] + block[index] + within
    return RowLayout(
        buckets=tuple(buckets),
        spans={side: tuple(tuple(part) for part in spans[side]) for side in SIDES},
        capacity=tuple(capacity),
        source={side: jnp.asarray(places[side], jnp.int32) for side in SIDES},
        num_users=num_users,
        num_items=num_items,
        num_ratings=len(rating),
        lists={
            side: list_rows(
                own[side], partner[side], rating, weight, first=first[side], num_rows=sizes[side],
                workers=workers, dtype=dtype,
            )
            for side in SIDES
        } if lists or (lists is None and jax.default_backend() == "cpu") else None,
    )  # fmt: skip


def _fill(
    rows: np.ndarray,
    begin: np.ndarray,
    order: np.ndarray,
    partner: np.ndarray,
    rating: np.ndarray,
    weight: np.ndarray | None,
    first: int,
    zero_row: int,
    shape: tuple[int, int, int],
    dtype: np.dtype,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Host arrays (row, partner, rating, weight) of one side's part of a bucket."""
    count, lines, width = shape
    row = np.full(count * lines, zero_row, dtype=np.int32)
    row[: len(rows)] = first + rows
    lengths = np.zeros(count * lines, dtype=np.int64)
    lengths[: len(rows)] = begin[rows + 1] - begin[rows]
    starts = np.zeros(count * lines, dtype=np.int64)
    starts[: len(rows)] = begin[rows]
    slot = np.arange(width)
    filled = slot[None, :] < lengths[:, None]
    position = order[np.where(filled, starts[:, None] + slot[None, :], 0)]
    partners = np.where(filled, partner[position], zero_row).astype(np.int32)
    ratings = np.where(filled, rating[position], 0).astype(dtype)
    weights = None if weight is None else np.where(filled, weight[position], 0).astype(dtype)
    return (
        row.reshape(count, lines),
        partners.reshape(shape),
        ratings.reshape(shape),
        None if weights is None else weights.reshape(shape),
    )

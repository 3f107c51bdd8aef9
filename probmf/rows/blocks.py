"""Rows in blocks for compiled programs: buckets of equal width, cut in chunks.

The rows of a side (users, items) are grouped by degree into buckets of few widths, and each bucket
is cut into chunks whose gathered block stays in cache. Empty slots point at the first row of the
other side and have the weight zero, so padding adds nothing to any sum. A row longer than
`MAX_WIDTH` is read in pieces of that many ratings.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.backend import platform
from probmf.rows.store import MOST_WORKERS, SIDES, RowRatings, RowStore, Side, num_workers

#: Longer rows are read in pieces of this many ratings.
MAX_WIDTH = 4096
#: Ratings gathered at once on a CPU: the block should stay in a level-2 cache.
CPU_SLOTS = 1024
#: The same on an accelerator, where every chunk is a kernel launch.
ACCELERATOR_SLOTS = 1 << 18
#: A bucket must save this share of its side's slots to be worth its compiled program.
BUCKET_COST = 0.022


class Bucket(NamedTuple):
    """Chunks of rows of one width; a pytree.

    Attributes:
        row: Row of each line, 0 where there is none.
        length: Number of ratings of each line.
        partner: Row of the other side of each rating, 0 in empty slots.
        rating: Rating in each slot, 0 in empty ones.
        weight: Weight in each slot (0 in empty ones), or None when all are one.
    """

    row: Int[Array, "*chunks lines"]
    length: Int[Array, "*chunks lines"]
    partner: Int[Array, "*chunks lines width"]
    rating: Float[Array, "*chunks lines width"]
    weight: Float[Array, "*chunks lines width"] | None

    def weights(self, dtype: Any) -> Float[Array, "*chunks lines width"]:
        """Weight in each slot, 0 in empty ones."""
        if self.weight is not None:
            return self.weight
        place = lax.broadcasted_iota(jnp.int32, self.partner.shape, self.partner.ndim - 1)
        return (place < self.length[..., None]).astype(dtype)


class Span(NamedTuple):
    """Chunks of one bucket, from the `first` on: the share of one worker."""

    bucket: int
    first: int
    num_chunks: int


@dataclass(frozen=True, eq=False)
class SideBlocks:
    """One side's rows in buckets, and who does which chunks.

    Attributes:
        buckets: The buckets, narrowest first.
        spans: For each worker its spans (some may be empty).
        capacity: For each bucket, the most chunks that any of its spans has.
        source: Where in the workers' concatenated outputs (worker by worker, bucket by bucket,
            `capacity` chunks each) the result of each row lies.
    """

    buckets: tuple[Bucket, ...]
    spans: tuple[tuple[Span, ...], ...]
    capacity: tuple[int, ...]
    source: Int[Array, " rows"]


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """Both sides' rows in buckets.

    Attributes:
        sides: The rows of each side.
        workers: Threads that the work is cut for.
    """

    sides: dict[Side, SideBlocks]
    workers: int


def choose_widths(degrees: np.ndarray, *, bucket_cost: float = BUCKET_COST) -> np.ndarray:
    """Bucket widths that waste the fewest slots, each bucket costing a fixed share of them.

    Solved exactly by dynamic programming over a fine ladder of candidate widths.

    Args:
        degrees: Number of ratings of every row.
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


def build_blocks(
    store: RowStore, *, workers: int | None = None, slots: int | None = None
) -> RowBlocks:
    """Lay out ratings by user and by item.

    Args:
        store: The ratings.
        workers: Threads to cut the work for; by default `num_workers()`.
        slots: Ratings gathered at once; by default chosen for the backend.

    Returns:
        The blocks, their arrays on the default device. O(n) time and memory.
    """
    workers, slots = workers or num_workers(), slots or default_slots()
    return RowBlocks({side: _cut(store[side], workers, slots) for side in SIDES}, workers)


def default_slots() -> int:
    """Ratings gathered at once."""
    return CPU_SLOTS if platform() == "cpu" else ACCELERATOR_SLOTS


def chunk_lines(num_rows: int, width: int, slots: int) -> int:
    """Lines of a chunk, the same for any number of workers, so that their rounding is, too."""
    parts = MOST_WORKERS if platform() == "cpu" else 1
    return max(1, min(round(slots / width), -(-num_rows // parts)))


def _cut(ratings: RowRatings, workers: int, slots: int) -> SideBlocks:
    """One side's rows in buckets, each cut in chunks, and these shared between workers."""
    widths = choose_widths(ratings.degree)
    bucket_of = np.searchsorted(widths, ratings.degree)
    buckets, capacity, places = [], [], []
    spans: list[list[Span]] = [[] for _ in range(workers)]
    for index, width in enumerate(widths):
        rows = np.flatnonzero(bucket_of == index)
        lines = chunk_lines(len(rows), int(width), slots)
        count = -(-len(rows) // lines)
        starts = np.round(np.linspace(0, count, workers + 1)).astype(int)
        for worker, (first, end) in enumerate(pairwise(starts.tolist())):
            spans[worker].append(Span(index, first, end - first))
        line = np.arange(len(rows))
        worker_of = np.searchsorted(starts[1:], line // lines, side="right")
        places.append((rows, worker_of, line - starts[worker_of] * lines))
        buckets.append(fill_bucket(ratings, rows, (count, lines, int(width))))
        capacity.append(int(np.diff(starts).max()))
    sizes = [most * bucket.row.shape[1] for most, bucket in zip(capacity, buckets, strict=True)]
    begin = np.concatenate([[0], np.cumsum(sizes)])
    source = np.zeros(len(ratings.degree), np.int32)
    for index, (rows, worker_of, within) in enumerate(places):
        source[rows] = worker_of * begin[-1] + begin[index] + within
    return SideBlocks(
        tuple(jax.tree.map(jnp.asarray, buckets)), tuple(map(tuple, spans)), tuple(capacity),
        jnp.asarray(source),
    )  # fmt: skip


def fill_bucket(
    ratings: RowRatings, rows: Int[np.ndarray, " rows"], shape: tuple[int, int, int]
) -> Bucket:
    """Some rows in lines of chunks, on the host.

    Args:
        ratings: The ratings of one side's rows.
        rows: The rows, at most one for each line.
        shape: Chunks, lines of each, and slots of each line.

    Returns:
        The bucket.
    """
    count, lines, width = shape
    row, length = np.zeros((2, count * lines), np.int32)
    row[: len(rows)], length[: len(rows)] = rows, ratings.degree[rows]
    padded = ratings.pad(rows, count * lines, width)
    weight = None if padded.weight is None else padded.weight.reshape(shape)
    parts: Any = (
        row.reshape(count, lines), length.reshape(count, lines), padded.partner.reshape(shape),
        padded.rating.reshape(shape), weight,
    )  # fmt: skip
    return Bucket(*parts)

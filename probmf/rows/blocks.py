"""Rows in blocks for compiled programs: buckets of equal width, cut in chunks.

Rows of both sides (users, items) live in one numbering, that of the parameter table: users
first, then items, then one row of zeros. An empty slot points at that row of zeros, so padding
adds nothing to any product. Rows are grouped by degree into buckets of few widths, and each
bucket is cut into chunks whose gathered block stays in cache. A row longer than `MAX_WIDTH` is
read in pieces of that many ratings.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.backend import platform
from probmf.rows.store import MOST_WORKERS, SIDES, RowStore, Side, num_workers

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
class RowBlocks:
    """Both sides' rows in buckets, and who does which chunks.

    Attributes:
        buckets: The buckets, narrowest first. Each holds rows of both sides, users first.
        spans: For each side, for each worker, its spans (some may be empty).
        capacity: For each bucket, the most chunks that any of its spans has.
        source: For each side, where in the workers' concatenated outputs (worker by worker,
            bucket by bucket, `capacity` chunks each) the result of each table row lies; -1 for
            rows of the other side.
        num_users: Number of users.
    """

    buckets: tuple[Bucket, ...]
    spans: dict[Side, tuple[tuple[Span, ...], ...]]
    capacity: tuple[int, ...]
    source: dict[Side, Int[Array, " table"]]
    num_users: int

    @property
    def workers(self) -> int:
        """Threads that the work is cut for."""
        return len(self.spans["user"])


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
    workers = workers or num_workers()
    on_cpu = platform() == "cpu"
    if slots is None:
        slots = CPU_SLOTS if on_cpu else ACCELERATOR_SLOTS
    degree = {side: store[side].degree for side in SIDES}
    widths = choose_widths(np.concatenate([degree[side] for side in SIDES]))
    zero_row = store.num_rows("user") + store.num_rows("item")

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
        # The same for any number of workers, so that their rounding is the same, too.
        lines = max(
            1, min(round(slots / int(width)), -(-longest // (MOST_WORKERS if on_cpu else 1)))
        )
        parts, num_chunks, most = [], 0, 0
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
            located.append((side, store.first(side) + rows, index, worker_of, within))
            parts.append(_fill(store, side, rows, (count, lines, int(width)), zero_row))
            num_chunks += count
            most = max(most, int(shares.max(initial=0)))
        buckets.append(jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x)), *parts))
        capacity.append(most)

    lines_of = [bucket.row.shape[1] for bucket in buckets]
    block = np.concatenate(
        [[0], np.cumsum([c * n for c, n in zip(capacity, lines_of, strict=True)])]
    )
    for side, table_rows, index, worker_of, within in located:
        places[side][table_rows] = worker_of * block[-1] + block[index] + within
    return RowBlocks(
        buckets=tuple(buckets),
        spans={side: tuple(tuple(part) for part in spans[side]) for side in SIDES},
        capacity=tuple(capacity),
        source={side: jnp.asarray(places[side], jnp.int32) for side in SIDES},
        num_users=store.num_rows("user"),
    )


def _fill(
    store: RowStore, side: Side, rows: np.ndarray, shape: tuple[int, int, int], zero_row: int
) -> Bucket:
    """One side's part of a bucket, on the host."""
    count, lines, width = shape
    row = np.full(count * lines, zero_row, dtype=np.int32)
    row[: len(rows)] = store.first(side) + rows
    padded = store[side].pad(rows, count * lines, width)
    first = store.first("item" if side == "user" else "user")
    partner = np.where(padded.filled, padded.partner + np.int32(first), np.int32(zero_row))
    weight = None if padded.weight is None else padded.weight.reshape(shape)
    parts: Any = (
        row.reshape(count, lines),
        partner.reshape(shape),
        padded.rating.reshape(shape),
        weight,
    )
    return Bucket(*parts)

"""One side's rows, shared out between threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from jaxtyping import Int

from probmf.rows.cpu.arrays import Present, RowInputs, RowObservations, RowOutputs
from probmf.rows.cpu.rows import solve_by_steps, solve_exactly
from probmf.rows.store import SIDES, RowStore, Side

#: Longer rows are solved exactly, block by block, instead of by steps: a block of all their designs
#: would not stay in cache, and the precision costs little against reading them.
LONGEST = 4096
#: Pieces of work for each thread: they come out of unequal length.
PIECES = 8
#: What a row costs besides its observations, in observations.
ROW_COST = 32


@dataclass(frozen=True, eq=False)
class Stretch:
    """Rows next to each other in the order of work.

    Attributes:
        first: Place of the first.
        last: Place after the last.
        is_short: Whether each has at most `LONGEST` observations.
    """

    first: int
    last: int
    is_short: bool


@dataclass(frozen=True, eq=False)
class RowLists:
    """The ratings as the loops read them.

    Attributes:
        store: The ratings.
        order: For each side its rows in the order of work: the shortest first.
        workers: Threads to share the work between.
    """

    store: RowStore
    order: dict[Side, Int[np.ndarray, " rows"]]
    workers: int

    @classmethod
    def of(cls, store: RowStore, workers: int) -> Self:
        """Lists of the ratings of a store, for so many threads."""
        # Rows of like lengths after each other keep in cache what short rows need.
        by_length = {side: np.argsort(store[side].degree, kind="stable") for side in SIDES}
        return cls(store, by_length, workers)

    def observed(self, side: Side) -> RowObservations:
        """The ratings of one side, for the loops."""
        rows = self.store[side]
        weight = np.zeros(0, rows.rating.dtype) if rows.weight is None else rows.weight
        return RowObservations(self.order[side], rows.start, rows.partner, rows.rating, weight)

    def stretches(self, side: Side) -> Iterator[Stretch]:
        """Stretches of about the same cost, the longest rows first."""
        degree = self.store[side].degree[self.order[side]]
        cost = np.concatenate([[0], np.cumsum(degree + ROW_COST)])
        num_short = int(np.count_nonzero(degree <= LONGEST))
        number = 1 if self.workers == 1 else PIECES * self.workers
        marks = np.linspace(0, cost[-1], number + 1)
        cuts = np.unique([0, *np.searchsorted(cost, marks[1:-1]), num_short, len(degree)])
        for first, last in reversed(list(pairwise(cuts))):
            yield Stretch(int(first), int(last), bool(last <= num_short))


def solve_side(
    lists: RowLists,
    side: Side,
    given: RowInputs,
    table: Present,
    solved: RowOutputs,
    *,
    steps: int | None,
    noise: np.ndarray | None,
    pool: ThreadPoolExecutor,
) -> None:
    """Solve or draw all rows of one side.

    Args:
        lists: The ratings.
        side: The side.
        given: Its prior.
        table: Present values of both sides.
        solved: Takes the rows.
        steps: Conjugate-gradient steps, or None for the exact solution.
        noise: Standard normal numbers for every row, which make the exact solution a draw.
        pool: Threads.
    """
    columns = _used_columns(given, table, noise)
    if len(given.gram):
        # Contiguous, as the loops want it.
        kept = slice(0, 1 + columns)
        given = given._replace(gram=given.gram[kept, kept].copy(), shift=given.shift[kept].copy())
    random = np.zeros((0, 0), table.factors.dtype) if noise is None else noise
    seen = lists.observed(side)

    def work(rows: Stretch) -> None:
        if steps is not None and rows.is_short:
            solve_by_steps(seen, rows.first, rows.last, given, table, solved, columns, steps)
        else:
            solve_exactly(seen, rows.first, rows.last, given, table, solved, columns, random)

    stretches = list(lists.stretches(side))
    if len(stretches) == 1:
        work(stretches[0])
    else:
        list(pool.map(work, stretches))


def _used_columns(given: RowInputs, table: Present, noise: np.ndarray | None) -> int:
    """Columns of factors that are not padding: zeros on both sides that nothing pulls at stay."""
    used = given.free[1:] > 0
    if noise is None and not len(given.pull):
        used = used & (table.factors.any(axis=0) | table.other_factors.any(axis=0))
    return int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0

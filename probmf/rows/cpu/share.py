"""One side's rows, shared out between threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from probmf.rows.cpu.arrays import Given, Observed, Present, Solved
from probmf.rows.cpu.rows import solve_by_steps, solve_exactly

#: Longer rows are solved exactly, block by block, instead of by steps: a block of all their designs
#: would not stay in cache, and the precision costs little against reading them.
LONGEST = 4096
#: Pieces of work for each thread: they come out of unequal length.
PIECES = 8
#: What a row costs besides its observations, in observations.
ROW_COST = 32


@dataclass(frozen=True, eq=False)
class RowLists:
    """One side's observations, row by row, the shortest row first.

    Attributes:
        seen: The observations.
        num_short: Rows of at most `LONGEST` observations; they come first.
        workers: Threads to share the work between.
    """

    seen: Observed
    num_short: int
    workers: int

    def pieces(self) -> list[tuple[int, int]]:
        """Ranges of rows of about the same cost, the longest first, none across `num_short`."""
        cost = self.seen.start + ROW_COST * np.arange(len(self.seen.start))
        number = 1 if self.workers == 1 else PIECES * self.workers
        marks = np.linspace(0, cost[-1], number + 1)
        cuts = np.unique(
            [0, *np.searchsorted(cost, marks[1:-1]), self.num_short, len(self.seen.row)]
        )
        return [(int(a), int(b)) for a, b in pairwise(cuts)][::-1]


def list_rows(
    own: np.ndarray,
    partner: np.ndarray,
    rating: np.ndarray,
    weight: np.ndarray | None,
    *,
    first: int,
    num_rows: int,
    workers: int,
    dtype: Any,
) -> RowLists:
    """Sort observations by row.

    Args:
        own: Code of the row of each observation, 0..num_rows-1.
        partner: Table row of the other side.
        rating: The observations.
        weight: Their weights, or None.
        first: Table row of the side's first row.
        num_rows: Number of rows.
        workers: Threads to share the work between.
        dtype: Of the numbers.

    Returns:
        The lists.
    """
    degree = np.bincount(own, minlength=num_rows)
    by_length = np.argsort(degree, kind="stable")
    place = np.empty(num_rows, np.int64)
    place[by_length] = np.arange(num_rows)
    order = np.argsort(place[own], kind="stable")
    start = np.concatenate([[0], np.cumsum(degree[by_length])]).astype(np.int64)
    seen = Observed(
        row=(first + by_length).astype(np.int32),
        start=start,
        partner=partner[order].astype(np.int32),
        rating=rating[order].astype(dtype),
        weight=np.zeros(0, dtype) if weight is None else weight[order].astype(dtype),
    )
    short = int(np.searchsorted(degree[by_length], LONGEST, side="right"))
    return RowLists(seen, short, workers)


def solve_side(
    lists: RowLists,
    given: Given,
    table: Present,
    *,
    steps: int | None,
    noise: np.ndarray | None,
    pool: ThreadPoolExecutor,
) -> Solved:
    """Solve or draw all rows of one side.

    Args:
        lists: The side's observations.
        given: Its prior.
        table: Present values of both sides.
        steps: Conjugate-gradient steps, or None for the exact solution.
        noise: Standard normal numbers for every table row, which make the exact solution a draw.
        pool: Threads.

    Returns:
        The table's rows with the side's replaced, and sums for each table row.
    """
    bias, factors = table
    columns = _used_columns(given, factors, noise)
    empty = [np.zeros_like(bias) for _ in range(3)]
    solved = Solved(bias.copy(), factors.copy(), *empty)
    if len(given.gram):
        # Contiguous, as the loops want it.
        kept = slice(0, 1 + columns)
        given = given._replace(gram=given.gram[kept, kept].copy(), shift=given.shift[kept].copy())
    random = np.zeros((0, 0), factors.dtype) if noise is None else noise

    def work(piece: tuple[int, int]) -> None:
        first, last = piece
        if steps is not None and last <= lists.num_short:
            solve_by_steps(lists.seen, first, last, given, table, solved, columns, steps)
        else:
            solve_exactly(lists.seen, first, last, given, table, solved, columns, random)

    pieces = lists.pieces()
    if len(pieces) == 1:
        work(pieces[0])
    else:
        list(pool.map(work, pieces))
    return solved


def _used_columns(given: Given, factors: np.ndarray, noise: np.ndarray | None) -> int:
    """Columns of factors that are not padding: zeros on both sides that nothing pulls at stay."""
    used = given.free[1:] > 0
    if noise is None and not len(given.pull):
        used = used & factors.any(axis=0)
    return int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0

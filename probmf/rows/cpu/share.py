"""One side's rows, shared out between threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import numpy as np
from jaxtyping import Int

from probmf.rows.cpu.arrays import Present, RowInputs, RowObservations, RowOutputs
from probmf.rows.cpu.few import solve_few, step_few
from probmf.rows.cpu.rows import BY_COLUMN, solve_by_steps, solve_exactly
from probmf.rows.store import SIDES, RowStore, Side

#: Longer rows are solved exactly, block by block, instead of by steps: a block of all their designs
#: would not stay in cache, and the precision costs little against reading them.
LONGEST = 4096
#: Rows of at most so many observations are solved exactly side by side. With six, at 8 to 64
#: factors, that takes 0.26 to 0.6 of the time of one after another (0.75 to 0.9 with a full prior
#: precision), with one 0.07 to 0.22 (0.35 to 0.45).
FEW = 6
#: The same for rows that take a few steps, where there are at most `BY_COLUMN` factors. On 217,000
#: items with mostly one to four ratings that takes 0.5 of the time at 8 factors, 0.7 at 32, and
#: would take 1.1 at 64.
FEW_STEPPED = 8
#: Pieces of work for each thread: they come out of unequal length.
PIECES = 8
#: What a row costs besides its observations, in observations.
ROW_COST = 32


Length = Literal["few", "short", "long"]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Rows next to each other in the order of work.

    Attributes:
        first: Place of the first.
        last: Place after the last.
        length: "few" where each has few enough observations to lie beside others, "long" where
            each has more than `LONGEST`.
    """

    first: int
    last: int
    length: Length


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

    def stretches(self, side: Side, few: int) -> Iterator[Stretch]:
        """Stretches of about the same cost, the longest rows first."""
        degree = self.store[side].degree[self.order[side]]
        cost = np.concatenate([[0], np.cumsum(degree + ROW_COST)])
        num_few, num_short = np.searchsorted(degree, [few, LONGEST], side="right")
        number = 1 if self.workers == 1 else PIECES * self.workers
        marks = np.linspace(0, cost[-1], number + 1)
        cuts = np.unique([0, *np.searchsorted(cost, marks[1:-1]), num_few, num_short, len(degree)])
        for first, last in reversed(list(pairwise(cuts))):
            length: Length = "few" if last <= num_few else "short" if last <= num_short else "long"
            yield Stretch(int(first), int(last), length)


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
    columns = used_columns(given, table, drawn=noise is not None)
    if len(given.gram):
        # Contiguous, as the loops want it.
        kept = slice(0, 1 + columns)
        given = given._replace(gram=given.gram[kept, kept].copy(), shift=given.shift[kept].copy())
    random = np.zeros((0, 0), table.factors.dtype) if noise is None else noise
    few = FEW if steps is None else FEW_STEPPED if columns <= BY_COLUMN else 0
    seen, stretches = lists.observed(side), list(lists.stretches(side, few))
    any_few = steps is None and any(rows.length == "few" for rows in stretches)
    shared = _shared_factor(given, columns) if any_few else None

    def work(rows: Stretch) -> None:
        if rows.length == "few" and steps is not None and columns <= BY_COLUMN:
            step_few(seen, rows.first, rows.last, given, table, solved, columns, steps)
        elif rows.length == "few" and shared is not None:
            solve_few(seen, rows.first, rows.last, given, table, solved, columns, random, shared)
        elif steps is not None and rows.length != "long":
            solve_by_steps(seen, rows.first, rows.last, given, table, solved, columns, steps)
        else:
            solve_exactly(seen, rows.first, rows.last, given, table, solved, columns, random)

    if len(stretches) == 1:
        work(stretches[0])
    else:
        list(pool.map(work, stretches))


def used_columns(given: RowInputs, table: Present, *, drawn: bool) -> int:
    """Columns of factors that are not padding: zeros on both sides that nothing pulls at stay."""
    used = given.free[1:] > 0
    if not drawn and not len(given.pull):
        used = used & (table.factors.any(axis=0) | table.other_factors.any(axis=0))
    return int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0


def _shared_factor(given: RowInputs, columns: int) -> np.ndarray | None:
    """Cholesky factor of the prior precision for `solve_few`; None where it does not serve."""
    if not len(given.gram):
        return np.zeros((0, 0), given.gram.dtype)
    own = given.precision[:, : 1 + columns]
    if not (own == own[:1]).all():
        return None
    free = given.free[: 1 + columns]
    matrix = given.gram * free * free[:, None] + np.diag(np.where(free > 0, free * own[0], 1))
    try:
        return np.linalg.cholesky(matrix).astype(given.gram.dtype)
    except np.linalg.LinAlgError:
        # Not definite to rounding: the observations of a row may make up for it.
        return None

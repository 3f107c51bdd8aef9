"""Effects that meet in the same observations: index lists made once, on the host.

A block holds all effects of one grouping: d coefficients for each of M groups. The block with the
most coefficients leads: its precision is block-diagonal and is eliminated group by group. The
other blocks' coefficients are numbered one after another and are called columns; they remain in
one dense matrix, whose lower triangle (and full d x d blocks on the diagonal) is all that is
formed.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Int, Shaped

#: The largest dense remainder: at 8 bytes a number, factor, inverse and the factor's inverse take
#: 0.8 GB.
MAX_REMAINDER = 6000
#: Eliminating by lists of pairs beats dense products when it needs this many times fewer terms.
PAIR_COST = 40
#: More pairs than this would not fit in memory, and take seconds in each evaluation.
MAX_PAIRS = 200_000_000
#: Beyond so many pairs programs take dense products, while these have at most so many numbers.
MAX_LISTED, MAX_DENSE = 5_000_000, 50_000_000


class RemainderTooLargeError(ValueError):
    """Error that the matrix left after eliminating one grouping is too large to factor."""


class Grouping(NamedTuple):
    """The groups of one block.

    Attributes:
        name: What errors call it.
        group: Group of each observation.
        num_groups: Number of groups M.
        dim: Coefficients d per group.
    """

    name: str
    group: Int[np.ndarray, " n"]
    num_groups: int
    dim: int


class EntryPairs(NamedTuple):
    """Pairs of entries of a leading group, and which element of the remainder they add to."""

    left: Int[Array, " pairs"]
    right: Int[Array, " pairs"]
    which: Int[Array, " pairs"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["group", "column", "entry", "entry_group", "entry_column", "element", "pairs"],
    meta_fields=["order", "shapes", "num_rows", "num_columns", "rows_each"],
)
@dataclass(frozen=True)
class Pattern:
    """Index lists of the blocks; a pytree whose sizes are static.

    An entry is a pair (leading group, column) that some observation has.

    Attributes:
        order: Positions of the blocks as given, the leading one first.
        shapes: (groups, coefficients per group) of each block, in that order.
        num_rows: Number of observations n.
        num_columns: Number of columns D of the remainder.
        rows_each: Observations of each leading group where all have as many, side by side in the
            groups' order; else 0.
        group: Leading group of each observation.
        column: Columns of each observation, one for every coefficient of the other blocks.
        entry: Entry of each of these.
        entry_group: Leading group of each entry, ascending.
        entry_column: Column of each entry.
        element: Flat positions, ascending, of the part of the remainder that may differ from zero,
            where few pairs of columns meet; None where all of it is stored.
        pairs: Pairs of entries for a sparse elimination in programs, or None for a dense one.
    """

    order: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    num_rows: int
    num_columns: int
    rows_each: int
    group: Int[Array, " n"]
    column: Int[Array, "n q"]
    entry: Int[Array, "n q"]
    entry_group: Int[Array, " entries"]
    entry_column: Int[Array, " entries"]
    element: Int[Array, " elements"] | None
    pairs: EntryPairs | None

    @property
    def offsets(self) -> tuple[int, ...]:
        """First column of each block after the leading one."""
        sizes = [groups * dim for groups, dim in self.shapes[1:]]
        return tuple(np.concatenate([[0], np.cumsum(sizes)]).astype(int)[:-1].tolist())

    def tables(self, columns: Shaped[Array, " D"]) -> list[Shaped[Array, "groups d"]]:
        """Parts of each column, as a table of each block after the leading one."""
        return [
            columns[start : start + groups * dim].reshape(groups, dim)
            for start, (groups, dim) in zip(self.offsets, self.shapes[1:], strict=True)
        ]

    def sum_by_group(self, values: Shaped[Array, "n ..."]) -> Shaped[Array, "groups ..."]:
        """Sums over the observations of each leading group."""
        groups = self.shapes[0][0]
        if self.rows_each:  # A tenth of the time that scattering takes.
            return jnp.sum(values.reshape(groups, self.rows_each, *values.shape[1:]), axis=1)
        return jax.ops.segment_sum(values, self.group, num_segments=groups)

    def of_rows(self, table: Shaped[Array, "groups ..."]) -> Shaped[Array, "n ..."]:
        """For each observation what its leading group has."""
        if self.rows_each:
            return jnp.repeat(table, self.rows_each, axis=0)
        return table[self.group]


def make_pattern(blocks: list[Grouping]) -> Pattern:
    """Choose the leading block and list what meets what.

    Args:
        blocks: At least one grouping; the groups are in range (checked by the caller).

    Returns:
        The pattern. Cost O(n q log n), and O(pairs) for the sparse elimination.

    Raises:
        RemainderTooLargeError: If the blocks that are not eliminated are too large.
    """
    sizes = [block.num_groups * block.dim for block in blocks]
    # A single group is never worth eliminating: its matrix is dense either way.
    lead = int(
        np.argmax([size if b.num_groups > 1 else -1 for b, size in zip(blocks, sizes, strict=True)])
    )
    order = (lead, *(i for i in range(len(blocks)) if i != lead))
    first, rest = blocks[lead], [blocks[i] for i in order[1:]]
    num_columns = sum(sizes) - sizes[lead]
    if num_columns > MAX_REMAINDER:
        names = ", ".join(f"{b.name} ({b.num_groups * b.dim:,})" for b in rest)
        raise RemainderTooLargeError(
            f"After eliminating {first.name} ({sizes[lead]:,} coefficients) a dense matrix of "
            f"{num_columns:,} coefficients remains ({names}); at most {MAX_REMAINDER:,} can be "
            "factored. Integrate fewer groupings out and let the others be sampled, non-centred."
        )
    num_rows = len(first.group)
    column = _columns(rest, num_rows)
    group = np.asarray(first.group, np.int64)
    code = group[:, None] * max(num_columns, 1) + column
    unique, entry = np.unique(code, return_inverse=True)
    entry = entry.reshape(code.shape)
    entry_group, entry_column = np.divmod(unique, max(num_columns, 1))
    cell = _cells(rest)
    count = np.bincount(entry_group, minlength=first.num_groups)
    num_pairs = int(np.sum(count.astype(np.float64) * (count + 1) / 2))
    dense = first.num_groups * first.dim * num_columns
    element, pairs = None, None
    if num_pairs * first.dim * PAIR_COST < float(dense) * num_columns:
        if num_pairs > MAX_PAIRS:
            raise RemainderTooLargeError(
                f"Eliminating {first.name} joins {num_pairs:,} pairs of the other groupings' "
                f"coefficients; at most {MAX_PAIRS:,} fit in memory. Integrate fewer groupings "
                "out and let the others be sampled, non-centred."
            )
        if num_pairs <= MAX_LISTED or dense > MAX_DENSE:
            pairs, element = _pairs(count, entry_column, cell, num_columns)
        else:
            element = _elements(count, entry_column, cell, num_columns)
    return Pattern(
        order=order,
        shapes=((first.num_groups, first.dim), *((b.num_groups, b.dim) for b in rest)),
        num_rows=num_rows,
        num_columns=num_columns,
        rows_each=_rows_each(group, first.num_groups),
        group=jnp.asarray(group, jnp.int32),
        column=jnp.asarray(column, jnp.int32),
        entry=jnp.asarray(entry, jnp.int32),
        entry_group=jnp.asarray(entry_group, jnp.int32),
        entry_column=jnp.asarray(entry_column, jnp.int32),
        element=None if element is None else jnp.asarray(element, jnp.int32),
        pairs=pairs,
    )


def _rows_each(group: np.ndarray, num_groups: int) -> int:
    count = len(group) // num_groups
    alike = len(group) == count * num_groups
    return count if alike and np.array_equal(group, np.repeat(np.arange(num_groups), count)) else 0


def _columns(rest: list[Grouping], num_rows: int) -> np.ndarray:
    parts, offset = [np.zeros((num_rows, 0), np.int64)], 0
    for block in rest:
        base = offset + np.asarray(block.group, np.int64) * block.dim
        parts.append(base[:, None] + np.arange(block.dim))
        offset += block.num_groups * block.dim
    return np.concatenate(parts, axis=1)


def _cells(rest: list[Grouping]) -> np.ndarray:
    """The group and block that each column belongs to."""
    parts, offset = [np.zeros(0, np.int64)], 0
    for block in rest:
        parts.append(offset + np.repeat(np.arange(block.num_groups), block.dim))
        offset += block.num_groups
    return np.concatenate(parts)


def _elements(
    count: np.ndarray, column: np.ndarray, cell: np.ndarray, num_columns: int
) -> np.ndarray:
    """Flat positions of the stored part in which two entries of a group meet."""
    begin = np.concatenate([[0], np.cumsum(count)])
    there = scipy.sparse.csr_array(
        (np.ones(len(column), bool), column, begin), (len(count), num_columns)
    )
    both = (there.T.tocsr() @ there).tocoo()
    left, right = (np.asarray(part, np.int64) for part in both.coords)
    stored = (left >= right) | (cell[left] == cell[right])
    return np.sort(left[stored] * num_columns + right[stored])


def _pairs(
    count: np.ndarray, column: np.ndarray, cell: np.ndarray, num_columns: int
) -> tuple[EntryPairs, np.ndarray]:
    """Pairs of entries of the same group that fall in the stored part, by element, and these."""
    begin = np.concatenate([[0], np.cumsum(count)])
    lefts, rights = [], []
    for size in np.unique(count[count > 0]):
        starts = begin[:-1][count == size]
        # Entries of a group ascend by column, so the lower triangle is left >= right; the upper
        # part of a cell's own block is kept as well.
        left, right = np.tril_indices(size)
        lefts.append((starts[:, None] + left).ravel())
        rights.append((starts[:, None] + right).ravel())
    left, right = np.concatenate(lefts), np.concatenate(rights)
    mirrored = (cell[column[left]] == cell[column[right]]) & (left != right)
    left, right = (
        np.concatenate([left, right[mirrored]]),
        np.concatenate([right, left[mirrored]]),
    )
    order = _stable_order(column[right], num_columns)
    order = order[_stable_order(column[left][order], num_columns)]
    left, right = left[order], right[order]
    element = column[left] * num_columns + column[right]
    is_next = np.diff(element, prepend=-1) > 0
    lists = (left, right, np.cumsum(is_next) - 1)
    return EntryPairs(*(jnp.asarray(x, jnp.int32) for x in lists)), element[is_next]


def _stable_order(codes: np.ndarray, size: int) -> np.ndarray:
    """Order that sorts codes below `size`, by counting: a fifth of a comparing sort's time."""
    places = np.arange(len(codes))
    counted = scipy.sparse.coo_array(
        (np.ones(len(codes), bool), (codes, places)), (size, len(codes))
    )
    found: np.ndarray = counted.tocsr().indices
    return found

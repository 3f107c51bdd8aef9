r"""The factor P of the prior on the columns that remain, and loops over their stored matrix.

P is block-diagonal, by group, and in NumPy; the loops are compiled for the CPU at hand.

The matrix is stored by column, lower triangle and whole diagonal blocks; `row` and `column` tell
where each element lies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from probmf.effects.pattern import Pattern
from probmf.rows.cpu.kernels import compiled

#: Parts of a sum, so many whatever the number of threads, lest the last digits depend on it.
SHARES = 8

Trils = Sequence[np.ndarray]


@dataclass(frozen=True)
class ColumnPlaces:
    """Positions of each block's columns; P is not stored.

    Attributes:
        own: Columns of each block, by its position.
        shapes: (groups, coefficients per group) of every block.
        size: Number of columns.
    """

    own: Mapping[int, slice]
    shapes: Sequence[tuple[int, int]]
    size: int

    def scales(self, trils: Trils) -> np.ndarray:
        """The diagonal of P where a block has one coefficient per group, and 1 elsewhere."""
        scale = np.ones(self.size)
        for block, own in self.own.items():
            if self.shapes[block][1] == 1:
                scale[own] = np.ravel(trils[block])
        return scale

    def scale_vector(
        self, trils: Trils, vector: np.ndarray, *, transpose: bool = False
    ) -> np.ndarray:
        """P x, or P^T x."""
        out = np.empty_like(vector)
        for block, own in self.own.items():
            table = vector[own].reshape(self.shapes[block])
            tril = np.broadcast_to(trils[block], (len(table), *np.shape(trils[block])[-2:]))
            inner = "mab,ma->mb" if transpose else "mab,mb->ma"
            out[own] = np.einsum(inner, tril, table).ravel()
        return out

    def scale_wide(self, trils: Trils, matrix: np.ndarray, *, transpose: bool) -> None:
        """P^T X P, or P X P^T, in place, of blocks with several coefficients per group."""
        for block, own in self.own.items():
            groups, dim = self.shapes[block]
            if dim == 1:
                continue
            tril = np.broadcast_to(trils[block], (groups, dim, dim))
            right = tril if transpose else np.swapaxes(tril, -1, -2)
            _from_right(matrix[own.stop :, own], right)
            _from_right(matrix[own, : own.start].T, right)
            square = matrix[own, own]
            if not transpose:
                square[:] = np.tril(square) + np.tril(square, -1).T
            _from_right(square, right)
            _from_right(square.T, right)


def _from_right(matrix: np.ndarray, right: np.ndarray) -> None:
    """X <- X T, where T is block-diagonal, in place."""
    by_group = matrix.reshape(len(matrix), *right.shape[:2])
    matrix[:] = np.einsum("igk,gkb->igb", by_group, right).reshape(matrix.shape)


@compiled
def interpolate(base: np.ndarray, terms: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """Puts base - terms @ weight in out."""
    for e in range(len(out)):
        total = base[e]
        for r in range(len(weight)):
            total -= terms[e, r] * weight[r]
        out[e] = total


@compiled
def weigh(weight: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """The product weight^T @ terms, the adjoint of `interpolate`.

    NumPy's own would wake threads of NumPy's BLAS, which then stand in the way of SciPy's.
    """
    out = np.zeros(terms.shape[1])
    for e in range(len(weight)):
        for r in range(terms.shape[1]):
            out[r] += weight[e] * terms[e, r]
    return out


class Meetings(NamedTuple):
    """Pairs of a leading group's entries, not listed one by one.

    Attributes:
        begin: First entry of each group, and the end of the last one.
        group: Group of each entry.
        column: Column of each entry, ascending within a group.
        order: Entries by column, so that what the pairs add to lies close together.
        shares: Where each of `SHARES` parts of that order begins, and the end of the last one; a
            column is in one part.
        cell: Group and block of each column; the columns of one lie side by side.
        place: Place among the stored elements by the columns of two entries.
    """

    begin: np.ndarray
    group: np.ndarray
    column: np.ndarray
    order: np.ndarray
    shares: np.ndarray
    cell: np.ndarray
    place: np.ndarray


def find_meetings(pattern: Pattern) -> Meetings:
    """Pairs of entries of a pattern that stores but a part of the remainder.

    Raises:
        ValueError: If it stores all of it.
    """
    if pattern.element is None:
        raise ValueError("The pattern stores the whole remainder.")
    group, element = np.asarray(pattern.entry_group), np.asarray(pattern.element)
    # An index without a sign need not be looked at before it is used.
    column = np.asarray(pattern.entry_column, np.uint32)
    size = pattern.num_columns
    place = np.zeros((size, size), np.uint32)
    place.ravel()[element] = np.arange(len(element), dtype=np.uint32)
    cells = [np.repeat(np.arange(groups), dim) for groups, dim in pattern.shapes[1:]]
    offsets = np.cumsum([0, *(groups for groups, _ in pattern.shapes[1:])])
    cell = np.concatenate([own + offset for own, offset in zip(cells, offsets, strict=False)])
    begin = np.searchsorted(group, np.arange(pattern.shapes[0][0] + 1))
    order = np.argsort(column, kind="stable")
    ends = np.linspace(0, len(order), SHARES + 1).astype(np.int64)[1:-1]
    ends = np.searchsorted(column[order], column[order[ends]])
    shares = np.asarray([0, *ends, len(order)])
    return Meetings(begin, group, column, order, shares, cell, place)


@compiled
def _pairs_of(meetings: Meetings, left: int) -> tuple[int, int]:
    """The entries that one is paired with: those before it, and to the end of its cell."""
    begin, column, cell = meetings.begin, meetings.column, meetings.cell
    group = meetings.group[left]
    stop, end = left + 1, begin[group + 1]
    while stop < end and cell[column[stop]] == cell[column[left]]:
        stop += 1
    return begin[group], stop


@compiled
def join_pairs(
    meetings: Meetings, share: int, cross: np.ndarray, spread: np.ndarray, out: np.ndarray
) -> None:
    """Adds cross[left], spread of their group, cross[right] to out, at each pair's element."""
    group, column, order = meetings.group, meetings.column, meetings.order
    shares, place = meetings.shares, meetings.place
    dim = cross.shape[1]
    for k in range(shares[share], shares[share + 1]):
        left = order[k]
        start, stop = _pairs_of(meetings, left)
        where = place[column[left]]
        for b in range(dim):
            own = 0.0
            for a in range(dim):
                own += cross[left, a] * spread[group[left], a, b]
            for right in range(start, stop):
                out[where[column[right]]] += own * cross[right, b]


@compiled
def part_pairs(
    meetings: Meetings, share: int, cross: np.ndarray, cotangent: np.ndarray, out: np.ndarray
) -> None:
    """The adjoint of `join_pairs`: adds to out, of the shape of `spread`."""
    group, column, order = meetings.group, meetings.column, meetings.order
    shares, place = meetings.shares, meetings.place
    dim = cross.shape[1]
    for k in range(shares[share], shares[share + 1]):
        left = order[k]
        start, stop = _pairs_of(meetings, left)
        where = place[column[left]]
        for b in range(dim):
            own = 0.0
            for right in range(start, stop):
                own += cotangent[where[column[right]]] * cross[right, b]
            for a in range(dim):
                out[group[left], a, b] += cross[left, a] * own


@compiled
def tabulate(
    meetings: Meetings, share: int, cross: np.ndarray, coefficients: np.ndarray, out: np.ndarray
) -> None:
    """Adds cross[left] cross[right], times their group's coefficients, to the element's row."""
    group, column, order = meetings.group, meetings.column, meetings.order
    shares, place = meetings.shares, meetings.place
    for k in range(shares[share], shares[share + 1]):
        left = order[k]
        start, stop = _pairs_of(meetings, left)
        where, own = place[column[left]], cross[left] * coefficients[group[left]]
        for right in range(start, stop):
            total, factor = out[where[column[right]]], cross[right]
            for r in range(len(own)):
                total[r] += factor * own[r]


@compiled
def place(
    row: np.ndarray, column: np.ndarray, scale: np.ndarray, values: np.ndarray, out: np.ndarray
) -> None:
    """Elements, scaled from both sides, in a matrix whose lower triangle is else zero."""
    size = len(scale)
    for j in range(size):
        for i in range(j, size):
            out[i, j] = 0.0
    for e in range(len(values)):
        out[row[e], column[e]] = scale[row[e]] * scale[column[e]] * values[e]


@compiled
def collect(
    row: np.ndarray, column: np.ndarray, scale: np.ndarray, matrix: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Elements of the symmetric matrix, scaled from both sides, plus mean mean^T."""
    out = np.empty(len(row))
    for e in range(len(row)):
        i, j = max(row[e], column[e]), min(row[e], column[e])
        out[e] = scale[i] * scale[j] * matrix[i, j] + mean[i] * mean[j]
    return out

r"""The factor P of the prior on the columns that remain, and loops over their stored matrix.

P is block-diagonal, by group, and in NumPy; the loops are compiled for the CPU at hand.

The matrix is stored by column, lower triangle and whole diagonal blocks; `row` and `column` tell
where each element lies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probmf.rows.cpu.kernels import compiled

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


@compiled
def join_pairs(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    group: np.ndarray,
    cross: np.ndarray,
    spread: np.ndarray,
    out: np.ndarray,
) -> None:
    """Adds to out[which] the product of cross[left], spread of their group, and cross[right]."""
    left, right, which = lists
    dim = cross.shape[1]
    for p in range(len(left)):
        own, other, matrix = cross[left[p]], cross[right[p]], spread[group[right[p]]]
        total = 0.0
        for a in range(dim):
            for b in range(dim):
                total += own[a] * matrix[a, b] * other[b]
        out[which[p]] += total


@compiled
def part_pairs(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    group: np.ndarray,
    cross: np.ndarray,
    cotangent: np.ndarray,
    out: np.ndarray,
) -> None:
    """The adjoint of `join_pairs`: adds to out, of the shape of `spread`."""
    left, right, which = lists
    dim = cross.shape[1]
    for p in range(len(left)):
        own, other, total = cross[left[p]], cross[right[p]], out[group[right[p]]]
        for a in range(dim):
            for b in range(dim):
                total[a, b] += cotangent[which[p]] * own[a] * other[b]


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

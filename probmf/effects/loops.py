"""Loops over the stored elements of the remaining columns' matrix, compiled for the CPU at hand.

The matrix is stored by column, lower triangle and whole diagonal blocks; `row` and `column` tell
where each element lies.
"""

import numpy as np

from probmf.rows.cpu.kernels import compiled


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

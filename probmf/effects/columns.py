r"""The factor P of the prior on the columns that remain, in NumPy: block-diagonal, by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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

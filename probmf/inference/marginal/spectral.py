r"""Models whose prior scales are all fixed: one decomposition, then any noise scale costs O(D).

With whitened effects v, Gram matrix K = L^T Z^T Z L = V diag(e) V^T and q = V^T L^T Z^T r,

.. math::
    \log p(y \mid \beta) = \tfrac n2 \log\tfrac\beta{2\pi}
      - \tfrac12 \Big[\sum_i \log(1 + \beta e_i) + \beta r^\top r
      - \sum_i \tfrac{\beta^2 q_i^2}{1 + \beta e_i}\Big], \qquad
    v = V x, \quad x_i = \tfrac{\beta q_i + \sqrt{1 + \beta e_i}\, z_i}{1 + \beta e_i},
    \quad z \sim N(0, I)

so that draws of all effects are one matrix product.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Float

from probmf.effects import Pattern, Statistics


class Spectrum:
    """The decomposition of a constant design with constant prior factors.

    Args:
        pattern: Which effects meet.
        statistics: Sums over the observations, in NumPy.
        trils: Lower factors of the prior covariances, in the pattern's order.
    """

    def __init__(
        self, pattern: Pattern, statistics: Statistics, trils: Sequence[np.ndarray]
    ) -> None:
        """Decompose. Cost O(D^3), once, for D effects in all."""
        self.pattern, self.num_rows = pattern, pattern.num_rows
        self.square = float(statistics.square)
        gram = _dense_gram(pattern, statistics)
        self.factors = [
            np.broadcast_to(np.asarray(tril), (groups, dim, dim))
            for tril, (groups, dim) in zip(trils, pattern.shapes, strict=True)
        ]
        gram = self._whiten(self._whiten(gram).T)
        values, self.vectors = scipy.linalg.eigh(gram, overwrite_a=True, driver="evd")
        self.values = np.maximum(values, 0.0)
        lead, rest = np.asarray(statistics.lead).ravel(), np.asarray(statistics.rest)
        self.target = self.vectors.T @ self._whiten(np.concatenate([lead, rest])[:, None])[:, 0]

    def _whiten(self, matrix: Float[np.ndarray, "D m"]) -> Float[np.ndarray, "D m"]:
        """P^T X."""
        return self._apply(matrix, "gab,gac->gbc")

    def _apply(self, matrix: np.ndarray, product: str) -> np.ndarray:
        out, start = np.empty_like(matrix), 0
        for factor in self.factors:
            groups, dim, _ = factor.shape
            own = slice(start, start + groups * dim)
            block = matrix[own].reshape(groups, dim, -1)
            out[own] = np.einsum(product, factor, block).reshape(groups * dim, -1)
            start += groups * dim
        return out

    def log_evidence(self, precision: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Log evidence at each noise precision."""
        beta = np.asarray(precision, np.float64)[:, None]
        grown = 1.0 + beta * self.values[None]
        inner = np.sum(np.log(grown) - np.square(beta * self.target[None]) / grown, axis=1)
        beta = beta[:, 0]
        constant = 0.5 * self.num_rows * np.log(beta / (2 * np.pi))
        return constant - 0.5 * (inner + beta * self.square)

    def draw(
        self, precision: Float[np.ndarray, " n"], rng: np.random.Generator
    ) -> list[Float[np.ndarray, "n groups d"]]:
        """Effects of each block, in the pattern's order, one joint draw per precision."""
        beta = np.asarray(precision, np.float64)[None]
        grown = 1.0 + beta * self.values[:, None]
        noise = rng.standard_normal(grown.shape)
        inner = (beta * self.target[:, None] + np.sqrt(grown) * noise) / grown
        effects = self._apply(self.vectors @ inner, "gab,gbc->gac")
        tables, start = [], 0
        for groups, dim in self.pattern.shapes:
            own = effects[start : start + groups * dim]
            tables.append(own.T.reshape(-1, groups, dim))
            start += groups * dim
        return tables


def _dense_gram(pattern: Pattern, statistics: Statistics) -> Float[np.ndarray, "D D"]:
    """All sums of z z^T as one symmetric matrix, leading effects first."""
    groups, dim = pattern.shapes[0]
    first, rest = groups * dim, pattern.num_columns
    gram = np.zeros((first + rest, first + rest))
    index = np.arange(groups)[:, None] * dim + np.arange(dim)
    gram[index[:, :, None], index[:, None, :]] = np.asarray(statistics.lead_lead)
    row = np.asarray(pattern.entry_group)[:, None] * dim + np.arange(dim)
    column = first + np.asarray(pattern.entry_column)[:, None]
    gram[row, column] = np.asarray(statistics.lead_rest)
    gram[column, row] = np.asarray(statistics.lead_rest)
    own = np.zeros((rest, rest))
    if pattern.element is None:
        own = np.array(statistics.rest_rest)
    else:
        own.ravel()[np.asarray(pattern.element)] = np.asarray(statistics.rest_rest)
    lower = np.tril(own)
    gram[first:, first:] = lower + np.tril(lower, -1).T
    return gram

r"""Errors of sums of effects given all else, each row's density quadratic in its predictor.

With whitened columns :math:`\tilde Z`, rows that weigh W, and D the identity, but zero for columns
with a flat prior, the effects have the covariance

.. math::
    H^{-1}, \quad H = D + \tilde Z^\top W \tilde Z
      = \begin{pmatrix} A & C \\ C^\top & B \end{pmatrix}, \quad A = K^{-\top} K^{-1}, \quad
    B - C^\top K K^\top C = R R^\top,

with A block-diagonal, that of the leading groups. A sum :math:`g^\top u` has the error
:math:`|h|` with :math:`h = (K^\top g_1, R^{-1} (g_2 - C^\top K K^\top g_1))`, and two sums the
covariance of their h. Exact for Gaussian effects; otherwise Laplace's approximation.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float, Int


class Halves(NamedTuple):
    """The vectors h of some sums: the leading groups' part, sparse, and the others'."""

    lead: Any
    rest: Float[np.ndarray, "m D"]

    def dot(self, other: "Halves") -> Float[np.ndarray, " m"]:
        """Covariances of each sum with that of the others."""
        lead = np.asarray(self.lead.multiply(other.lead).sum(axis=1)).ravel()
        return np.asarray(lead + np.einsum("md,md->m", self.rest, other.rest))


@dataclass(frozen=True, eq=False)
class ConditionalErrors:
    """The joint errors of effects given all else.

    Attributes:
        root: K.
        pulled: K^T C.
        factor: R.
    """

    root: Any
    pulled: Any
    factor: Float[np.ndarray, "D D"]

    @classmethod
    def of(
        cls, columns: Any, weight: Float[np.ndarray, " n"], lead: tuple[int, int], num_flat: int
    ) -> "ConditionalErrors":
        """Factor the effects' precision.

        Args:
            columns: Whitened, sparse (n, effects): the leading groups' first, flat ones last.
            weight: Minus the second derivative of each row's log density by its predictor.
            lead: Number of leading groups, and of the effects of each.
            num_flat: Number of columns whose prior is flat.

        Returns:
            The factors. Cost O(pairs + D^3) for D columns besides those of the leading groups.

        Raises:
            numpy.linalg.LinAlgError: If the precision is not positive definite.
        """
        groups, width = lead
        own, rest = columns[:, : groups * width], columns[:, groups * width :]
        weights = scipy.sparse.diags_array(weight)
        root = scipy.sparse.csr_array((0, 0))
        if groups:
            # With the prior no block is missing, and none has a neighbour.
            system = own.T @ weights @ own + scipy.sparse.eye_array(groups * width)
            blocks = scipy.sparse.bsr_array(system, blocksize=(width, width)).data
            found = np.linalg.cholesky(np.linalg.inv(blocks))
            places = np.arange(groups + 1)
            root = scipy.sparse.bsr_array((found, places[:-1], places)).tocsr()
        pulled = root.T @ (own.T @ weights @ rest)
        inner = (rest.T @ weights @ rest - pulled.T @ pulled).toarray(order="F")
        priors = np.arange(rest.shape[1] - num_flat)
        inner[priors, priors] += 1.0
        return cls(root, pulled, scipy.linalg.cholesky(inner, lower=True, overwrite_a=True))

    def halves(self, sums: Any) -> Halves:
        """The vectors h of some sums.

        Args:
            sums: Coefficients of the whitened effects, sparse (m, effects).

        Returns:
            The vectors. Cost O(m D^2), and memory for m D numbers.
        """
        lead = sums[:, : self.root.shape[0]] @ self.root
        rest = (sums[:, self.root.shape[0] :] - lead @ self.pulled).toarray()
        return Halves(
            lead, scipy.linalg.solve_triangular(self.factor, rest.T, lower=True).T
            if rest.size else rest,
        )  # fmt: skip


def spread_columns(
    group: Int[np.ndarray, " n"], columns: Float[np.ndarray, "n d"], num_groups: int
) -> Any:
    """Columns of the effects of all groups, sparse (n, groups x d); zero where a code is negative.

    Args:
        group: Group of each row.
        columns: Coefficients of its effects.
        num_groups: Number of groups.

    Returns:
        The columns, those of a group side by side.
    """
    rows, width = columns.shape
    known = group >= 0
    place = np.maximum(group, 0)[:, None].astype(np.int64) * width + np.arange(width)
    data = np.where(known[:, None], columns, 0.0).ravel()
    starts = np.arange(rows + 1) * width
    return scipy.sparse.csr_array((data, place.ravel(), starts), (rows, num_groups * width))

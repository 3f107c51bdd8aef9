r"""An estimate of the error that rounding leaves in a log evidence of double precision.

An element of the system S of the remaining columns is a sum of products, whose sizes on the
diagonal are :math:`d_i^2`, so that it is known to about :math:`\epsilon\, d_i d_j`. To first
order the log determinant then is known to :math:`\epsilon\, \sum_i d_i^2 (S^{-1})_{ii}`, and the
quadratic form to :math:`\epsilon\, (\sum_i d_i |m_i| + \sqrt\beta\, |r|)^2` with
:math:`m = S^{-1} b`. The leading groups' precisions A add the same of theirs, and lend S their
condition: where they are near to singular, that is more than what is lost. A prior factor L of
several coefficients is known to about :math:`\epsilon` times the norm of each row, which counts by
how much of it the data see.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: Relative rounding of a double.
EPSILON = float(np.finfo(np.float64).eps)
#: The largest error that is let pass: in nats, and as a share of the log evidence.
MOST_NATS, MOST_SHARE = 1e-3, 1e-8


class Rounding(NamedTuple):
    """Error of a log evidence by rounding.

    Attributes:
        value: The log evidence; NaN where there is none.
        error: An estimate of its error, or a bound that is small, in nats.
        sizes: Of each block in the pattern's order, the largest standard deviation of a column's
            effects on its rows (root of the sum of squares), in those of the noise.
    """

    value: float
    error: float
    sizes: tuple[float, ...]

    @property
    def is_small(self) -> bool:
        """True if the value may be relied upon; also where the point itself is no number."""
        if np.isnan(self.value):
            return bool(np.isnan(self.error))
        return self.error <= MOST_NATS + MOST_SHARE * abs(self.value)


def rounding_error(
    lead: Float[np.ndarray, " m"], spread: float, fitted: float, square: float
) -> float:
    """The error by the sums of products.

    Args:
        lead: The sums of A_aa (A^-1)_aa over the coefficients of each leading group.
        spread: The sum of d^2 times the diagonal of S^-1.
        fitted: The sum of d |m|.
        square: The weighted sum of squares of the target.
    """
    most = float(np.max(lead))
    return EPSILON * (float(np.sum(lead)) + most * (spread + (fitted + np.sqrt(square)) ** 2))


def factor_error(tril: np.ndarray, seen: Float[np.ndarray, "groups d"]) -> float:
    """The error by a prior factor.

    Args:
        tril: The lower factor, (d, d) or (groups, d, d).
        seen: Weighted norms of the groups' columns.
    """
    tril = np.asarray(tril).reshape(-1, *np.shape(tril)[-2:])
    rows = np.linalg.norm(tril, axis=-1)
    diagonal = np.abs(np.diagonal(tril, axis1=-2, axis2=-1))
    return EPSILON * float(np.sum(rows * seen / (1.0 + diagonal * seen)))

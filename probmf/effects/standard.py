r"""Effects in coordinates in which their columns are apart from each other.

Where one column is nearly a combination of others, such as a year beside an intercept, sums of
products of columns say nothing of what is left of it. With :math:`Z = \tilde Z T` the effects
:math:`\tilde u = T u` enter by columns of one size, orthogonal if they can be. Their prior factor
is the lower triangle of :math:`T L = \tilde L O` with O orthogonal, and :math:`u = T^{-1} \tilde u`
has them back; the density of the observations is the same.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

#: Columns of a smaller condition number are left as they are: their sums lose half the digits less.
LEAST_CONDITION = 100.0
#: Columns of a larger one are dependent up to rounding, and are not made orthogonal.
MOST_CONDITION = 1e9


class Standard(NamedTuple):
    """Other coordinates of the effects of a group.

    Attributes:
        forward: T, from the effects to those coordinates.
        backward: Its inverse.
    """

    forward: Float[np.ndarray, "d d"]
    backward: Float[np.ndarray, "d d"]

    def root(self, tril: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
        """The lower factor of the prior covariance in these coordinates."""
        product = jnp.einsum("ab,...bc->...ac", jnp.asarray(self.forward, tril.dtype), tril)
        return jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(product, -1, -2), mode="r"), -1, -2)

    def effects(self, table: Float[Array, "groups d"]) -> Float[Array, "groups d"]:
        """The effects from those in these coordinates."""
        return table @ jnp.asarray(self.backward, table.dtype).T

    @property
    def log_volume(self) -> Any:
        """Logarithm of the determinant of T; may be traced."""
        traced = isinstance(self.forward, jax.core.Tracer)
        return (jnp if traced else np).linalg.slogdet(self.forward)[1]


def standardize(
    columns: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n d"], Standard | None]:
    """Columns that are apart, and the coordinates of their effects.

    Args:
        columns: The columns, finite.

    Returns:
        The columns as they are, and None, where their condition number is small enough once each is
        scaled. Cost O(n d^2).
    """
    if columns.shape[1] < 2 or len(columns) < 1 or _condition(columns) < LEAST_CONDITION:
        return columns, None
    return orthogonalize(columns)


def orthogonalize(
    columns: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n d"], Standard]:
    """Centred columns of one size, orthogonal unless they are dependent, and the coordinates.

    Args:
        columns: The columns, finite.

    Returns:
        Columns with a mean square of one (zero ones stay zero), and the coordinates.
    """
    moved, order, scale, shares = centre(columns)
    size, num = len(order), len(shares)
    backward, forward = np.diag(1.0 / scale), np.diag(scale)
    backward[:num, num:] = -shares / scale[num:]
    forward[:num, num:] = scale[:num, None] * shares
    upper = np.linalg.qr(moved / np.sqrt(len(moved)), mode="r")
    if len(upper) == size and np.linalg.cond(upper) < MOST_CONDITION:
        upper = np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None] * upper
        moved = scipy.linalg.solve_triangular(upper, moved.T, trans="T").T
        backward, forward = backward @ np.linalg.inv(upper), upper @ forward
    permutation = np.eye(size)[:, order]
    return moved, Standard(forward @ permutation.T, permutation @ backward)


class Centred(NamedTuple):
    """Columns less what intercepts and indicators explain of them.

    Attributes:
        columns: These, with a mean square of one (zero ones stay zero), intercepts first.
        order: Which column each was.
        scale: What each was divided by.
        shares: Units of each intercept taken out of each other column.
    """

    columns: Float[np.ndarray, "n d"]
    order: Int[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    shares: Float[np.ndarray, "k rest"]


def centre(columns: Float[np.ndarray, "n d"]) -> Centred:
    """Intercepts and indicators, and the other columns less their means over these.

    Args:
        columns: The columns of one row or more, finite.
    """
    size = columns.shape[1]
    support = columns != 0
    level = columns[np.argmax(support, axis=0), np.arange(size)]
    is_constant = np.all((columns == level) | ~support, axis=0) & (level != 0)
    order = np.lexsort((-support.sum(axis=0), ~is_constant))
    moved, num = columns[:, order], int(is_constant.sum())
    # A column less its mean is exact where sums of its squares are not: intercepts and indicators
    # are taken out of the others first.
    shares = np.zeros((num, size - num))
    for place, column in enumerate(order[:num]):
        own = support[:, column]
        mean = np.mean(moved[own, num:], axis=0) / level[column]
        moved[:, num:] -= np.outer(moved[:, place], mean)
        shares[place] = mean
    scale = _largest(moved)
    scale = scale * np.sqrt(np.mean(np.square(moved / scale), axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    return Centred(moved / scale, order, scale, shares)


def _condition(columns: np.ndarray) -> float:
    upper = np.linalg.qr(columns / _largest(columns), mode="r")
    norm = np.linalg.norm(upper, axis=0)
    # A column of zeros is no combination of others.
    return float(np.linalg.cond(upper[:, norm > 0] / norm[norm > 0])) if np.any(norm > 0) else 1.0


def _largest(columns: np.ndarray) -> np.ndarray:
    size = np.max(np.abs(columns), axis=0)
    return np.where(size > 0, size, 1.0)

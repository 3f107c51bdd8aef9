"""Directions of coefficients along which no row's density ever falls: nothing holds them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Array, Bool, Float

#: How far a row's density is looked at, in units of its predictor, and a fall that counts.
FAR, FALL = (0.0, 1e1, 1e2, 1e3, 1e6, 1e9), 1e-3
#: Numbers below which an element of a linear program's answer is zero.
ROUNDING = 1e-7


def open_sides(
    density: Callable[[Any], Any], predictor: Float[Array, " n"]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Rows whose log density never falls as the predictor rises, and as it sinks.

    Args:
        density: Log density of each row at its predictor.
        predictor: Where to begin.
    """

    def stays(sign: float) -> Bool[np.ndarray, " n"]:
        values = np.stack([np.asarray(density(predictor + sign * far)) for far in FAR])
        # A comparison with NaN is false: what has no density there does not stay.
        stay: Bool[np.ndarray, " n"] = np.all(
            values >= np.maximum.accumulate(values, axis=0) - FALL, axis=0
        )
        return stay

    return stays(1.0), stays(-1.0)


def open_direction(
    columns: Float[np.ndarray, "n p"],
    up: Bool[np.ndarray, " n"],
    down: Bool[np.ndarray, " n"],
    reach: Float[np.ndarray, " p"] | None = None,
) -> Float[np.ndarray, " p"] | None:
    r"""The direction along which the densities of most rows rise, and that of none falls.

    Such a b has :math:`x_n^\top b` zero in every row but those whose density does not fall on the
    side to which it moves. A linear program finds it.

    Args:
        columns: Columns of the coefficients.
        up: Rows whose density does not fall as their predictor rises.
        down: The same as it sinks.
        reach: How far each coefficient may go; one by default.

    Returns:
        The direction; None if there is none.
    """
    size = np.max(np.abs(columns), axis=0)
    columns = columns / np.where(size > 0, size, 1.0)
    reach = np.ones(columns.shape[1]) if reach is None else reach
    sign = np.where(up, 1.0, 0.0) - np.where(down, 1.0, 0.0)
    held, open_ = ~(up | down), sign != 0
    if not open_.any():
        return None
    equal = columns[held] if held.any() else None
    signed = sign[open_, None] * columns[open_]
    found = scipy.optimize.linprog(
        -np.sum(signed, axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), A_eq=equal,
        b_eq=None if equal is None else np.zeros(len(equal)),
        bounds=np.stack([-reach, reach], axis=1),
    )  # fmt: skip
    return None if found.x is None or -found.fun <= ROUNDING else np.asarray(found.x)

"""Checks of parameters that a user gives: numbers and scales."""

from typing import TypeGuard

import numpy as np
from numpyro.distributions import Distribution


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite real number (and no bool).

    Args:
        value: Anything.

    Returns:
        The answer; a type checker then takes the value for a float.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))  # type: ignore[call-overload]


def check_scale(
    name: str,
    scale: object,
    per: str = "row",
    leave_out: str = "switch it off (user_bias=False, item_bias=False, num_factors=0)",
) -> None:
    """Refuse a scale that is not positive and finite (a distribution is let through).

    Args:
        name: The argument's name, for the message.
        scale: A number, an array or a NumPyro distribution.
        per: What an array has one scale for, for the message.
        leave_out: How the user leaves out what would have a scale of zero.

    Raises:
        TypeError: If it is neither number, array nor distribution.
        ValueError: If any entry is negative, zero, NaN or infinite.
    """
    if isinstance(scale, Distribution):
        return
    try:
        no_number = scale is None or isinstance(scale, str | bytes | bool)
        values = None if no_number else np.asarray(scale, dtype=np.float64)
    except (TypeError, ValueError):
        values = None
    if values is None:
        raise TypeError(
            f"{name} is {scale!r} of type {type(scale).__name__}; "
            f"give a positive number, an array with one scale per {per}, or a NumPyro distribution."
        )
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        where = "" if values.ndim == 0 else f" at position {int(np.argmax(bad.ravel()))}"
        raise ValueError(
            f"{name} is {values.ravel()[np.argmax(bad.ravel())]:g}{where}; a scale is a standard "
            f"deviation and must be positive and finite. To leave a term out, {leave_out}."
        )

"""Checks of parameters that a user gives: numbers and scales."""

from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import Distribution

#: Mean and standard deviation of a concentration's logarithm, a priori.
LOG_CONCENTRATION = 1.0, 1.5


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite real number (and no bool)."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))  # type: ignore[call-overload]


def check_scale(
    name: str,
    scale: object,
    per: str = "row",
    leave_out: str = "switch it off (user_bias=False, item_bias=False, num_factors=0)",
) -> None:
    """Refuse a scale that is not positive and finite (a distribution is let through).

    For messages `per` says what an array has one scale for, and `leave_out` how the user leaves out
    what would have a scale of zero.
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


def check_parameter(name: str, given: object, expected: str, *, most: float = np.inf) -> None:
    """Refuse an own parameter of a likelihood that is no number in its range, and no prior there.

    None is what the likelihood has by default. `expected` says what numbers it may be, as "positive
    number": above zero, and below `most`.
    """
    if given is None:
        return
    if isinstance(given, Distribution):
        check_support(name, given, 0.0, most)
        return
    if isinstance(given, bool) or not isinstance(given, int | float | np.number):
        raise TypeError(
            f"{name} is {given!r} of type {type(given).__name__}; expected a {expected}, or a "
            "NumPyro distribution."
        )
    if not (is_number(given) and 0 < given < most):
        raise ValueError(f"{name} is {given!r}; expected a {expected}, or a NumPyro distribution.")


def check_support(name: str, law: Distribution, least: float, most: float) -> None:
    """Refuse a prior of numbers below `least` or above `most`."""
    support: Any = law.support
    lower, upper = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    low = -np.inf if lower is None else np.min(np.asarray(lower))
    high = np.inf if upper is None else np.max(np.asarray(upper))
    if low < least or high > most:
        words = f"between {least:g} and {most:g}" if np.isfinite(most) else f"above {least:g}"
        raise ValueError(
            f"{name} has the prior {type(law).__name__}, which allows numbers that it can't be; it "
            f"lies {words}."
        )


def concentration_prior() -> Distribution:
    """The default prior of a concentration: a median of 2.7, nine tenths between 0.23 and 32."""
    return dist.LogNormal(*(jnp.asarray(one, jnp.result_type(float)) for one in LOG_CONCENTRATION))

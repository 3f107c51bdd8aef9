r"""Differences of :math:`\log \Gamma`, right to the last digits where its values are large."""

import math
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array

#: Where Stirling's series is right to the last digit.
LARGE = 16.0


def log_gamma_rest(x: Any) -> Array:
    r"""The number :math:`\log \Gamma(x) - x \log x + x`, about :math:`\log(2 \pi / x) / 2`.

    Args:
        x: Positive numbers.

    Returns:
        The numbers, by Stirling's series where x is large.

    Example:
        >>> float(log_gamma_rest(1.0))
        1.0
    """
    x = jnp.asarray(x)
    small, large = jnp.minimum(x, LARGE), jnp.maximum(x, LARGE)
    inverse = 1.0 / large
    series = inverse / 12 - inverse**3 / 360 + inverse**5 / 1260 - inverse**7 / 1680
    stirling = 0.5 * (math.log(2 * math.pi) - jnp.log(large)) + series
    return jnp.where(x < LARGE, gammaln(small) - small * jnp.log(small) + small, stirling)


def log_beta(p: Any, q: Any) -> Array:
    r"""The logarithm of the Beta function, :math:`\log B(p, q)`.

    Args:
        p: Positive numbers.
        q: Others.

    Returns:
        The logarithms, without cancellation between large numbers.

    Example:
        >>> round(float(log_beta(2.0, 3.0)), 6), round(-math.log(12), 6)
        (-2.484907, -2.484907)
    """
    p, q = jnp.asarray(p), jnp.asarray(q)
    rest = log_gamma_rest(p) + log_gamma_rest(q) - log_gamma_rest(p + q)
    return rest - p * jnp.log1p(q / p) - q * jnp.log1p(p / q)

r"""Differences of :math:`\log \Gamma`, right to the last digits where its values are large."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammainc, gammaincc, gammaln
from jaxtyping import Array

#: Where Stirling's series is right to the last digit.
LARGE = 16.0
#: Probabilities below this power of the smallest number are found by their logarithms, from a
#: series or a continued fraction of so many terms.
SMALL, TERMS = 0.9, 200


def log_gamma_rest(x: Any) -> Array:
    r"""The number :math:`\log \Gamma(x) - x \log x + x`, about :math:`\log(2 \pi / x) / 2`.

    By Stirling's series where x is large.

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


def log_gamma_tails(a: Any, x: Any) -> tuple[Array, Array]:
    r"""Logarithms of the incomplete gamma functions P(a, x) and Q(a, x), far out too.

    Where P is small, it is :math:`\frac{x^a e^{-x}}{\Gamma(a + 1)} \sum_n
    \frac{x^n}{(a + 1) \cdots (a + n)}`, and where Q is, a continued fraction.

    Example:
        >>> [round(float(one), 1) for one in log_gamma_tails(2000.0, 50.0)]
        [-5432.5, 0.0]

    Source: Press, Teukolsky, Vetterling and Flannery (2007), Numerical recipes, section 6.2.
    """
    kind = jnp.result_type(a, x)
    a, x = jnp.broadcast_arrays(jnp.asarray(a, kind), jnp.asarray(x, kind))
    small = float(jnp.finfo(a.dtype).tiny) ** SMALL
    few = lax.stop_gradient(gammainc(a, x)) < small
    many = lax.stop_gradient(gammaincc(a, x)) < small
    # Each formula is evaluated where it holds, for the sake of derivatives.
    inside = jnp.where(few | many, a, x)
    below, above = jnp.where(few, x, 0.5 * a), jnp.where(many, x, 2.0 * a + 30.0)

    def front(at: Array) -> Array:
        return a * jnp.log(at) - at - gammaln(a)

    def series(total: Array, n: Array) -> tuple[Array, None]:
        return 1.0 + below / (a + n) * total, None

    def fraction(total: Array, n: Array) -> tuple[Array, None]:
        return above + 2.0 * n - 1.0 - a + n * (a - n) / total, None

    steps = jnp.arange(TERMS, 0, -1).astype(a.dtype)
    # Terms beyond go on as a geometric series: of a large a there are many of nearly one ratio.
    beyond = 1.0 / (1.0 - below / (a + (TERMS + 1.0)))
    summed = lax.scan(series, beyond, steps)[0]
    divided = lax.scan(fraction, above + 2.0 * TERMS + 1.0 - a, steps)[0]
    log_p = jnp.where(
        few, front(below) - jnp.log(a) + jnp.log(summed),
        jnp.where(many, 0.0, jnp.log(gammainc(a, inside))),
    )  # fmt: skip
    log_q = jnp.where(
        many, front(above) - jnp.log(divided),
        jnp.where(few, 0.0, jnp.log(gammaincc(a, inside))),
    )  # fmt: skip
    return log_p, log_q


def log_beta(p: Any, q: Any) -> Array:
    r"""The logarithm of the Beta function, :math:`\log B(p, q)`.

    Without cancellation between large numbers.

    Example:
        >>> round(float(log_beta(2.0, 3.0)), 6), round(-math.log(12), 6)
        (-2.484907, -2.484907)
    """
    p, q = jnp.asarray(p), jnp.asarray(q)
    rest = log_gamma_rest(p) + log_gamma_rest(q) - log_gamma_rest(p + q)
    return rest - p * jnp.log1p(q / p) - q * jnp.log1p(p / q)

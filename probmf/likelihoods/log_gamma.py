r"""The function :math:`\log \Gamma`, and differences right to the last digits where it is large."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammainc, gammaincc
from jaxtyping import Array

#: From here on Stirling's series is right to the last digit; smaller numbers are raised by as much.
LARGE = 8
#: The series' coefficients, of odd powers of 1 / x.
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360_360, 1 / 156)
#: Probabilities below this power of the smallest number are found by their logarithms, from a
#: series or a continued fraction of so many terms.
SMALL, TERMS = 0.9, 200


def log_gamma(x: Any) -> Array:
    r"""The logarithm of the Gamma function of positive numbers, without branches.

    A quarter of the time of JAX's own, which is for negative numbers, too; absolute errors are of
    the last digits of :math:`\max(x, 8) \log x`.

    Example:
        >>> round(float(log_gamma(5.0)), 5), round(math.log(24), 5)
        (3.17805, 3.17805)
    """
    raised, log_product = _raise(x)
    return _stirling(raised) + raised * jnp.log(raised) - raised - log_product


def log_gamma_rest(x: Any) -> Array:
    r"""The number :math:`\log \Gamma(x) - x \log x + x`, about :math:`\log(2 \pi / x) / 2`.

    Example:
        >>> round(float(log_gamma_rest(1.0)), 4)
        1.0
    """
    x = jnp.asarray(x)
    raised, log_product = _raise(x)
    small = raised * jnp.log(raised) - x * jnp.log(x) - LARGE - log_product
    return _stirling(raised) + jnp.where(x < LARGE, small, 0.0)


def _stirling(x: Array) -> Array:
    """The number of `log_gamma_rest` where x is large, by Stirling's series."""
    inverse = 1.0 / x
    square, series = inverse * inverse, jnp.zeros_like(x)
    for coefficient in STIRLING[::-1]:
        series = series * square + coefficient
    return 0.5 * (math.log(2 * math.pi) - jnp.log(x)) + inverse * series


def _raise(x: Any) -> tuple[Array, Array]:
    """A large number z, and how much its logarithm of Gamma is above that of x."""
    x = 1.0 * jnp.asarray(x)
    small = jnp.minimum(x, LARGE)
    product = small
    for step in range(1, LARGE):
        product = product * (small + step)
    is_small = x < LARGE
    return jnp.where(is_small, x + LARGE, x), jnp.where(is_small, jnp.log(product), 0.0)


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
        return a * jnp.log(at) - at - log_gamma(a)

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

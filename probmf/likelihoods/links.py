"""Links: the distribution of the noise between a score and a threshold."""

import math
from collections.abc import Collection
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jax.scipy.special import erfc, ndtr
from scipy import special

from probmf.likelihoods.normal_integrals import (
    average,
    expected_sigmoid,
)
from probmf.likelihoods.quadrature import STEEPEST, rate

type LinkName = Literal["logit", "probit"]
type AnswerLink = Literal["logit", "probit", "cloglog"]

#: Numbers of any shape, on the host or the device.
Numbers = Any
#: Log of the square root of 2 pi.
LOG_ROOT = 0.5 * math.log(2 * math.pi)


class _Symmetric:
    """Answers of a symmetric distribution F of density f: no is yes to minus the score."""

    def log_mass(self: Any, answer: Numbers, x: Numbers) -> Numbers:
        """Log of the probability of an answer: of F(x) for 1, of 1 - F(x) for 0."""
        return self.log_cdf((2 * answer - 1) * x)

    def mass_slope(self: Any, answer: Numbers, x: Numbers) -> Numbers:
        """Its slope in x."""
        sign = 2 * answer - 1
        return sign * self.log_cdf_slope(sign * x)

    def information(self: Any, x: Numbers) -> Numbers:
        """Fisher information of x, f(x)^2 / F(x) (1 - F(x))."""
        return self.log_cdf_slope(x) * self.log_cdf_slope(-x)

    def masses(self: Any, mean: Numbers, sd: Numbers) -> tuple[Numbers, Numbers]:
        """Probabilities of 0 and 1, or their means when x is Normal(mean, sd)."""
        if sd is None:
            return self.cdf(-mean), self.cdf(mean)
        return self.expected_cdf(-mean, sd), self.expected_cdf(mean, sd)


def log1p_of_share(t: Numbers) -> Numbers:
    r"""Log of 1 + t for t from 0 to 1, in a third of the time of JAX's `log1p`.

    .. math:: \log(1 + t) = 2\, \mathrm{artanh}\, s, \quad s = \frac{t}{2 + t} \le \tfrac13,

    by the series of the inverse hyperbolic tangent, right to two units in the last place.
    """
    s = t / (2.0 + t)
    square, series = s * s, jnp.zeros_like(s)
    for power in reversed(range(15 if s.dtype == jnp.float64 else 7)):
        series = series * square + 1.0 / (2 * power + 1)
    return 2.0 * s * series


@jax.custom_jvp
def log_sigmoid(x: Numbers) -> Numbers:
    """Log of the sigmoid; with its slope in a fraction of the time of JAX's, by one exponential."""
    return jnp.minimum(x, 0.0) - log1p_of_share(jnp.exp(-jnp.abs(x)))


@log_sigmoid.defjvp
def _log_sigmoid_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple:
    return log_sigmoid(*primals), _falling_sigmoid(*primals) * tangents[0]


@jax.custom_jvp
def _falling_sigmoid(x: Numbers) -> Numbers:
    """The sigmoid of -x, its slope at zero being right, too."""
    tail = jnp.exp(-jnp.abs(x))
    return jnp.where(x > 0, tail, 1.0) / (1.0 + tail)


@_falling_sigmoid.defjvp
def _falling_sigmoid_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple:
    value = _falling_sigmoid(*primals)
    return value, -value * (1.0 - value) * tangents[0]


@jax.custom_jvp
def log_ndtr(x: Numbers) -> Numbers:
    r"""Log of the Normal distribution function; by one erfc, JAX's takes four.

    Far below zero it is :math:`-x^2 / 2 - \log(-x \sqrt{2 \pi})` and the log of a series in
    :math:`x^{-2}`.
    """
    x = jnp.asarray(x)
    edge = _far_edge(x)
    near, far = jnp.maximum(x, edge), jnp.minimum(x, edge)
    tail = 0.5 * erfc(math.sqrt(0.5) * jnp.abs(near))
    # log1p(-tail), whose own loop in single precision takes ten times as long.
    rest = 1.0 - tail
    upper = jnp.log(rest) + ((1.0 - rest) - tail) / rest
    inner = jnp.where(near > 0, upper, jnp.log(tail))
    outer = -0.5 * jnp.square(far) - LOG_ROOT - jnp.log(_far_ratio(far))
    return jnp.where(x < edge, outer, inner)


@log_ndtr.defjvp
def _log_ndtr_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple:
    return log_ndtr(*primals), normal_ratio(*primals) * tangents[0]


def normal_ratio(x: Numbers) -> Numbers:
    """The Normal density over its distribution function, the slope of `log_ndtr`."""
    x = jnp.asarray(x)
    edge = _far_edge(x)
    near, far = jnp.maximum(x, edge), jnp.minimum(x, edge)
    inner = jnp.exp(-0.5 * jnp.square(near) - LOG_ROOT - log_ndtr(near))
    return jnp.where(x < edge, _far_ratio(far), inner)


def _far_edge(x: Numbers) -> float:
    """Place below which a series has all digits."""
    return -20.0 if x.dtype == jnp.float64 else -10.0


def _far_ratio(x: Numbers) -> Numbers:
    """The same ratio far below zero, by a series in 1 / x^2."""
    z = -1.0 / jnp.square(x)
    return -x / (1.0 + z * (1 + z * (3 + z * (15 + z * (105 + z * (945 + z * 10395))))))


class Logit(_Symmetric):
    """The standard logistic distribution.

    Its `quantile` and `host_cdf` are on the host; `decay` is minus the slope of
    `log_density`, and `curvature` that of a quadratic that touches minus `log_cdf` from above.
    """

    variance = math.pi**2 / 3
    quantile = staticmethod(special.logit)
    host_cdf = staticmethod(special.expit)
    noise = staticmethod(jax.random.logistic)

    def cdf(self, x: Numbers) -> Numbers:
        """The sigmoid function."""
        return sigmoid(x)

    def log_cdf(self, x: Numbers) -> Numbers:
        """Log of the sigmoid."""
        return log_sigmoid(x)

    def log_cdf_slope(self, x: Numbers) -> Numbers:
        """The sigmoid of -x."""
        return sigmoid(-x)

    def log_density(self, x: Numbers) -> Numbers:
        """Log of the sigmoid's slope."""
        return log_sigmoid(x) + log_sigmoid(-x)

    def decay(self, x: Numbers) -> Numbers:
        """Hyperbolic tangent of x / 2."""
        return jnp.tanh(0.5 * x)

    def curvature(self, x: Numbers) -> Numbers:
        r"""Jaakkola and Jordan's (2000) curvature, :math:`\tanh(x / 2) / 2 x`."""
        # By its series where x is small: 0/0 at x = 0.
        small = jnp.abs(x) < 1e-2
        safe = jnp.where(small, 1.0, x)
        return jnp.where(small, 0.25 - jnp.square(x) / 48, jnp.tanh(safe / 2) / (2 * safe))

    def expected_cdf(self, mean: Numbers, sd: Numbers) -> Numbers:
        """Within 3e-9; see `expected_sigmoid`."""
        return expected_sigmoid(mean, sd)


class Probit(_Symmetric):
    """The standard Normal distribution."""

    variance = 1.0
    quantile = staticmethod(special.ndtri)
    host_cdf = staticmethod(special.ndtr)
    noise = staticmethod(jax.random.normal)

    def cdf(self, x: Numbers) -> Numbers:
        """The Normal distribution function."""
        return ndtr(x)

    def log_cdf(self, x: Numbers) -> Numbers:
        """Its logarithm."""
        return log_ndtr(x)

    def log_cdf_slope(self, x: Numbers) -> Numbers:
        """The inverse Mills ratio of -x."""
        return normal_ratio(x)

    def log_density(self, x: Numbers) -> Numbers:
        """Log density of a standard Normal."""
        return -0.5 * jnp.square(x) - LOG_ROOT

    def decay(self, x: Numbers) -> Numbers:
        """The number x."""
        return x

    def curvature(self, x: Numbers) -> Numbers:
        """One, the curvature of the EM algorithm with a latent Normal variable."""
        return jnp.ones_like(x)

    def expected_cdf(self, mean: Numbers, sd: Numbers) -> Numbers:
        """Exact: the sum of two Normal variables is one."""
        return ndtr(mean / jnp.sqrt(1 + jnp.square(sd)))


class Cloglog:
    r"""The distribution :math:`F(x) = 1 - e^{-e^x}`: whether any event of the rate e^x comes."""

    variance = math.pi**2 / 6

    def cdf(self, x: Numbers) -> Numbers:
        """One minus the exponential of minus the rate."""
        return -jnp.expm1(-rate(x))

    def log_mass(self, answer: Numbers, x: Numbers) -> Numbers:
        """Log of the probability of an answer."""
        # Far below zero F is the rate, which is zero in floating point at last.
        low = x < -15.0
        inner = jnp.where(low, 0.0, x)
        yes = jnp.where(low, x - 0.5 * rate(jnp.minimum(x, 0.0)), jnp.log(self.cdf(inner)))
        return jnp.where(answer > 0, yes, -rate(x))

    def mass_slope(self, answer: Numbers, x: Numbers) -> Numbers:
        """Its slope in x."""
        low = x < -15.0
        here = jnp.exp(jnp.minimum(jnp.where(low, 0.0, x), STEEPEST))
        yes = jnp.where(low, 1.0 - 0.5 * jnp.exp(jnp.minimum(x, 0.0)), here / jnp.expm1(here))
        return jnp.where(answer > 0, yes, -jnp.exp(jnp.minimum(x, STEEPEST)))

    def information(self, x: Numbers) -> Numbers:
        r"""The square of the rate over :math:`e^{e^x} - 1`, which is the rate far below zero."""
        here = jnp.exp(jnp.minimum(x, 20.0))
        tiny = here < 1e-4
        return jnp.where(
            tiny, here * (1.0 - 0.5 * here), here * here / jnp.expm1(jnp.where(tiny, 1.0, here))
        )

    def quantile(self, p: np.ndarray) -> np.ndarray:
        """The complementary log-log of p, which gives the link its name."""
        return np.log(-np.log1p(-p))

    def masses(self, mean: Numbers, sd: Numbers) -> tuple[Numbers, Numbers]:
        """Probabilities of 0 and 1, within 1e-8 where the score is Normal."""

        def both(x: Numbers) -> tuple[Numbers, Numbers]:
            return jnp.exp(-rate(x)), self.cdf(x)

        return both(mean) if sd is None else average(both, mean, sd)

    def host_cdf(self, x: np.ndarray) -> np.ndarray:
        """The same in double precision, on the host."""
        return np.asarray(-np.expm1(-np.exp(np.minimum(x, 700.0))))


#: Symmetric distributions, and all that yes/no answers may have.
type Link = Logit | Probit
type Answers = Link | Cloglog

LINKS: dict[str, Link] = {"logit": Logit(), "probit": Probit()}
ANSWERS: dict[str, Answers] = {**LINKS, "cloglog": Cloglog()}


def check_link(link: object, links: Collection[str]) -> None:
    """Refuse a link that there is not."""
    if link not in links:
        raise ValueError(f"link is {link!r}; expected {' or '.join(map(repr, links))}.")

"""Links: the distribution of the noise between a score and a threshold, logistic or Normal."""

import math
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, sigmoid
from jax.scipy.special import log_ndtr, ndtr
from scipy import special

from probmf.likelihoods.normal_integrals import (
    expected_sigmoid,
    expected_square_of_ndtr,
    expected_square_of_sigmoid,
)

type LinkName = Literal["logit", "probit"]

#: Numbers of any shape, on the host or the device.
Numbers = Any


class Link(Protocol):
    """A symmetric distribution F with a log-concave density f."""

    def cdf(self, x: Numbers) -> Numbers:
        """F(x)."""
        ...

    def log_cdf(self, x: Numbers) -> Numbers:
        """Log of F(x), right in the lower tail."""
        ...

    def log_cdf_slope(self, x: Numbers) -> Numbers:
        """f(x) / F(x)."""
        ...

    def log_density(self, x: Numbers) -> Numbers:
        """Log of f(x)."""
        ...

    def decay(self, x: Numbers) -> Numbers:
        """Minus the slope of `log_density`."""
        ...

    def curvature(self, x: Numbers) -> Numbers:
        """Curvature of a quadratic in x that touches minus `log_cdf` and lies above it."""
        ...

    def quantile(self, p: np.ndarray) -> np.ndarray:
        """Inverse of F, on the host."""
        ...

    def host_cdf(self, x: np.ndarray) -> np.ndarray:
        """F(x) in double precision, on the host."""
        ...

    def expected_cdf(self, mean: Numbers, sd: Numbers) -> Numbers:
        """Mean of F(x) when x is Normal(mean, sd)."""
        ...

    def expected_square(self, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Mean of the square of F(x) when x is Normal(mean, sd), on the host."""
        ...

    def noise(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Draws from F."""
        ...


class Logit:
    """The standard logistic distribution."""

    quantile = staticmethod(special.logit)
    host_cdf = staticmethod(special.expit)
    noise = staticmethod(jax.random.logistic)
    expected_square = staticmethod(expected_square_of_sigmoid)

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


class Probit:
    """The standard Normal distribution."""

    quantile = staticmethod(special.ndtri)
    host_cdf = staticmethod(special.ndtr)
    noise = staticmethod(jax.random.normal)
    expected_square = staticmethod(expected_square_of_ndtr)

    def cdf(self, x: Numbers) -> Numbers:
        """The Normal distribution function."""
        return ndtr(x)

    def log_cdf(self, x: Numbers) -> Numbers:
        """Its logarithm."""
        return log_ndtr(x)

    def log_cdf_slope(self, x: Numbers) -> Numbers:
        """The inverse Mills ratio of -x."""
        return jnp.exp(self.log_density(x) - log_ndtr(x))

    def log_density(self, x: Numbers) -> Numbers:
        """Log density of a standard Normal."""
        return -0.5 * jnp.square(x) - 0.5 * math.log(2 * math.pi)

    def decay(self, x: Numbers) -> Numbers:
        """The number x."""
        return x

    def curvature(self, x: Numbers) -> Numbers:
        """One, the curvature of the EM algorithm with a latent Normal variable."""
        return jnp.ones_like(x)

    def expected_cdf(self, mean: Numbers, sd: Numbers) -> Numbers:
        """Exact: the sum of two Normal variables is one."""
        return ndtr(mean / jnp.sqrt(1 + jnp.square(sd)))


LINKS: dict[str, Link] = {"logit": Logit(), "probit": Probit()}


def check_link(link: object) -> None:
    """Refuse a link that there is not.

    Args:
        link: Its name.

    Raises:
        ValueError: If it is none.
    """
    if link not in ("logit", "probit"):
        raise ValueError(f"link is {link!r}; expected 'logit' or 'probit'.")

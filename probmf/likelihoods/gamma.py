"""Positive numbers whose standard deviation grows with their mean, the logarithm of the score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc
from jaxtyping import Array
from numpyro.distributions import constraints

from probmf.likelihoods.base import Predicted, Scores
from probmf.likelihoods.log_gamma import log_gamma_rest, log_gamma_tails
from probmf.likelihoods.quadrature import STEEPEST, Concentrated, RateLikelihood, rate, rate_moments


@dataclass(frozen=True)
class Gamma(Concentrated, RateLikelihood):
    r"""Positive ratings of mean :math:`m = e^\eta` and variance :math:`m^2 / \phi`.

    .. math:: p(r) = \frac{(\phi / m)^\phi}{\Gamma(\phi)}\, r^{\phi - 1} e^{-\phi r / m}

    Args:
        concentration: The shape :math:`\phi`, positive, or a NumPyro distribution for it; None is
            1, and in a mixed model the default prior. One over its root is the coefficient of
            variation.

    Raises:
        TypeError: If it is neither a number nor a distribution.
        ValueError: If it is not positive.

    Example:
        >>> waits = Gamma(4.0).distribution(1.0, {"concentration": 4.0})
        >>> round(float(waits.mean), 4), round(float(waits.variance), 4)
        (2.7183, 1.8473)

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 8.
    """

    support = constraints.positive

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The concentration that the ratings have about their mean."""
        mean, variance = float(np.mean(rating)), float(np.var(rating))
        return cls(mean**2 / variance if variance else 1.0)

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what is not positive."""
        self._refuse(
            ~(rating > 0), rating, f"positive {noun}", "Drop them, or use a Gaussian likelihood."
        )

    def place(self, response: np.ndarray) -> np.ndarray:
        """Logarithms of the responses."""
        return np.log(response)

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Positive numbers."""
        own = scales["concentration"]
        drawn = jnp.exp(scores) * jax.random.gamma(key, own, shape) / own
        return jnp.maximum(drawn, jnp.finfo(drawn.dtype).tiny)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Minus log likelihood, :math:`\phi (x - 1 - \log x) + \log r + c(\phi)`, x = r / m."""
        own, apart = scales["concentration"], _apart(scores, rating)
        return own * (rate(apart) - 1.0 - apart) + _log(rating) + log_gamma_rest(own)

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Rating by mean, less one, times the concentration."""
        share = jnp.exp(jnp.minimum(_apart(scores, rating), STEEPEST))
        return scales["concentration"] * (share - 1.0)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the concentration."""
        return jnp.broadcast_to(scales["concentration"], jnp.shape(scores))

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The exponential function of the score, in whatever units that is."""
        return jnp.exp(jnp.asarray(scores))

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose mean is log-normal."""
        center, varying, square = rate_moments(mean, sd)
        return center, jnp.sqrt(varying + square / scales["concentration"])

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        r"""The incomplete gamma function :math:`Q(\phi, \phi t / m)`."""
        own = jnp.asarray(scales["concentration"], scores.dtype)
        share = jnp.where(threshold > 0.0, rate(_apart(scores, threshold)), 0.0)
        return gammaincc(own, own * share)

    def log_tails(
        self, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Logarithms of the incomplete gamma functions."""
        own = jnp.asarray(scales["concentration"])
        below, above = log_gamma_tails(own, own * rate(_apart(scores, rating)))
        return above, below

    def steepness(self, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """The root of the concentration."""
        return jnp.sqrt(scales["concentration"])

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        r"""Besides those of all numbers the deviance, :math:`2 (r / m - 1 - \log(r / m))`."""
        share = rating / np.asarray(predicted.mean, np.float64)
        deviance = float(2.0 * np.average(share - 1.0 - np.log(share), weights=weight))
        return super().errors(rating, predicted, weight) | {"deviance": deviance}


def _apart(scores: Scores, rating: Scores) -> Array:
    """Logarithm of a rating over its mean, which has no units."""
    return _log(rating) - jnp.asarray(scores)


def _log(rating: Scores) -> Array:
    """Logarithms; padding is zero."""
    rating = jnp.asarray(rating)
    return jnp.log(jnp.where(rating > 0, rating, 1.0))

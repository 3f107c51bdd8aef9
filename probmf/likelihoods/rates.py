"""Ratings whose expectation, a rate, has the score for its logarithm."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.likelihoods.base import Scores
from probmf.likelihoods.quadrature import QuadratureLikelihood

#: Score beyond which the rate goes on along its tangent, so that no loss is infinite: e^60 things
#: are more than anybody counts.
STEEPEST = 60.0


def rate(score: Scores) -> Array:
    r"""The exponential function, and its tangent beyond `STEEPEST`."""
    score = jnp.asarray(score)
    inner = jnp.minimum(score, STEEPEST)
    return jnp.exp(inner) * (1.0 + (score - inner))


def rate_moments(mean: Scores, sd: Scores) -> tuple[Array, Array, Array]:
    r"""Mean, variance and mean square of a rate whose score is Normal(mean, sd).

    With :math:`m = e^{\mu + s^2 / 2}` the rate's variance is :math:`m^2 (e^{s^2} - 1)`.
    """
    square = jnp.square(jnp.asarray(sd))
    # Of logarithms, as the one factor may be zero where the other is infinite.
    varying = jnp.exp(2.0 * (mean + square) + jnp.log(-jnp.expm1(-square)))
    return jnp.exp(mean + 0.5 * square), varying, jnp.exp(2.0 * (mean + square))


class RateLikelihood(QuadratureLikelihood):
    r"""Base class of likelihoods whose expected rating is :math:`e^\eta`."""

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        r"""That of a log-normal rating, :math:`\log(1 + \mathrm{Var} / m^2)`, at the mean m."""
        center, spread = self.integrate(log_rate, 0.0 * log_rate, scales)
        return np.log1p(np.square(np.asarray(spread) / np.asarray(center)))

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """Logarithm of the mean rating (of half a thing in all, if nothing was counted)."""
        total = float(rating.size if weight is None else weight.sum())
        count = float(np.sum(rating if weight is None else rating * weight))
        return float(np.log((count or 0.5) / total))

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The rate."""
        return rate(scores)

    def mean_square(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Mean of the square of a log-normal rate."""
        with np.errstate(over="ignore"):
            return np.exp(2.0 * (scores + np.square(sd)))

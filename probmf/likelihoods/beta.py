"""Shares between 0 and 1, whose mean's logit is the score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jax.scipy.special import betainc, digamma, polygamma
from jaxtyping import Array
from numpyro.distributions import constraints
from scipy import optimize, special

from probmf.likelihoods.base import Scores
from probmf.likelihoods.links import log_sigmoid
from probmf.likelihoods.log_gamma import log_beta
from probmf.likelihoods.normal_integrals import host_variance, sigmoid_moments
from probmf.likelihoods.parameters import is_number
from probmf.likelihoods.quadrature import Concentrated


@dataclass(frozen=True)
class Beta(Concentrated):
    r"""Shares in (0, 1) of mean :math:`m = 1 / (1 + e^{-\eta})` and variance m (1 - m) / (1 + c).

    .. math:: p(r) = \frac{r^{m c - 1} (1 - r)^{(1 - m) c - 1}}{B(m c, (1 - m) c)}

    Args:
        concentration: The concentration c, positive, which regressions call the precision; or a
            NumPyro distribution for it. None is 1, and in a mixed model the default prior.

    Raises:
        TypeError: If it is neither a number nor a distribution.
        ValueError: If it is not positive.

    Example:
        >>> shares = Beta(3.0).distribution(0.0, {"concentration": 3.0})
        >>> float(shares.mean), float(shares.variance)
        (0.5, 0.0625)

    References:
        Ferrari and Cribari-Neto (2004), Beta regression for modelling rates and proportions.
    """

    support = constraints.unit_interval

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The concentration that the ratings have about their mean."""
        mean, variance = float(np.mean(rating)), float(np.var(rating))
        return cls(max(mean * (1 - mean) / variance - 1.0, 1e-3) if variance else 1.0)

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what does not lie between 0 and 1."""
        self._refuse(
            ~((rating > 0) & (rating < 1)), rating, f"{noun} between 0 and 1, both excluded",
            "Move shares of 0 and 1 inwards, as in (y * (n - 1) + 0.5) / n, or give counts of "
            "successes to a Binomial likelihood.",
        )  # fmt: skip

    def place(self, response: np.ndarray) -> np.ndarray:
        """Logits of the responses."""
        return np.asarray(special.logit(response))

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The score at which the mean logit is the expected one, where the slope is zero."""
        own = float(self.concentration) if is_number(self.concentration) else 1.0
        middle = float(np.average(special.logit(rating), weights=weight))

        def excess(score: float) -> float:
            share = special.expit(score)
            one, other = special.digamma(own * share), special.digamma(own * (1 - share))
            return float(one - other - middle)

        reach = 1.0
        while excess(-reach) > 0 or excess(reach) < 0:
            reach *= 2.0
        return float(optimize.brentq(excess, -reach, reach, xtol=1e-10))

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Shares, kept off 0 and 1."""
        one, other = _shapes(scores, scales)
        drawn = jax.random.beta(key, one, other, shape)
        limits = jnp.finfo(drawn.dtype)
        return jnp.clip(drawn, limits.tiny, 1.0 - limits.epsneg)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        own, (one, other) = scales["concentration"], _shapes(scores, scales)
        # B(p, q) by B(p + 1, q + 1), which is finite where p or q is none in floating point.
        constant = log_beta(one + 1.0, other + 1.0) + jnp.log1p(1.0 / jnp.asarray(own))
        constant = constant - log_sigmoid(scores) - log_sigmoid(-jnp.asarray(scores))
        yes, no = _logs(rating)
        return constant - (one - 1.0) * yes - (other - 1.0) * no

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Logit of the rating less its expectation, times the slope of the first shape."""
        own, (one, other) = scales["concentration"], _shapes(scores, scales)
        share, rest = sigmoid(scores), sigmoid(-jnp.asarray(scores))
        yes, no = _logs(rating)
        # p digamma(p) = p digamma(1 + p) - 1.
        low = rest * (1.0 - one * digamma(1.0 + one))
        high = share * (1.0 - other * digamma(1.0 + other))
        return low - high + own * share * rest * (yes - no)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the variance of the logit, times the squared slope."""
        one, other = _shapes(scores, scales)
        share, rest = sigmoid(scores), sigmoid(-jnp.asarray(scores))

        def part(shape: Array) -> Array:
            # p^2 trigamma(p) = p^2 trigamma(1 + p) + 1.
            return jnp.square(shape) * polygamma(1, 1.0 + shape) + 1.0

        return jnp.square(rest) * part(one) + jnp.square(share) * part(other)

    def log_expected(self, scores: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Logarithm of the expected share of Normal scores, on the host."""
        with jax.enable_x64(True):
            center = sigmoid_moments(np.asarray(scores), np.sqrt(variance))[0]
            return np.log(np.asarray(center))

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        r"""That of the logit, by the delta method: :math:`1 / (m (1 - m) (1 + c))` at the mean."""
        share, concentration = np.exp(log_rate), np.asarray(scales["concentration"], np.float64)
        return np.asarray(1.0 / (share * (1.0 - share) * (1.0 + concentration)))

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The sigmoid of the score."""
        return sigmoid(jnp.asarray(scores))

    def mean_variance(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Variance of the sigmoid, on the host, as the score varies."""
        return host_variance(special.expit, scores, sd)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd), within 1e-8."""
        center, noise, varying = sigmoid_moments(mean, sd)
        return center, jnp.sqrt(varying + noise / (1.0 + scales["concentration"]))

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """The incomplete beta function of the rest."""
        tiny = jnp.finfo(scores.dtype).tiny
        one, other = (jnp.maximum(shape, tiny) for shape in _shapes(scores, scales))
        return betainc(other, one, jnp.clip(1.0 - threshold, 0.0, 1.0))

    def steepness(self, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """The root of one plus the concentration, halved: that of a mean of one half."""
        return 0.5 * jnp.sqrt(1.0 + scales["concentration"])


def _shapes(scores: Scores, scales: Mapping[str, Array]) -> tuple[Array, Array]:
    """Both shapes of the Beta distribution."""
    own = scales["concentration"]
    return own * sigmoid(jnp.asarray(scores)), own * sigmoid(-jnp.asarray(scores))


def _logs(rating: Scores) -> tuple[Array, Array]:
    """Logarithms of a share and of the rest; padding is zero."""
    rating = jnp.asarray(rating)
    inner = jnp.where((rating > 0) & (rating < 1), rating, 0.5)
    return jnp.log(inner), jnp.log1p(-inner)

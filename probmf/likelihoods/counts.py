"""Counts, whose rate's logarithm is the score."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid, softplus
from jax.scipy.special import betainc, gammainc
from jaxtyping import Array
from numpyro.distributions import constraints
from scipy import special

from probmf.likelihoods.base import Predicted, Scores
from probmf.likelihoods.log_gamma import log_gamma, log_gamma_tails
from probmf.likelihoods.quadrature import Concentrated, RateLikelihood, rate, rate_moments

#: Rate from which on quantiles of Poisson counts are expanded, within 3e-6 in probability: beyond,
#: what methods of rejection subtract loses its digits.
LARGE = 1e4


def poisson(key: Array, rates: Array, shape: tuple[int, ...]) -> Array:
    r"""Poisson counts, as real numbers, since integers end before rates do.

    Of a rate :math:`\lambda` of 10^4 and more they are
    :math:`\lfloor \lambda + \sqrt\lambda z + 1/3 + z^2 / 6 \rfloor`, z a standard Normal number; a
    count that is larger than a float's digits tell is rounded to these.

    References:
        Giles (2016), Algorithm 955: approximation of the inverse Poisson cumulative distribution
        function.
    """
    for_few, for_many = jax.random.split(key)
    rates = jnp.broadcast_to(jnp.asarray(rates, jnp.result_type(float)), shape)
    few = jax.random.poisson(for_few, jnp.minimum(rates, LARGE), shape).astype(rates.dtype)
    z = jax.random.normal(for_many, shape, rates.dtype)
    root = jnp.sqrt(jnp.maximum(rates, LARGE))
    # As a product, which is infinite where the rate is.
    many = jnp.floor(rates * (1.0 + (z + (1.0 / 3.0 + jnp.square(z) / 6.0) / root) / root))
    return jnp.where(rates < LARGE, few, many)


class Counts(RateLikelihood):
    r"""Base class of counts whose expectation is :math:`e^\eta`.

    The loss lies below no quadratic function of the score, and no latent variable makes it one, so
    that methods that need either are not for counts (see the table of methods).
    """

    support = constraints.nonnegative_integer
    step = 1.0

    @abstractmethod
    def reach_count(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        """P(count or more) given the score, for a count of at least one."""

    def none(self, scores: Scores, scales: Mapping[str, Array]) -> Array:
        """Minus the log of the probability of a zero; its slope is the information."""
        return rate(scores)

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what is no count."""
        self._refuse(
            ~(rating >= 0) | (rating != np.round(rating)), rating,
            f"{noun} that are counts (0, 1, 2, ...)",
            "Correct or drop them, or use a Gaussian likelihood.",
        )  # fmt: skip

    def place(self, response: np.ndarray) -> float:
        """The logarithm of the mean count: a count of zero has no place on that scale."""
        return self.base_score(response, None)

    def middle(self, offset: np.ndarray) -> float:
        """The logarithm of the mean exposure, as that is of the mean count."""
        return float(special.logsumexp(offset) - np.log(len(offset)))

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """P(count >= threshold) given the score."""
        least = jnp.ceil(threshold)
        at_least_one = self.reach_count(scores, jnp.maximum(least, 1.0), scales)
        return jnp.where(least > 0, at_least_one, 1.0)

    def steepness(self, threshold: Array, scales: Mapping[str, Array]) -> Array:
        r"""Of a threshold k the rise is :math:`1 / \sqrt k` wide, or wider."""
        return jnp.sqrt(jnp.maximum(jnp.ceil(threshold), 1.0))

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        r"""Besides those of all numbers Poisson's deviance, :math:`2 (r \log(r / m) - r + m)`."""
        mean = np.asarray(predicted.mean, np.float64)
        with np.errstate(divide="ignore"):
            each = special.xlogy(rating, rating / mean) - rating + mean
        return super().errors(rating, predicted, weight) | {
            "deviance": float(2.0 * np.average(each, weights=weight))
        }


@dataclass(frozen=True)
class Poisson(Counts):
    r"""Counts of events that come one by one, :math:`r \sim \mathrm{Poisson}(e^\eta)`.

    Example:
        >>> round(float(Poisson().mean(1.0, {})), 4)
        2.7183

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 6; Gopalan, Hofman and Blei
        (2015) for counts in matrix factorization.
    """

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Counts."""
        return poisson(key, rate(scores), shape)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Minus log likelihood, :math:`e^\eta - r \eta + \log r!`."""
        return rate(scores) - rating * scores + log_gamma(jnp.asarray(rating) + 1.0)

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Count less rate."""
        return rating - rate(scores)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the rate."""
        return rate(scores)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a count whose rate is log-normal."""
        center, varying, _ = rate_moments(mean, sd)
        return center, jnp.sqrt(center + varying)

    def log_tails(
        self, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Logarithms of the incomplete gamma functions."""
        mean = rate(scores)
        count = jnp.asarray(rating, mean.dtype)
        some, _ = log_gamma_tails(jnp.maximum(count, 1.0), mean)
        _, below = log_gamma_tails(count + 1.0, mean)
        return jnp.where(count > 0, some, 0.0), below

    def reach_count(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        r"""The incomplete gamma function :math:`P(k, \lambda)`: the k-th event comes in time."""
        return gammainc(count, rate(score))


@dataclass(frozen=True)
class NegativeBinomial(Concentrated, Counts):
    r"""Counts that vary more than Poisson's, of variance :math:`\lambda + \lambda^2 / \phi`.

    They are Poisson counts whose rate is :math:`\lambda = e^\eta` times a Gamma variable of mean
    one and shape :math:`\phi`, the concentration:

    .. math:: p(r) = \binom{r + \phi - 1}{r} \left(\frac{\lambda}{\lambda + \phi}\right)^r
       \left(\frac{\phi}{\lambda + \phi}\right)^\phi .

    Args:
        concentration: The concentration, positive, or a NumPyro distribution for it; None is 1, and
            in a mixed model the default prior.

    Raises:
        TypeError: If it is neither a number nor a distribution.
        ValueError: If it is not positive.

    Example:
        >>> counts = NegativeBinomial(2.0).distribution(1.0, {"concentration": 2.0})
        >>> round(float(counts.variance), 3)
        6.413

    References:
        Hilbe (2011), Negative binomial regression, second edition, chapter 8 (NB2).
    """

    expected = "positive number, the larger the nearer to Poisson()"

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The concentration that the counts have about their mean."""
        mean, variance = float(np.mean(rating)), float(np.var(rating))
        return cls(mean**2 / max(variance - mean, 1e-3 * mean) if mean else 1.0)

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Poisson counts whose rates vary by Gamma variables."""
        rates, counts = jax.random.split(key)
        own = scales["concentration"]
        varying = jax.random.gamma(rates, own, shape) / own
        return poisson(counts, rate(scores) * varying, shape)

    def none(self, scores: Scores, scales: Mapping[str, Array]) -> Array:
        """Minus the log of the probability of a zero."""
        own = scales["concentration"]
        return own * softplus(scores - jnp.log(own))

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        own, count = scales["concentration"], jnp.asarray(rating)
        # Without the rate itself, which overflows.
        odds = scores - jnp.log(own)
        ways = log_gamma(own) + log_gamma(count + 1.0) - log_gamma(own + count)
        return own * softplus(odds) + count * softplus(-odds) + ways

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Count less rate, over one plus rate by concentration."""
        own = scales["concentration"]
        odds = scores - jnp.log(own)
        return rating * sigmoid(-odds) - own * sigmoid(odds)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the rate over one plus rate by concentration."""
        own = scales["concentration"]
        return own * sigmoid(scores - jnp.log(own))

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a count whose rate is log-normal."""
        center, varying, square = rate_moments(mean, sd)
        return center, jnp.sqrt(center + varying + square / scales["concentration"])

    def reach_count(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        r"""The incomplete beta function :math:`I_{\lambda / (\lambda + \phi)}(k, \phi)`."""
        own = scales["concentration"]
        return betainc(count, jnp.asarray(own, score.dtype), sigmoid(score - jnp.log(own)))

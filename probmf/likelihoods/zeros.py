"""Counts with more zeros than they would have, or fewer: zero-inflated ones, and hurdles."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax.nn import sigmoid
from jaxtyping import Array
from numpyro.distributions import Distribution
from scipy import optimize

from probmf.data.column import Column
from probmf.likelihoods.base import Optional, Scores
from probmf.likelihoods.counts import Counts, NegativeBinomial, Poisson, poisson
from probmf.likelihoods.normal_integrals import average
from probmf.likelihoods.parameters import check_parameter, is_number
from probmf.likelihoods.quadrature import rate
from probmf.likelihoods.responses import ResponseValues, naming_column

#: Score below which a count that is not zero is one, to the last digit.
LOWEST = -40.0


@dataclass(frozen=True)
class _Zeros(Counts):
    """Base class of both: a probability of zeros, and counts."""

    zero_probability: float | Distribution | None = None
    defaults = {"zero_probability": 0.5}  # noqa: RUF012
    scale_parameter = "zero_probability"

    def __post_init__(self) -> None:
        """Check the parameters at the door."""
        for name, given in self.stated.items():
            most = 1.0 if name == "zero_probability" else np.inf
            words = "number between 0 and 1" if most == 1.0 else "positive number"
            check_parameter(name, given, words, most=most)

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """The counts without the zeros of another kind."""

    @abstractmethod
    def _moments(
        self, mean: Scores, sd: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Means of a count and of its square that is not one of the zeros."""

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The share of zeros, and what the other counts have."""
        more = rating[rating > 0]
        share = (np.sum(rating == 0) + 0.5) / (len(rating) + 1.0)
        own = type(cls().counts).of_ratings(more, noise_scale).stated if len(more) else {}
        return cls(float(share), **own)

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """A uniform probability of zeros."""
        one = jnp.asarray(1.0, jnp.result_type(float))
        return {"zero_probability": dist.Beta(one, one), **self.counts.default_priors(width)}

    def from_scale_predictor(self, predictor: Scores) -> Scores:
        """A probability from its logit, a concentration from its logarithm."""
        if self.scale_parameter == "zero_probability":
            return sigmoid(predictor)
        return self.counts.from_scale_predictor(predictor)

    def scale_place(self, spread: float) -> tuple[float, float]:
        """That of a concentration, and nearly all probabilities."""
        if self.scale_parameter == "zero_probability":
            return 0.0, 1.5
        return self.counts.scale_place(spread)

    def has(self, method: Optional) -> bool:
        """No variance of the mean: the expected count is no function of the score alone."""
        return method != "mean_variance" and super().has(method)

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Refuse to learn the probability of zeros where there are none."""
        if not is_number(self.zero_probability) and not np.any(rating == 0):
            raise ValueError(
                f"None of the {len(rating):,} counts is zero, so the data say nothing of the zeros "
                f"of {type(self).__name__} but that there are few. Use "
                f"{type(self.counts).__name__}, or give zero_probability as a number."
            )

    def read_column(self, column: Column, name: str) -> ResponseValues:
        """Counts, some of which are zero."""
        read = super().read_column(column, name)
        with naming_column(name):
            self.check_training(read.values, None)
        return read

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The score that fits best; of unknown parameters the log of the mean count above zero."""
        values, place = np.unique(rating, return_inverse=True)
        share = np.bincount(place.ravel(), weight, len(values))
        positive = share * (values > 0)
        if not positive.any():
            return float(np.log(0.5 / share.sum()))
        middle = float(np.log(positive @ values / positive.sum()))
        own = self.scale_sites()
        if not all(is_number(value) for value in own.values()):
            return middle

        def loss(score: float) -> float:
            each = self.loss(jnp.full(len(values), score), jnp.asarray(values), own)
            return float(share @ np.asarray(each))

        with jax.enable_x64(True):
            found = optimize.minimize_scalar(
                loss, bounds=(middle - 12.0, middle + 3.0), method="bounded",
                options={"xatol": 1e-8},
            )  # fmt: skip
        return float(found.x)

    def _none(self, scores: Array, scales: Mapping[str, Array]) -> tuple[Array, Array]:
        """Minus the log of the probability that the counts are zero, and its slope."""
        return self.counts.none(scores, scales), self.counts.information(scores, scales)

    def _square_of_none(self, loss: Array, slope: Array) -> Array:
        """Probability of a zero times the slope's square, of which either may be too large."""
        return jnp.square(jnp.exp(-0.5 * loss) * slope)

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected count given the score."""
        return self.integrate(scores, 0.0, scales)[0]

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a count whose score is Normal(mean, sd)."""
        other = 1.0 - jnp.asarray(scales["zero_probability"])
        first, second = self._moments(jnp.asarray(mean), jnp.asarray(sd), scales)
        center = other * first
        varying = second - jnp.square(first) + (1.0 - other) * jnp.square(first)
        return center, jnp.sqrt(jnp.maximum(other * varying, 0.0))


class _ZeroInflated(_Zeros):
    def _moments(
        self, mean: Scores, sd: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        first, spread = self.counts.integrate(mean, sd, scales)
        return first, jnp.square(spread) + jnp.square(first)

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Counts, or zeros in their place."""
        for_zeros, for_counts = jax.random.split(key)
        chance = jnp.broadcast_to(scales["zero_probability"], shape)
        drawn = self.counts.sample(for_counts, scores, scales, shape)
        return jnp.where(jax.random.bernoulli(for_zeros, chance), 0.0, drawn)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        zero, scores = jnp.asarray(scales["zero_probability"]), jnp.asarray(scores)
        none, _ = self._none(scores, scales)
        other = jnp.log1p(-zero)
        at_zero = -jnp.logaddexp(jnp.log(zero), other - none)
        return jnp.where(
            jnp.asarray(rating) > 0, self.counts.loss(scores, rating, scales) - other, at_zero
        )

    def _share(self, none: Array, scales: Mapping[str, Array]) -> Array:
        """Probability that a zero is one of the counts."""
        zero = jnp.asarray(scales["zero_probability"])
        return sigmoid(jnp.log1p(-zero) - none - jnp.log(zero))

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """That of the counts, of a zero by its chance to be one of them."""
        scores = jnp.asarray(scores)
        none, rise = self._none(scores, scales)
        slope = self.counts.slope(scores, rating, scales)
        return jnp.where(jnp.asarray(rating) > 0, slope, -self._share(none, scales) * rise)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: less than that of the counts, by what zeros hide."""
        scores = jnp.asarray(scores)
        none, rise = self._none(scores, scales)
        hidden = sigmoid(-jnp.log1p(-scales["zero_probability"]) + none
                         + jnp.log(scales["zero_probability"]))  # fmt: skip
        whole = self.counts.information(scores, scales)
        left = whole - hidden * self._square_of_none(none, rise)
        return (1.0 - scales["zero_probability"]) * jnp.maximum(left, 0.0)

    def reach_count(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        """That of the counts, if it is one of them."""
        found = self.counts.reach_count(score, count, scales)
        return (1.0 - scales["zero_probability"]) * found


class _Hurdle(_Zeros):
    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """Nothing: the mean of counts above zero is no multiple of exp(score)."""
        raise ValueError(
            f"A {self.kind} response has no share of variance on the scale of the linear "
            "predictor: that is about counts before their zeros are taken out, and zeros have a "
            "probability of their own. With likelihood='zeroinflated"
            f"{type(self.counts).__name__.lower()}' there is one."
        )

    def _more(self, scores: Array, scales: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """Log of the probability of a count above zero, its slope, and odds of a zero.

        All in scores that are not below `LOWEST`.
        """
        none, rise = self._none(scores, scales)
        odds = 1.0 / jnp.expm1(none)
        return jnp.log(-jnp.expm1(-none)), rise * odds, odds

    def _moments(
        self, mean: Scores, sd: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        # By one over the probability of a count above zero, 1 + its odds.
        def more(score: Array) -> tuple[Array, Array]:
            inner = jnp.maximum(score, LOWEST)
            first, spread = self.counts.integrate(inner, 0.0, scales)
            odds = self._more(inner, scales)[2]
            return first * odds, (jnp.square(spread) + jnp.square(first)) * odds

        first, spread = self.counts.integrate(mean, sd, scales)
        add, added = average(more, mean, sd)
        return first + add, jnp.square(spread) + jnp.square(first) + added

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Zeros, or counts above: the first event comes in time, and then others may."""
        keys = jax.random.split(key, 4)
        chance = jnp.broadcast_to(scales["zero_probability"], shape)
        rates = jnp.broadcast_to(rate(jnp.maximum(scores, LOWEST)), shape)
        rates = rates * self._varying(keys[0], rates, scales)
        uniform = jax.random.uniform(keys[1], shape, rates.dtype)
        first = -jnp.log1p(uniform * jnp.expm1(-rates))
        drawn = 1.0 + poisson(keys[2], jnp.maximum(rates - first, 0.0), shape)
        return jnp.where(jax.random.bernoulli(keys[3], chance), 0.0, drawn)

    def _varying(self, key: Array, rates: Array, scales: Mapping[str, Array]) -> Array:
        """Factors of the rates, given that there is an event."""
        return jnp.ones_like(rates)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        zero, scores = jnp.asarray(scales["zero_probability"]), jnp.asarray(scores)
        low = scores < LOWEST
        log_more = self._more(jnp.where(low, 0.0, scores), scales)[0]
        above = self.counts.loss(scores, rating, scales) + jnp.where(low, scores, log_more)
        return jnp.where(jnp.asarray(rating) > 0, above - jnp.log1p(-zero), -jnp.log(zero))

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """That of the counts less its mean over those above zero; a zero says nothing."""
        scores = jnp.asarray(scores)
        low = scores < LOWEST
        middle = jnp.where(low, 1.0, self._more(jnp.where(low, 0.0, scores), scales)[1])
        slope = self.counts.slope(scores, rating, scales) - middle
        return jnp.where(jnp.asarray(rating) > 0, slope, 0.0)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the variance of the slope over counts above zero."""
        scores = jnp.asarray(scores)
        inner = jnp.maximum(scores, LOWEST)
        none, rise = self._none(inner, scales)
        _, middle, odds = self._more(inner, scales)
        left = self.counts.information(inner, scales) - self._square_of_none(none, rise)
        found = jnp.maximum(left * (1.0 + odds) - jnp.square(middle), 0.0)
        return (1.0 - scales["zero_probability"]) * found

    def reach_count(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        """That of the counts, by the probability of one."""
        inner = jnp.maximum(score, LOWEST)
        found = self.counts.reach_count(inner, count, scales)
        one = self.counts.reach_count(inner, jnp.ones_like(count), scales)
        return (1.0 - scales["zero_probability"]) * found / one


@dataclass(frozen=True)
class ZeroInflatedPoisson(_ZeroInflated):
    r"""Poisson counts of which some are zero for another reason, with probability :math:`\pi`.

    .. math:: P(0) = \pi + (1 - \pi) e^{-\lambda}, \quad
       P(r) = (1 - \pi) \lambda^r e^{-\lambda} / r!, \quad \lambda = e^\eta

    Args:
        zero_probability: The probability :math:`\pi`, between 0 and 1, or a NumPyro distribution
            for it; None is 1/2, and in a mixed model a uniform prior.

    Raises:
        TypeError: If it is neither a number nor a distribution.
        ValueError: If it does not lie between 0 and 1.

    Example:
        >>> round(float(ZeroInflatedPoisson().mean(1.0, {"zero_probability": 0.5})), 4)
        1.3591

    References:
        Lambert (1992), Zero-inflated Poisson regression.
    """

    counts = Poisson()


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(_ZeroInflated):
    r"""Negative binomial counts of which some are zero for another reason.

    .. math:: P(0) = \pi + (1 - \pi)\, p(0), \quad P(r) = (1 - \pi)\, p(r)

    with p the probabilities of `NegativeBinomial`.

    Args:
        zero_probability: As for `ZeroInflatedPoisson`.
        concentration: As for `NegativeBinomial`.

    Raises:
        TypeError: If one is neither a number nor a distribution.
        ValueError: If one is out of its range.

    Example:
        >>> ZeroInflatedNegativeBinomial(0.3, 2.0).stated
        {'zero_probability': 0.3, 'concentration': 2.0}
    """

    concentration: float | Distribution | None = None
    counts = NegativeBinomial()
    defaults = _Zeros.defaults | NegativeBinomial.defaults
    scale_parameter = "concentration"


@dataclass(frozen=True)
class HurdlePoisson(_Hurdle):
    r"""Zeros with probability :math:`\pi`, else Poisson counts that are not zero.

    .. math:: P(0) = \pi, \quad
       P(r) = \frac{1 - \pi}{1 - e^{-\lambda}}\, \lambda^r e^{-\lambda} / r!, \quad \lambda = e^\eta

    Args:
        zero_probability: As for `ZeroInflatedPoisson`.

    Raises:
        TypeError: If it is neither a number nor a distribution.
        ValueError: If it does not lie between 0 and 1.

    Example:
        >>> round(float(HurdlePoisson().mean(1.0, {"zero_probability": 0.5})), 4)
        1.4552

    References:
        Mullahy (1986), Specification and testing of some modified count data models.
    """

    counts = Poisson()


@dataclass(frozen=True)
class HurdleNegativeBinomial(_Hurdle):
    r"""Zeros with a probability, else negative binomial counts that are not zero.

    .. math:: P(0) = \pi, \quad P(r) = (1 - \pi)\, p(r) / (1 - p(0))

    with p the probabilities of `NegativeBinomial`.

    Args:
        zero_probability: As for `ZeroInflatedPoisson`.
        concentration: As for `NegativeBinomial`.

    Raises:
        TypeError: If one is neither a number nor a distribution.
        ValueError: If one is out of its range.

    Example:
        >>> HurdleNegativeBinomial(0.3).scale_sites()
        {'zero_probability': 0.3, 'concentration': 1.0}
    """

    concentration: float | Distribution | None = None
    counts = NegativeBinomial()
    defaults = _Zeros.defaults | NegativeBinomial.defaults
    scale_parameter = "concentration"

    def _varying(self, key: Array, rates: Array, scales: Mapping[str, Array]) -> Array:
        """Gamma variables, accepted with the probability of an event.

        Where rates are small, from Gamma variables that are weighed by their size, which have
        nearly the right law.
        """
        own = jnp.broadcast_to(jnp.asarray(scales["concentration"], rates.dtype), rates.shape)
        small = rates < 1.0

        def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            key, value, done = state
            key, for_gamma, for_test = jax.random.split(key, 3)
            drawn = jax.random.gamma(for_gamma, own + small, rates.shape) / own
            mean = rates * drawn
            chance = -jnp.expm1(-mean) / jnp.where(small, jnp.maximum(mean, 1e-37), 1.0)
            taken = jax.random.uniform(for_test, rates.shape, rates.dtype) < chance
            return key, jnp.where(done, value, drawn), done | taken

        start = (key, jnp.ones_like(rates), jnp.isnan(rates))
        return lax.while_loop(lambda state: ~jnp.all(state[2]), propose, start)[1]

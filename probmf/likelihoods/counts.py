"""Counts, whose rate's logarithm is the score."""

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
from jax.scipy.special import betainc, gammainc, gammaln
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints
from scipy.special import xlogy

from probmf.data.column import such_rows
from probmf.likelihoods.base import Likelihood, Predicted, Scores
from probmf.likelihoods.parameters import is_number

#: Score beyond which the rate goes on along its tangent, so that no loss is infinite: e^60 things
#: are more than anybody counts.
STEEPEST = 60.0
#: Half the width of integrals over a Normal score, in its standard deviations.
REACH = 8.5
#: The most steps of such an integral.
MOST_STEPS = 4000


def rate(score: Scores) -> Array:
    r"""The exponential function, and its tangent beyond `STEEPEST`."""
    score = jnp.asarray(score)
    inner = jnp.minimum(score, STEEPEST)
    return jnp.exp(inner) * (1.0 + (score - inner))


class Counts(Likelihood):
    r"""Base class of counts whose expectation is :math:`e^\eta`.

    The loss lies below no quadratic function of the score, and no latent variable makes it one, so
    that methods that need either are not for counts (see the table of methods).
    """

    @abstractmethod
    def reach(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        """P(count or more) given the score, for a count of at least one."""

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what is no count."""
        bad = ~(rating >= 0) | (rating != np.round(rating))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"A {type(self).__name__} likelihood needs {noun} that are counts (0, 1, 2, ...), "
                f"but row {row} has {rating[row]:g} ({such_rows(bad)}). Correct or drop them, or "
                "use a Gaussian likelihood."
            )

    def place(self, response: np.ndarray) -> float:
        """The logarithm of the mean count: a count of zero has no place on that scale."""
        return self.base_score(response, None)

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """Logarithm of the mean count (of half a thing in all, if nothing was counted)."""
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

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        r"""P(count >= threshold) given the score, or when it is Normal with an sd.

        Over a Normal score `reach` is integrated by the trapezoid rule, in steps that are short
        beside its rise, whose width is :math:`1 / \sqrt k` or more: within 1e-8.
        """
        scores = jnp.asarray(scores)
        least = jnp.ceil(jnp.asarray(threshold, scores.dtype))
        place = jnp.maximum(least, 1.0)

        def reached(score: Array) -> Array:
            return jnp.where(least > 0, self.reach(score, place, scales), 1.0)

        if sd is None:
            return reached(scores)
        steepness = jnp.max(jnp.asarray(sd) * jnp.sqrt(place))
        count = jnp.clip(jnp.ceil(4 * REACH * jnp.maximum(1.0, steepness)), 1, MOST_STEPS)

        def add(step: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
            z = REACH * (2.0 * (step + 0.5) / count - 1.0)
            mass = jnp.exp(-0.5 * jnp.square(z))
            return total[0] + mass * reached(scores + z * sd), total[1] + mass

        own = [jnp.shape(value) for value in scales.values()]
        shape = jnp.broadcast_shapes(scores.shape, jnp.shape(sd), least.shape, *own)
        nothing = (jnp.zeros(shape, scores.dtype), jnp.zeros((), scores.dtype))
        found, mass = lax.fori_loop(0, count.astype(jnp.int32), add, nothing)
        return found / mass

    def errors(self, rating: np.ndarray, predicted: Predicted) -> dict[str, float | None]:
        r"""Besides those of all numbers Poisson's deviance, :math:`2 (r \log(r / m) - r + m)`."""
        mean = np.asarray(predicted.mean, np.float64)
        with np.errstate(divide="ignore"):
            each = xlogy(rating, rating / mean) - rating + mean
        return super().errors(rating, predicted) | {"deviance": float(2.0 * np.mean(each))}


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

    def scale_sites(self) -> dict[str, Any]:
        """No parameters of its own."""
        return {}

    def canonical(self) -> Self:
        """The likelihood itself: it has no parameters."""
        return self

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """Poisson, by the logarithm of its rate."""
        return PoissonOfScore(scores)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Minus log likelihood, :math:`e^\eta - r \eta + \log r!`."""
        return rate(scores) - rating * scores + gammaln(jnp.asarray(rating) + 1.0)

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Count less rate."""
        return rating - rate(scores)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the rate."""
        return rate(scores)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        r"""Mean and sd of a count whose rate is log-normal: the variance is :math:`m + V(\lambda)`.

        With :math:`m = e^{\mu + s^2 / 2}` the rate's variance is :math:`m^2 (e^{s^2} - 1)`.
        """
        center, varying = _of_rate(mean, sd)
        return center, jnp.sqrt(center + varying)

    def reach(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        r"""The incomplete gamma function :math:`P(k, \lambda)`: the k-th event comes in time."""
        return gammainc(count, rate(score))


@dataclass(frozen=True)
class NegativeBinomial(Counts):
    r"""Counts that vary more than Poisson's, of variance :math:`\lambda + \lambda^2 / \phi`.

    They are Poisson counts whose rate is :math:`\lambda = e^\eta` times a Gamma variable of mean
    one and shape :math:`\phi`, the concentration:

    .. math:: p(r) = \binom{r + \phi - 1}{r} \left(\frac{\lambda}{\lambda + \phi}\right)^r
       \left(\frac{\phi}{\lambda + \phi}\right)^\phi .

    Args:
        concentration: The concentration, positive, or a NumPyro distribution for it; None is 1, and
            in a mixed model the default prior.

    Raises:
        ValueError: If it is neither a positive number nor a distribution.

    Example:
        >>> counts = NegativeBinomial(2.0).distribution(1.0, {"concentration": 2.0})
        >>> round(float(counts.variance), 3)
        6.413

    References:
        Hilbe (2011), Negative binomial regression, second edition, chapter 8 (NB2).
    """

    concentration: float | Distribution | None = None

    def __post_init__(self) -> None:
        """Check the concentration at the door."""
        if self.concentration is None:
            return
        if isinstance(self.concentration, Distribution):
            return
        if not (is_number(self.concentration) and self.concentration > 0):
            raise ValueError(
                f"concentration is {self.concentration!r}; expected a positive number, the larger "
                "the nearer to Poisson(), or a NumPyro distribution."
            )

    def scale_sites(self) -> dict[str, Any]:
        """The concentration; 1 where none was given."""
        return {"concentration": 1.0 if self.concentration is None else self.concentration}

    def canonical(self) -> Self:
        """The likelihood without its parameter: compiled programs are keyed by it."""
        return type(self)()

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The concentration that the counts have about their mean."""
        mean, variance = float(np.mean(rating)), float(np.var(rating))
        return cls(mean**2 / max(variance - mean, 1e-3 * mean) if mean else 1.0)

    @property
    def stated(self) -> dict[str, Any]:
        """The concentration, if it was given."""
        return {} if self.concentration is None else {"concentration": self.concentration}

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """A LogNormal concentration: a median of 2.7, nine tenths between 0.23 and 32."""
        one = jnp.asarray(1.0, jnp.result_type(float))
        return {"concentration": dist.LogNormal(one, 1.5 * one)}

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """Negative binomial, by the logarithm of its rate."""
        return NegativeBinomialOfScore(scores, scales["concentration"])

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        own, count = scales["concentration"], jnp.asarray(rating)
        share = rate(scores) / own
        fails = own * jnp.log1p(share)
        ways = gammaln(own) + gammaln(count + 1.0) - gammaln(own + count)
        return fails + count * (jnp.log(own) + jnp.log1p(share) - scores) + ways

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Count less rate, over one plus rate by concentration."""
        return (rating - rate(scores)) / (1.0 + rate(scores) / scales["concentration"])

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the rate over one plus rate by concentration."""
        return rate(scores) / (1.0 + rate(scores) / scales["concentration"])

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a count whose rate is log-normal."""
        center, varying = _of_rate(mean, sd)
        square = jnp.exp(2.0 * (mean + jnp.square(jnp.asarray(sd))))
        return center, jnp.sqrt(center + varying + square / scales["concentration"])

    def reach(self, score: Array, count: Array, scales: Mapping[str, Array]) -> Array:
        r"""The incomplete beta function :math:`I_{\lambda / (\lambda + \phi)}(k, \phi)`."""
        own = scales["concentration"]
        return betainc(count, jnp.asarray(own, score.dtype), sigmoid(score - jnp.log(own)))


def _of_rate(mean: Scores, sd: Scores) -> tuple[Array, Array]:
    """Mean and variance of a log-normal rate."""
    square = jnp.square(jnp.asarray(sd))
    # Of logarithms, as the one factor may be zero where the other is infinite.
    varying = jnp.exp(2.0 * (mean + square) + jnp.log(-jnp.expm1(-square)))
    return jnp.exp(mean + 0.5 * square), varying


class PoissonOfScore(Distribution):
    r"""Counts of rate :math:`e^\eta`, right where the rate is zero or infinite in floating point.

    Args:
        scores: The logarithms of the rates.
        validate_args: As for all of NumPyro's distributions.
    """

    arg_constraints = {"scores": constraints.real}  # noqa: RUF012 (as NumPyro has it)
    support = constraints.nonnegative_integer

    def __init__(self, scores: Any, *, validate_args: bool | None = None) -> None:
        """Keep the scores."""
        self.scores = scores
        super().__init__(jnp.shape(scores), (), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts."""
        return jax.random.poisson(key, rate(self.scores), (*sample_shape, *self.batch_shape))

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log probability of counts."""
        return -Poisson().loss(self.scores, jnp.asarray(value), {})


class NegativeBinomialOfScore(Distribution):
    r"""Counts of mean :math:`e^\eta` and variance :math:`e^\eta + e^{2 \eta} / \phi`.

    Args:
        scores: The logarithms of the means.
        concentration: The concentration :math:`\phi`.
        validate_args: As for all of NumPyro's distributions.
    """

    arg_constraints = {"scores": constraints.real, "concentration": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(
        self, scores: Any, concentration: Any, *, validate_args: bool | None = None
    ) -> None:
        """Keep the scores and the concentration."""
        self.scores, self.concentration = scores, concentration
        shape = jnp.broadcast_shapes(jnp.shape(scores), jnp.shape(concentration))
        super().__init__(shape, (), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        """The rates."""
        return jnp.broadcast_to(rate(self.scores), self.batch_shape)

    @property
    def variance(self) -> Array:
        """The variances."""
        return self.mean + jnp.square(self.mean) / self.concentration

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Poisson counts whose rates vary by Gamma variables."""
        shape = (*sample_shape, *self.batch_shape)
        rates, counts = jax.random.split(key)
        varying = jax.random.gamma(rates, self.concentration, shape) / self.concentration
        return jax.random.poisson(counts, rate(self.scores) * varying, shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log probability of counts."""
        own = {"concentration": self.concentration}
        return -NegativeBinomial().loss(self.scores, jnp.asarray(value), own)

"""Base classes of likelihoods whose averages over a Normal score are integrated numerically.

Some have a rate for their expectation, some a concentration for their own parameter, some both.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint

from probmf.likelihoods.base import Likelihood, Scores
from probmf.likelihoods.normal_integrals import average
from probmf.likelihoods.parameters import LOG_CONCENTRATION, check_parameter, concentration_prior

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


class QuadratureLikelihood(Likelihood):
    """Base class of likelihoods that are told by a loss, a tail and draws at a given score.

    The loss is the whole of minus the log density.

    Attributes:
        support: The ratings that have a density.
    """

    support: ClassVar[Constraint]

    @abstractmethod
    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Draws of ratings of a shape that scores and own parameters broadcast to."""

    @abstractmethod
    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """P(rating >= threshold) given the score, rising with it."""

    def steepness(self, threshold: Array, scales: Mapping[str, Array]) -> Scores:
        """One over the width of the rise of `reach` along the score."""
        return 1.0

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """The distribution of which these are loss and draws."""
        return OfScore(scores, dict(scales), self.canonical())

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating >= threshold) given the score, or when it is Normal with an sd; within 1e-8."""
        scores = jnp.asarray(scores)
        at_least = jnp.asarray(threshold, scores.dtype)

        def reached(score: Array) -> Array:
            return self.reach(score, at_least, scales)

        if sd is None:
            return reached(scores)
        return average(reached, scores, sd, self.steepness(at_least, scales))


class OfScore(Distribution):
    """Distribution of ratings given their scores, as their likelihood has it.

    Args:
        scores: The scores.
        scales: The likelihood's own parameters.
        likelihood: The likelihood without them.
        validate_args: As for all of NumPyro's distributions.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("scores", "scales")
    pytree_aux_fields = ("likelihood",)

    def __init__(
        self,
        scores: Any,
        scales: Mapping[str, Any],
        likelihood: QuadratureLikelihood,
        *,
        validate_args: bool | None = None,
    ) -> None:
        """Keep them."""
        self.scores, self.scales, self.likelihood = scores, scales, likelihood
        shape = jnp.broadcast_shapes(jnp.shape(scores), *map(jnp.shape, scales.values()))
        super().__init__(shape, (), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """Ratings that have a density."""
        return self.likelihood.support

    @property
    def mean(self) -> Array:
        """Expected ratings."""
        found = self.likelihood.mean(jnp.asarray(self.scores), self.scales)
        return jnp.broadcast_to(found, self.batch_shape)

    @property
    def variance(self) -> Array:
        """Variances of the ratings."""
        found = self.likelihood.integrate(jnp.asarray(self.scores), 0.0, self.scales)[1]
        return jnp.broadcast_to(jnp.square(found), self.batch_shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Ratings."""
        shape = (*sample_shape, *self.batch_shape)
        return self.likelihood.sample(key, jnp.asarray(self.scores), self.scales, shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log densities of ratings."""
        return -self.likelihood.loss(self.scores, jnp.asarray(value), self.scales)


class RateLikelihood(QuadratureLikelihood):
    r"""Base class of likelihoods whose expected rating is :math:`e^\eta`."""

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        r"""That of a log-normal rating, :math:`\log(1 + \mathrm{Var} / m^2)`, at the mean m."""
        with jax.enable_x64(True):
            center, spread = self.integrate(log_rate, 0.0 * log_rate, scales)
            return np.asarray(jnp.log1p(jnp.square(spread / center)))

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """Logarithm of the mean rating (of half a thing in all, if nothing was counted)."""
        total = float(rating.size if weight is None else weight.sum())
        count = float(np.sum(rating if weight is None else rating * weight))
        return float(np.log((count or 0.5) / total))

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The rate."""
        return rate(scores)

    def mean_variance(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Variance of a log-normal rate."""
        with jax.enable_x64(True):
            return np.asarray(rate_moments(scores, sd)[1])


@dataclass(frozen=True)
class Concentrated(QuadratureLikelihood):
    """Base class of likelihoods with a concentration.

    The larger it is, the less responses vary about their mean.

    Attributes:
        concentration: A positive number, or a NumPyro distribution for it; None is 1, and in a
            mixed model the default prior.
        expected: Words for it in messages.
    """

    concentration: float | Distribution | None = None
    expected: ClassVar[str] = "positive number"
    defaults = {"concentration": 1.0}  # noqa: RUF012
    scale_parameter = "concentration"

    def __post_init__(self) -> None:
        """Check the concentration at the door."""
        check_parameter("concentration", self.concentration, self.expected)

    def scale_place(self, spread: float) -> tuple[float, float]:
        """Mean and sd of the logarithm of a concentration under its default prior."""
        return LOG_CONCENTRATION

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """A LogNormal concentration: a median of 2.7, nine tenths between 0.23 and 32."""
        return {"concentration": concentration_prior()}

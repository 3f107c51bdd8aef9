"""Counts, whose rate's logarithm is the score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammainc, gammaln
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints
from scipy.special import xlogy

from probmf.data.column import such_rows
from probmf.likelihoods.base import Likelihood, Predicted, Scores

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


@dataclass(frozen=True)
class Poisson(Likelihood):
    r"""Counts, :math:`r \sim \mathrm{Poisson}(e^\eta)`.

    The loss lies below no quadratic function of the score, and no latent variable makes it one, so
    that methods that need either are not for counts (see the table of methods).

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

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The rate."""
        return rate(scores)

    def mean_square(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Mean of the square of a log-normal rate."""
        with np.errstate(over="ignore"):
            return np.exp(2.0 * (scores + np.square(sd)))

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        r"""Mean and sd of a count whose rate is log-normal: the variance is :math:`m + V(\lambda)`.

        With :math:`m = e^{\mu + s^2 / 2}` the rate's variance is :math:`m^2 (e^{s^2} - 1)`.
        """
        square = jnp.square(jnp.asarray(sd))
        center = jnp.exp(mean + 0.5 * square)
        # Of logarithms, as the one factor may be zero where the other is infinite.
        varying = jnp.exp(2.0 * (mean + square) + jnp.log(-jnp.expm1(-square)))
        return center, jnp.sqrt(center + varying)

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        r"""P(count >= threshold) given the score, or when it is Normal with an sd.

        A count reaches k if the k-th event of a Poisson process comes in time:
        :math:`P(k, \lambda)`, the incomplete gamma function. Over a Normal score it is integrated
        by the trapezoid rule, in steps that are short beside its rise, whose width is
        :math:`1 / \sqrt k`: within 1e-8.
        """
        scores = jnp.asarray(scores)
        least = jnp.ceil(jnp.asarray(threshold, scores.dtype))
        place = jnp.maximum(least, 1.0)

        def reached(score: Array) -> Array:
            return jnp.where(least > 0, gammainc(place, rate(score)), 1.0)

        if sd is None:
            return reached(scores)
        steepness = jnp.max(jnp.asarray(sd) * jnp.sqrt(place))
        count = jnp.clip(jnp.ceil(4 * REACH * jnp.maximum(1.0, steepness)), 1, MOST_STEPS)

        def add(step: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
            z = REACH * (2.0 * (step + 0.5) / count - 1.0)
            mass = jnp.exp(-0.5 * jnp.square(z))
            return total[0] + mass * reached(scores + z * sd), total[1] + mass

        shape = jnp.broadcast_shapes(scores.shape, jnp.shape(sd), least.shape)
        nothing = (jnp.zeros(shape, scores.dtype), jnp.zeros((), scores.dtype))
        found, mass = lax.fori_loop(0, count.astype(jnp.int32), add, nothing)
        return found / mass

    def errors(self, rating: np.ndarray, predicted: Predicted) -> dict[str, float | None]:
        r"""Besides those of all numbers the mean deviance, :math:`2 (r \log(r / m) - r + m)`."""
        mean = np.asarray(predicted.mean, np.float64)
        with np.errstate(divide="ignore"):
            each = xlogy(rating, rating / mean) - rating + mean
        return super().errors(rating, predicted) | {"deviance": float(2.0 * np.mean(each))}


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

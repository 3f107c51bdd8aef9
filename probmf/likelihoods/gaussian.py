"""Ratings that are Normal about the score, or whose logarithms are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from jaxtyping import Array
from numpyro.distributions import Distribution

from probmf import metrics
from probmf.likelihoods.base import Likelihood, Predicted, Scores
from probmf.likelihoods.links import log_ndtr
from probmf.likelihoods.parameters import check_scale


@dataclass(frozen=True)
class NormalNoise(Likelihood):
    """Base class of both: what is the same for a rating and for its logarithm."""

    noise_scale: float | Distribution | None = None
    normal = True
    defaults = {"noise_scale": 1.0}  # noqa: RUF012
    scale_parameter = "noise_scale"

    def __post_init__(self) -> None:
        """Check the scale at the door."""
        if self.noise_scale is None:
            return
        check_scale("noise_scale", self.noise_scale)
        if not isinstance(self.noise_scale, Distribution) and np.ndim(self.noise_scale) != 0:
            raise ValueError(
                f"noise_scale has shape {np.shape(self.noise_scale)}; give one number, and the "
                "precision of single ratings as a weight column of the ratings."
            )

    def scale_place(self, spread: float) -> tuple[float, float]:
        """About the logarithm of the responses' spread, within a factor e."""
        return float(np.log(spread)), 1.0

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The likelihood with that noise scale."""
        return cls(noise_scale)

    def to_score(self, rating: Scores) -> Scores:
        """The function of a rating that is Normal about the score."""
        raise NotImplementedError

    def from_score(self, score: Scores) -> Scores:
        """Inverse of `to_score`."""
        raise NotImplementedError

    def log_slope(self, score: np.ndarray) -> np.ndarray | float:
        """Logarithm of the derivative of `from_score`."""
        raise NotImplementedError

    def place(self, response: np.ndarray) -> np.ndarray:
        """The responses on the scale of scores."""
        return np.asarray(self.to_score(response))

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """A HalfNormal noise scale, as wide as the linear predictor."""
        return {"noise_scale": dist.HalfNormal(jnp.asarray(width, jnp.result_type(float)))}

    def observe(
        self,
        scores: Scores,
        rating: Scores | None,
        weight: Scores | None,
        scales: Mapping[str, Array],
        *,
        site: str = "rating",
    ) -> Array:
        """The observed NumPyro site; a weight multiplies the rating's precision."""
        return numpyro.sample(site, self.distribution(scores, weighted(scales, weight)), obs=rating)

    def log_density(
        self, scores: Scores, rating: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Log density of weighted ratings, as `observe` has it."""
        return self.distribution(scores, weighted(scales, weight)).log_prob(rating)

    def draw(
        self, key: Array, scores: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Draws of ratings, whose precision a weight multiplies."""
        return self.distribution(scores, weighted(scales, weight)).sample(key)

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """Mean of the ratings on the scale of scores."""
        return float(np.average(self.to_score(rating), weights=weight))

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Minus log likelihood up to a constant, :math:`(r - \eta)^2 / 2 \sigma^2`."""
        return 0.5 * jnp.square((self.to_score(rating) - scores) / scales["noise_scale"])

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope of the loss, which is quadratic as it is."""
        precision = 1.0 / jnp.square(scales["noise_scale"])
        slope = (self.to_score(rating) - scores) * precision
        return jnp.broadcast_to(precision, scores.shape), slope

    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope of the loss: it needs no latent variable."""
        return self.bound(scores, rating, scales)

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """That of the noise."""
        return np.square(np.asarray(scales["noise_scale"], np.float64))

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score, 1 / sigma squared."""
        return jnp.broadcast_to(1.0 / jnp.square(scales["noise_scale"]), scores.shape)

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating of weight one >= threshold) given the score, or when it is Normal with an sd."""
        return ndtr(self.tail_order(scores, threshold, scales, 0.0 if sd is None else sd))

    def log_tails(
        self, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Logarithms of P(R >= rating) and of P(R <= rating), far out too."""
        apart = (jnp.asarray(self.to_score(jnp.asarray(rating))) - scores) / scales["noise_scale"]
        return log_ndtr(-apart), log_ndtr(apart)

    def tail_order(
        self, mean: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores
    ) -> Scores:
        """Standard deviations between the threshold and the mean score; they do not saturate."""
        width = jnp.sqrt(jnp.square(sd) + jnp.square(scales["noise_scale"]))
        return (jnp.asarray(mean) - self.to_score(jnp.asarray(threshold))) / width


@dataclass(frozen=True)
class Gaussian(NormalNoise):
    r"""Ratings with Gaussian noise, :math:`r \sim N(\eta, \sigma^2 / w)`.

    Args:
        noise_scale: Standard deviation sigma of a rating of weight one, in units of the rating:
            a positive number, or a NumPyro distribution (then it is sampled). None is 1, in a
            mixed model a prior as wide as its response.

    Raises:
        ValueError: If `noise_scale` is not positive and finite.

    Example:
        >>> Gaussian(noise_scale=0.8).noise_scale
        0.8
    """

    quadratic = True

    def to_score(self, rating: Scores) -> Scores:
        """The rating as it is."""
        return rating

    def from_score(self, score: Scores) -> Scores:
        """The score as it is."""
        return score

    def log_slope(self, score: np.ndarray) -> float:
        """Zero, as the score is the rating."""
        return 0.0

    def in_units(
        self, scores: Scores, scales: Mapping[str, Any], center: Any, unit: Any
    ) -> tuple[Scores, dict[str, Any]]:
        """The scores moved and stretched, the noise scale stretched."""
        return center + unit * scores, {"noise_scale": unit * scales["noise_scale"]}

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Besides those of all numbers the log score of Normals with these means and sds."""
        score = metrics.log_score(rating, predicted.mean, predicted.sd, weight=weight)
        return super().errors(rating, predicted, weight) | {"log score": score}

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Any finite number is a rating; the data door has seen to that."""

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """Normal about the score."""
        return dist.Normal(scores, scales["noise_scale"])

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The score."""
        return scores

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd)."""
        return mean, jnp.sqrt(jnp.square(sd) + jnp.square(scales["noise_scale"]))


@dataclass(frozen=True)
class LogNormal(NormalNoise):
    r"""Positive ratings whose logarithm has Gaussian noise, :math:`\log r \sim N(\eta, \sigma^2)`.

    Args:
        noise_scale: Standard deviation sigma of the logarithm, as for `Gaussian`.

    Raises:
        ValueError: If `noise_scale` is not positive and finite.

    Example:
        >>> round(float(LogNormal(1.0).mean(0.0, {"noise_scale": 1.0})), 4)
        1.6487
    """

    def to_score(self, rating: Scores) -> Scores:
        """Logarithm of the rating."""
        if isinstance(rating, jax.Array):
            # Padding is zero.
            return jnp.log(jnp.where(rating > 0, rating, 1.0))
        return np.log(rating)

    def from_score(self, score: Scores) -> Scores:
        """Exponential function of the score."""
        return jnp.exp(score) if isinstance(score, jax.Array) else np.exp(score)

    def log_slope(self, score: np.ndarray) -> np.ndarray:
        """The score."""
        return score

    def tail_order(
        self, mean: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores
    ) -> Scores:
        """As for a Normal; infinite where the threshold is not positive."""
        found = super().tail_order(mean, threshold, scales, sd)
        return jnp.where(jnp.asarray(threshold) > 0, found, jnp.inf)

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        r"""Besides those of all numbers the log score of LogNormals with these means and sds.

        :math:`\sigma^2 = \log(1 + s^2 / m^2)`, and :math:`\log m - \sigma^2 / 2` is the mean of the
        logarithm. Of a single draw this is the predictive density itself.
        """
        variance = np.log1p(np.square(predicted.sd / predicted.mean))
        center = np.log(predicted.mean) - 0.5 * variance
        place = np.log(rating)
        score = metrics.log_score(place, center, np.sqrt(variance), weight=weight)
        score -= float(np.average(place, weights=weight))
        return super().errors(rating, predicted, weight) | {"log score": score}

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what is not positive."""
        self._refuse(
            ~(rating > 0), rating, f"positive {noun}", "Drop them, or use a Gaussian likelihood."
        )

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """LogNormal whose logarithm lies about the score."""
        return dist.LogNormal(scores, scales["noise_scale"])

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Expected rating, :math:`\exp(\eta + \sigma^2 / 2)`."""
        return jnp.exp(scores + 0.5 * jnp.square(scales["noise_scale"]))

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd)."""
        variance = jnp.square(sd) + jnp.square(scales["noise_scale"])
        center = jnp.exp(mean + 0.5 * variance)
        return center, center * jnp.sqrt(jnp.expm1(variance))


def weighted(scales: Mapping[str, Array], weight: Scores | None) -> Mapping[str, Array]:
    """Own parameters of ratings whose precision is multiplied by a weight."""
    if weight is None:
        return scales
    return {"noise_scale": scales["noise_scale"] / jnp.sqrt(weight)}

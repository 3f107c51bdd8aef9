"""Ratings about the score with heavy tails, of which outliers move little."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import betainc
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints

from probmf.likelihoods.base import Scores
from probmf.likelihoods.log_gamma import log_beta
from probmf.likelihoods.parameters import check_parameter, check_scale, is_number
from probmf.likelihoods.quadrature import QuadratureLikelihood

#: Degrees of freedom where none are given.
DF = 4.0
#: Standard deviations of a Normal by its median absolute deviation.
ROBUST = 1.4826


@dataclass(frozen=True)
class StudentT(QuadratureLikelihood):
    r"""Ratings with noise of Student's t, :math:`(r - \eta) / \sigma \sim t_\nu`.

    The variance of the noise is :math:`\sigma^2 \nu / (\nu - 2)`, infinite for two degrees of
    freedom or fewer, of which one or fewer leave no mean: the score then is the center only, and
    stands in its place. The quadratic bound is that of the EM algorithm with a Gamma precision for
    each rating, of curvature :math:`(\nu + 1) / (\nu \sigma^2 + (r - \eta)^2)`.

    Args:
        noise_scale: The scale sigma, in units of the rating: a positive number, or a NumPyro
            distribution. None is 1, in a mixed model a prior as wide as its response.
        df: Degrees of freedom nu: a positive number, or a NumPyro distribution. None is 4, in a
            mixed model the prior Gamma(2, 0.1).

    Raises:
        TypeError: If one is neither a number nor a distribution.
        ValueError: If one is not positive and finite.

    Example:
        >>> float(StudentT(1.0, 3.0).distribution(0.5, {"noise_scale": 1.0, "df": 3.0}).variance)
        3.0

    References:
        Lange, Little and Taylor (1989), Robust statistical modeling using the t distribution;
        Juarez and Steel (2010) for the prior.
    """

    noise_scale: float | Distribution | None = None
    df: float | Distribution | None = None
    support = constraints.real
    defaults = {"noise_scale": 1.0, "df": DF}  # noqa: RUF012
    scale_parameter = "noise_scale"

    def __post_init__(self) -> None:
        """Check both at the door."""
        if self.noise_scale is not None:
            check_scale("noise_scale", self.noise_scale)
        check_parameter("noise_scale", self.noise_scale, "positive number")
        check_parameter("df", self.df, "positive number, the larger the nearer to Gaussian()")

    def scale_place(self, spread: float) -> tuple[float, float]:
        """About the logarithm of the responses' spread, within a factor e."""
        return float(np.log(spread)), 1.0

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """That noise scale, with four degrees of freedom."""
        return cls(noise_scale)

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """A HalfNormal scale, as wide as the linear predictor; a Gamma(2, 0.1) of mean 20."""
        one = jnp.asarray(1.0, jnp.result_type(float))
        return {"noise_scale": dist.HalfNormal(width * one), "df": dist.Gamma(2 * one, 0.1 * one)}

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Any finite number is a rating; the data door has seen to that."""

    def place(self, response: np.ndarray) -> np.ndarray:
        """The responses."""
        return response

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The mean in which ratings count by their expected precision, found from the median."""
        counts = np.ones(len(rating)) if weight is None else np.asarray(weight, np.float64)
        order = np.argsort(rating)
        total = np.cumsum(counts[order])
        center = float(rating[order][np.searchsorted(total, 0.5 * total[-1])])
        spread = ROBUST * float(np.median(np.abs(rating - center)))
        scale = float(self.noise_scale) if is_number(self.noise_scale) else spread or 1.0
        df = float(self.df) if is_number(self.df) else DF
        for _ in range(200):
            share = counts / (df + np.square((rating - center) / scale))
            center = float(np.average(rating, weights=share))
        return center

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Numbers about the scores."""
        return scores + scales["noise_scale"] * jax.random.t(key, scales["df"], shape)

    def _square(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Array:
        """Square of rating less score, by scale and degrees of freedom."""
        apart = (rating - jnp.asarray(scores)) / scales["noise_scale"]
        return jnp.square(apart) / scales["df"]

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        df, square = jnp.asarray(scales["df"]), self._square(scores, rating, scales)
        constant = jnp.log(scales["noise_scale"]) + 0.5 * jnp.log(df) + log_beta(0.5 * df, 0.5)
        return 0.5 * (df + 1.0) * jnp.log1p(square) + constant

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        width = scales["df"] * jnp.square(scales["noise_scale"])
        square = self._square(scores, rating, scales)
        curvature = (scales["df"] + 1.0) / (width * (1.0 + square))
        return curvature, curvature * (rating - scores)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Fisher information of a score, :math:`(\nu + 1) / (\nu + 3) \sigma^2`."""
        df = scales["df"]
        found = (df + 1.0) / ((df + 3.0) * jnp.square(scales["noise_scale"]))
        return jnp.broadcast_to(found, jnp.shape(scores))

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """That of the noise; infinite with two degrees of freedom or fewer."""
        df = np.asarray(scales["df"], np.float64)
        share = np.divide(df, df - 2.0, out=np.full_like(df, np.inf), where=df > 2.0)
        return np.square(np.asarray(scales["noise_scale"])) * share

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """The score."""
        return jnp.asarray(scores)

    def mean_variance(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """That of the score."""
        return np.square(np.broadcast_to(sd, scores.shape))

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd)."""
        df = jnp.asarray(scales["df"])
        finite = df > 2
        share = jnp.where(finite, df / jnp.where(finite, df - 2.0, 1.0), jnp.inf)
        noise = jnp.square(scales["noise_scale"]) * share
        return jnp.asarray(mean), jnp.sqrt(jnp.square(jnp.asarray(sd)) + noise)

    def in_units(
        self, scores: Scores, scales: Mapping[str, Any], center: Any, unit: Any
    ) -> tuple[Scores, dict[str, Any]]:
        """The scores moved and stretched, the noise scale stretched."""
        return center + unit * scores, {**scales, "noise_scale": unit * scales["noise_scale"]}

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """The incomplete beta function, of the tail or of what lies nearer to the score."""
        square = self._square(scores, threshold, scales)
        half = 0.5 * jnp.asarray(scales["df"], scores.dtype)
        near = square < 1.0
        inner = square / (1.0 + square)
        first, second = jnp.where(near, 0.5, half), jnp.where(near, half, 0.5)
        found = betainc(first, second, jnp.where(near, inner, 1.0 / (1.0 + square)))
        # P(T > |t|), from the probability within or of both tails.
        beyond = jnp.where(near, 0.5 - 0.5 * found, 0.5 * found)
        return jnp.where(threshold > scores, beyond, 1.0 - beyond)

    def steepness(self, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """One over the noise scale, or over its share where degrees of freedom are below one."""
        least = jnp.sqrt(jnp.minimum(scales["df"], 1.0))
        return 1.0 / (scales["noise_scale"] * least)

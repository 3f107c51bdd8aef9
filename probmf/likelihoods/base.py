"""Base class of likelihoods: the questions that each of them answers.

A likelihood is the distribution of a rating given its score, and everything that follows from it:
a loss, a quadratic that touches the loss at a score and lies above it (which alternating least
squares solves), a latent variable given which the loss is quadratic (which Gibbs sampling draws),
moments and tail probabilities, and all of these where the score itself is Normal. The
table of what a method can't do with it is in `probmf.run.checks`; stored fits, mixed models and the
command line know likelihoods by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeGuard

import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array
from numpyro.distributions import Distribution

#: Scores or ratings of any shape, on the host or the device.
Scores = Any


class BaseLikelihood(ABC):
    """Distribution of a response given its score, or given its scores, one for each class.

    Attributes:
        binary: Ratings are 0 or 1.
        discrete: Ratings are at a few levels, each with a probability.
        quadratic: The loss is a quadratic function of rating less score.
        normal: A function of the rating, `to_score`, is Normal about the score.
    """

    binary: ClassVar[bool] = False
    discrete: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    normal: ClassVar[bool] = False

    @property
    def learned(self) -> tuple[str, ...]:
        """Parameters of its own that point estimates find together with the rows."""
        return ()

    @abstractmethod
    def scale_sites(self) -> dict[str, Any]:
        """The likelihood's own parameters by site name: numbers, arrays or prior distributions."""

    @abstractmethod
    def canonical(self) -> Self:
        """The likelihood without its parameters: compiled programs are keyed by it."""

    @abstractmethod
    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """NumPyro distribution of ratings of weight one."""

    def observe(
        self,
        scores: Scores,
        rating: Scores | None,
        weight: Scores | None,
        scales: Mapping[str, Array],
        *,
        site: str = "rating",
    ) -> Array:
        """The observed NumPyro site; a weight counts a rating that many times."""
        found = self.distribution(scores, scales)
        if weight is None:
            return numpyro.sample(site, found, obs=rating)
        with numpyro.handlers.scale(scale=weight):
            return numpyro.sample(site, found, obs=rating)

    def log_density(
        self, scores: Scores, rating: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Log density of weighted ratings, as `observe` has it."""
        return weight * self.distribution(scores, scales).log_prob(jnp.asarray(rating))

    def draw(
        self, key: Array, scores: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Draws of ratings; a weight that only counts a rating does not change them."""
        return self.distribution(scores, scales).sample(key)

    @abstractmethod
    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood, up to a constant given rating and own parameters."""


class Likelihood(BaseLikelihood):
    """Distribution of a rating given its score.

    Attributes:
        levels: The levels of a discrete likelihood, increasing.
    """

    levels: Any = ()

    @property
    def num_levels(self) -> int:
        """Number of levels; 0 if ratings are not discrete."""
        return len(self.levels)

    @abstractmethod
    def check_ratings(self, rating: np.ndarray) -> None:
        """Refuse ratings that have no density; the error names the first bad row."""

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Refuse training ratings that say nothing about a learned parameter."""

    @abstractmethod
    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The score that fits all ratings best when it is the same for all."""

    @abstractmethod
    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss.

        It touches the loss there, so that its slope is the loss's own.
        """

    @abstractmethod
    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope at `scores` of the loss given a draw of its latent variable."""

    @abstractmethod
    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score."""

    @abstractmethod
    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected rating given the score."""

    @abstractmethod
    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating of weight one >= threshold) given the score, or when it is Normal with an sd."""

    def tail_order(
        self, mean: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores
    ) -> Scores:
        """Numbers in the order of the tail probabilities."""
        return self.tail(mean, threshold, scales, sd)

    def level_probabilities(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """Probabilities of the levels, on a new last axis, when the score is Normal(scores, sd)."""
        raise TypeError(f"Ratings of a {type(self).__name__} likelihood have no levels.")

    @abstractmethod
    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd)."""


def likelihood_scales(likelihood: BaseLikelihood, values: Mapping[str, Any]) -> dict[str, Array]:
    """The likelihood's own parameters: those in `values`, else those that are numbers.

    Args:
        likelihood: The likelihood.
        values: Parameters by site name, such as learned cutpoints.

    Returns:
        Arrays in JAX's present precision; a parameter with a prior is left out if it has no value.
    """
    sites = likelihood.scale_sites()
    given = {name: values.get(name, scale) for name, scale in sites.items()}
    dtype = jnp.result_type(float)
    return {
        name: jnp.asarray(scale, dtype)
        for name, scale in given.items()
        if not isinstance(scale, Distribution)
    }


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite real number (and no bool).

    Args:
        value: Anything.

    Returns:
        The answer; a type checker then takes the value for a float.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))  # type: ignore[call-overload]


def check_scale(
    name: str,
    scale: object,
    per: str = "row",
    leave_out: str = "switch it off (user_bias=False, item_bias=False, num_factors=0)",
) -> None:
    """Refuse a scale that is not positive and finite (a distribution is let through).

    Args:
        name: The argument's name, for the message.
        scale: A number, an array or a NumPyro distribution.
        per: What an array has one scale for, for the message.
        leave_out: How the user leaves out what would have a scale of zero.

    Raises:
        TypeError: If it is neither number, array nor distribution.
        ValueError: If any entry is negative, zero, NaN or infinite.
    """
    if isinstance(scale, Distribution):
        return
    try:
        no_number = scale is None or isinstance(scale, str | bytes | bool)
        values = None if no_number else np.asarray(scale, dtype=np.float64)
    except (TypeError, ValueError):
        values = None
    if values is None:
        raise TypeError(
            f"{name} is {scale!r} of type {type(scale).__name__}; "
            f"give a positive number, an array with one scale per {per}, or a NumPyro distribution."
        )
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        where = "" if values.ndim == 0 else f" at position {int(np.argmax(bad.ravel()))}"
        raise ValueError(
            f"{name} is {values.ravel()[np.argmax(bad.ravel())]:g}{where}; a scale is a standard "
            f"deviation and must be positive and finite. To leave a term out, {leave_out}."
        )

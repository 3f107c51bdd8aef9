"""Likelihoods whose averages over a Normal score have no closed form: these are integrated."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint

from probmf.likelihoods.base import Likelihood, Scores
from probmf.likelihoods.normal_integrals import average


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

"""Classes without an order: a score for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.likelihoods.base import BaseLikelihood, Scores


@dataclass(frozen=True)
class Categorical(BaseLikelihood):
    r"""One of K classes, :math:`P(y = k) = e^{\eta_k} / \sum_j e^{\eta_j}`; a score for each.

    A shift of all scores says the same; the priors of what makes the scores settle it.

    Args:
        num_levels: Number of classes K, at least two.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below two.

    Example:
        >>> Categorical(2).level_probabilities(jnp.zeros((1, 2)), {}).tolist()
        [[0.5, 0.5]]
    """

    num_levels: int
    discrete = True

    def __post_init__(self) -> None:
        """Check the number at the door."""
        number = self.num_levels
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"num_levels is {number!r}; expected a whole number such as 3.")
        if number < 2:
            raise ValueError(f"num_levels is {number}; there must be at least two classes.")

    def scale_sites(self) -> dict[str, Any]:
        """No parameters of its own."""
        return {}

    def canonical(self) -> Self:
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return self

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """Categorical, by its logits."""
        return dist.Categorical(logits=scores)

    def loss(
        self, scores: Float[Array, "... K"], rating: Scores, scales: Mapping[str, Array]
    ) -> Float[Array, "..."]:
        r"""Minus log likelihood, :math:`\log \sum_j e^{\eta_j} - \eta_y` (cross-entropy)."""
        scores = jnp.asarray(scores)
        places = jnp.asarray(rating).astype(jnp.int32)
        own = jnp.sum(jax.nn.one_hot(places, self.num_levels, dtype=scores.dtype) * scores, axis=-1)
        return jax.nn.logsumexp(scores, axis=-1) - own

    def level_probabilities(
        self, scores: Float[Array, "... K"], scales: Mapping[str, Array]
    ) -> Float[Array, "... K"]:
        """Probabilities of the classes."""
        return jax.nn.softmax(jnp.asarray(scores), axis=-1)

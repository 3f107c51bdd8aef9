"""Classes without an order: a score for each."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.data.examples import Examples
from probmf.likelihoods.base import BaseLikelihood, Scores
from probmf.likelihoods.responses import listed


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
    by_class = True

    def __post_init__(self) -> None:
        """Check the number at the door."""
        number = self.num_levels
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"num_levels is {number!r}; expected a whole number such as 3.")
        if number < 2:
            raise ValueError(f"num_levels is {number}; there must be at least two classes.")

    @property
    def levels(self) -> tuple[int, ...]:
        """Codes of the classes."""
        return tuple(range(self.num_levels))

    def read_examples(
        self, data: Examples, *, complete: bool = True
    ) -> Float[np.ndarray, "n responses"]:
        """Codes of the classes, which must be as many as the likelihood has."""
        classes, codes = data.class_codes()
        if len(classes) != self.num_levels:
            raise ValueError(
                f"The response has {len(classes)} classes ({listed(classes)}), but the "
                f"likelihood is Categorical({self.num_levels}); use "
                f"Categorical({len(classes)})."
            )
        return codes[:, None]

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

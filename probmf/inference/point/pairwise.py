"""Losses of a pair that occurred beside pairs that did not: BPR and WARP.

A loss has a number of negatives and a function of scores. `fit_map` takes any of `LOSSES`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

#: Margin by which WARP wants a positive to win.
_MARGIN = 1.0


class PairLoss(Protocol):
    """A loss of one positive item beside sampled negatives of the same user; hashable.

    Attributes:
        num_negatives: Number of negatives that are drawn for each positive.
    """

    num_negatives: ClassVar[int]

    def losses(
        self, positive: Float[Array, " b"], negative: Float[Array, "b t"], num_items: int
    ) -> Float[Array, " b"]:
        """Losses of the positives.

        Args:
            positive: Their scores.
            negative: Scores of the negatives, in the order in which they were drawn.
            num_items: Number of items that could have been drawn.
        """


@dataclass(frozen=True)
class BPR:
    r"""Bayesian personalized ranking: :math:`-\log \sigma(s_{ui} - s_{uj})` for one negative j.

    References:
        Rendle, Freudenthaler, Gantner and Schmidt-Thieme (2009), BPR: Bayesian personalized
        ranking from implicit feedback.
    """

    num_negatives: ClassVar[int] = 1

    def losses(
        self, positive: Float[Array, " b"], negative: Float[Array, "b t"], num_items: int
    ) -> Float[Array, " b"]:
        """See the class."""
        return jax.nn.softplus(negative[:, 0] - positive)


@dataclass(frozen=True)
class WARP:
    r"""Weighted approximate-rank pairwise loss, of the first negative that violates the margin.

    If it is the q-th that was drawn, the positive's rank is about
    :math:`r = \lfloor (N - 1) / q \rfloor`, and the loss
    :math:`\sum_{k=1}^{r} \tfrac1k \; (1 - s_{ui} + s_{uj})`; 0 if none of ten does.

    References:
        Weston, Bengio and Usunier (2011), WSABIE: Scaling up to large vocabulary image annotation.
    """

    num_negatives: ClassVar[int] = 10

    def losses(
        self, positive: Float[Array, " b"], negative: Float[Array, "b t"], num_items: int
    ) -> Float[Array, " b"]:
        """See the class."""
        short = _MARGIN - positive[:, None] + negative
        violates = short > 0
        first = jnp.argmax(violates, axis=1)
        rank = (num_items - 1) // (first + 1)
        harmonic = jnp.cumsum(1.0 / jnp.arange(1, max(num_items, 2)))
        weight = lax.stop_gradient(harmonic[jnp.maximum(rank - 1, 0)])
        shortfall = jnp.take_along_axis(short, first[:, None], axis=1)[:, 0]
        return jnp.where(violates.any(axis=1), weight * shortfall, 0.0)


#: Objectives of `fit_map` that rank, by name.
LOSSES: dict[str, PairLoss] = {"bpr": BPR(), "warp": WARP()}

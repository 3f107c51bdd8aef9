"""Data of a network: arrays."""

from dataclasses import dataclass, replace
from functools import partial

import jax
from jaxtyping import Array, Float, Int, Shaped


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "response"],
    meta_fields=["num_outputs"],
)
@dataclass(frozen=True)
class NetworkData:
    """Data of a network: a pytree of arrays.

    Attributes:
        x: Standardized features.
        response: Responses, shape (n,), or (n, outputs) for several; codes of classes for a
            Categorical likelihood. None to simulate them.
        num_outputs: Number of outputs of the last layer.
    """

    x: Float[Array, "n features"]
    response: Shaped[Array, "n ..."] | None
    num_outputs: int

    @property
    def num_rows(self) -> int:
        """Number of examples."""
        return len(self.x)

    def take(self, places: Int[Array, " batch"]) -> "NetworkData":
        """Some of the examples."""
        return jax.tree.map(lambda array: array[places], self)

    def without_response(self) -> "NetworkData":
        """The same rows with the responses left open, for NumPyro's `Predictive`."""
        return replace(self, response=None)

"""Log densities of rows by their linear predictor, with derivatives that can be derived again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Derivatives(NamedTuple):
    """Log densities of rows, and their derivatives by each row's own linear predictor.

    Attributes:
        value: The log densities.
        slope: First derivatives.
        weight: Minus second derivatives, the observed information.
    """

    value: Float[Array, " n"]
    slope: Float[Array, " n"]
    weight: Float[Array, " n"]


class Rows(NamedTuple):
    """Rows of any density whose location is a linear predictor.

    Attributes:
        density: The log density of each row at its linear predictor and the parameters.
        parameters: A tree of arrays, such as cutpoints.
    """

    density: Callable[[Float[Array, " n"], Any], Float[Array, " n"]]
    parameters: Any

    def __call__(self, predictor: Float[Array, " n"]) -> Float[Array, " n"]:
        """The log densities."""
        return self.density(predictor, self.parameters)

    def held(self) -> "Rows":
        """The same, parameters as numbers that nothing is differentiated by."""
        return self._replace(parameters=lax.stop_gradient(self.parameters))

    def differentiate(self, predictor: Float[Array, " n"]) -> Derivatives:
        """Log densities with two derivatives by the predictor; cost O(n)."""

        def first(at: Array) -> tuple[Array, Array]:
            value, pull = jax.vjp(lambda x: self(x), at)
            slope: Array = pull(jnp.ones_like(value))[0]
            return value, slope

        ones = jnp.ones_like(predictor)
        (value, slope), (_, bend) = jax.jvp(first, (predictor,), (ones,))
        return Derivatives(value, slope, -bend)

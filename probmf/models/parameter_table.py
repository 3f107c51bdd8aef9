"""One array layout for the rows of both sides.

A row is a bias and factors; a score is intercept + the two biases + the product of the factors.
A bias that the model leaves out is zero and fixed.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.models.factorization import MatrixFactorization
from probmf.models.linear_predictor import Parameters
from probmf.rows.store import SIDES, Side
from probmf.rows.values import Rows, RowValues

#: Factor columns are padded with zeros to a multiple of this: products of rows whose length is
#: no multiple of the vector width cost up to three times as much on a CPU.
ALIGNMENT = 16


@dataclass(frozen=True)
class ParameterTable:
    """Positions of each site in the rows of a factorization whose scales are fixed."""

    model: MatrixFactorization
    num_users: int
    num_items: int
    alignment: int = ALIGNMENT

    @property
    def num_columns(self) -> int:
        """Number of factor columns, padding included."""
        return -(-self.model.num_factors // self.alignment) * self.alignment

    def num_rows(self, side: Side) -> int:
        """Number of rows of one side."""
        return self.num_users if side == "user" else self.num_items

    def pack(self, parameters: Parameters) -> Rows:
        """The rows of parameters given by site name."""
        dtype, table = jnp.result_type(float), {}
        for side in SIDES:
            size = self.num_rows(side)
            bias, factors = np.zeros(size), np.zeros((size, self.num_columns))
            if self.has_bias(side):
                bias[:] = parameters[f"{side}_bias"]
            if self.model.num_factors:
                factors[:, : self.model.num_factors] = parameters[f"{side}_factors"]
            table[side] = RowValues(jnp.asarray(bias, dtype), jnp.asarray(factors, dtype))
        return table

    def unpack(self, table: Rows) -> dict[str, Array]:
        """Parameters by site name; the inverse of `pack`."""
        parameters = {}
        for side in SIDES:
            if self.has_bias(side):
                parameters[f"{side}_bias"] = table[side].bias
            if self.model.num_factors:
                factors = table[side].factors[:, : self.model.num_factors]
                parameters[f"{side}_factors"] = factors
        return parameters

    def has_bias(self, side: Side) -> bool:
        """True where the side has a bias to solve for."""
        return self.model.user_bias if side == "user" else self.model.item_bias

    def free(self, side: Side) -> Float[Array, " d"]:
        """1 for coordinates (bias, factors) to solve for, 0 for a bias that is left out."""
        free = np.ones(1 + self.num_columns)
        free[0] = self.has_bias(side)
        return jnp.asarray(free, jnp.result_type(float))

    def precision(self, side: Side) -> Float[Array, "rows d"]:
        """Diagonal prior precision of a side's (bias, factors); 1 where nothing is estimated."""
        # Filled on the host: every small operation on a device is a program to compile.
        size = self.num_rows(side)
        total = np.ones((size, 1 + self.num_columns))
        if self.has_bias(side):
            total[:, 0] = self.model.prior_precision(f"{side}_bias", size)
        if self.model.num_factors:
            column = self.model.prior_precision(f"{side}_factors", size)
            total[:, 1 : 1 + self.model.num_factors] = column[:, None]
        return jnp.asarray(total, jnp.result_type(float))

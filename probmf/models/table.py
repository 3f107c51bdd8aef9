"""One numbering and one array layout for the rows of both sides.

A row is a bias and factors; a score is intercept + the two biases + the product of the factors.
Users come first, then items, then one row of zeros at which empty slots point. A bias that the
model leaves out is zero and fixed.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.models.factorization import MatrixFactorization
from probmf.models.scores import Parameters
from probmf.rows.store import SIDES, Side
from probmf.rows.values import RowValues

#: Factor columns are padded with zeros to a multiple of this: products of rows whose length is
#: no multiple of the vector width cost up to three times as much on a CPU.
ALIGNMENT = 16


@dataclass(frozen=True)
class Table:
    """Positions of each site in the rows.

    Args:
        model: The factorization; its row scales must be fixed.
        num_users: Number of users: rows 0..num_users-1.
        num_items: Number of items: the rows after the users'.
        alignment: Factor columns are padded to a multiple of this.
    """

    model: MatrixFactorization
    num_users: int
    num_items: int
    alignment: int = ALIGNMENT

    @property
    def num_columns(self) -> int:
        """Number of factor columns, padding included."""
        return -(-self.model.num_factors // self.alignment) * self.alignment

    def rows(self, side: Side) -> slice:
        """The rows of one side."""
        if side == "user":
            return slice(0, self.num_users)
        return slice(self.num_users, self.num_users + self.num_items)

    def num_rows(self, side: Side) -> int:
        """Number of rows of one side."""
        return self.num_users if side == "user" else self.num_items

    def pack(self, parameters: Parameters) -> RowValues:
        """The rows of parameters given by site name."""
        size = self.num_users + self.num_items + 1
        bias, factors = np.zeros(size), np.zeros((size, self.num_columns))
        for side in SIDES:
            if self.has_bias(side):
                bias[self.rows(side)] = parameters[f"{side}_bias"]
            if self.model.num_factors:
                factors[self.rows(side), : self.model.num_factors] = parameters[f"{side}_factors"]
        dtype = jnp.result_type(float)
        return RowValues(jnp.asarray(bias, dtype), jnp.asarray(factors, dtype))

    def unpack(self, values: RowValues) -> dict[str, Array]:
        """Parameters by site name; the inverse of `pack`."""
        parameters = {}
        for side in SIDES:
            if self.has_bias(side):
                parameters[f"{side}_bias"] = values.bias[self.rows(side)]
            if self.model.num_factors:
                block = values.factors[self.rows(side)]
                parameters[f"{side}_factors"] = block[:, : self.model.num_factors]
        return parameters

    def has_bias(self, side: Side) -> bool:
        """True where the side has a bias to solve for."""
        return self.model.user_bias if side == "user" else self.model.item_bias

    def free(self, side: Side) -> Float[Array, " d"]:
        """1 for coordinates (bias, factors) to solve for, 0 for a bias that is left out."""
        free = np.ones(1 + self.num_columns)
        free[0] = self.has_bias(side)
        return jnp.asarray(free, jnp.result_type(float))

    def precision(self) -> Float[Array, "table d"]:
        """Diagonal prior precision of every row's (bias, factors); 1 where nothing is estimated."""
        # Filled on the host: every small operation on a device is a program to compile.
        total = np.ones((self.num_users + self.num_items + 1, 1 + self.num_columns))
        for side in SIDES:
            rows, size = self.rows(side), self.num_rows(side)
            if self.has_bias(side):
                total[rows, 0] = self.model.prior_precision(f"{side}_bias", size)
            if self.model.num_factors:
                column = self.model.prior_precision(f"{side}_factors", size)
                total[rows, 1 : 1 + self.model.num_factors] = column[:, None]
        return jnp.asarray(total, jnp.result_type(float))

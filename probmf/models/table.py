"""One table for the parameters of both sides, so that a score is a product of two rows.

A user's row is (bias, 1, factors), an item's row is (1, bias, factors): the bias is one more
coordinate whose partner is fixed at one, and it is solved for jointly with the factors. A bias
that the model leaves out takes no column. The last row is all zero; empty slots point at it.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from probmf.models.factorization import MatrixFactorization, Parameters
from probmf.rows import SIDES, Side


@dataclass(frozen=True)
class Table:
    """Where each site lies in the table.

    Args:
        model: The factorization; its row scales must be fixed.
        num_users: Number of users: rows 0..num_users-1.
        num_items: Number of items: the rows after the users'.
    """

    model: MatrixFactorization
    num_users: int
    num_items: int

    @property
    def biases(self) -> list[Side]:
        """Sides that have a bias column, in column order."""
        return [side for side in SIDES if getattr(self.model, f"{side}_bias")]

    @property
    def num_columns(self) -> int:
        """Length of a table row."""
        return len(self.biases) + self.model.num_factors

    def rows(self, side: Side) -> slice:
        """The rows of one side."""
        if side == "user":
            return slice(0, self.num_users)
        return slice(self.num_users, self.num_users + self.num_items)

    def num_rows(self, side: Side) -> int:
        """Number of rows of one side."""
        return self.num_users if side == "user" else self.num_items

    def pack(self, parameters: Parameters) -> Float[Array, "table d"]:
        """The table of parameters given by site name."""
        parts = []
        for side in SIDES:
            size = self.num_rows(side)
            columns = [
                parameters[f"{side}_bias"] if own == side else jnp.ones(size)
                for own in self.biases
            ]
            block = [column[:, None] for column in columns]
            if self.model.num_factors:
                block.append(parameters[f"{side}_factors"])
            parts.append(jnp.concatenate(block, axis=1) if block else jnp.zeros((size, 0)))
        return jnp.concatenate([*parts, jnp.zeros((1, self.num_columns))])

    def unpack(self, table: Float[Array, "table d"]) -> dict[str, Array]:
        """Parameters by site name; the inverse of `pack`."""
        parameters = {}
        for side in SIDES:
            block = table[self.rows(side)]
            if side in self.biases:
                parameters[f"{side}_bias"] = block[:, self.biases.index(side)]
            if self.model.num_factors:
                parameters[f"{side}_factors"] = block[:, len(self.biases) :]
        return parameters

    def free(self, side: Side) -> Float[Array, " d"]:
        """1 for the side's own coordinates, 0 for the other side's bias column."""
        own = [1.0 if bias == side else 0.0 for bias in self.biases]
        return jnp.asarray(own + [1.0] * self.model.num_factors)

    def precision(self) -> Float[Array, "table d"]:
        """Diagonal prior precision of every row; 1 where there is nothing to estimate."""
        parts = []
        for side in SIDES:
            size = self.num_rows(side)
            block = [
                self.model.prior_precision(f"{side}_bias", size)[:, None]
                if own == side
                else jnp.ones((size, 1))
                for own in self.biases
            ]
            if self.model.num_factors:
                column = self.model.prior_precision(f"{side}_factors", size)[:, None]
                block.append(jnp.broadcast_to(column, (size, self.model.num_factors)))
            parts.append(jnp.concatenate(block, axis=1) if block else jnp.ones((size, 0)))
        return jnp.concatenate([*parts, jnp.ones((1, self.num_columns))])

"""Inputs and outputs of half-sweeps: rows of each side, priors, random numbers and sums."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probmf.rows.store import Side


class Noise(NamedTuple):
    """Random numbers that turn solving rows into drawing them; a pytree.

    Those of a row depend on the key and the row's code alone: not on the other rows, nor on how
    the rows are laid out, shared between threads and computed.

    Attributes:
        rows: Standard normal numbers of each row.
        keys: Keys of each row's latent variables.
    """

    rows: Float[Array, "*r d"]
    keys: Array

    @classmethod
    def of(cls, key: Array, code: Int[Array, "*r"], like: Float[Array, "*rows d"]) -> Self:
        """The numbers of some rows, as many and of the type of those in a row of `like`."""
        shape, dtype = like.shape[-1:], like.dtype
        own = jax.vmap(partial(jax.random.fold_in, key))(code.ravel())
        keys = jax.vmap(jax.random.split)(own)
        rows = jax.vmap(lambda one: jax.random.normal(one, shape, dtype))(keys[:, 0])
        return cls(rows.reshape(*code.shape, *shape), keys[:, 1].reshape(code.shape))


class RowValues(NamedTuple):
    """Parameters of the rows of one side, by code; a pytree.

    Attributes:
        bias: Bias of each row.
        factors: Factors of each row, padded with zero columns.
    """

    bias: Float[Array, " rows"]
    factors: Float[Array, "rows k"]

    def at(self, row: Int[Array, "*r"] | slice) -> Float[Array, "*r d"]:
        """Some rows as vectors (bias, factors)."""
        return jnp.concatenate([self.bias[row][..., None], self.factors[row]], axis=-1)


#: Rows of both sides.
Rows = dict[Side, RowValues]


class Prior(NamedTuple):
    """Values that one side's rows are conditioned on, besides their ratings; a pytree.

    Attributes:
        intercept: Added to every score.
        scales: The likelihood's own parameters.
        precision: Diagonal prior precision of every row.
        free: 1 for coordinates (bias, factors) to solve for, 0 for fixed ones.
        gram: With weak zeros, their weight times the sum of (1, v) (1, v)^T over the other side's
            rows v; else None.
        gram_shift: That weight times the sum of (1, v) (intercept + bias), or None.
        pull: The prior's precision times its mean, of every row; None where that is zero.
    """

    intercept: Float[Array, ""]
    scales: Mapping[str, Array]
    precision: Float[Array, "rows d"]
    free: Float[Array, " d"]
    gram: Float[Array, "d d"] | None
    gram_shift: Float[Array, " d"] | None
    pull: Float[Array, "rows d"] | None = None


class RowSums(NamedTuple):
    """Sums over the ratings of each row, at the scores after a half-sweep; a pytree.

    Attributes:
        loss: Sums of the loss.
        slope: Sums of minus its derivative with respect to the score.
        curvature: Sums of the curvature of its bound.
    """

    loss: Float[Array, " rows"]
    slope: Float[Array, " rows"]
    curvature: Float[Array, " rows"]


class RowResult(NamedTuple):
    """Rows after a half-sweep.

    Attributes:
        value: New rows (bias, factors).
        sums: Sums over their ratings.
    """

    value: Float[Array, "rows d"]
    sums: RowSums

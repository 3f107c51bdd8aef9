"""Between JAX's arrays and the loops' NumPy arrays."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.likelihoods import Likelihood
from probmf.rows.cpu.arrays import Given, Present, Solved
from probmf.rows.cpu.share import RowLists, solve_side
from probmf.rows.store import Side
from probmf.rows.values import Noise, Prior, RowSums, RowValues


def solve_lists(
    lists: RowLists,
    side: Side,
    table: RowValues,
    prior: Prior,
    likelihood: Likelihood,
    steps: int | None,
    pool: ThreadPoolExecutor,
    key: Array | None,
) -> tuple[RowValues, RowSums]:
    """A half-sweep on arrays that NumPy and JAX share.

    Args:
        lists: The ratings.
        side: Whose rows to solve.
        table: Parameters of both sides.
        prior: The side's prior.
        likelihood: Quadratic in the score.
        steps: Conjugate-gradient steps, or None for the exact solution.
        pool: Threads.
        key: Draws the rows.

    Returns:
        The table with the side's rows replaced, and each table row's sums.
    """
    dtype = table.factors.dtype
    size = prior.precision.shape[1]
    own, other = (_table_rows(lists, one) for one in (side, "item" if side == "user" else "user"))
    zero = jnp.zeros(1, dtype)
    curvature, _ = likelihood.bound(zero, zero, prior.scales)
    given = Given(
        intercept=np.asarray(prior.intercept, dtype).reshape(1),
        curvature=np.asarray(curvature, dtype),
        precision=np.asarray(prior.precision)[own],
        free=np.asarray(prior.free),
        gram=np.zeros((0, size), dtype) if prior.gram is None else np.asarray(prior.gram),
        shift=np.zeros(0, dtype) if prior.gram_shift is None else np.asarray(prior.gram_shift),
        pull=np.zeros((0, size), dtype) if prior.pull is None else np.asarray(prior.pull)[own],
    )
    bias, factors = np.asarray(table.bias), np.asarray(table.factors)
    new_bias, new_factors = bias.copy(), factors.copy()
    loss, slope, curved = (np.zeros_like(bias) for _ in range(3))
    solve_side(
        lists, side, given, Present(bias[own], factors[own], bias[other], factors[other]),
        Solved(new_bias[own], new_factors[own], loss[own], slope[own], curved[own]), steps=steps,
        noise=None if key is None else np.asarray(_normals(key, prior.precision))[own], pool=pool,
    )  # fmt: skip
    new = RowValues(jnp.asarray(new_bias), jnp.asarray(new_factors))
    return new, RowSums(jnp.asarray(loss), jnp.asarray(slope), jnp.asarray(curved))


@jax.jit
def _normals(key: Array, like: Array) -> Array:
    return Noise.of(key, jnp.arange(len(like)), like).rows


def _table_rows(lists: RowLists, side: Side) -> slice:
    """Rows of a side in the table of both."""
    first = lists.store.first(side)
    return slice(first, first + lists.store.num_rows(side))

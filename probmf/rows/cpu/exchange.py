"""Between JAX's arrays and the loops' NumPy arrays."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.likelihoods import Likelihood
from probmf.rows.cpu.arrays import Present, RowInputs, RowOutputs
from probmf.rows.cpu.share import RowLists, solve_side
from probmf.rows.store import Side
from probmf.rows.values import Noise, Prior, RowSums, RowValues


def solve_lists(
    lists: RowLists,
    side: Side,
    own: RowValues,
    other: RowValues,
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
        own: Present values of the side's rows.
        other: Those of the other side.
        prior: The side's prior.
        likelihood: Quadratic in the score.
        steps: Conjugate-gradient steps, or None for the exact solution.
        pool: Threads.
        key: Draws the rows.

    Returns:
        The side's new rows and their sums.
    """
    dtype = own.factors.dtype
    size = prior.precision.shape[1]
    curvature = _curvature(likelihood, prior.scales, dtype)
    given = RowInputs(
        intercept=np.asarray(prior.intercept, dtype).reshape(1),
        curvature=np.asarray(curvature, dtype),
        precision=np.asarray(prior.precision),
        free=np.asarray(prior.free),
        gram=np.zeros((0, size), dtype) if prior.gram is None else np.asarray(prior.gram),
        shift=np.zeros(0, dtype) if prior.gram_shift is None else np.asarray(prior.gram_shift),
        pull=np.zeros((0, size), dtype) if prior.pull is None else np.asarray(prior.pull),
    )
    present = Present(*map(np.asarray, (*own, *other)))
    solved = RowOutputs(
        present.bias.copy(), present.factors.copy(), *np.zeros((3, len(present.bias)), dtype)
    )
    solve_side(
        lists, side, given, present, solved, steps=steps,
        noise=None if key is None else np.asarray(_normals(key, prior.precision)), pool=pool,
    )  # fmt: skip
    bias, factors, *sums = map(jnp.asarray, solved)
    return RowValues(bias, factors), RowSums(*sums)


@partial(jax.jit, static_argnums=(0, 2))
def _curvature(likelihood: Likelihood, scales: Mapping[str, Array], dtype: np.dtype) -> Array:
    # One program: started one by one, its operations take longer than the rows of a small table.
    zero = jnp.zeros(1, dtype)
    return likelihood.bound(zero, zero, scales)[0]


@jax.jit
def _normals(key: Array, like: Array) -> Array:
    return Noise.of(key, jnp.arange(len(like)), like).rows

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
from probmf.rows.cpu.share import RowLists, solve_side, used_columns
from probmf.rows.store import Side
from probmf.rows.values import Noise, Prior, RowSums, RowValues
from probmf.settings import as_here

#: Random numbers drawn for a row at the least: eight take XLA twice as long as sixteen.
LEAST_DRAWN = 16


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
    noise = None
    if key is not None:
        num_drawn = 1 + used_columns(given, present, drawn=True)
        noise = _normals(key, len(present.bias), num_drawn, dtype, lists.workers, pool)
    solve_side(lists, side, given, present, solved, steps=steps, noise=noise, pool=pool)
    bias, factors, *sums = map(jnp.asarray, solved)
    return RowValues(bias, factors), RowSums(*sums)


@partial(jax.jit, static_argnums=(0, 2))
def _curvature(likelihood: Likelihood, scales: Mapping[str, Array], dtype: np.dtype) -> Array:
    # One program: started one by one, its operations take longer than the rows of a small table.
    zero = jnp.zeros(1, dtype)
    return likelihood.bound(zero, zero, scales)[0]


def _normals(
    key: Array, num_rows: int, size: int, dtype: np.dtype, workers: int, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Standard normal numbers of every row, each worker's share of them."""
    share, size = -(-num_rows // workers), max(size, LEAST_DRAWN)
    if workers == 1:
        return np.asarray(_own_normals(key, 0, share, size, dtype))
    found = np.empty((num_rows, size), dtype)

    def work(worker: int) -> None:
        rows = found[worker * share : (worker + 1) * share]
        rows[:] = np.asarray(_own_normals(key, worker * share, share, size, dtype))[: len(rows)]

    list(pool.map(as_here(work), range(workers)))
    return found


@partial(jax.jit, static_argnames=("count", "size", "dtype"))
def _own_normals(key: Array, first: int, count: int, size: int, dtype: np.dtype) -> Array:
    return Noise.of(key, first + jnp.arange(count), jnp.zeros(size, dtype)).rows

"""Between JAX's arrays and the loops' NumPy arrays."""

from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np

from probmf.likelihoods import Likelihood
from probmf.rows.cpu.arrays import Given, Present
from probmf.rows.cpu.share import RowLists, solve_side
from probmf.rows.values import Noise, Prior, RowSums, RowValues


def solve_lists(
    lists: RowLists,
    table: RowValues,
    prior: Prior,
    likelihood: Likelihood,
    steps: int | None,
    pool: ThreadPoolExecutor,
    noise: Noise | None,
) -> tuple[RowValues, RowSums]:
    """A half-sweep on arrays that NumPy and JAX share.

    Args:
        lists: The side's observations.
        table: Parameters of both sides.
        prior: The side's prior.
        likelihood: Quadratic in the score.
        steps: Conjugate-gradient steps, or None for the exact solution.
        pool: Threads.
        noise: Draws the rows.

    Returns:
        The table with the side's rows replaced, and each table row's sums.
    """
    dtype = table.factors.dtype
    size = prior.precision.shape[1]
    zero = jnp.zeros(1, dtype)
    curvature, _ = likelihood.bound(zero, zero, prior.scales)
    given = Given(
        intercept=np.asarray(prior.intercept, dtype).reshape(1),
        curvature=np.asarray(curvature, dtype),
        precision=np.asarray(prior.precision),
        free=np.asarray(prior.free),
        gram=np.zeros((0, size), dtype) if prior.gram is None else np.asarray(prior.gram),
        shift=np.zeros(0, dtype) if prior.gram_shift is None else np.asarray(prior.gram_shift),
        pull=np.zeros((0, size), dtype) if prior.pull is None else np.asarray(prior.pull),
    )
    random = None if noise is None else np.asarray(noise.rows)
    values = Present(np.asarray(table.bias), np.asarray(table.factors))
    solved = solve_side(lists, given, values, steps=steps, noise=random, pool=pool)
    sums = (jnp.asarray(x) for x in (solved.loss, solved.slope, solved.curvature))
    new = RowValues(jnp.asarray(solved.bias), jnp.asarray(solved.factors))
    return new, RowSums(*sums)

"""Draws of rows given the other side, at many draws of the other side, on the device."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from probmf.likelihoods import Likelihood
from probmf.rows import conditionals
from probmf.rows.problem import RowProblem, modes_of_rows, precision_factors, row_loss

#: Metropolis steps for each row and draw under a likelihood that is not Gaussian.
STEPS = 32
#: Degrees of freedom of the proposals: tails heavier than any posterior's under a Gaussian prior.
FREEDOM = 8


@partial(jax.jit, static_argnames="likelihood")
def draw_rows(
    problems: RowProblem, keys: UInt32[Array, "draws 2"], *, likelihood: Likelihood
) -> tuple[Float[Array, "draws r d"], Float[Array, "draws r"]]:
    r"""One draw of each row from its conditional at each draw of everything else.

    Where the loss is quadratic in the score :math:`\Lambda^{-1} h + \Lambda^{-1/2} \epsilon`.
    Otherwise `STEPS` steps of independence Metropolis whose proposals are a multivariate t about
    the mode with the curvature there (Laplace); since its tails are heavier than the
    conditional's, the chain forgets its start geometrically from anywhere.

    Args:
        problems: The rows; `partners`, `precision`, `intercept`, `scales`, `center` and what weak
            zeros add have a leading axis of draws.
        keys: Raw key data, one key for each draw.
        likelihood: The likelihood without its parameters.

    Returns:
        The rows, and the share of proposals that were accepted (1 where the draw is exact).
    """
    by_draw = {"partners", "precision", "intercept", "scales", "gram", "gram_shift", "center"}
    fields: Any = {name: 0 if name in by_draw else None for name in RowProblem._fields}
    axes = RowProblem(**fields)
    draw = _draw_exactly if likelihood.normal else _draw_by_metropolis
    return jax.vmap(partial(draw, likelihood=likelihood), in_axes=(axes, 0))(problems, keys)


def _draw_exactly(
    problem: RowProblem, key: Array, *, likelihood: Likelihood
) -> tuple[Array, Array]:
    def moments(z: Array, offset: Array, rating: Array, weight: Array) -> tuple[Array, Array]:
        curvature, slope = likelihood.bound(offset, rating, problem.scales)
        second = conditionals.second_moments(z, weight * curvature)
        return conditionals.collect(z, weight * slope), second

    start = jnp.zeros_like(problem.value)
    first, second = problem.sum(moments)
    noise = jax.random.normal(key, start.shape, start.dtype) * problem.free[None]
    rows = conditionals.cholesky_step(problem.matrix(second), problem.gradient(first, start), noise)
    return rows, jnp.ones(len(rows), rows.dtype)


def _draw_by_metropolis(
    problem: RowProblem, key: Array, *, likelihood: Likelihood
) -> tuple[Array, Array]:
    mode = modes_of_rows(problem, likelihood=likelihood)
    factor = precision_factors(problem._replace(value=mode), likelihood=likelihood)
    dimension = jnp.sum(problem.free)

    def propose(key: Array) -> tuple[Array, Array]:
        """Rows from the t law, and the log of their weight against it."""
        for_noise, for_size = jax.random.split(key)
        noise = jax.random.normal(for_noise, mode.shape, mode.dtype) * problem.free[None]
        sizes = jax.random.normal(for_size, (len(mode), FREEDOM), mode.dtype)
        chi_square = jnp.sum(jnp.square(sizes), axis=1)
        noise = noise * jnp.sqrt(FREEDOM / chi_square)[:, None]
        x = mode + _scaled(factor, noise) * problem.free[None]
        distance = jnp.sum(jnp.square(noise), axis=1)
        log_proposal = -0.5 * (FREEDOM + dimension) * jnp.log1p(distance / FREEDOM)
        return x, -row_loss(problem, x, likelihood) - log_proposal

    def step(
        state: tuple[Array, Array, Array], key: Array
    ) -> tuple[tuple[Array, Array, Array], None]:
        x, weight, accepted = state
        for_proposal, for_test = jax.random.split(key)
        new, new_weight = propose(for_proposal)
        chance = jnp.log(jax.random.uniform(for_test, weight.shape, weight.dtype))
        taken = chance < new_weight - weight
        x = jnp.where(taken[:, None], new, x)
        return (x, jnp.where(taken, new_weight, weight), accepted + taken), None

    first, rest = jax.random.split(key)
    start = (*propose(first), jnp.zeros(len(mode), mode.dtype))
    (x, _, accepted), _ = lax.scan(step, start, jax.random.split(rest, STEPS))
    return x, accepted / STEPS


def _scaled(factor: Array, noise: Array) -> Array:
    """Noise of covariance (L L')^-1."""
    return lax.linalg.triangular_solve(
        factor, noise[..., None], left_side=True, lower=True, transpose_a=True
    )[..., 0]


def cells(num_lines: int, width: int, num_columns: int) -> int:
    """Numbers that one draw of a batch of rows takes while it is made."""
    return math.prod((num_lines, num_columns, width + 6 * num_columns))

"""Gaussian conditionals of rows: the one object behind ALS, fold-in and plug-in uncertainty.

Row i holds observations with designs z (the other side's parameters), curvatures w and
slopes e = w (t - z.x) at the row's present value x. Under the prior N(m, A^-1) its conditional is

    Lambda = A + sum w z z^T ,      Lambda (mean - x) = sum e z - A (x - m) = rhs .

Everything is written for the step from x, never for the mean itself: near the solution the step
is small, so single precision loses nothing. All functions work on batches of rows, on arrays
alone, and coordinates whose `free` is 0 stay where they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

#: Up to this many factors the sums of w z are made along with those of w z z^T.
SMALL_BLOCK = 16
#: Rows of a block of `sum_products`.
SUMMED = 256


class RowBatch(NamedTuple):
    """A batch of rows, linearized at their present value.

    A row's first coordinate is its bias, whose design is one; `design` holds the others.

    Attributes:
        design: Designs z of the factors.
        curvature: Weights w; zero in empty slots.
        rhs: Gradient of the log posterior at the present value, zero at fixed coordinates.
        precision: Diagonal of the prior precision A.
        free: 1 for coordinates to solve for, 0 for fixed ones.
        gram: A matrix added to every row's precision, or None.
    """

    design: Float[Array, "r w k"]
    curvature: Float[Array, "r w"]
    rhs: Float[Array, "r d"]
    precision: Float[Array, "r d"]
    free: Float[Array, " d"]
    gram: Float[Array, "d d"] | None


def project(design: Float[Array, "r w k"], x: Float[Array, "r d"]) -> Float[Array, "r w"]:
    """Products (1, z).x of every slot."""
    return x[:, :1] + jnp.einsum("rwk,rk->rw", design, x[:, 1:])


def collect(design: Float[Array, "r w k"], e: Float[Array, "r w"]) -> Float[Array, "r d"]:
    """Sums of e (1, z) over every row's slots."""
    factors = jnp.einsum("rwk,rw->rk", design, e)
    return jnp.concatenate([jnp.sum(e, axis=1, keepdims=True), factors], axis=1)


def sum_products(x: Float[Array, "rows a"], y: Float[Array, "rows b"]) -> Float[Array, "a b"]:
    """Sum of the outer products of rows, x^T y, whose rounding is that of any number of cores.

    A single product is shared out between as many threads as there are, and rounded accordingly.
    """
    short = -x.shape[0] % SUMMED
    cut = [
        jnp.pad(rows, ((0, short), (0, 0))).reshape(-1, SUMMED, rows.shape[1]) for rows in (x, y)
    ]
    return jnp.sum(jnp.einsum("nra,nrb->nab", *cut), axis=0)


class BiasFactorBlocks(NamedTuple):
    """Symmetric matrices of (bias, factors) cut at the bias.

    Attributes:
        corner: Bias by bias.
        cross: Bias by factors.
        factors: Factors by factors.
    """

    corner: Float[Array, " r"]
    cross: Float[Array, "r k"]
    factors: Float[Array, "r k k"]


def moment_blocks(
    design: Float[Array, "r w k"], curvature: Float[Array, "r w"]
) -> BiasFactorBlocks:
    """Sums of w (1, z) (1, z)^T over every row's slots. Cost O(r w k^2)."""
    corner = jnp.sum(curvature, axis=1)
    # Products of (factors x slots) by (slots x factors): measured on a CPU, where both operands
    # were (slots x factors), sweeps took 15 to 25 % longer at 16 to 64 factors. Without the
    # barrier XLA turns the first one back.
    weighted = jnp.swapaxes(design * curvature[..., None], 1, 2)
    few = design.shape[2] <= SMALL_BLOCK
    if few:
        weighted = jnp.concatenate([weighted, curvature[:, None, :]], axis=1)
    moments = jnp.einsum("rkw,rwl->rkl", lax.optimization_barrier(weighted), design)
    if few:
        return BiasFactorBlocks(corner, moments[:, -1], moments[:, :-1])
    return BiasFactorBlocks(corner, jnp.einsum("rwk,rw->rk", design, curvature), moments)


def second_moments(
    design: Float[Array, "r w k"], curvature: Float[Array, "r w"]
) -> Float[Array, "r d d"]:
    """Sums of w (1, z) (1, z)^T over every row's slots. Cost O(r w k^2)."""
    corner, cross, factors = moment_blocks(design, curvature)
    top = jnp.concatenate([corner[:, None], cross], axis=1)[:, None, :]
    return jnp.concatenate([top, jnp.concatenate([cross[..., None], factors], axis=2)], axis=1)


def row_precision(batch: RowBatch) -> Float[Array, "r d d"]:
    """Posterior precision Lambda = A + sum w z z^T (+ gram), identity at fixed coordinates."""
    moments = second_moments(batch.design, batch.curvature)
    if batch.gram is not None:
        moments = moments + batch.gram[None]
    return mask_precision(moments, batch.precision, batch.free)


def mask_precision(
    moments: Float[Array, "r d d"], precision: Float[Array, "r d"], free: Float[Array, " d"]
) -> Float[Array, "r d d"]:
    """Add the diagonal prior and replace fixed coordinates by the identity."""
    diagonal = jnp.where(free[None] > 0, precision, 1.0)
    identity = jnp.eye(free.shape[0], dtype=moments.dtype)
    return moments * jnp.outer(free, free)[None] + diagonal[:, None, :] * identity[None]


def cholesky_step(
    precision: Float[Array, "r d d"],
    rhs: Float[Array, "r d"],
    noise: Float[Array, "r d"] | None = None,
) -> Float[Array, "r d"]:
    """Exact step Lambda^-1 rhs, with noise that to a draw. Cost O(r d^3)."""
    factor = _factorize(precision)
    half = lax.linalg.triangular_solve(factor, rhs[..., None], left_side=True, lower=True)
    half = half if noise is None else half + noise[..., None]
    step = lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)
    return step[..., 0]


def _factorize(precision: Float[Array, "r d d"]) -> Float[Array, "r d d"]:
    # LAPACK reads columns: those of the transpose lie where the rows of this matrix do.
    return lax.linalg.cholesky(jnp.swapaxes(precision, -1, -2), symmetrize_input=False)


def exact_step(batch: RowBatch) -> Float[Array, "r d"]:
    """Exact step Lambda^-1 rhs, the bias eliminated first: the rest has an even size.

    Cost O(r w k^2 + r k^3).

    Args:
        batch: The rows.

    Returns:
        The step.
    """
    return _solve(moment_blocks(batch.design, batch.curvature), batch, None)


def draw_step(
    batch: RowBatch, noise: Float[Array, "r d"]
) -> tuple[Float[Array, "r d"], Float[Array, "r d"]]:
    r"""The step to a draw from the conditional, :math:`\Lambda^{-1} rhs + \Lambda^{-1/2} \epsilon`.

    The factors come from their marginal, then the bias given them.

    Args:
        batch: The rows.
        noise: Standard normal numbers.

    Returns:
        The step, and its product with the observations' part of the precision, sum w z z^T, with
        which sums over the observations move along without another pass.
    """
    blocks = moment_blocks(batch.design, batch.curvature)
    step = _solve(blocks, batch, noise)
    bias, factors = step[:, 0], step[:, 1:]
    first = blocks.corner * bias + jnp.sum(blocks.cross * factors, axis=1)
    rest = blocks.cross * bias[:, None] + jnp.einsum("rkl,rl->rk", blocks.factors, factors)
    return step, jnp.concatenate([first[:, None], rest], axis=1)


def _solve(blocks: BiasFactorBlocks, batch: RowBatch, noise: Array | None) -> Array:
    corner, cross, factors = blocks
    if batch.gram is not None:
        corner, cross = corner + batch.gram[0, 0], cross + batch.gram[None, 0, 1:]
        factors = factors + batch.gram[None, 1:, 1:]
    free = batch.free[1:]
    prior = jnp.where(batch.free[None] > 0, batch.precision, 1.0)
    corner = batch.free[0] * corner + prior[:, 0]
    cross = batch.free[0] * free[None] * cross
    identity = jnp.eye(free.shape[0], dtype=factors.dtype)
    rest = factors * jnp.outer(free, free)[None] + prior[:, 1:, None] * identity[None]
    rest = rest - cross[:, :, None] * (cross / corner[:, None])[:, None, :]
    first = batch.rhs[:, :1] / corner[:, None]
    own = None if noise is None else noise[:, 1:] * free[None]
    step = cholesky_step(rest, batch.rhs[:, 1:] - first * cross, own)
    if noise is not None:
        first = first + batch.free[0] * noise[:, :1] / jnp.sqrt(corner)[:, None]
    bias = first - jnp.sum(cross * step, axis=1, keepdims=True) / corner[:, None]
    return jnp.concatenate([bias, step], axis=1)


def conjugate_gradients[Along](
    forward: Callable[[Array], tuple[Along, Array]],
    backward: Callable[[Array, Along], Array],
    rhs: Float[Array, "r d"],
    num_steps: int,
) -> tuple[Float[Array, "r d"], Along]:
    """A few conjugate-gradient steps towards Lambda^-1 rhs, from zero, for all rows at once.

    Every step lowers each row's quadratic, so a sweep of few steps never raises the objective.
    The last step needs only its length, so a product with Lambda comes in two halves.

    Args:
        forward: Maps directions p to (linear by-products of p, p^T Lambda p).
        backward: Maps directions p and their by-products to Lambda p.
        rhs: Right-hand sides.
        num_steps: Number of steps.

    Returns:
        The step and its by-products.

    References:
        Takacs, Pilaszy and Tikk (2011), Applications of the conjugate gradient method for
        implicit feedback collaborative filtering.
    """

    def advance(direction: Array, square: Array) -> tuple[Array, Along]:
        along, length = forward(direction)
        return _ratio(square, length[:, None]), along

    def body(_: int, state: tuple) -> tuple:
        step, change, residual, direction, along, alpha, square = state
        residual = residual - alpha * backward(direction, along)
        new_square = jnp.sum(jnp.square(residual), axis=-1, keepdims=True)
        direction = residual + _ratio(new_square, square) * direction
        alpha, along = advance(direction, new_square)
        change = jax.tree.map(lambda total, part: total + alpha * part, change, along)
        return step + alpha * direction, change, residual, direction, along, alpha, new_square

    square = jnp.sum(jnp.square(rhs), axis=-1, keepdims=True)
    alpha, along = advance(rhs, square)
    change = jax.tree.map(lambda part: alpha * part, along)
    state = (alpha * rhs, change, rhs, rhs, along, alpha, square)
    step, change, *_ = lax.fori_loop(1, num_steps, body, state)
    return step, change


def cg_step(batch: RowBatch, num_steps: int) -> tuple[Float[Array, "r d"], Float[Array, "r w"]]:
    """Conjugate-gradient steps without forming Lambda. Cost O(r w d) a step.

    Args:
        batch: The rows.
        num_steps: Number of steps.

    Returns:
        The step and its products with the designs.
    """

    def forward(direction: Array) -> tuple[Array, Array]:
        along = project(batch.design, direction)
        length = jnp.einsum("rw,rw->r", batch.curvature * along, along)
        length = length + jnp.sum(batch.precision * jnp.square(direction), axis=1)
        if batch.gram is not None:
            length = length + jnp.sum(direction * (direction @ batch.gram), axis=1)
        return along, length

    def backward(direction: Array, along: Array) -> Array:
        curved = collect(batch.design, batch.curvature * along) + batch.precision * direction
        if batch.gram is not None:
            curved = curved + direction @ batch.gram
        return curved * batch.free[None]

    return conjugate_gradients(forward, backward, batch.rhs, num_steps)


def cg_step_dense(
    precision: Float[Array, "r d d"], rhs: Float[Array, "r d"], num_steps: int
) -> Float[Array, "r d"]:
    """The same steps as `cg_step` from the rows' precision matrices (for rows in pieces)."""

    def forward(direction: Array) -> tuple[Array, Array]:
        curved = jnp.einsum("rde,re->rd", precision, direction)
        return curved, jnp.sum(direction * curved, axis=1)

    return conjugate_gradients(forward, lambda _, curved: curved, rhs, num_steps)[0]


def coordinate_step(
    batch: RowBatch,
) -> tuple[Float[Array, "r d"], Float[Array, "r w"]]:
    """One pass of exact minimization over each coordinate in turn, the residual kept in step.

    Cost O(r w d) for all coordinates together.

    Args:
        batch: The rows.

    Returns:
        The step and its products with the designs.

    References:
        Pilaszy, Zibriczky and Tikk (2010), Fast ALS-based matrix factorization.
    """
    # Coordinates first, so that each pass reads contiguous memory; the bias has design one.
    ones = jnp.ones((1, *batch.curvature.shape), batch.design.dtype)
    columns = jnp.concatenate([ones, jnp.moveaxis(batch.design, -1, 0)])

    def body(j: int, state: tuple) -> tuple:
        step, change = state
        column = columns[j]
        slope = batch.rhs[:, j] - jnp.sum(batch.curvature * column * change, axis=-1)
        slope = slope - batch.precision[:, j] * step[:, j]
        curvature = jnp.sum(batch.curvature * jnp.square(column), axis=-1) + batch.precision[:, j]
        if batch.gram is not None:
            slope = slope - step @ batch.gram[:, j]
            curvature = curvature + batch.gram[j, j]
        move = batch.free[j] * slope / curvature
        return step.at[:, j].add(move), change + move[:, None] * column

    start = (jnp.zeros_like(batch.rhs), jnp.zeros_like(batch.curvature))
    return lax.fori_loop(0, batch.rhs.shape[1], body, start)


def coordinate_step_dense(
    precision: Float[Array, "r d d"], rhs: Float[Array, "r d"]
) -> Float[Array, "r d"]:
    """The same pass as `coordinate_step` from a row's precision matrix (for rows in pieces)."""

    def body(j: int, step: Array) -> Array:
        slope = rhs[:, j] - jnp.einsum("rd,rd->r", precision[:, j], step)
        return step.at[:, j].add(slope / precision[:, j, j])

    return lax.fori_loop(0, rhs.shape[1], body, jnp.zeros_like(rhs))


def covariance(precision: Float[Array, "r d d"], free: Float[Array, " d"]) -> Float[Array, "r d d"]:
    """Posterior covariance Lambda^-1 of each row, zero at fixed coordinates."""
    factor = _factorize(precision)
    identity = jnp.eye(free.shape[0], dtype=precision.dtype)[None]
    identity = jnp.broadcast_to(identity, precision.shape)
    inverse = jax.scipy.linalg.cho_solve((factor, True), identity)
    return inverse * jnp.outer(free, free)[None]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The ratio, 0 where the denominator is not positive (a row that is already solved)."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), 0.0)

r"""The evidence of one side's rows and its derivatives by Fisher's identity.

Row m has ratings :math:`r_{mn} = c_n + x_n \cdot u_m + e`, with :math:`x_n = (1, v_n)`,
:math:`u_m = L \xi_m`, L diagonal and :math:`\xi_m` standard Normal. Whitened, its precision is
:math:`A = I + L (\sum x x^T) L / \sigma^2`, which bears scales as small as zero. The derivative of
the evidence is the posterior mean of the complete log likelihood's, so nothing is differentiated
through a factorization.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.linalg import logdet_and_inverse
from probmf.inference.marginal_rows.tiles import TileLayout, sum_lines

#: Systems up to this size are inverted by elimination, one loop over all rows at each step.
ELIMINATED = 16


class Inputs(NamedTuple):
    """Arguments of the evidence; a pytree.

    Attributes:
        level: Offsets of the other side's rows: intercept plus bias.
        factors: The other side's factors, or None.
        bias_scale: Prior scale of the rows' bias, one or one for each row; None when rows have
            none.
        factor_scale: Likewise of their factors, or None.
        noise_scale: Noise scale of a rating of weight one.
    """

    level: Float[Array, " other"]
    factors: Float[Array, "other k"] | None
    bias_scale: Float[Array, "*rows"] | None
    factor_scale: Float[Array, "*rows"] | None
    noise_scale: Float[Array, ""]

    def by_row(self, num_rows: int) -> "Inputs":
        """The same with a scale for each row."""
        scales = self.bias_scale, self.factor_scale
        bias, factor = jax.tree.map(lambda scale: jnp.broadcast_to(scale, (num_rows,)), scales)
        return self._replace(bias_scale=bias, factor_scale=factor)


class SolvedRows(NamedTuple):
    """Rows' conditionals given the rest, rows last; one more row, which is empty.

    Attributes:
        scale: Prior scales L, (d, rows).
        gram: Sums of (x, t)(x, t)^T, (d + 1, d + 1, rows).
        inverse: Inverse of A, (d, d, rows).
        logdet: Its log determinant, (rows,).
        white: Mean of the whitened effects, (d, rows).
    """

    scale: Array
    gram: Array
    inverse: Array
    logdet: Array
    white: Array

    @property
    def mean(self) -> Array:
        """Means of the effects, (d, rows)."""
        return self.scale * self.white


@jax.custom_vjp
def rows_evidence(layout: TileLayout, inputs: Inputs) -> Float[Array, ""]:
    """Log density of the ratings with one side's rows integrated out.

    Args:
        layout: The ratings.
        inputs: Everything else, with a scale for each row.

    Returns:
        The log density, with its normalizing constants.
    """
    block = gather(layout, inputs)
    solved = solve(layout, inputs, block)
    mean = jnp.take(solved.mean.T, layout.row, axis=0)
    fit = jnp.einsum("twi,ti->tw", block[..., :-1], mean)
    return _value(layout, inputs, solved, jnp.sum(jnp.square(block[..., -1] - fit)))


def gather(layout: TileLayout, inputs: Inputs) -> Float[Array, "tiles slots d1"]:
    """Designs and targets (x, t) of the ratings, times the roots of their weights."""
    level = inputs.level[:, None]
    columns = [-level] if inputs.factors is None else [inputs.factors, -level]
    if inputs.bias_scale is not None:
        columns = [jnp.ones_like(level), *columns]
    table = jnp.concatenate(columns, axis=1)
    table = jnp.concatenate([table, jnp.zeros_like(table[:1])])
    block = table.at[layout.partner].get(mode="promise_in_bounds")
    block = lax.optimization_barrier(block)
    last = jnp.zeros((1, 1, table.shape[1]), table.dtype).at[..., -1].set(1.0)
    block = block + layout.rating[..., None] * last
    block = block if layout.root is None else block * layout.root[..., None]
    return lax.optimization_barrier(block)


def solve(layout: TileLayout, inputs: Inputs, block: Array) -> SolvedRows:
    """Conditionals of the rows from their designs and targets."""
    tiles, _, size = block.shape
    flat = jnp.einsum("twi,twj->tij", block, block).reshape(tiles, size * size)
    # Barriers keep gathers from being fused with transpositions, which makes them strided.
    gram = lax.optimization_barrier(sum_lines(flat, layout.by_row))
    gram = lax.optimization_barrier(gram.T).reshape(size, size, -1)
    scale = _scales(inputs)
    precision = 1.0 / jnp.square(inputs.noise_scale)
    system = scale[:, None] * gram[:-1, :-1] * scale[None] * precision
    system = system + jnp.eye(size - 1, dtype=system.dtype)[:, :, None]
    inverse, logdet = invert(system)
    half = (scale * gram[:-1, -1] * precision)[None]
    return SolvedRows(scale, gram, inverse, logdet, jnp.sum(inverse * half, axis=1))


def invert(system: Float[Array, "d d rows"]) -> tuple[Float[Array, "d d rows"], Array]:
    """Inverses and log determinants; every pivot is at least one, so none is searched for."""
    size = len(system)
    if size > ELIMINATED:
        logdet, inverse = logdet_and_inverse(jnp.moveaxis(system, -1, 0))
        return jnp.moveaxis(inverse, 0, -1), logdet
    logdet = jnp.zeros_like(system[0, 0])
    for step in range(size):
        pivot = system[step, step]
        logdet = logdet + jnp.log(pivot)
        row, column = system[step] / pivot[None], system[:, step]
        system = system - column[:, None] * row[None]
        system = system.at[step].set(row).at[:, step].set(-column / pivot[None])
        system = system.at[step, step].set(1.0 / pivot)
    return system, logdet


def _scales(inputs: Inputs) -> Float[Array, "d rows"]:
    parts = []
    if inputs.bias_scale is not None:
        parts.append(inputs.bias_scale[None])
    if inputs.factors is not None and inputs.factor_scale is not None:
        rows = inputs.factor_scale.shape[0]
        parts.append(jnp.broadcast_to(inputs.factor_scale[None], (inputs.factors.shape[1], rows)))
    scale = jnp.concatenate(parts)
    return jnp.concatenate([scale, jnp.ones_like(scale[:, :1])], axis=1)


def _value(layout: TileLayout, inputs: Inputs, solved: SolvedRows, squares: Array) -> Array:
    variance = jnp.square(inputs.noise_scale)
    constant = layout.num_ratings * jnp.log(2 * jnp.pi * variance) - layout.log_weight
    deviance = jnp.sum(solved.logdet) + squares / variance + jnp.sum(jnp.square(solved.white))
    return -0.5 * (constant + deviance)


def value_and_gradient(layout: TileLayout, inputs: Inputs) -> tuple[Array, Inputs]:
    """The evidence and its whole gradient: one pass more over the ratings."""
    block = gather(layout, inputs)
    solved = solve(layout, inputs, block)
    precision = 1.0 / jnp.square(inputs.noise_scale)
    first = 0 if inputs.bias_scale is None else 1
    mean, covariance = solved.mean, solved.scale[:, None] * solved.inverse * solved.scale[None]
    residual, given = _by_rating(layout, block, mean, covariance, first)
    value = _value(layout, inputs, solved, jnp.sum(jnp.square(residual)))

    num_other = len(inputs.level)
    totals = sum_lines(given.reshape(-1, given.shape[-1]), layout.by_partner)[:num_other]
    totals = totals * precision
    gram = solved.gram[:-1, :-1]
    score = solved.gram[:-1, -1] - jnp.sum(gram * mean[None], axis=1)
    spread = jnp.sum(gram * solved.scale[None] * solved.inverse, axis=1)
    scale = (precision * (score * solved.white - spread))[:, :-1]
    lost = jnp.sum(jnp.square(residual)) + jnp.sum(covariance * gram)
    gradient = Inputs(
        level=totals[:, -1],
        factors=None if inputs.factors is None else totals[:, :-1],
        bias_scale=None if inputs.bias_scale is None else scale[0],
        factor_scale=None if inputs.factor_scale is None else jnp.sum(scale[first:], axis=0),
        noise_scale=(lost * precision - layout.num_ratings) / inputs.noise_scale,
    )
    return value, gradient


def _by_rating(
    layout: TileLayout, block: Array, mean: Array, covariance: Array, first: int
) -> tuple[Array, Array]:
    r"""Residuals e at the mean, and :math:`(e\, E u - \mathrm{Cov}(u)\, x, e)` of each rating.

    Both times the root of the weight; the second once more. Only the factors' part of u is there:
    a bias has no partner that could be moved.
    """
    corner = jnp.zeros((1, mean.shape[0] - first + 1, mean.shape[1]), mean.dtype)
    corner = corner.at[0, -1].set(1.0)
    top = jnp.concatenate([-covariance[:, first:], -mean[:, None]], axis=1)
    matrix = lax.optimization_barrier(jnp.concatenate([top, corner]))
    matrix = lax.optimization_barrier(jnp.moveaxis(matrix, -1, 0))
    matrix = lax.optimization_barrier(matrix.at[layout.row].get(mode="promise_in_bounds"))
    found = lax.optimization_barrier(jnp.einsum("twi,tij->twj", block, matrix))
    residual = found[..., -1]
    direction = jnp.concatenate([mean[first:], jnp.zeros_like(mean[:1])]).T
    direction = direction.at[layout.row].get(mode="promise_in_bounds")
    given = found + residual[..., None] * direction[:, None, :]
    given = given if layout.root is None else given * layout.root[..., None]
    return residual, lax.optimization_barrier(given)


def _backward(gradient: Inputs, cotangent: Array) -> tuple[None, Inputs]:
    return None, jax.tree.map(lambda part: cotangent * part, gradient)


rows_evidence.defvjp(value_and_gradient, _backward)


def draw(
    layout: TileLayout, inputs: Inputs, noise: Float[Array, "rows d"]
) -> Float[Array, "rows d"]:
    """Draw the rows from their exact conditional; those without ratings from their prior.

    Args:
        layout: The ratings.
        inputs: Everything else, with a scale for each row.
        noise: Standard Normal draws.

    Returns:
        Bias and factors of each row.
    """
    solved = solve(layout, inputs, gather(layout, inputs))
    factor = jnp.linalg.cholesky(jnp.moveaxis(solved.inverse[..., :-1], -1, 0))
    white = solved.white.T[:-1] + jnp.einsum("mab,mb->ma", factor, noise)
    return solved.scale.T[:-1] * white

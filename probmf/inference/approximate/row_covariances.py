r"""Variational updates under which each row (bias, factors) has a full covariance.

With q(x) = Normal(m, S) for every row x, and independent rows, a row whose partners have the
designs z = (1, v), biases c and covariances :math:`S_n` of (c, v) has, exactly,

.. math:: \Lambda = A + \sum w (m_z m_z^\top + S^{vv}_n), \quad
    m = \Lambda^{-1} \sum w (m_z (t - m_c) - S^{vc}_n), \quad S = \Lambda^{-1} .
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from probmf.rows import conditionals
from probmf.rows.blocks import Bucket, RowBlocks
from probmf.rows.placement import RowShards
from probmf.rows.store import Side
from probmf.rows.sweep import by_row
from probmf.rows.values import RowSums, RowValues

#: Numbers of partners' covariances that are gathered at once.
GATHERED = 1 << 19


class BlockSums(NamedTuple):
    """Weighted sums over the ratings of each row.

    Attributes:
        moments: Of (1, v) (1, v)' at the partners' means.
        partners: Of the partners' covariances of (c, v).
        linear: Of (1, v) times what the rest leaves of the rating, at the means.
    """

    moments: Float[Array, "rows d d"]
    partners: Float[Array, "rows d d"]
    linear: Float[Array, "rows d"]


class BlockRows(NamedTuple):
    """A side's rows after an update.

    Attributes:
        mean: Means.
        variance: Diagonals of the covariances.
        covariance: Covariances.
        volume: Half the log determinant of each, less that of its diagonal.
    """

    mean: RowValues
    variance: RowValues
    covariance: Float[Array, "rows d d"]
    volume: Float[Array, " rows"]


def sum_blocks(
    layout: RowBlocks | RowShards,
    side: Side,
    mean: RowValues,
    covariance: Float[Array, "partners d d"],
    intercept: Array,
    pool: ThreadPoolExecutor,
) -> BlockSums:
    """The sums over the ratings of each row of a side, given the other. Cost O(n d^2)."""
    given = {"mean": mean, "covariance": covariance, "intercept": intercept}
    return by_row(_bucket_sums, layout, side, pool, **given)


def _piece(lines: int, width: int, size: int) -> int:
    """Part of a chunk's width that is gathered at once: a divisor of it."""
    most = max(1, GATHERED // (lines * size * size))
    return max(part for part in range(1, width + 1) if width % part == 0 and part <= most)


def over_chunks(bucket: Bucket, start: int, count: int, capacity: int, one: Any) -> Any:
    """Results of a function for each chunk of a span, zeros beyond it, lines joined.

    `one` is a function of a chunk, a pytree of arrays with one entry for each line; `capacity` is
    the most chunks of any span.
    """
    chunk = jax.tree.map(lambda x: x[0], bucket)
    shapes = jax.eval_shape(one, chunk)
    empty = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)

    def body(i: int, out: Any) -> Any:
        chunk = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, start + i, 0, False), bucket)
        return jax.tree.map(
            lambda whole, x: lax.dynamic_update_index_in_dim(whole, x, i, 0), out, one(chunk)
        )

    out = lax.fori_loop(0, count, body, empty)
    return jax.tree.map(lambda x: x.reshape((x.shape[0] * x.shape[1], *x.shape[2:])), out)


@partial(jax.jit, static_argnames="capacity")
def _bucket_sums(
    bucket: Bucket,
    start: int,
    count: int,
    *,
    mean: RowValues,
    covariance: Array,
    intercept: Array,
    capacity: int,
) -> BlockSums:
    lines, width = bucket.partner.shape[1:]
    size = covariance.shape[1]
    step = _piece(lines, width, size)

    def one(chunk: Bucket) -> BlockSums:
        weights = chunk.weights(covariance.dtype)

        def add(index: int, total: BlockSums) -> BlockSums:
            def cut(a: Array) -> Array:
                return lax.dynamic_slice_in_dim(a, index * step, step, axis=1)

            partner, weight = cut(chunk.partner), cut(weights)
            design = mean.factors[partner]
            rest = cut(chunk.rating) - intercept - mean.bias[partner]
            blocks = covariance[partner].reshape(lines, step, size * size)
            here = BlockSums(
                conditionals.second_moments(design, weight),
                jnp.einsum("rw,rwx->rx", weight, blocks).reshape(lines, size, size),
                conditionals.collect(design, weight * rest),
            )
            return jax.tree.map(jnp.add, total, here)

        square = jnp.zeros((lines, size, size), covariance.dtype)
        empty = BlockSums(square, square, jnp.zeros((lines, size), covariance.dtype))
        return lax.fori_loop(0, width // step, add, empty)

    return over_chunks(bucket, start, count, capacity, one)


@jax.jit
def update_rows(
    mean: RowValues,
    sums: BlockSums,
    prior: Float[Array, "rows d"],
    free: Float[Array, " d"],
    noise_scale: Float[Array, ""],
) -> BlockRows:
    """The best Normal of every row of a side, given the others. Cost O(rows d^3)."""
    beta = 1.0 / jnp.square(noise_scale)
    moments, partners, linear = sums
    data = beta * (moments + _factors_only(partners))
    precision = conditionals.mask_precision(data, prior, free)
    covariance = conditionals.covariance(precision, free)
    x = mean.at(slice(None))
    # The step from the present mean: near the solution it is small, and loses nothing.
    slope = beta * (linear - partners[:, :, 0].at[:, 0].set(0.0)) * free[None]
    slope = slope - jnp.einsum("rde,re->rd", precision, x)
    x = x + jnp.einsum("rde,re->rd", covariance, slope) * free[None]
    variance = jnp.diagonal(covariance, axis1=1, axis2=2)
    spread = jnp.sum(jnp.log(jnp.where(free[None] > 0, variance, 1.0)), axis=1)
    factor = lax.linalg.cholesky(precision, symmetrize_input=False)
    half = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), axis=1)
    return BlockRows(
        RowValues(x[:, 0], x[:, 1:]),
        RowValues(variance[:, 0], variance[:, 1:]),
        covariance,
        -half - 0.5 * spread,
    )


def _factors_only(blocks: Array) -> Array:
    """Matrices with the row and the column of the bias set to zero."""
    return blocks.at[:, 0, :].set(0.0).at[:, :, 0].set(0.0)


@jax.jit
def row_spread(
    mean: RowValues, covariance: Float[Array, "rows d d"], sums: BlockSums
) -> Float[Array, " rows"]:
    """Weighted sum of the scores' variances over the ratings of each row."""
    one = jnp.concatenate([jnp.ones_like(mean.bias)[:, None], mean.factors], axis=1)
    second = sums.moments + _factors_only(sums.partners)
    return jnp.einsum("rd,rde,re->r", one, sums.partners, one) + jnp.einsum(
        "rde,rde->r", covariance, second
    )


def residual_sums(
    layout: RowBlocks | RowShards,
    side: Side,
    own: RowValues,
    other: RowValues,
    intercept: Array,
    noise_scale: Array,
    pool: ThreadPoolExecutor,
) -> RowSums:
    """Loss of the means, its slope and curvature, summed over each row. Cost O(n d)."""
    given = {"own": own, "other": other, "intercept": intercept, "noise_scale": noise_scale}
    return by_row(_bucket_residuals, layout, side, pool, **given)


@partial(jax.jit, static_argnames="capacity")
def _bucket_residuals(
    bucket: Bucket,
    start: int,
    count: int,
    *,
    own: RowValues,
    other: RowValues,
    intercept: Array,
    noise_scale: Array,
    capacity: int,
) -> RowSums:
    def one(chunk: Bucket) -> RowSums:
        x = own.at(chunk.row)
        weight = chunk.weights(x.dtype) / jnp.square(noise_scale)
        score = intercept + other.bias[chunk.partner]
        score = score + conditionals.project(other.factors[chunk.partner], x)
        rest = chunk.rating - score
        loss = 0.5 * jnp.sum(weight * jnp.square(rest), axis=1)
        return RowSums(loss, jnp.sum(weight * rest, axis=1), jnp.sum(weight, axis=1))

    return over_chunks(bucket, start, count, capacity, one)


def pair_spread(
    x: Float[Array, "r d"],
    own: Float[Array, "r d d"],
    chunk: Bucket,
    mean: RowValues,
    covariance: Float[Array, "partners d d"],
) -> Float[Array, "r w"]:
    """Variance of the score of every slot of a chunk, given the other side. Cost O(r w d^2)."""
    lines, width = chunk.partner.shape
    step = _piece(lines, width, own.shape[1])
    one = jnp.concatenate([jnp.ones_like(x[:, :1]), x[:, 1:]], axis=1)

    def piece(partner: Array) -> Array:
        z = jnp.concatenate([jnp.ones((*partner.shape, 1), x.dtype), mean.factors[partner]], axis=2)
        blocks = covariance[partner]
        spread = jnp.einsum("rd,rwde,re->rw", one, blocks, one)
        spread = spread + jnp.einsum("rwd,rde,rwe->rw", z, own, z)
        return spread + jnp.einsum("rde,rwde->rw", own[:, 1:, 1:], blocks[:, :, 1:, 1:])

    pieces = jnp.moveaxis(chunk.partner.reshape(lines, width // step, step), 1, 0)
    return jnp.moveaxis(lax.map(piece, pieces), 0, 1).reshape(lines, width)

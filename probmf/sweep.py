"""Half-sweeps: every row of one side, solved given the other side.

The parameters of both sides lie in one table (see `probmf.models.table`); a row's score with a
partner is intercept + row . partner. One program per bucket width serves both sides and every
worker; on a CPU each worker is a thread that runs its share of the chunks.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from probmf import gaussian
from probmf.rows import MAX_WIDTH, Bucket, RowLayout, Side, Span

Method = Literal["cg", "cholesky", "coordinate"]


class SupportsBound(Protocol):
    """What a half-sweep asks of a likelihood."""

    def loss(self, scores: Array, rating: Array, scales: Mapping[str, Array], /) -> Array:
        """Minus log likelihood up to a constant."""

    def bound(self, scores: Array, rating: Array, scales: Mapping[str, Array], /) -> tuple:
        """Curvature and minus slope of a quadratic above the loss."""


class Prior(NamedTuple):
    """What the rows of one side are solved under, besides their ratings; a pytree.

    Attributes:
        intercept: Added to every score.
        scales: The likelihood's own parameters.
        precision: Diagonal prior precision of every table row.
        free: 1 for the side's own coordinates, 0 for those fixed at one.
        gram: Second moment of the other side times the weight of unobserved pairs, or None.
        gram_sum: The other side's sum times that weight, or None.
    """

    intercept: Float[Array, ""]
    scales: Mapping[str, Array]
    precision: Float[Array, "table d"]
    free: Float[Array, " d"]
    gram: Float[Array, "d d"] | None
    gram_sum: Float[Array, " d"] | None


class RowResult(NamedTuple):
    """Rows after a half-sweep, with sums over their ratings at the new scores.

    Attributes:
        value: New rows.
        loss: Sums of the loss.
        slope: Sums of minus its derivative with respect to the score.
        curvature: Sums of the curvature of its bound.
    """

    value: Float[Array, "rows d"]
    loss: Float[Array, " rows"]
    slope: Float[Array, " rows"]
    curvature: Float[Array, " rows"]


def half_sweep(
    layout: RowLayout,
    side: Side,
    table: Float[Array, "table d"],
    prior: Prior,
    *,
    likelihood: SupportsBound,
    method: Method,
    cg_steps: int,
    pool: ThreadPoolExecutor,
) -> tuple[Float[Array, "table d"], RowResult]:
    """Solve every row of one side.

    Args:
        layout: The ratings.
        side: Whose rows to solve.
        table: Parameters of both sides.
        prior: The side's prior.
        likelihood: Static and hashable; its scales are in `prior`.
        method: "cg", "cholesky" or "coordinate".
        cg_steps: Steps of "cg".
        pool: One thread per worker of the layout.

    Returns:
        The table with the side's rows replaced, and each table row's result (zeros for rows
        of the other side).
    """
    run = partial(
        _solve_bucket, table=table, prior=prior, likelihood=likelihood, method=method,
        cg_steps=cg_steps,
    )  # fmt: skip

    def work(worker: int) -> list[RowResult]:
        spans = layout.spans[side][worker]
        # Each worker starts at another bucket, so that on the first call they compile
        # different programs at the same time.
        shift = worker * len(spans) // len(layout.spans[side])
        results: list[Any] = [None] * len(spans)
        for span in spans[shift:] + spans[:shift]:
            results[span.bucket] = _run_span(run, layout, span)
        return jax.block_until_ready(results)

    parts = list(pool.map(work, range(len(layout.spans[side]))))
    outputs = [result for part in parts for result in part]
    return _assemble(table, outputs, layout.source[side])


def _run_span(run: Any, layout: RowLayout, span: Span) -> RowResult:
    return run(
        layout.buckets[span.bucket], span.start, span.count, capacity=layout.capacity[span.bucket]
    )


@jax.jit
def _assemble(
    table: Array, outputs: list[RowResult], source: Int[Array, " table"]
) -> tuple[Array, RowResult]:
    own = source >= 0
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts)[source], *outputs)
    joined = jax.tree.map(lambda x: jnp.where(own.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0), joined)
    return jnp.where(own[:, None], joined.value, table), joined


@partial(jax.jit, static_argnames=("likelihood", "method", "cg_steps", "capacity"))
def _solve_bucket(
    bucket: Bucket,
    start: int,
    count: int,
    *,
    table: Array,
    prior: Prior,
    likelihood: SupportsBound,
    method: Method,
    cg_steps: int,
    capacity: int,
) -> RowResult:
    """Chunks `start..start+count-1` of a bucket; results of further chunks are zero."""
    lines, width = bucket.partner.shape[1:]
    solve = _solve_chunk if width <= MAX_WIDTH else _solve_long_rows
    empty = jnp.zeros((capacity, lines), table.dtype)
    start_out = RowResult(jnp.zeros((capacity, lines, table.shape[1]), table.dtype), *[empty] * 3)

    def body(i: int, out: RowResult) -> RowResult:
        chunk = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, start + i, 0, False), bucket)
        result = solve(chunk, table, prior, likelihood, method, cg_steps)
        return jax.tree.map(
            lambda whole, x: lax.dynamic_update_index_in_dim(whole, x, i, 0), out, result
        )

    out = lax.fori_loop(0, count, body, start_out)
    return jax.tree.map(lambda x: x.reshape((capacity * lines,) + x.shape[2:]), out)


def _solve_chunk(
    chunk: Bucket,
    table: Array,
    prior: Prior,
    likelihood: SupportsBound,
    method: Method,
    cg_steps: int,
) -> RowResult:
    design, x = table[chunk.partner], table[chunk.row]
    scores = prior.intercept + gaussian.project(design, x)
    curvature, slope = _bound(likelihood, chunk, scores, prior)
    batch = gaussian.RowBatch(
        design=design,
        curvature=curvature,
        rhs=_gradient(gaussian.collect(design, slope), x, chunk.row, prior),
        precision=prior.precision[chunk.row],
        free=prior.free,
        gram=prior.gram,
    )
    if method == "cg":
        step, change = gaussian.cg_step(batch, cg_steps)
    elif method == "coordinate":
        step, change = gaussian.coordinate_step(batch)
    else:
        step = gaussian.cholesky_step(gaussian.row_precision(batch), batch.rhs)
        change = gaussian.project(design, step)
    sums = _row_sums(likelihood, chunk, scores + change, prior, table.shape[0] - 1)
    return RowResult(x + step, *sums)


def _solve_long_rows(
    chunk: Bucket,
    table: Array,
    prior: Prior,
    likelihood: SupportsBound,
    method: Method,
    cg_steps: int,
) -> RowResult:
    """Rows longer than MAX_WIDTH: their moments are summed over the pieces that are not empty."""
    zero_row = table.shape[0] - 1
    x = table[chunk.row]
    filled = jnp.max(jnp.sum(chunk.partner != zero_row, axis=1))
    pieces = (filled + MAX_WIDTH - 1) // MAX_WIDTH

    def piece_at(index: int) -> Bucket:
        def cut(a: Array) -> Array:
            return lax.dynamic_slice_in_dim(a, index * MAX_WIDTH, MAX_WIDTH, axis=1)

        weight = None if chunk.weight is None else cut(chunk.weight)
        return Bucket(chunk.row, cut(chunk.partner), cut(chunk.rating), weight)

    def moments(index: int, total: tuple[Array, Array]) -> tuple[Array, Array]:
        piece = piece_at(index)
        design = table[piece.partner]
        scores = prior.intercept + gaussian.project(design, x)
        curvature, slope = _bound(likelihood, piece, scores, prior)
        weighted = design * curvature[..., None]
        second = jnp.einsum("rwd,rwe->rde", weighted, design)
        return total[0] + second, total[1] + gaussian.collect(design, slope)

    size = table.shape[1]
    second = jnp.zeros((*x.shape, size), table.dtype)
    second = second if prior.gram is None else second + prior.gram
    second, first = lax.fori_loop(0, pieces, moments, (second, jnp.zeros_like(x)))
    rhs = _gradient(first, x, chunk.row, prior)
    precision = gaussian.mask_precision(second, prior.precision[chunk.row], prior.free)
    if method == "cg":
        step = gaussian.cg_step_dense(precision, rhs, cg_steps)
    elif method == "coordinate":
        step = gaussian.coordinate_step_dense(precision, rhs)
    else:
        step = gaussian.cholesky_step(precision, rhs)
    x = x + step

    def sums(index: int, total: tuple) -> tuple:
        piece = piece_at(index)
        scores = prior.intercept + gaussian.project(table[piece.partner], x)
        parts = _row_sums(likelihood, piece, scores, prior, zero_row)
        return jax.tree.map(jnp.add, total, parts)

    empty = jnp.zeros(x.shape[0], table.dtype)
    return RowResult(x, *lax.fori_loop(0, pieces, sums, (empty, empty, empty)))


def _bound(
    likelihood: SupportsBound, chunk: Bucket, scores: Array, prior: Prior
) -> tuple[Array, Array]:
    curvature, slope = likelihood.bound(scores, chunk.rating, prior.scales)
    if chunk.weight is None:
        return curvature, slope
    return curvature * chunk.weight, slope * chunk.weight


def _gradient(from_ratings: Array, x: Array, row: Array, prior: Prior) -> Array:
    gradient = from_ratings - prior.precision[row] * x
    if prior.gram is not None:
        gradient = gradient - x @ prior.gram - prior.intercept * prior.gram_sum
    return gradient * prior.free


def _row_sums(
    likelihood: SupportsBound, chunk: Bucket, scores: Array, prior: Prior, zero_row: int
) -> tuple[Array, Array, Array]:
    """Loss, slope and curvature summed over each row's filled slots."""
    curvature, slope = likelihood.bound(scores, chunk.rating, prior.scales)
    loss = likelihood.loss(scores, chunk.rating, prior.scales)
    weight = (chunk.partner != zero_row).astype(scores.dtype)
    if chunk.weight is not None:
        weight = weight * chunk.weight
    return tuple(jnp.sum(weight * x, axis=1) for x in (loss, slope, curvature))

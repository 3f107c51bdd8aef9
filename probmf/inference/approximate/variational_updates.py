r"""Steps of a variational sweep: moments over a row's ratings, row distributions, scales, bound.

All numbers are independent under q, each Normal(m, v). A row x (bias, factors) whose ratings have
designs z with independent entries of moments (m_z, v_z) then has, exactly,

.. math:: \Lambda = A + \sum w (m_z m_z^\top + \mathrm{diag}\, v_z), \quad
    m = \Lambda^{-1} \sum w m_z t, \quad v_j = 1 / \Lambda_{jj} .

Since :math:`\sum w v_z` is diagonal it counts as prior precision, and the half-sweeps of
alternating least squares find m.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.inference.approximate.row_covariances import over_chunks, pair_spread
from probmf.inference.gibbs.plan import Plan, RowPrior, by_column
from probmf.likelihoods import Likelihood
from probmf.rows.blocks import Bucket, RowBlocks
from probmf.rows.placement import RowShards, map_chunks
from probmf.rows.store import OTHER, SIDES, Side
from probmf.rows.sweep import by_row
from probmf.rows.values import Rows, RowSums, RowValues

#: Learned scales don't fall below this share of where they started: their squares' inverses have
#: to be numbers.
FLOOR = 1e-5


class VariationalState(NamedTuple):
    """State of a fit; a pytree.

    Attributes:
        mean: Means of the rows of each side.
        variance: Their variances, zero in what is not estimated.
        intercept: The intercept.
        scales: Scales of the likelihood and the rows, fixed or learned.
        covariance: Covariances of the rows; None when all numbers are independent.
        volume: Half the log determinant of each, less that of its diagonal; or None.
    """

    mean: Rows
    variance: Rows
    intercept: Float[Array, ""]
    scales: dict[str, Array]
    covariance: dict[Side, Float[Array, "rows d d"]] | None = None
    volume: dict[Side, Float[Array, " rows"]] | None = None


class PosteriorMoments(NamedTuple):
    """Of the rows of a side, or weighted sums of the partners' over each row's ratings.

    Attributes:
        weight: Ones, or sums of the weights.
        bias: Variances of biases.
        square: Squared means of factors.
        variance: Variances of factors.
    """

    weight: Float[Array, " rows"]
    bias: Float[Array, " rows"]
    square: Float[Array, "rows k"]
    variance: Float[Array, "rows k"]


class VariationalConstants(NamedTuple):
    """Constants of a fit; a pytree.

    Attributes:
        intercept: Mean and precision of a learned intercept's prior.
        num_ratings: Number of ratings of positive weight.
        bounds: The least and the largest value of every learned scale.
    """

    intercept: tuple[Float[Array, ""], Float[Array, ""]]
    num_ratings: Float[Array, ""]
    bounds: Mapping[str, tuple[Array, Array]]


class BoundParts(NamedTuple):
    """Of the evidence's lower bound, up to what does not change.

    Attributes:
        loss: Expected loss of the ratings.
        rows: What each row's prior and entropy add.
        intercept: What its prior adds.
    """

    loss: Float[Array, ""]
    rows: dict[Side, Float[Array, " rows"]]
    intercept: Float[Array, ""]


def sum_partners(
    layout: RowBlocks | RowShards,
    side: Side,
    mean: RowValues,
    variance: RowValues,
    pool: ThreadPoolExecutor,
) -> PosteriorMoments:
    """Weighted sums of the partners' moments over the ratings of each row of a side.

    Cost O(n k).
    """
    return by_row(_bucket_sums, layout, side, pool, columns=_columns(mean, variance))


@jax.jit
def _columns(mean: RowValues, variance: RowValues) -> PosteriorMoments:
    ones = jnp.ones_like(mean.bias)
    return PosteriorMoments(ones, variance.bias, jnp.square(mean.factors), variance.factors)


@partial(jax.jit, static_argnames="capacity")
def _bucket_sums(
    bucket: Bucket, start: int, count: int, *, columns: PosteriorMoments, capacity: int
) -> PosteriorMoments:
    def one(chunk: Bucket) -> PosteriorMoments:
        def add(column: Array) -> Array:
            weight = chunk.weights(column.dtype)
            return jnp.einsum("rw,rw...->r...", weight, column[chunk.partner])

        return jax.tree.map(add, columns)

    return over_chunks(bucket, start, count, capacity, one)


@partial(jax.jit, static_argnames="plan")
def prior_precision(plan: Plan, state: VariationalState) -> dict[Side, Float[Array, "rows d"]]:
    """Diagonal prior precision of every row's (bias, factors); 1 where nothing is estimated."""
    precision = {
        side: jnp.ones((rows.factors.shape[0], 1 + rows.factors.shape[1]), rows.factors.dtype)
        for side, rows in state.mean.items()
    }
    for site in plan.sites:
        inverse, own = 1.0 / jnp.square(state.scales[site.scale]), slice(0, 1)
        if not site.is_bias:
            own = slice(1, 1 + plan.num_factors)
        columns = inverse.reshape(-1, 1) if inverse.ndim < 2 else inverse
        precision[site.side] = precision[site.side].at[:, own].set(columns)
    return precision


@jax.jit
def with_partners(
    precision: Float[Array, "rows d"], sums: PosteriorMoments, noise_scale: Float[Array, ""]
) -> Float[Array, "rows d"]:
    """The prior precision plus what the partners' variances add to it."""
    return precision.at[:, 1:].add(sums.variance / jnp.square(noise_scale))


@jax.jit
def update_variances(
    total: Float[Array, "rows d"],
    sums: PosteriorMoments,
    free: Float[Array, " d"],
    noise_scale: Float[Array, ""],
) -> RowValues:
    """Variances of a side's rows: the inverse diagonal of their precision."""
    data = jnp.concatenate([sums.weight[:, None], sums.square], axis=1)
    new = free[None] / (total + data / jnp.square(noise_scale))
    return RowValues(new[:, 0], new[:, 1:])


@jax.jit
def spread_of_rows(
    mean: RowValues, variance: RowValues, sums: PosteriorMoments
) -> Float[Array, " rows"]:
    """Weighted sum of the scores' variances over the ratings of each row."""
    own = jnp.square(mean.factors) + variance.factors
    spread = sums.weight * variance.bias + sums.bias
    return spread + jnp.sum(own * sums.variance + variance.factors * sums.square, axis=1)


@partial(jax.jit, static_argnames="plan")
def finish(
    plan: Plan,
    given: VariationalConstants,
    state: VariationalState,
    result: RowSums,
    spread: Float[Array, " rows"],
    noise_scale: Float[Array, ""],
) -> tuple[VariationalState, BoundParts]:
    """Intercept and scales at their best given q, and the bound there.

    `result` is of the items' half-sweep, under `noise_scale`; `spread` are weighted sums of the
    scores' variances over the items' ratings.
    """
    mean, variance, intercept, scales, _, volume = state
    precision = 1.0 / jnp.square(noise_scale)
    loss = jnp.sum(result.loss) + 0.5 * precision * jnp.sum(spread)
    about = jnp.zeros_like(intercept)
    if plan.learns_intercept:
        center, prior = given.intercept
        slope, curvature = jnp.sum(result.slope), jnp.sum(result.curvature)
        move = (slope + prior * (center - intercept)) / (curvature + prior)
        loss = loss + move * (0.5 * curvature * move - slope)
        intercept = intercept + move
        about = -0.5 * prior * jnp.square(intercept - center)
    new = dict(scales)
    if "noise_scale" in plan.random:
        square = 2.0 * loss / (precision * given.num_ratings)
        new["noise_scale"] = jnp.clip(jnp.sqrt(square), *given.bounds["noise_scale"])
        loss = loss / (precision * jnp.square(new["noise_scale"]))
    rows = volume or {side: jnp.zeros_like(mean[side].bias) for side in SIDES}
    for site in plan.sites:
        v = plan.values(site, variance)
        second = jnp.square(plan.values(site, mean)) + v
        if site.kind == "random":
            best = jnp.sqrt(_average(second, scales[site.scale]))
            new[site.scale] = jnp.clip(best, *given.bounds[site.scale])
        gain = _gain(site, new[site.scale], second, v)
        rows = rows | {site.side: rows[site.side] + gain}
    state = state._replace(intercept=intercept, scales=new)
    return state, BoundParts(loss, rows, about)


def _average(second: Array, scale: Array) -> Array:
    """For each number of a scale: the mean of the expected squares that it governs."""
    if scale.ndim == 2:
        return jnp.mean(second, axis=0, keepdims=True)
    if scale.ndim == 1:
        return jnp.mean(second.reshape(len(second), -1), axis=1)
    return jnp.mean(second)


def _gain(site: RowPrior, scale: Array, second: Array, variance: Array) -> Array:
    """Expected log prior plus entropy of each row: minus its divergence from the prior."""
    square = jnp.square(scale if site.is_bias else by_column(scale))
    gain = 0.5 * (1.0 + jnp.log(variance / square) - second / square)
    return gain if site.is_bias else jnp.sum(gain, axis=1)


def scale_bounds(law: Distribution, start: Array) -> tuple[Array, Array]:
    """The least and the largest value that a learned scale may take.

    The ends of the prior's support, the lower no less than a tiny share of the start.
    """
    law_support: Any = law.support
    lower = jnp.asarray(getattr(law_support, "lower_bound", 0.0), start.dtype)
    upper = jnp.asarray(getattr(law_support, "upper_bound", jnp.inf), start.dtype)
    return jnp.maximum(lower, FLOOR * start), jnp.broadcast_to(upper, start.shape)


def linearize(
    layout: RowBlocks | RowShards, likelihood: Likelihood, state: VariationalState
) -> tuple[RowBlocks | RowShards, list[Array]]:
    r"""Ratings as Gaussian ones of weight w and value t under the bound that is best now.

    Also, by bucket and chunk, the sums of what the bound has besides :math:`-w (t - \eta)^2 / 2`.
    Cost O(n k).
    """
    sides: Any = {}
    constants = {}
    program: Any = _linearize_bucket
    if isinstance(layout, RowShards):
        program = partial(map_chunks, _linearize_bucket, layout.mesh)
    for side, rows in layout.sides.items():
        parts = [
            program(bucket, state, likelihood=likelihood, side=side) for bucket in rows.buckets
        ]
        buckets = tuple(
            bucket._replace(rating=target, weight=weight)
            for bucket, ((target, weight), _) in zip(rows.buckets, parts, strict=True)
        )
        sides[side] = replace(rows, buckets=buckets)
        constants[side] = [constant for _, constant in parts]
    # Each rating counts once, with its item.
    return replace(layout, sides=sides), constants["item"]


@partial(jax.jit, static_argnames=("likelihood", "side"))
def _linearize_bucket(
    bucket: Bucket, state: VariationalState, *, likelihood: Likelihood, side: Side
) -> tuple[tuple[Array, Array], Array]:
    mean, variance = state.mean[OTHER[side]], state.variance[OTHER[side]]

    def one(chunk: Bucket) -> tuple[tuple[Array, Array], Array]:
        x, v = state.mean[side].at(chunk.row), state.variance[side].at(chunk.row)
        z, u = mean.factors[chunk.partner], variance.factors[chunk.partner]
        score = state.intercept + x[:, :1] + mean.bias[chunk.partner]
        score = score + jnp.einsum("rk,rwk->rw", x[:, 1:], z)
        if state.covariance is not None:
            own = state.covariance[side][chunk.row]
            spread = pair_spread(x, own, chunk, mean, state.covariance[OTHER[side]])
        else:
            spread = v[:, :1] + variance.bias[chunk.partner]
            spread = spread + jnp.einsum("rk,rwk->rw", jnp.square(x[:, 1:]) + v[:, 1:], u)
            spread = spread + jnp.einsum("rk,rwk->rw", v[:, 1:], jnp.square(z))
        weight = chunk.weights(score.dtype)
        target, curvature, constant = likelihood.expected_bound(score, spread, chunk.rating)
        return (target, weight * curvature), jnp.sum(weight * constant)

    return lax.map(one, bucket)

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

from probmf.inference.approximate.row_covariances import pair_spread
from probmf.inference.gibbs.plan import Plan, Site
from probmf.likelihoods import Likelihood
from probmf.rows.blocks import Bucket, RowBlocks
from probmf.rows.store import Side
from probmf.rows.sweep import join_rows, own_rows, run_spans
from probmf.rows.values import RowSums, RowValues

#: Learned scales don't fall below this share of where they started: their squares' inverses have
#: to be numbers.
FLOOR = 1e-5


class State(NamedTuple):
    """State of a fit; a pytree.

    Attributes:
        mean: Means of the rows of both sides.
        variance: Their variances, zero in what is not estimated.
        intercept: The intercept.
        scales: Scales of the likelihood and the rows, fixed or learned.
        covariance: Covariances of the rows; None when all numbers are independent.
        volume: Half the log determinant of each, less that of its diagonal; or None.
    """

    mean: RowValues
    variance: RowValues
    intercept: Float[Array, ""]
    scales: dict[str, Array]
    covariance: Float[Array, "table d d"] | None = None
    volume: Float[Array, " table"] | None = None


class Moments(NamedTuple):
    """Of the rows of both sides, or weighted sums of the partners' over each row's ratings.

    Attributes:
        weight: Ones, or sums of the weights.
        bias: Variances of biases.
        square: Squared means of factors.
        variance: Variances of factors.
    """

    weight: Float[Array, " table"]
    bias: Float[Array, " table"]
    square: Float[Array, "table k"]
    variance: Float[Array, "table k"]


class Given(NamedTuple):
    """Constants of a fit; a pytree.

    Attributes:
        intercept: Mean and precision of a learned intercept's prior.
        num_ratings: Number of ratings of positive weight.
        bounds: The least and the largest value of every learned scale.
    """

    intercept: tuple[Float[Array, ""], Float[Array, ""]]
    num_ratings: Float[Array, ""]
    bounds: Mapping[str, tuple[Array, Array]]


class Parts(NamedTuple):
    """Of the evidence's lower bound, up to what does not change.

    Attributes:
        loss: Expected loss of the ratings.
        rows: What each table row's prior and entropy add.
        intercept: What its prior adds.
    """

    loss: Float[Array, ""]
    rows: Float[Array, " table"]
    intercept: Float[Array, ""]


def sum_partners(
    layout: RowBlocks, side: Side, mean: RowValues, variance: RowValues, pool: ThreadPoolExecutor
) -> Moments:
    """Weighted sums of the partners' moments over the ratings of each row of a side.

    Args:
        layout: The ratings.
        side: Whose rows.
        mean: Means of both sides.
        variance: Their variances.
        pool: One thread per worker of the layout.

    Returns:
        The sums by table row, zeros for the other side. Cost O(n k).
    """
    columns = _columns(mean, variance)
    outputs = run_spans(partial(_bucket_sums, columns=columns), layout, side, pool)
    return _join(outputs, layout.source[side])


@jax.jit
def _columns(mean: RowValues, variance: RowValues) -> Moments:
    # Empty slots point at the last row, where everything is zero.
    ones = jnp.ones_like(mean.bias).at[-1].set(0.0)
    return Moments(ones, variance.bias, jnp.square(mean.factors), variance.factors)


_join = jax.jit(join_rows)


@partial(jax.jit, static_argnames="capacity")
def _bucket_sums(
    bucket: Bucket, start: int, count: int, *, columns: Moments, capacity: int
) -> Moments:
    lines = bucket.partner.shape[1]

    def add(column: Array, chunk: Bucket) -> Array:
        gathered = column[chunk.partner]
        if chunk.weight is None:
            return jnp.sum(gathered, axis=1)
        return jnp.einsum("rw,rw...->r...", chunk.weight, gathered)

    def body(i: int, out: Moments) -> Moments:
        chunk = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, start + i, 0, False), bucket)
        return jax.tree.map(
            lambda whole, column: lax.dynamic_update_index_in_dim(whole, add(column, chunk), i, 0),
            out, columns,
        )  # fmt: skip

    empty = jax.tree.map(lambda x: jnp.zeros((capacity, lines, *x.shape[1:]), x.dtype), columns)
    out = lax.fori_loop(0, count, body, empty)
    return jax.tree.map(lambda x: x.reshape((capacity * lines, *x.shape[2:])), out)


@partial(jax.jit, static_argnames="plan")
def prior_precision(plan: Plan, state: State) -> Float[Array, "table d"]:
    """Diagonal prior precision of every row's (bias, factors); 1 where nothing is estimated."""
    size, columns = state.mean.factors.shape
    precision = jnp.ones((size, 1 + columns), state.mean.bias.dtype)
    for site in plan.sites:
        inverse = 1.0 / jnp.square(state.scales[site.scale])
        if site.is_bias:
            precision = precision.at[plan.span(site.side), 0].set(inverse)
        else:
            own = slice(1, 1 + plan.num_factors)
            precision = precision.at[plan.span(site.side), own].set(_by_column(inverse))
    return precision


@jax.jit
def with_partners(
    precision: Float[Array, "table d"], sums: Moments, noise_scale: Float[Array, ""]
) -> Float[Array, "table d"]:
    """The prior precision plus what the partners' variances add to it."""
    return precision.at[:, 1:].add(sums.variance / jnp.square(noise_scale))


@partial(jax.jit, static_argnames=("plan", "side"))
def update_variances(
    plan: Plan,
    side: Side,
    variance: RowValues,
    total: Float[Array, "table d"],
    sums: Moments,
    free: Float[Array, " d"],
    noise_scale: Float[Array, ""],
) -> RowValues:
    """Variances of a side's rows: the inverse diagonal of their precision.

    Args:
        plan: The plan.
        side: Whose rows.
        variance: Variances of both sides.
        total: Precisions of `with_partners`.
        sums: Sums over the rows' ratings.
        free: 1 for coordinates to estimate, 0 for others.
        noise_scale: Noise scale.

    Returns:
        The variances with the side's replaced.
    """
    rows = plan.span(side)
    data = jnp.concatenate([sums.weight[:, None], sums.square], axis=1)
    new = (free[None] / (total + data / jnp.square(noise_scale)))[rows]
    bias = variance.bias.at[rows].set(new[:, 0])
    return RowValues(bias, variance.factors.at[rows].set(new[:, 1:]))


@jax.jit
def spread_of_rows(mean: RowValues, variance: RowValues, sums: Moments) -> Float[Array, " table"]:
    """Weighted sum of the scores' variances over the ratings of each row."""
    own = jnp.square(mean.factors) + variance.factors
    spread = sums.weight * variance.bias + sums.bias
    return spread + jnp.sum(own * sums.variance + variance.factors * sums.square, axis=1)


@partial(jax.jit, static_argnames="plan")
def finish(
    plan: Plan,
    given: Given,
    state: State,
    result: RowSums,
    spread: Float[Array, " table"],
    noise_scale: Float[Array, ""],
) -> tuple[State, Parts]:
    """Intercept and scales at their best given q, and the bound there.

    Args:
        plan: The plan.
        given: Priors.
        state: The state, its rows new.
        result: Of the items' half-sweep.
        spread: Weighted sums of the scores' variances over the items' ratings.
        noise_scale: Under which it was.

    Returns:
        The state and the parts of the bound.
    """
    mean, variance, intercept, scales, _, volume = state
    precision = 1.0 / jnp.square(noise_scale)
    loss = jnp.sum(result.loss + 0.5 * precision * spread)
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
    rows = jnp.zeros_like(mean.bias) if volume is None else volume
    for site in plan.sites:
        v = plan.values(site, variance)
        second = jnp.square(plan.values(site, mean)) + v
        if site.kind == "random":
            best = jnp.sqrt(_average(second, scales[site.scale]))
            new[site.scale] = jnp.clip(best, *given.bounds[site.scale])
        rows = rows.at[plan.span(site.side)].add(_gain(site, new[site.scale], second, v))
    state = state._replace(intercept=intercept, scales=new)
    return state, Parts(loss, rows, about)


def _by_column(scale: Array) -> Array:
    """One number, one per row or (1, k), to multiply with rows of factors."""
    return scale[:, None] if scale.ndim == 1 else scale


def _average(second: Array, scale: Array) -> Array:
    """For each number of a scale: the mean of the expected squares that it governs."""
    if scale.ndim == 2:
        return jnp.mean(second, axis=0, keepdims=True)
    if scale.ndim == 1:
        return jnp.mean(second.reshape(len(second), -1), axis=1)
    return jnp.mean(second)


def _gain(site: Site, scale: Array, second: Array, variance: Array) -> Array:
    """Expected log prior plus entropy of each row: minus its divergence from the prior."""
    square = jnp.square(scale if site.is_bias else _by_column(scale))
    gain = 0.5 * (1.0 + jnp.log(variance / square) - second / square)
    return gain if site.is_bias else jnp.sum(gain, axis=1)


def scale_bounds(law: Distribution, start: Array) -> tuple[Array, Array]:
    """The least and the largest value that a learned scale may take.

    Args:
        law: Its prior.
        start: Where it starts.

    Returns:
        The ends of the prior's support, the lower no less than a tiny share of the start.
    """
    law_support: Any = law.support
    lower = jnp.asarray(getattr(law_support, "lower_bound", 0.0), start.dtype)
    upper = jnp.asarray(getattr(law_support, "upper_bound", jnp.inf), start.dtype)
    return jnp.maximum(lower, FLOOR * start), jnp.broadcast_to(upper, start.shape)


def linearize(
    layout: RowBlocks, likelihood: Likelihood, state: State
) -> tuple[RowBlocks, list[Array]]:
    r"""Ratings as Gaussian ones of weight w and value t under the bound that is best now.

    Args:
        layout: The ratings.
        likelihood: The likelihood.
        state: The state.

    Returns:
        The layout of (w, t), and by bucket and chunk the sums of what the bound has besides
        :math:`-w (t - \eta)^2 / 2`. Cost O(n k).
    """
    pairs = [
        _linearize_bucket(bucket, state, likelihood, layout.num_users) for bucket in layout.buckets
    ]
    buckets = tuple(
        bucket._replace(rating=target, weight=weight)
        for bucket, (target, weight, _) in zip(layout.buckets, pairs, strict=True)
    )
    # The lists hold the ratings as they were.
    return replace(layout, buckets=buckets), [constant for _, _, constant in pairs]


@partial(jax.jit, static_argnames=("likelihood", "num_users"))
def _linearize_bucket(
    bucket: Bucket, state: State, likelihood: Likelihood, num_users: int
) -> tuple[Array, Array, Array]:
    zero_row = state.mean.bias.shape[0] - 1

    def one(chunk: Bucket) -> tuple[Array, Array, Array]:
        x, v = own_rows(state.mean, chunk.row), own_rows(state.variance, chunk.row)
        z, u = state.mean.factors[chunk.partner], state.variance.factors[chunk.partner]
        score = state.intercept + x[:, :1] + state.mean.bias[chunk.partner]
        score = score + jnp.einsum("rk,rwk->rw", x[:, 1:], z)
        if state.covariance is not None:
            own = state.covariance[chunk.row]
            spread = pair_spread(x, own, chunk, state.mean, state.covariance)
        else:
            spread = v[:, :1] + state.variance.bias[chunk.partner]
            spread = spread + jnp.einsum("rk,rwk->rw", jnp.square(x[:, 1:]) + v[:, 1:], u)
            spread = spread + jnp.einsum("rk,rwk->rw", v[:, 1:], jnp.square(z))
        weight = chunk.weight
        if weight is None:
            weight = (chunk.partner != zero_row).astype(score.dtype)
        target, curvature, constant = likelihood.expected_bound(score, spread, chunk.rating)
        # Each rating counts once, with its item.
        is_item = (chunk.row >= num_users) & (chunk.row < zero_row)
        return target, weight * curvature, jnp.sum(is_item[:, None] * weight * constant)

    return lax.map(one, bucket)

"""Moves of a Gibbs chain along weak directions, which leave the ratings' scores alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probmf.inference.gibbs.plan import (
    GibbsConstants,
    GibbsState,
    Plan,
    RowPrior,
    by_column,
    log_prior,
)
from probmf.inference.gibbs.slice_sampling import slice_sample
from probmf.inference.point.feature_weights import factor_weights, stretch_factors
from probmf.rows.store import Side


def shift_biases(plan: Plan, given: GibbsConstants, key: Array, state: GibbsState) -> GibbsState:
    """Moves a constant between all biases of a side and the intercept, or minus the cutpoints."""
    keys = jax.random.split(key)
    for site, own in zip((s for s in plan.sites if s.is_bias), keys, strict=False):
        pull, total = _level(plan, given, state, site)
        if plan.draws_cutpoints and given.rated is not None:
            cutpoints = state.scales["cutpoints"]
            prior = 1.0 / jnp.square(given.rated.scale)
            pull, total = pull + prior * jnp.sum(cutpoints), total + prior * cutpoints.size
        else:
            center, prior = given.intercept
            pull, total = pull - prior * (state.intercept - center), total + prior
        move = pull / total + jax.random.normal(own, (), total.dtype) / jnp.sqrt(total)
        state = _raise(plan, given, state, site, -move)
        if not plan.draws_cutpoints:
            state = state._replace(intercept=state.intercept + move)
        else:
            scales = state.scales | {"cutpoints": state.scales["cutpoints"] - move}
            state = state._replace(scales=scales)
    return state


def exchange_levels(plan: Plan, given: GibbsConstants, key: Array, state: GibbsState) -> GibbsState:
    """Moves a constant from all biases of the users to those of the items."""
    sites = [site for site in plan.sites if site.is_bias]
    if len(sites) < 2:
        return state
    levels = [_level(plan, given, state, site) for site in sites]
    total = levels[0][1] + levels[1][1]
    noise = jax.random.normal(key, (), total.dtype) / jnp.sqrt(total)
    move = (levels[0][0] - levels[1][0]) / total + noise
    return _raise(plan, given, _raise(plan, given, state, sites[0], -move), sites[1], move)


def _level(
    plan: Plan, given: GibbsConstants, state: GibbsState, site: RowPrior
) -> tuple[Array, Array]:
    """Slope and curvature of the prior along a constant that is taken from all biases of a side.

    Where their prior mean has a constant of its own, that goes along, and only its prior counts.
    """
    constant = _constant(given, site.side)
    if constant is not None:
        precision = given.means[site.side].precision[constant]
        value = state.scales[constant][0]
        return precision * value, jnp.full((), precision, value.dtype)
    values, centers = plan.values(site, state.table), given.centers(state.scales)
    if site.name in centers:
        values = values - centers[site.name]
    weight = jnp.broadcast_to(1.0 / jnp.square(state.scales[site.scale]), values.shape)
    return jnp.sum(weight * values), jnp.sum(weight)


def _raise(
    plan: Plan, given: GibbsConstants, state: GibbsState, site: RowPrior, by: Array
) -> GibbsState:
    """The state with a constant added to all biases of a side."""
    constant, scales = _constant(given, site.side), state.scales
    if constant is not None:
        scales = scales | {constant: scales[constant].at[0].add(by)}
    table = plan.replace(site, state.table, plan.values(site, state.table) + by)
    return state._replace(table=table, scales=scales)


def _constant(given: GibbsConstants, side: Side) -> str | None:
    """Site of the constant in the prior mean of a side's biases."""
    mean = given.means.get(side)
    name = f"{side}_mean_bias_0"
    return name if mean is not None and mean.has_bias and name in mean.shapes else None


def balance_sides(plan: Plan, given: GibbsConstants, key: Array, state: GibbsState) -> GibbsState:
    r"""Multiplies the users' factors by a and divides the items' by it, scales going along.

    The scores stay, and so does the density of rows about a scale that moves with them; what is
    left is the prior of the scales, or of rows whose scale is fixed. On :math:`t = \log a` the
    Jacobian adds the number of numbers that are multiplied, less that of those divided. Prior means
    move along with their weights, whose prior has its own share.
    """
    sites = [site for site in plan.sites if not site.is_bias]
    if not sites or any(site.kind == "wishart" for site in sites):
        return state
    shared = any(
        site.kind == "random" and state.scales[site.scale].ndim < 2 for site in sites
    )  # fmt: skip
    shape = () if shared else (plan.num_factors,)
    values_dtype, centers = state.intercept.dtype, given.centers(state.scales)

    def side_density(site: RowPrior, t: Array) -> Array:
        """Along the logarithm t of what the side is multiplied by."""
        scale, values = state.scales[site.scale], plan.values(site, state.table)
        if site.name in centers:
            values = values - centers[site.name]
        return row_density(site, scale, values, t) + weight_density(site, t)

    def weight_density(site: RowPrior, t: Array) -> Array:
        total = jnp.zeros(shape, values_dtype)
        mean = given.means.get(site.side)
        if mean is None:
            return total
        by = jnp.broadcast_to(t, (plan.num_factors,))
        for name, weights in factor_weights(mean, state.scales).items():
            columns = weights.reshape(-1, plan.num_factors)
            square = mean.precision[name] * jnp.sum(jnp.square(columns), axis=0)
            one = -0.5 * square * jnp.exp(2.0 * by) + len(columns) * by
            total = total + (jnp.sum(one) if shared else one)
        return total

    def row_density(site: RowPrior, scale: Array, values: Array, t: Array) -> Array:
        if site.kind == "random":
            by = t if scale.ndim < 2 else jnp.broadcast_to(t, (1, plan.num_factors))
            density = log_prior(given.laws[site.scale], scale * jnp.exp(by)) + by
            return jnp.sum(density) if shared else density.reshape(shape)
        square = jnp.sum(jnp.square(values / by_column(scale)), axis=0)
        one = -0.5 * square * jnp.exp(2.0 * jnp.broadcast_to(t, square.shape)) + len(values) * t
        return jnp.sum(one) if shared else one

    def log_density(t: Array) -> Array:
        return side_density(sites[0], t) + side_density(sites[1], -t)

    start = jnp.zeros(shape, state.intercept.dtype)
    move = slice_sample(key, start, log_density, jnp.full(shape, 0.5, start.dtype))
    table, scales = state.table, dict(state.scales)
    for site, by in zip(sites, (move, -move), strict=True):
        factor = jnp.exp(by)
        columns = jnp.broadcast_to(factor, (1, plan.num_factors))
        table = plan.replace(site, table, plan.values(site, table) * columns)
        if site.kind == "random":
            scale = scales[site.scale]
            scales[site.scale] = scale * (columns if scale.ndim == 2 else factor)
        if site.side in given.means:
            scales |= stretch_factors(given.means[site.side], scales, columns[0])
    return state._replace(table=table, scales=scales)

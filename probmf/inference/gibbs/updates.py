"""Updates of a Gibbs sweep besides the rows: intercept, scales, weights of prior means.

Moves along weak directions, which leave the ratings' scores alone, are among them.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.inference.gibbs.cutpoint_draws import draw_cutpoints
from probmf.inference.gibbs.plan import (
    GibbsConstants,
    GibbsState,
    Plan,
    RowPrior,
    by_column,
    log_prior,
)
from probmf.inference.gibbs.slice_sampling import slice_sample
from probmf.inference.point.feature_weights import (
    center_rows,
    factor_weights,
    solve,
    solve_full,
    stretch_factors,
    to_weights,
)
from probmf.likelihoods import Likelihood
from probmf.likelihoods.ordered import OrderedNormal
from probmf.models.normal_wishart import wishart_draw
from probmf.rows.store import SIDES, Side
from probmf.rows.values import Rows, RowSums


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


class Ready(NamedTuple):
    """Values that the rows of the next sweep are conditioned on; a pytree.

    Attributes:
        precision: Diagonal prior precision of every row.
        gram: Prior precision shared by a side's rows, or None.
        shift: Minus that times their mean, or None.
        pull: Prior precision times prior mean of every row, or None where that is zero.
    """

    precision: dict[Side, Float[Array, "rows d"]]
    gram: dict[Side, Array | None]
    shift: dict[Side, Array | None]
    pull: dict[Side, Float[Array, "rows d"] | None]


@partial(jax.jit, static_argnames="plan")
def make_ready(plan: Plan, given: GibbsConstants, state: GibbsState) -> Ready:
    """Priors of the rows."""
    precision = {
        side: jnp.ones((rows.factors.shape[0], 1 + rows.factors.shape[1]), rows.factors.dtype)
        for side, rows in state.table.items()
    }
    gram: dict[Side, Array | None] = dict.fromkeys(SIDES)
    shift: dict[Side, Array | None] = dict.fromkeys(SIDES)
    pull: dict[Side, Array | None] = dict.fromkeys(SIDES)
    own = slice(1, 1 + plan.num_factors)
    for site in plan.sites:
        here = precision[site.side]
        if site.kind == "wishart":
            matrix = state.scales[f"{site.side}_precision"]
            center = state.scales[f"{site.side}_mean"]
            precision[site.side] = here.at[:, own].set(0.0)
            whole = jnp.zeros((here.shape[1], here.shape[1]), here.dtype)
            gram[site.side] = whole.at[own, own].set(matrix)
            shift[site.side] = whole[0].at[own].set(-matrix @ center)
            continue
        inverse = 1.0 / jnp.square(state.scales[site.scale])
        if site.is_bias:
            precision[site.side] = here.at[:, 0].set(inverse)
        else:
            precision[site.side] = here.at[:, own].set(by_column(inverse))
    for side, center in center_rows(given.centers(state.scales), state.table).items():
        full, diagonal = gram[side], precision[side] * center
        pull[side] = diagonal if full is None else diagonal + center @ full
    return Ready(precision, gram, shift, pull)


@partial(jax.jit, static_argnames="plan")
def update(
    plan: Plan, given: GibbsConstants, key: Array, state: GibbsState, result: RowSums, hold: Array
) -> tuple[GibbsState, Float[Array, ""]]:
    """Intercept and scales given the rows, then moves that leave the ratings' scores alone.

    `result` is of the items' half-sweep. With `hold` the scales stay as they are, early in the
    warm-up, while the rows are still far off: scales that follow them can collapse. Also gives the
    log joint density that the rows were drawn at, up to a constant.
    """
    keys = iter(jax.random.split(key, 8 + len(plan.sites) + len(given.regressions)))
    scales = dict(state.scales)
    loss, slope, curvature = (jnp.sum(x) for x in (result.loss, result.slope, result.curvature))
    if given.rated is not None:
        scores = pair_scores(state, given.rated.user, given.rated.item)
        own = own_scales(plan.likelihood, state.scales)
        loss = jnp.sum(plan.likelihood.loss(scores, given.rated.rating, own))
    log_joint = _log_joint(plan, given, state, loss)
    intercept, table = state.intercept, state.table
    if plan.learns_intercept:
        center, prior = given.intercept
        total = curvature + prior
        noise = jax.random.normal(next(keys), (), total.dtype)
        move = (slope + prior * (center - intercept)) / total + noise / jnp.sqrt(total)
        # Exact where the loss is quadratic, which is where it is used.
        loss = loss - slope * move + 0.5 * curvature * jnp.square(move)
        intercept = intercept + move
    if "noise_scale" in plan.random:
        square = 2.0 * jnp.square(scales["noise_scale"]) * loss
        scales["noise_scale"] = draw_scale(
            next(keys), given.laws["noise_scale"], scales["noise_scale"], square, given.num_ratings
        )
    if plan.draws_cutpoints and given.rated is not None:
        scales["cutpoints"], _ = draw_cutpoints(
            next(keys), scales["cutpoints"], scores, given.rated.rating, plan.likelihood,
            given.rated.scale,
        )  # fmt: skip
    scales |= _draw_weights(plan, given, keys, scales, table)
    centers = given.centers(scales)
    for site in plan.sites:
        values = plan.values(site, table)
        if site.name in centers:
            values = values - centers[site.name]
        if site.kind == "random":
            square, count = _squares(site, scales[site.scale], values)
            scales[site.scale] = draw_scale(
                next(keys), given.laws[site.scale], scales[site.scale], square, count
            )
        elif site.wishart is not None:
            mean, matrix = wishart_draw(next(keys), site.wishart, values)
            scales |= {f"{site.side}_mean": mean, f"{site.side}_precision": matrix}
    held = GibbsState(table, intercept, state.scales, state.sweep + 1)
    state = GibbsState(table, intercept, scales, state.sweep + 1)
    if plan.learns_intercept or plan.draws_cutpoints:
        state = shift_biases(plan, given, next(keys), state)
    if given.means:
        state = exchange_levels(plan, given, next(keys), state)
    state = balance_sides(plan, given, next(keys), state)
    return jax.tree.map(lambda x, y: jnp.where(hold, x, y), held, state), log_joint


def _draw_weights(
    plan: Plan, given: GibbsConstants, keys: Iterator[Array], scales: dict[str, Array], table: Rows
) -> dict[str, Array]:
    """Weights of the prior means given the rows and their scales."""
    turned = {}
    for site in plan.sites:
        if site.name not in given.regressions:
            continue
        found = given.regressions[site.name]
        values = plan.values(site, table)
        rows = values.reshape(len(values), -1)
        noise = jax.random.normal(next(keys), (len(found.square), rows.shape[1]), rows.dtype)
        if site.kind == "wishart":
            apart = rows - scales[f"{site.side}_mean"][None]
            matrix = scales[f"{site.side}_precision"]
            turned[site.name] = solve_full(found, apart, matrix, noise)
            continue
        scale = scales[site.scale]
        # A fixed scale of each row's own is in the regression's row weights.
        by_row = scale.ndim == 1
        inverse = jnp.ones((), rows.dtype) if by_row else 1.0 / jnp.square(scale)
        precision = jnp.broadcast_to(inverse.reshape(-1), rows.shape[1:])
        turned[site.name] = solve(found, rows, precision, noise)
    return to_weights(turned, given.regressions, given.means)


def _log_joint(plan: Plan, given: GibbsConstants, state: GibbsState, loss: Array) -> Array:
    """Log joint density of ratings, rows and scales."""
    total = -loss
    if "noise_scale" in state.scales:
        total = total - given.num_ratings * jnp.log(state.scales["noise_scale"])
    for mean in given.means.values():
        total = total - mean.loss(state.scales)
    centers = given.centers(state.scales)
    for site in plan.sites:
        values = plan.values(site, state.table)
        if site.name in centers:
            values = values - centers[site.name]
        if site.kind == "wishart":
            matrix = state.scales[f"{site.side}_precision"]
            apart = values - state.scales[f"{site.side}_mean"][None]
            total = total - 0.5 * jnp.sum((apart @ matrix) * apart)
            total = total + 0.5 * len(values) * jnp.linalg.slogdet(matrix)[1]
        else:
            scale = state.scales[site.scale]
            square, count = _squares(site, scale, values)
            total = total - jnp.sum(0.5 * square / jnp.square(scale) + count * jnp.log(scale))
    for name, law in given.laws.items():
        total = total + jnp.sum(log_prior(law, state.scales[name]))
    if plan.draws_cutpoints and given.rated is not None:
        cutpoints = state.scales["cutpoints"]
        total = total + OrderedNormal(given.rated.scale, cutpoints.size).log_prob(cutpoints)
    return total


def _squares(site: RowPrior, scale: Array, values: Array) -> tuple[Array, Array]:
    """For each number of a scale: sum of the squares it governs, and how many they are."""
    if scale.ndim == 2:
        square = jnp.sum(jnp.square(values), axis=0, keepdims=True)
    elif scale.ndim == 1:
        square = jnp.sum(jnp.square(values).reshape(len(values), -1), axis=1)
    else:
        square = jnp.sum(jnp.square(values))
    count = values.size / max(scale.size, 1)
    return square, jnp.full(scale.shape, count, scale.dtype)


def draw_scale(key: Array, law: Distribution, scale: Array, square: Array, count: Array) -> Array:
    """A scale given the squares that it governs, by a slice of its logarithm."""

    def log_density(log_scale: Array) -> Array:
        here = jnp.exp(log_scale)
        quadratic = 0.5 * square * jnp.exp(-2.0 * log_scale)
        return log_prior(law, here) + log_scale - count * log_scale - quadratic

    width = jnp.broadcast_to(3.0 / jnp.sqrt(2.0 * count + 1.0), scale.shape)
    return jnp.exp(slice_sample(key, jnp.log(scale), log_density, width))


def own_scales(likelihood: Likelihood, scales: Mapping[str, Array]) -> dict[str, Array]:
    """The likelihood's own parameters among all."""
    return {name: scales[name] for name in likelihood.scale_sites() if name in scales}


def pair_scores(
    state: GibbsState, user: Int[Array, " n"], item: Int[Array, " n"]
) -> Float[Array, " n"]:
    """Scores of pairs given by codes."""
    users, items = state.table["user"], state.table["item"]
    products = jnp.sum(users.factors[user] * items.factors[item], axis=1)
    return state.intercept + users.bias[user] + items.bias[item] + products

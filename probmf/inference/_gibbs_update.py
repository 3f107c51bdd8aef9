"""What a Gibbs sweep does besides the rows: intercept, scales, and moves along weak directions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.inference._cutpoint_draw import draw_cutpoints
from probmf.inference._regression import (
    Regression,
    center_rows,
    factor_weights,
    solve,
    solve_full,
    stretch_factors,
    to_weights,
)
from probmf.inference._slice import slice_sample
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.models.likelihood import Likelihood
from probmf.models.ordered import OrderedNormal
from probmf.models.ordinal import Ordinal
from probmf.models.priors import NormalWishart, wishart_draw
from probmf.models.row_means import RowMean, prior_means
from probmf.row_values import RowSums, RowValues
from probmf.rows import SIDES, Side


class State(NamedTuple):
    """Where a chain stands; a pytree.

    Attributes:
        table: Rows of both sides.
        intercept: The intercept.
        scales: Scales, cutpoints, means and precisions of factors, weights of prior means; fixed or
            sampled.
        sweep: Sweeps done.
    """

    table: RowValues
    intercept: Float[Array, ""]
    scales: dict[str, Array]
    sweep: Int[Array, ""]


@dataclass(frozen=True)
class Site:
    """How the rows of one site are governed; hashable."""

    name: str
    side: Side
    scale: str
    kind: Literal["fixed", "random", "wishart"]
    wishart: NormalWishart | None = None

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias."""
        return self.name.endswith("bias")


@dataclass(frozen=True)
class Plan:
    """What compiled programs of the sweep depend on, besides arrays.

    Attributes:
        sites: Sites of rows.
        rows: Numbers of users and items.
        num_factors: Factors.
        random: Names of scales of the likelihood and of the rows that are sampled.
        learns_intercept: Whether the intercept is.
        likelihood: In its canonical form.
        draws_cutpoints: Whether it has cutpoints and they are drawn.
        weights: Names of the weights of prior means.
    """

    sites: tuple[Site, ...]
    rows: tuple[int, int]
    num_factors: int
    random: tuple[str, ...]
    learns_intercept: bool
    likelihood: Likelihood
    draws_cutpoints: bool
    weights: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: MatrixFactorization, num_users: int, num_items: int) -> "Plan":
        """The plan for a model."""
        sites = []
        for name in model.site_shapes(num_users, num_items):
            given = getattr(model, PRIOR_SCALES[name])
            side: Side = "user" if name.startswith("user") else "item"
            if isinstance(given, NormalWishart):
                sites.append(Site(name, side, PRIOR_SCALES[name], "wishart", given))
            else:
                kind: Any = "random" if isinstance(given, Distribution) else "fixed"
                sites.append(Site(name, side, PRIOR_SCALES[name], kind))
        random = tuple(
            name for name in model.random_scales()
            if not isinstance(getattr(model, name, None), NormalWishart)
        )  # fmt: skip
        return cls(
            tuple(sites), (num_users, num_items), model.num_factors, random, model.learns_intercept,
            model.likelihood.canonical(), "cutpoints" in random,
            tuple(name for side in model.mean_sides
                  for name in getattr(model, f"{side}_mean").shapes(f"{side}_mean", 1, 1)),
        )  # fmt: skip

    def span(self, side: Side) -> slice:
        """Table rows of a side."""
        users, items = self.rows
        return slice(0, users) if side == "user" else slice(users, users + items)

    def values(self, site: Site, table: RowValues) -> Array:
        """Rows of a site."""
        rows = self.span(site.side)
        return table.bias[rows] if site.is_bias else table.factors[rows, : self.num_factors]

    def replace(self, site: Site, table: RowValues, values: Array) -> RowValues:
        """The table with other rows of a site."""
        rows = self.span(site.side)
        if site.is_bias:
            return table._replace(bias=table.bias.at[rows].set(values))
        return table._replace(factors=table.factors.at[rows, : self.num_factors].set(values))


class Rated(NamedTuple):
    """The rated pairs in the table's order; a pytree.

    Attributes:
        user: Table rows of the users.
        item: Table rows of the items.
        rating: Ratings.
        scale: Scale of the cutpoints' prior, where they are drawn.
    """

    user: Int[Array, " n"]
    item: Int[Array, " n"]
    rating: Float[Array, " n"]
    scale: Float[Array, ""]


class Given(NamedTuple):
    """What stays as it is during a run; a pytree.

    Attributes:
        laws: Priors of the random scales.
        intercept: Mean and precision of a learned intercept's prior.
        num_ratings: Number of ratings, for the noise.
        rated: The ratings, unless the likelihood is quadratic and its loss comes with the rows.
        means: Prior means of the sides that have one.
        regressions: Regressions of rows on features by the site of the rows.
    """

    laws: Mapping[str, Distribution]
    intercept: tuple[Float[Array, ""], Float[Array, ""]]
    num_ratings: Float[Array, ""]
    rated: Rated | None
    means: dict[Side, RowMean]
    regressions: dict[str, Regression]

    def centers(self, scales: Mapping[str, Array]) -> dict[str, Array]:
        """Prior means of the rows by site, of those that have one."""
        return prior_means(self.means, scales)


class Ready(NamedTuple):
    """What the rows of the next sweep are drawn under; a pytree.

    Attributes:
        precision: Diagonal prior precision of every table row.
        gram: Prior precision shared by a side's rows, or None.
        shift: Minus that times their mean, or None.
        noise: Standard normal numbers.
        pull: Prior precision times prior mean of every table row, or None where that is zero.
    """

    precision: Float[Array, "table d"]
    gram: dict[Side, Array | None]
    shift: dict[Side, Array | None]
    noise: Float[Array, "table d"]
    pull: Float[Array, "table d"] | None = None


@partial(jax.jit, static_argnames="plan")
def make_ready(plan: Plan, given: Given, key: Array, state: State) -> Ready:
    """Priors and random numbers of the rows.

    Args:
        plan: The plan.
        given: What stays as it is.
        key: JAX key of this sweep.
        state: Where the chain stands.

    Returns:
        What the half-sweeps need.
    """
    size, columns = state.table.bias.shape[0], state.table.factors.shape[1]
    dtype = state.table.bias.dtype
    precision = jnp.ones((size, 1 + columns), dtype)
    gram: dict[Side, Array | None] = dict.fromkeys(SIDES)
    shift: dict[Side, Array | None] = dict.fromkeys(SIDES)
    for site in plan.sites:
        rows, own = plan.span(site.side), slice(1, 1 + plan.num_factors)
        if site.kind == "wishart":
            matrix = state.scales[f"{site.side}_precision"]
            center = state.scales[f"{site.side}_mean"]
            precision = precision.at[rows, own].set(0.0)
            whole = jnp.zeros((1 + columns, 1 + columns), dtype)
            gram[site.side] = whole.at[own, own].set(matrix)
            shift[site.side] = jnp.zeros(1 + columns, dtype).at[own].set(-matrix @ center)
            continue
        inverse = 1.0 / jnp.square(state.scales[site.scale])
        if site.is_bias:
            precision = precision.at[rows, 0].set(inverse)
        else:
            precision = precision.at[rows, own].set(_by_column(inverse))
    noise = jax.random.normal(key, precision.shape, dtype)
    centers = given.centers(state.scales)
    if not centers:
        return Ready(precision, gram, shift, noise)
    center = center_rows(centers, plan.rows, columns)
    pull = precision * center
    for side, full in gram.items():
        if full is not None:
            pull = pull.at[plan.span(side)].add(center[plan.span(side)] @ full)
    return Ready(precision, gram, shift, noise, pull)


def _by_column(scale: Array) -> Array:
    """One number, one per row or (1, k), to multiply with rows of factors."""
    return scale[:, None] if scale.ndim == 1 else scale


@partial(jax.jit, static_argnames="plan")
def update(
    plan: Plan, given: Given, key: Array, state: State, result: RowSums, hold: Array
) -> tuple[State, Float[Array, ""]]:
    """Intercept and scales given the rows, then moves that leave the ratings' scores alone.

    Args:
        plan: The plan.
        given: Priors.
        key: JAX key of this sweep.
        state: The chain, its rows new.
        result: Of the items' half-sweep.
        hold: Whether to leave the scales as they are, early in the warm-up, while the rows are
            still far off: scales that follow them can collapse.

    Returns:
        The state, and the log joint density that the rows were drawn at, up to a constant.
    """
    keys = iter(jax.random.split(key, 8 + len(plan.sites) + len(given.regressions)))
    scales = dict(state.scales)
    loss, slope, curvature = (jnp.sum(x) for x in (result.loss, result.slope, result.curvature))
    if given.rated is not None:
        scores = pair_scores(state, given.rated.user, given.rated.item)
        own = likelihood_scales(state.scales)
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
    if plan.draws_cutpoints and given.rated is not None and isinstance(plan.likelihood, Ordinal):
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
    held = State(table, intercept, state.scales, state.sweep + 1)
    state = State(table, intercept, scales, state.sweep + 1)
    if plan.learns_intercept or plan.draws_cutpoints:
        state = _shift_biases(plan, given, next(keys), state)
    if given.means:
        state = _exchange_levels(plan, given, next(keys), state)
    state = _balance_sides(plan, given, next(keys), state)
    return jax.tree.map(lambda x, y: jnp.where(hold, x, y), held, state), log_joint


def _draw_weights(
    plan: Plan, given: Given, keys: Iterator[Array], scales: dict[str, Array], table: RowValues
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


def _log_joint(plan: Plan, given: Given, state: State, loss: Array) -> Array:
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


def log_prior(law: Distribution, value: Array) -> Array:
    """Log density, minus infinity outside of the support (which NumPyro doesn't look at)."""
    return jnp.where(law.support(value), law.log_prob(value), -jnp.inf)


def _squares(site: Site, scale: Array, values: Array) -> tuple[Array, Array]:
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


def _shift_biases(plan: Plan, given: Given, key: Array, state: State) -> State:
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


def _exchange_levels(plan: Plan, given: Given, key: Array, state: State) -> State:
    """Moves a constant from all biases of the users to those of the items."""
    sites = [site for site in plan.sites if site.is_bias]
    if len(sites) < 2:
        return state
    levels = [_level(plan, given, state, site) for site in sites]
    total = levels[0][1] + levels[1][1]
    noise = jax.random.normal(key, (), total.dtype) / jnp.sqrt(total)
    move = (levels[0][0] - levels[1][0]) / total + noise
    return _raise(plan, given, _raise(plan, given, state, sites[0], -move), sites[1], move)


def _level(plan: Plan, given: Given, state: State, site: Site) -> tuple[Array, Array]:
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


def _raise(plan: Plan, given: Given, state: State, site: Site, by: Array) -> State:
    """The state with a constant added to all biases of a side."""
    constant, scales = _constant(given, site.side), state.scales
    if constant is not None:
        scales = scales | {constant: scales[constant].at[0].add(by)}
    table = plan.replace(site, state.table, plan.values(site, state.table) + by)
    return state._replace(table=table, scales=scales)


def _constant(given: Given, side: Side) -> str | None:
    """Site of the constant in the prior mean of a side's biases."""
    mean = given.means.get(side)
    name = f"{side}_mean_bias_0"
    return name if mean is not None and mean.has_bias and name in mean.shapes else None


def likelihood_scales(scales: Mapping[str, Array]) -> dict[str, Array]:
    """The likelihood's own parameters among all."""
    return {name: scales[name] for name in ("noise_scale", "cutpoints") if name in scales}


def pair_scores(state: State, user: Int[Array, " n"], item: Int[Array, " n"]) -> Float[Array, " n"]:
    """Scores of pairs given by table rows."""
    table = state.table
    products = jnp.sum(table.factors[user] * table.factors[item], axis=1)
    return state.intercept + table.bias[user] + table.bias[item] + products


def _balance_sides(plan: Plan, given: Given, key: Array, state: State) -> State:
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
    values_dtype, centers = state.table.factors.dtype, given.centers(state.scales)

    def side_density(site: Site, t: Array) -> Array:
        """Along the logarithm t of what the side is multiplied by."""
        scale, values = state.scales[site.scale], plan.values(site, state.table)
        if site.name in centers:
            values = values - centers[site.name]
        return row_density(site, scale, values, t) + weight_density(site, t)

    def weight_density(site: Site, t: Array) -> Array:
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

    def row_density(site: Site, scale: Array, values: Array, t: Array) -> Array:
        if site.kind == "random":
            by = t if scale.ndim < 2 else jnp.broadcast_to(t, (1, plan.num_factors))
            own = log_prior(given.laws[site.scale], scale * jnp.exp(by)) + by
            return jnp.sum(own) if shared else own.reshape(shape)
        square = jnp.sum(jnp.square(values / _by_column(scale)), axis=0)
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

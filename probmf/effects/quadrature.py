r"""Effects of one grouping integrated out of any likelihood, by adaptive Gauss-Hermite quadrature.

Given all else the groups are independent. With whitened effects v of a group, :math:`u = L v`,

.. math::
    \log \int N(v; 0, I) \prod_n f(y_n \mid o_n + z_n^\top L v)\, dv \approx
    \log \sum_k w_k \exp\big(\ell(v_k) + \tfrac12 |x_k|^2\big) - \log|R|, \quad
    v_k = a + R^{-\top} x_k,

where :math:`\ell` is the logarithm of the integrand, a its mode, :math:`R R^\top` minus its second
derivative there, and x, w are nodes and weights for the standard Normal. One node is Laplace's
approximation. The value is differentiated as it stands, with the nodes, which move with the mode;
or nodes are held, where there are enough of them for their places to be of no consequence.
"""

import itertools
from typing import NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.linalg import cholesky, solve_lower
from probmf.effects.pattern import Pattern
from probmf.effects.row_densities import Derivatives, Rows

#: The most effects of a group: nodes are a grid.
MAX_DIM = 2
#: Nodes along each axis that are enough for rows of few kinds, by the number of effects.
NUM_NODES = {1: 15, 2: 9}
#: Points of each axis of a grid that finds what nodes miss, and how far it goes beyond the prior's
#: middle and the mode, in the prior's standard deviations.
GRID, BEYOND = {1: 401, 2: 41}, 9.0
#: Iterations of Newton's method, halvings among them.
MOST_ITERATIONS = 100
#: Squared distance to a mode, in its standard deviations, that will do for where nodes lie.
ROUGH = 1e-2


class Look(NamedTuple):
    """Logarithm of an integrand by group.

    Attributes:
        joint: But for the constant of the Normal.
        slope: Its slope.
        precision: About minus its second derivative, positive definite.
    """

    joint: Float[Array, " groups"]
    slope: Float[Array, "groups d"]
    precision: Float[Array, "groups d d"]


class Integrands(Protocol):
    """Groups whose whitened effects are to be integrated out, given all else."""

    @property
    def columns(self) -> Float[Array, "n d"]:
        """Columns of the effects times the prior's factor."""

    @property
    def num_groups(self) -> int:
        """Number of groups."""

    def held(self) -> Self:
        """The same as numbers that nothing is differentiated by."""

    def log_joint(self, effects: Float[Array, "groups d"]) -> Float[Array, " groups"]:
        """Logarithm of the integrand by group, but for the constant of the Normal."""

    def look(self, effects: Float[Array, "groups d"]) -> Look:
        """The same with slope and precision."""


class Groups(NamedTuple):
    r"""Groups whose effects are to be integrated out, given all else.

    Attributes:
        rows: The log density of each row.
        offset: The linear predictor without these effects.
        pattern: The group of each row.
        columns: The columns of the effects times the prior's factor, :math:`z_n^\top L`.
    """

    rows: Rows
    offset: Float[Array, " n"]
    pattern: Pattern
    columns: Float[Array, "n d"]

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return self.pattern.shapes[0][0]

    def held(self) -> "Groups":
        """The same as numbers that nothing is differentiated by."""
        offset, columns = lax.stop_gradient((self.offset, self.columns))
        return self._replace(rows=self.rows.held(), offset=offset, columns=columns)

    def sum(self, values: Float[Array, "n ..."]) -> Float[Array, "groups ..."]:
        """Sums over the rows of each group."""
        return self.pattern.sum_by_group(values)

    def predictor(self, effects: Float[Array, "groups d"]) -> Float[Array, " n"]:
        """The linear predictor at whitened effects."""
        return self.offset + jnp.sum(self.columns * self.pattern.of_rows(effects), axis=1)

    def joint(self, value: Float[Array, " n"], effects: Float[Array, "groups d"]) -> Array:
        """Logarithm of the integrand by group, but for the constant of the Normal."""
        return self.sum(value) - 0.5 * jnp.sum(jnp.square(effects), axis=1)

    def log_joint(self, effects: Float[Array, "groups d"]) -> Float[Array, " groups"]:
        """Logarithm of the integrand by group."""
        if self.pattern.rows_each == 1:
            return self.joint(self.rows(self.predictor(effects)), effects)
        # Apart from the gathers, with which no loop over the rows would be vectorized.
        value = self.rows(lax.optimization_barrier(self.predictor(effects)))
        return self.joint(lax.optimization_barrier(value), effects)

    def look(self, effects: Float[Array, "groups d"]) -> Look:
        """The integrand's logarithm with slope and precision."""
        found = self.rows.differentiate(self.predictor(effects))
        # Where a density bends upwards the prior's curvature serves.
        precision = self.precision(jnp.maximum(found.weight, 0.0))
        return Look(self.joint(found.value, effects), self.slope(found, effects), precision)

    def slope(self, found: Derivatives, effects: Float[Array, "groups d"]) -> Array:
        """Its slope."""
        return self.sum(self.columns * found.slope[:, None]) - effects

    def precision(self, weight: Float[Array, " n"]) -> Float[Array, "groups d d"]:
        """Minus its second derivative."""
        columns = self.columns
        products = self.sum(weight[:, None, None] * columns[:, :, None] * columns[:, None, :])
        return products + jnp.eye(columns.shape[1], dtype=columns.dtype)[None]


def gauss_hermite(num_nodes: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """A grid for integrals over independent standard Normals.

    Args:
        num_nodes: Nodes along each axis.
        dim: Number of axes.

    Returns:
        Nodes, of shape (num_nodes**dim, dim), and logarithms of their weights, whose sum is one.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    logs = np.log(weights) - np.log(np.sum(weights))
    grid = np.array(list(itertools.product(nodes, repeat=dim)))
    return grid, np.array([sum(one) for one in itertools.product(logs, repeat=dim)])


def log_integrals(
    groups: Groups,
    num_nodes: int,
    start: Float[Array, "groups d"] | None = None,
    *,
    held: bool = False,
) -> tuple[Float[Array, " groups"], Float[Array, "groups d"]]:
    """Logarithms of the integrals over the effects of each group, to be traced.

    Args:
        groups: The groups, with one or two effects each.
        num_nodes: Nodes for each effect.
        start: Where the search for the modes begins; zero by default.
        held: Whether nodes lie about rough modes, and are not differentiated: a third of the cost.

    Returns:
        The logarithms, and the modes of the whitened effects (without derivatives). Cost
        O(n num_nodes^d).
    """
    if held:
        return held_integrals(groups, num_nodes, start)
    return _sum_over_nodes(groups, num_nodes, *moving_modes(groups, find_modes(groups, start)[0]))


def held_integrals(
    groups: Integrands, num_nodes: int, start: Float[Array, "groups d"] | None = None
) -> tuple[Float[Array, " groups"], Float[Array, "groups d"]]:
    """The same of any integrands, with nodes that are held about rough modes; see there."""
    return _sum_over_nodes(groups, num_nodes, *find_modes(groups, start, ROUGH))


def _sum_over_nodes(
    groups: Integrands,
    num_nodes: int,
    mode: Float[Array, "groups d"],
    root: Float[Array, "groups d d"],
) -> tuple[Float[Array, " groups"], Float[Array, "groups d"]]:
    x, log_weight = gauss_hermite(num_nodes, mode.shape[1])
    joint = log_ratios(groups, mode, root, x)
    logdet = jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)
    total = jax.nn.logsumexp(joint + jnp.asarray(log_weight, mode.dtype)[:, None], axis=0)
    return total - logdet, lax.stop_gradient(mode)


def log_ratios(
    groups: Integrands,
    mode: Float[Array, "groups d"],
    root: Float[Array, "groups d d"],
    nodes: Float[Array | np.ndarray, "nodes d"],
) -> Float[Array, "nodes groups"]:
    r"""Integrands at nodes, over the Normal density of the nodes themselves.

    Args:
        groups: The groups.
        mode: Their modes.
        root: Lower factors R of the precisions there.
        nodes: Nodes x; the effects are :math:`a + R^{-\top} x`.

    Returns:
        The logarithms :math:`\ell(v) + |x|^2 / 2`.
    """

    def at_node(node: Array) -> Array:
        effects = mode + solve_lower(root, jnp.broadcast_to(node, mode.shape), transpose=True)
        return groups.log_joint(effects) + 0.5 * jnp.sum(jnp.square(node))

    return jax.vmap(at_node)(jnp.asarray(nodes, mode.dtype))


def integrals_on_grid(
    groups: Integrands, modes: Float[Array, "groups d"]
) -> Float[Array, " groups"]:
    r"""The same by a grid that is fine about the mode and reaches all that the prior does.

    Its points are :math:`a + R^{-\top} \sinh(t)` for evenly spaced t, so that they are the
    farther apart the farther from the mode: of one effect by a twentieth of the distance or less.
    What nodes about the mode are off from this they miss.

    Args:
        groups: The groups.
        modes: Their modes.
    """
    dim, dtype = modes.shape[1], modes.dtype
    root = cholesky(groups.look(modes).precision)
    size = jnp.sqrt(jnp.sum(jnp.square(root), axis=(1, 2)))
    farthest = jnp.arcsinh(BEYOND + size * (BEYOND + jnp.max(jnp.abs(modes), axis=1)))
    steps = np.linspace(-1.0, 1.0, GRID[dim])
    grid = jnp.asarray(list(itertools.product(steps, repeat=dim)), dtype)

    def add(total: Array, step: Array) -> tuple[Array, None]:
        at = farthest[:, None] * step[None]
        effects = modes + solve_lower(root, jnp.sinh(at), transpose=True)
        own = groups.log_joint(effects) + jnp.sum(jnp.log(jnp.cosh(at)), axis=1)
        # Beyond where a density can be told it has none.
        return jnp.logaddexp(total, jnp.where(jnp.isnan(own), -jnp.inf, own)), None

    total, _ = lax.scan(add, jnp.full(len(modes), -jnp.inf, dtype), grid)
    logdet = jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)
    cell = dim * (jnp.log(farthest) + float(np.log(steps[1] - steps[0])))
    return total + cell - logdet - 0.5 * dim * float(np.log(2 * np.pi))


def moving_modes(
    groups: Groups, modes: Float[Array, "groups d"]
) -> tuple[Float[Array, "groups d"], Float[Array, "groups d d"]]:
    """Modes with their derivatives, by one more step of Newton's, and factors of the precisions.

    The step's matrix is held: at a mode its slope is zero, and the product's derivative is the
    implicit function's.

    Args:
        groups: The groups.
        modes: Their modes, as numbers.

    Returns:
        Modes, and lower factors R of minus the second derivative there.
    """
    modes = lax.stop_gradient(modes)
    found = groups.rows.differentiate(groups.predictor(modes))
    held = lax.stop_gradient(groups.precision(found.weight))
    moved = modes + _solve(cholesky(held), groups.slope(found, modes))
    weight = groups.rows.differentiate(groups.predictor(moved)).weight
    return moved, cholesky(groups.precision(weight))


def find_modes(
    groups: Integrands, start: Float[Array, "groups d"] | None = None, enough: float | None = None
) -> tuple[Float[Array, "groups d"], Float[Array, "groups d d"]]:
    """Modes of the whitened effects by Newton's method with halved steps, side by side.

    Nothing of it is differentiated. Begun near the modes, rough ones take two looks at the rows.

    Args:
        groups: The groups.
        start: Where to begin; zero by default.
        enough: Squared distance to a mode, in its standard deviations, that will do; by default
            what rounding leaves.

    Returns:
        Modes, and lower factors R of the precisions there.
    """
    exact = float(jnp.finfo(groups.columns.dtype).eps)
    found = _search(groups.held(), start, exact if enough is None else enough)
    return found.effects, found.root


class _GroupAscent(NamedTuple):
    """State of the search: where each group is, where it goes, how far, and what is left."""

    effects: Array
    root: Array
    step: Array
    length: Array
    joint: Array
    left: Array
    num_steps: Array


def _search(groups: Integrands, start: Array | None, enough: float) -> _GroupAscent:
    """Search until twice the gain that a step promises is small enough in every group."""
    dim, dtype = groups.columns.shape[1], groups.columns.dtype
    small = jnp.finfo(dtype).eps

    def look(effects: Array) -> tuple[Array, Array, Array, Array]:
        """The density, the precision's factor, the step, and twice the gain that it promises."""
        joint, slope, precision = groups.look(effects)
        root = cholesky(precision)
        step = _solve(root, slope)
        return joint, root, step, jnp.sum(step * slope, axis=1)

    def move(state: _GroupAscent) -> _GroupAscent:
        new = state.effects + state.length[:, None] * state.step
        joint, root, step, left = look(new)
        # No less but for rounding; a comparison with NaN is false.
        good = joint >= state.joint - 10 * small * (1 + jnp.abs(state.joint))
        good = good | (state.num_steps == 0)
        return _GroupAscent(
            jnp.where(good[:, None], new, state.effects),
            jnp.where(good[:, None, None], root, state.root),
            jnp.where(good[:, None], step, state.step),
            jnp.where(good, 1.0, 0.5 * state.length),
            jnp.where(good, joint, state.joint),
            jnp.where(good, left, state.left),
            state.num_steps + 1,
        )

    def is_on(state: _GroupAscent) -> Array:
        return jnp.any(state.left * state.length > enough) & (state.num_steps < MOST_ITERATIONS)

    first = jnp.zeros((groups.num_groups, dim), dtype) if start is None else start
    first = lax.stop_gradient(first)
    # The first look is one of the loop's, lest there be two of them to compile.
    ones = jnp.ones_like(first[:, 0])
    root = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), (groups.num_groups, dim, dim))
    begin = _GroupAscent(
        first, root, jnp.zeros_like(first), ones, -jnp.inf * ones, jnp.inf * ones, jnp.zeros(())
    )
    return lax.while_loop(is_on, move, begin)


def _solve(factor: Float[Array, "m d d"], vector: Float[Array, "m d"]) -> Float[Array, "m d"]:
    """Solve R R^T x = b for each group."""
    return solve_lower(factor, solve_lower(factor, vector), transpose=True)

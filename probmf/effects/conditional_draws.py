r"""Draws of the effects of independent groups from their conditional, whatever the likelihood.

About the mode, in units of the curvature there, the conditional is :math:`\exp(g(x) - |x|^2 / 2)`
with a smooth g, which is known at the nodes of a quadrature. Between them it is interpolated by the
polynomial through them, and a draw is the inverse of the distribution function, one effect after
the other: the first with the second integrated out over its nodes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.effects.quadrature import (
    Groups,
    find_modes,
    gauss_hermite,
    log_ratios,
    moving_modes,
    solve_upper,
)

#: Nodes along each axis; the outermost lie 6.4 and 4.5 standard deviations out.
NUM_NODES = {1: 15, 2: 9}
#: Points between which a density is linear.
NUM_POINTS = 257


def draw_effects_of_groups(groups: Groups, key: Array) -> Float[Array, "groups d"]:
    """Whitened effects of each group given all else, to be traced.

    Args:
        groups: The groups, with one or two effects each.
        key: JAX key.

    Returns:
        One draw of all of them. Cost O(n K^d) for the K nodes along each axis.
    """
    dim = groups.columns.shape[1]
    size = NUM_NODES[dim]
    nodes, log_weights = gauss_hermite(size, 1)
    axis = nodes[:, 0]
    points = np.linspace(axis[0], axis[-1], NUM_POINTS)
    mode, root = moving_modes(groups, find_modes(groups)[0])
    dtype = mode.dtype
    smooth = log_ratios(groups, mode, root, gauss_hermite(size, dim)[0])
    spread = jnp.asarray(interpolation(axis, points), dtype)
    normal = jnp.asarray(-0.5 * points**2, dtype)
    uniform = jax.random.uniform(key, (dim, groups.num_groups), dtype)
    found: list[Array] = []
    if dim == 2:
        table = smooth.reshape(-1, size, size)
        first = jnp.einsum("gk,mkl->mgl", spread, table)
        weighted = first + jnp.asarray(log_weights, dtype)[None, None]
        density = jax.nn.logsumexp(weighted, axis=2) + normal[None]
        found.append(_invert(density, points, uniform[0]))
        smooth = jnp.einsum("mk,mkl->ml", _interpolation_at(axis, found[0]), table)
    found.append(_invert(smooth @ spread.T + normal[None], points, uniform[dim - 1]))
    return mode + solve_upper(root, jnp.stack(found, axis=1))


def interpolation(
    nodes: Float[np.ndarray, " k"], points: Float[np.ndarray, " g"]
) -> Float[np.ndarray, "g k"]:
    """Weights of values at nodes in those of the polynomial through them at points."""
    weights = _barycentric(nodes)
    apart = points[:, None] - nodes[None]
    hit = apart == 0
    shares = weights / np.where(hit, 1.0, apart)
    shares = np.where(hit.any(axis=1)[:, None], hit, shares)
    found: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
    return found


def _interpolation_at(nodes: np.ndarray, points: Array) -> Float[Array, "m k"]:
    """The same at points that are traced."""
    apart = points[:, None] - jnp.asarray(nodes, points.dtype)[None]
    hit = apart == 0
    shares = jnp.asarray(_barycentric(nodes), points.dtype)[None] / jnp.where(hit, 1.0, apart)
    shares = jnp.where(jnp.any(hit, axis=1)[:, None], hit.astype(points.dtype), shares)
    return shares / jnp.sum(shares, axis=1)[:, None]


def _barycentric(nodes: np.ndarray) -> np.ndarray:
    apart = nodes[:, None] - nodes[None]
    np.fill_diagonal(apart, 1.0)
    weights: np.ndarray = 1.0 / np.prod(apart, axis=1)
    return weights / np.max(np.abs(weights))


def _invert(log_density: Array, points: np.ndarray, uniform: Array) -> Float[Array, " m"]:
    """Draws by the inverse of the distribution function of piecewise linear densities."""
    step = float(points[1] - points[0])
    density = jnp.exp(log_density - jnp.max(log_density, axis=1, keepdims=True))
    mass = 0.5 * (density[:, 1:] + density[:, :-1])
    below = jnp.cumsum(mass, axis=1)
    wanted = uniform * below[:, -1]
    cell = jnp.sum(below < wanted[:, None], axis=1)
    cell = jnp.minimum(cell, mass.shape[1] - 1)[:, None]

    def pick(table: Array) -> Array:
        return jnp.take_along_axis(table, cell, axis=1)[:, 0]

    left, right = pick(density[:, :-1]), pick(density[:, 1:])
    inside = jnp.clip(wanted - pick(below) + pick(mass), 0.0, None)
    root = jnp.sqrt(jnp.maximum(jnp.square(left) + 2.0 * (right - left) * inside, 0.0))
    share = jnp.clip(2.0 * inside / jnp.maximum(left + root, jnp.finfo(left.dtype).tiny), 0.0, 1.0)
    return jnp.asarray(points, share.dtype)[cell[:, 0]] + step * share

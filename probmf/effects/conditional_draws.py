r"""Draws of the effects of independent groups from their conditional, whatever the likelihood.

A draw is the inverse of the distribution function along a line through the mode, in units of the
curvature there, one effect after the other: the first with the second integrated out by
Gauss-Hermite quadrature, the second given the first.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.effects.inversion import draw_by_inversion, find_ends
from probmf.effects.linalg import solve_lower
from probmf.effects.quadrature import (
    ROUGH,
    Integrands,
    find_modes,
    gauss_hermite,
)

#: Nodes of the quadrature that the second of two effects is integrated out by.
NUM_NODES = 7


class Near(NamedTuple):
    """Values that are nearly the same at other values of all that is not integrated out.

    Attributes:
        modes: Modes of the whitened effects.
        reach: How far their conditionals reach, to the left and to the right along each axis, in
            units of the curvature there.
    """

    modes: Float[Array | np.ndarray, "groups d"]
    reach: Float[Array | np.ndarray, "d 2 groups"]


class _Lines(NamedTuple):
    """Densities of each effect along a line through the mode, the first one's and the second's."""

    mode: Float[Array, "groups d"]
    root: Float[Array, "groups d d"]
    first: Callable[[Array], Array]
    second: Callable[[Array, Array], Array]

    @classmethod
    def of(
        cls, groups: Integrands, mode: Float[Array, "groups d"], root: Float[Array, "groups d d"]
    ) -> "_Lines":
        """Of the groups about their modes."""

        def log_density(*at: Array) -> Array:
            effects = mode + solve_lower(root, jnp.stack(at, axis=1), transpose=True)
            return groups.log_joint(effects)

        if mode.shape[1] == 1:
            return cls(mode, root, log_density, log_density)
        grid, logs = gauss_hermite(NUM_NODES, 1)
        nodes = jnp.asarray(grid[:, 0], mode.dtype)
        # Over the Normal density of the nodes themselves.
        weights = jnp.asarray(logs + 0.5 * grid[:, 0] ** 2, mode.dtype)[:, None]

        def first_alone(at: Array) -> Array:
            joint = jax.vmap(lambda node: log_density(at, jnp.full_like(at, node)))(nodes)
            return jax.nn.logsumexp(joint + weights, axis=0)

        return cls(mode, root, first_alone, log_density)

    def ends(self) -> Float[Array, "d 2 groups"]:
        """Ends of the conditionals, the second effect's at the mode of the first."""
        zero = jnp.zeros_like(self.mode[:, 0])
        lines = [self.first, lambda at: self.second(zero, at)][: self.mode.shape[1]]
        return jnp.stack([find_ends(line, line(zero)) for line in lines])


def near_modes(
    groups: Integrands, mode: Float[Array, "groups d"], root: Float[Array, "groups d d"]
) -> Near:
    """Values that draws of effects given another rest may begin with, to be traced.

    Args:
        groups: The groups, with one or two effects each.
        mode: Their modes.
        root: Lower factors of the precisions there.
    """
    return Near(mode, _Lines.of(groups, mode, root).ends())


def draw_effects_of_groups(
    groups: Integrands, uniform: Float[Array, "d groups"], near: Near | None = None
) -> Float[Array, "groups d"]:
    """Whitened effects of each group given all else, to be traced.

    Args:
        groups: The groups, with one or two effects each.
        uniform: Numbers in (0, 1), at which the distribution functions are inverted.
        near: Modes and ends at another value of the rest, where searches for them begin.

    Returns:
        One draw of all of them. Cost O(n): some 25 looks at the rows, of two effects 120.
    """
    dim = groups.columns.shape[1]
    start = None if near is None else jnp.asarray(near.modes)
    mode, root = find_modes(groups, start, ROUGH)
    lines = _Lines.of(groups, mode, root)
    reach = [None] * dim if near is None else jnp.asarray(near.reach)
    drawn = [draw_by_inversion(lines.first, uniform[0], reach[0])]
    if dim == 2:
        given = drawn[0]
        drawn.append(draw_by_inversion(lambda at: lines.second(given, at), uniform[1], reach[1]))
    return mode + solve_lower(root, jnp.stack(drawn, axis=1), transpose=True)

"""Effects integrated out of rows of any density: stated once, whatever the model is written in."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probmf.effects import Standard
from probmf.effects.columns import lead_groups
from probmf.effects.conditional_draws import Near, draw_effects_of_groups
from probmf.effects.laplace import Blocks, Tables, Whitened, draw_near_mode, log_laplace
from probmf.effects.quadrature import Groups, integrals_on_grid, log_integrals
from probmf.effects.row_densities import Rows
from probmf.inference.marginal.effect_blocks import Block


class Integrand(NamedTuple):
    """The rows with the effects to integrate out, given all else.

    Attributes:
        system: The rows, the linear predictor without the effects, columns and prior factors.
        num_nodes: Nodes of the quadrature for each effect; 0 for Laplace's approximation.
        near: Near what modes are; nodes of a quadrature are then held.
    """

    system: Blocks
    num_nodes: int
    near: Near | None = None

    def evidence(self, start: Whitened | None = None) -> tuple[Float[Array, ""], Whitened]:
        """Logarithm of the integral over the effects, and their modes, whitened; to be traced.

        Args:
            start: Where the search for the modes begins; zero by default.
        """
        if not self.num_nodes:
            return log_laplace(self.system, start)
        found, modes = self.by_group(None if start is None else start.lead)
        return jnp.sum(found), self.system.zeros._replace(lead=modes)

    def by_group(
        self, start: Float[Array, "groups d"] | None = None
    ) -> tuple[Float[Array, " groups"], Float[Array, "groups d"]]:
        """The same of each group of the one grouping that a quadrature is over."""
        if start is None and self.near is not None:
            start = jnp.asarray(self.near.modes)
        return log_integrals(self.groups, self.num_nodes, start, held=self.near is not None)

    def missed(self) -> Float[Array, " groups"]:
        """Error of a quadrature's nodes in the logarithm of each group's integral."""
        found, modes = self.by_group()
        return integrals_on_grid(self.groups, modes) - found

    @property
    def groups(self) -> Groups:
        """The groups whose integral is by quadrature."""
        return lead_groups(self.system)

    def of_rows(self, keep: Bool[Array, " n"]) -> "Integrand":
        """The same of some of the rows."""
        rows = self.system.rows
        own = Rows(partial(_kept, rows.density), (keep, rows.parameters))
        return self._replace(system=self.system._replace(rows=own))

    def rows_left_out(self) -> Float[Array, " n"]:
        """Log density of each row given the others; to be traced, with concrete groups.

        By quadrature the nth row of every group is left out at once, with nodes about the modes
        without it: a pass for each row of the largest group.
        """
        group = np.asarray(self.system.pattern.group)
        if not self.num_nodes:
            return self.parts_left_out(np.arange(len(group)), len(group))
        order = np.argsort(group, kind="stable")
        nth = np.empty(len(group), int)
        nth[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
        whole, modes = self.by_group()
        number = jnp.asarray(nth)
        without = jax.lax.map(
            lambda one: self.of_rows(number != one).by_group(modes)[0], jnp.arange(nth.max() + 1)
        )
        return whole[group] - without[nth, group]

    def parts_left_out(self, part: Int[np.ndarray, " n"], count: int) -> Float[Array, " parts"]:
        """Log density of each part of the rows given the others; to be traced.

        Args:
            part: Part of each row.
            count: Number of parts, each of which costs an evaluation, unless a quadrature's groups
                lie within parts: they are independent.
        """
        group = np.asarray(self.system.pattern.group)
        of_group = np.zeros(self.system.pattern.shapes[0][0], int)
        of_group[group] = part
        if self.num_nodes and np.all(of_group[group] == part):
            found, _ = self.by_group()
            # A group without rows has an integral of one.
            return jax.ops.segment_sum(found, jnp.asarray(of_group), num_segments=count)
        number = jnp.asarray(part)
        whole, modes = self.evidence()
        without = jax.lax.map(
            lambda one: self.of_rows(number != one).evidence(modes)[0], jnp.arange(count)
        )
        return whole - without

    def draw(self, key: Array) -> Tables:
        """The effects from their conditional, to be traced: near their mode for Laplace's."""
        if not self.num_nodes:
            return draw_near_mode(self.system, key)
        shape = self.system.pattern.shapes[0][::-1]
        return self.draw_groups(jax.random.uniform(key, shape, self.system.offset.dtype))

    def draw_groups(self, uniform: Float[Array, "d groups"]) -> Tables:
        """Effects of the one grouping that a quadrature is over; see `draw_effects_of_groups`."""
        drawn = draw_effects_of_groups(self.groups, uniform, self.near)
        return self.system.effects(self.system.zeros._replace(lead=drawn))


def _kept(density: Any, predictor: Array, parameters: Any) -> Array:
    """Log densities of the rows that are kept, and zero of the others."""
    keep, own = parameters
    return jnp.where(keep, density(predictor, own), 0.0)


def site_tables(
    blocks: Sequence[Block], standards: Sequence[Standard | None], tables: Tables
) -> dict[str, Array]:
    """Deviations by site, from the effects of each block in its own coordinates."""
    found: dict[str, Array] = {}
    for block, standard, table in zip(blocks, standards, tables, strict=True):
        found |= block.split(table if standard is None else standard.effects(table))
    return found

"""Sites that share their groups become one block; each block's prior factor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from probmf.effects import Grouping, Pattern, Standard, make_pattern, standardize
from probmf.inference.marginal.injection import Site, as_float
from probmf.inference.marginal.layout import Found, SiteLayout


@dataclass(frozen=True)
class Block:
    """Sites whose effects belong to the same groups; all of them have flat priors, or none has.

    Attributes:
        layouts: Their layouts; the coefficients lie side by side in this order.
    """

    layouts: tuple[SiteLayout, ...]

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return self.layouts[0].num_groups

    @property
    def dim(self) -> int:
        """Coefficients per group."""
        return sum(layout.dim for layout in self.layouts)

    @property
    def is_flat(self) -> bool:
        """True if the prior's density is one everywhere."""
        return self.layouts[0].is_flat

    def grouping(self, group: np.ndarray) -> Grouping:
        """For the pattern, from the group of each row."""
        name = " and ".join(layout.name for layout in self.layouts)
        return Grouping(name, group, self.num_groups, self.dim)

    def tril(self, sites: Mapping[str, Site]) -> Array:
        """Lower factor of the prior covariance: (d, d), or (groups, d, d) if the groups differ."""
        parts = [_site_tril(layout, sites[layout.name]) for layout in self.layouts]
        if len(parts) == 1:
            return parts[0]
        by_group = any(part.ndim == 3 for part in parts)
        if by_group:
            parts = [
                jnp.broadcast_to(p, (self.num_groups, *p.shape[-2:])) if p.ndim == 2 else p
                for p in parts
            ]
        rows = []
        for i, part in enumerate(parts):
            row = [
                part if i == j else jnp.zeros((*part.shape[:-1], other.shape[-1]), part.dtype)
                for j, other in enumerate(parts)
            ]
            rows.append(jnp.concatenate(row, axis=-1))
        return jnp.concatenate(rows, axis=-2)

    def split(self, table: Array) -> dict[str, Array]:
        """Values (groups, d) of the block by site, in the sites' own shapes."""
        parts, start = {}, 0
        for layout in self.layouts:
            parts[layout.name] = layout.restore(table[:, start : start + layout.dim])
            start += layout.dim
        return parts


def make_blocks(found: Sequence[Found]) -> list[tuple[Block, np.ndarray, list[int]]]:
    """Join sites with the same groups.

    Args:
        found: Layouts and designs.

    Returns:
        Blocks, each with the group of each row and the positions of its sites.
    """
    blocks: list[tuple[Block, np.ndarray, np.ndarray, list[int]]] = []
    for position, one in enumerate(found):
        layout = one.layout
        for index, (block, group, known, members) in enumerate(blocks):
            both = known & one.known
            alike = block.num_groups == layout.num_groups and block.is_flat == layout.is_flat
            if alike and np.array_equal(group[both], one.group[both]):
                joined = Block((*block.layouts, layout))
                group = np.where(known, group, one.group)
                blocks[index] = (joined, group, known | one.known, [*members, position])
                break
        else:
            blocks.append((Block((layout,)), one.group, one.known, [position]))
    return [(block, group, members) for block, group, _, members in blocks]


class LaidOut(NamedTuple):
    """The blocks of some sites, in the order of their pattern.

    Attributes:
        blocks: The blocks.
        pattern: Which of their effects meet.
        columns: Coefficients of each block (float64), in the standard coordinates if it has any.
        standards: Coordinates of each block's effects in which its columns are apart, or None.
        constant: Whether the columns of a block depend on nothing.
    """

    blocks: tuple[Block, ...]
    pattern: Pattern
    columns: tuple[np.ndarray, ...]
    standards: tuple[Standard | None, ...]
    constant: tuple[bool, ...]


def lay_out_blocks(found: Sequence[Found], num_rows: int) -> LaidOut:
    """Lay out the effects of some sites.

    Args:
        found: Layouts and designs; none for a pattern of one effect that enters nowhere.
        num_rows: Number of observations.

    Raises:
        RemainderTooLargeError: If the crossed groupings are too large for a dense matrix.
    """
    grouped = make_blocks(found)
    nothing = Grouping("nothing", np.zeros(num_rows, np.int32), 1, 1)
    pattern = make_pattern([block.grouping(group) for block, group, _ in grouped] or [nothing])
    ordered = [grouped[place] for place in pattern.order] if grouped else []
    apart = [
        standardize(np.concatenate([found[place].design for place in members], axis=1))
        for *_, members in ordered
    ]
    return LaidOut(
        tuple(block for block, *_ in ordered), pattern, tuple(own for own, _ in apart),
        tuple(standard for _, standard in apart),
        tuple(all(found[place].constant for place in members) for *_, members in ordered),
    )  # fmt: skip


def _site_tril(layout: SiteLayout, site: Site) -> Array:
    """Lower factor (d, d) of one group's prior, or (groups, d, d); ones where it is flat."""
    base = site.base
    if layout.is_flat:
        return jnp.eye(layout.dim)
    if isinstance(base, dist.Normal):
        return _diagonal(layout, as_float(base.scale))
    return _correlated(layout, tuple(site.law.batch_shape), as_float(base.scale_tril))


def _correlated(layout: SiteLayout, batch: tuple[int, ...], factor: Array) -> Array:
    """From factors (..., d, d) that broadcast against the site's plates."""
    square = factor.shape[-2:]
    plates = (1,) * (len(batch) - factor.ndim + 2) + factor.shape[:-2]
    factor = factor.reshape(*plates, *square)
    if layout.axis is None:
        by_group, rest = factor[None], batch
    else:
        by_group = jnp.moveaxis(factor, layout.axis, 0)
        rest = batch[: layout.axis] + batch[layout.axis + 1 :]
    spread = jnp.broadcast_to(by_group, (len(by_group), *rest, *square))
    spread = spread.reshape(len(by_group), -1, *square)
    full = spread[:, 0] if spread.shape[1] == 1 else jax.vmap(_block_diagonal)(spread)
    return full[0] if len(full) == 1 else full


def _diagonal(layout: SiteLayout, scale: Array) -> Array:
    """From a scale that broadcasts against the site's shape."""
    shape = (1,) * (len(layout.shape) - scale.ndim) + scale.shape
    scale = scale.reshape(shape)
    if layout.axis is None:
        return jnp.diag(jnp.broadcast_to(scale, layout.shape).ravel())
    rest = layout.shape[: layout.axis] + layout.shape[layout.axis + 1 :]
    by_group = jnp.moveaxis(scale, layout.axis, 0)
    table = jnp.broadcast_to(by_group, (by_group.shape[0], *rest)).reshape(-1, layout.dim)
    diagonal = table[:, :, None] * jnp.eye(layout.dim, dtype=table.dtype)[None]
    return diagonal[0] if len(table) == 1 else diagonal


def _block_diagonal(factors: Array) -> Array:
    count, dim, _ = factors.shape
    full = jnp.zeros((count, dim, count, dim), factors.dtype)
    index = jnp.arange(count)
    return full.at[index, :, index, :].set(factors).reshape(count * dim, count * dim)

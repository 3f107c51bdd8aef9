"""Finding out, once and from concrete data, how the effects enter the observations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.inference.marginal.dependence import Traced
from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.injection import (
    MarginalizeError,
    Values,
    read_observed,
    run_with,
)
from probmf.inference.marginal.probe import Probe

#: A site of which a row touches several elements is kept as one dense block up to this size.
MAX_DENSE_SITE = 256
#: Disagreement that rounding explains, relative to the size of the terms.
TOLERANCE = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-3}


@dataclass(frozen=True, eq=False)
class Layout:
    """How a site's values are arranged as (groups, coefficients).

    Attributes:
        name: The site.
        shape: Shape of its values.
        axis: The axis of the groups; None when all values belong to one group.
        group: Group of each row; None when there is one, or the row does not involve the site.
        known: Rows whose group is known, as their coefficients are not all zero.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    group: np.ndarray
    known: np.ndarray

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def dim(self) -> int:
        """Coefficients per group."""
        return int(np.prod(self.shape)) // self.num_groups

    def arrange[Values: (Array, np.ndarray)](self, values: Values) -> Values:
        """Values of the site's shape as (groups, coefficients)."""
        if self.axis is None:
            return values.reshape(1, -1)
        others: list[int] = [axis for axis in range(len(self.shape)) if axis != self.axis]
        return values.transpose(self.axis, *others).reshape(self.num_groups, self.dim)

    def restore[Values: (Array, np.ndarray)](self, table: Values) -> Values:
        """The inverse of `arrange`."""
        if self.axis is None:
            return table.reshape(self.shape)
        others: list[int] = [axis for axis in range(len(self.shape)) if axis != self.axis]
        stacked = table.reshape(self.num_groups, *(self.shape[axis] for axis in others))
        return stacked.transpose(np.argsort([self.axis, *others]))


@dataclass(frozen=True, eq=False)
class Found:
    """A site's layout and design.

    Attributes:
        layout: How its values are arranged.
        design: Coefficients (rows, dim), at the latents of the probe.
        constant: Whether they depend on no latent value.
    """

    layout: Layout
    design: np.ndarray
    constant: bool


def find_sites(probe: Probe) -> list[Found]:
    """The layout and design of every site, by numbering its elements in binary.

    Args:
        probe: The traced model.

    Returns:
        One entry per site, in order.

    Raises:
        MarginalizeError: If a site is not affine, or a row touches several groups of a large site.
    """
    location = Traced(probe.location, probe.latents, probe.zeros())
    offset = np.asarray(location(probe.latents, probe.zeros()))
    if not np.all(np.isfinite(offset)):
        row = int(np.argmin(np.isfinite(offset)))
        raise MarginalizeError(
            f"The location of {probe.target!r} is not finite in row {row}, with every latent site "
            "at a moderate value; look for missing values in the data."
        )
    found = [_find_site(probe, location, offset, name) for name in probe.sites]
    _check_together(probe, location, offset, found)
    return found


def site_slope(probe: Probe, name: str) -> Traced:
    """The change of the location by a move of one site: a function of latents and the move."""
    zeros = probe.zeros()

    def slope(latents: Values, move: Array) -> Array:
        def along(deviation: Array) -> Array:
            return probe.location(latents, {**zeros, name: deviation})

        return jax.jvp(along, (zeros[name],), (move,))[1]

    return Traced(slope, probe.latents, zeros[name])


def _find_site(probe: Probe, location: Traced, offset: np.ndarray, name: str) -> Found:
    shape = probe.shapes[name]
    traced = site_slope(probe, name)
    zeros = probe.zeros()

    def slopes(values: np.ndarray) -> np.ndarray:
        return np.asarray(traced(probe.latents, np.asarray(values, zeros[name].dtype)))

    rng = np.random.default_rng(1)
    test = rng.normal(size=shape)
    expected = slopes(test)
    for size in (1.0, 30.0):
        moved = {**zeros, name: np.asarray(size * test, zeros[name].dtype)}
        _check_affine(
            probe,
            name,
            np.asarray(location(probe.latents, moved)) - offset,
            size * expected,
            offset,
        )
    constant = not traced.depends_on(0)
    # Weights apart from each other, so that coefficients do not cancel.
    weight = rng.uniform(0.5, 1.5, size=shape)
    slack = 100 * _tolerance(expected) * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    for axis in _candidate_axes(probe, name):
        same = np.broadcast_to(np.take(weight, [0], axis), shape)
        found = _group_by_bits(slopes, same, axis)
        if found is None:
            continue
        layout = Layout(name, shape, axis, *found)
        design = _design(layout, slopes)
        table = np.asarray(layout.arrange(test))
        if np.all(np.abs(np.sum(design * table[layout.group], axis=1) - expected) <= slack):
            return Found(layout, design, constant)
    if int(np.prod(shape)) > MAX_DENSE_SITE:
        if not _candidate_axes(probe, name):
            raise MarginalizeError(
                f"The prior of {name!r}, of shape {shape}, correlates all its values; at most "
                f"{MAX_DENSE_SITE} can be kept in one block. Leave it out, or give it a plate of "
                "groups."
            )
        raise MarginalizeError(
            f"Some rows of {probe.target!r} involve two or more groups of the site {name!r}, of "
            f"shape {shape}; a row may involve one. Split it into one site for each role, or "
            "leave it out."
        )
    rows = len(expected)
    layout = Layout(name, shape, None, np.zeros(rows, np.int32), np.ones(rows, bool))
    return Found(layout, _design(layout, slopes), constant)


def _check_affine(
    probe: Probe, name: str, got: np.ndarray, expected: np.ndarray, offset: np.ndarray
) -> None:
    """A finite move must change the location as the slope says."""
    size = np.abs(offset) + np.abs(expected) + np.max(np.abs(expected), initial=0.0)
    wrong = ~(np.abs(got - expected) <= _tolerance(got) * size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MarginalizeError(
            f"The site {name!r} does not enter the location of {probe.target!r} affinely (row "
            f"{row}: moving it changes the location by {got[row]:g}, its slope says "
            f"{expected[row]:g}); only affine effects can be integrated out."
        )


def _check_together(probe: Probe, location: Traced, offset: np.ndarray, found: list[Found]) -> None:
    """Moving all sites at once must add their moves up: no products of effects."""
    rng = np.random.default_rng(2)
    zeros = probe.zeros()
    moves, expected, size = {}, np.zeros(len(offset)), np.abs(offset)
    for one in found:
        layout = one.layout
        move = rng.normal(size=layout.shape)
        table = np.asarray(layout.arrange(move))
        change = np.sum(one.design * table[layout.group], axis=1)
        moves[layout.name] = np.asarray(move, zeros[layout.name].dtype)
        expected += change
        size = size + np.abs(change) + np.max(np.abs(change), initial=0.0)
    got = np.asarray(location(probe.latents, moves)) - offset
    wrong = ~(np.abs(got - expected) <= 100 * _tolerance(got) * size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MarginalizeError(
            f"{quoted(probe.sites)} do not enter the location of {probe.target!r} affinely "
            f"together (row {row}: moving all changes it by {got[row]:g}, their slopes say "
            f"{expected[row]:g}); a product of effects can't be integrated out. Leave one of its "
            "sites out."
        )


def _tolerance(values: np.ndarray) -> float:
    return TOLERANCE.get(values.dtype, 1e-3)


def _candidate_axes(probe: Probe, name: str) -> list[int]:
    """Axes that may number the groups, the longest first; never that of a correlated vector."""
    shape, correlated = probe.shapes[name], name in probe.correlated
    axes = [axis for axis in range(len(shape) - correlated) if shape[axis] > 1]
    return sorted(axes, key=lambda axis: -shape[axis])


def _group_by_bits(
    slopes: Callable[[np.ndarray], np.ndarray], same: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Group of each row from the binary digits of its number; None if some row has several.

    A row's coefficients either take part in a digit's sum, all of them, or do not.
    """
    total = slopes(same)
    size = same.shape[axis]
    number = np.arange(size).reshape([-1 if a == axis else 1 for a in range(same.ndim)])
    floor = 1e-12 * max(float(np.max(np.abs(total), initial=0.0)), 1e-300)
    known = np.abs(total) > floor
    group = np.zeros(len(total), np.int32)
    for bit in range(int(size - 1).bit_length()):
        part = slopes(same * ((number >> bit) & 1))
        on = known & (np.abs(part - total) <= 1e-3 * np.abs(total))
        off = np.abs(part) <= np.maximum(1e-3 * np.abs(total), floor)
        if not np.all(on | off):
            return None
        group |= np.where(on, 1 << bit, 0).astype(np.int32)
    return group, known


def _design(layout: Layout, slopes: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Coefficients of every row, one slope for each."""
    columns = []
    for coefficient in range(layout.dim):
        one = np.zeros((layout.num_groups, layout.dim))
        one[:, coefficient] = 1.0
        columns.append(slopes(layout.restore(one)))
    return np.stack(columns, axis=1)


def site_design(source: Any, latents: Values, layout: Layout) -> Array:
    """Coefficients (rows, dim) of a site at given latents, inside a trace.

    Args:
        source: Has the model, its arguments, the target and `zeros`.
        latents: Values of the other latent sites.
        layout: The site's layout.
    """
    zeros = source.zeros()
    one = np.zeros((layout.dim, layout.num_groups, layout.dim))
    one[np.arange(layout.dim), :, np.arange(layout.dim)] = 1.0
    moves = jax.vmap(layout.restore)(jnp.asarray(one, zeros[layout.name].dtype))

    def along(deviation: Array) -> Array:
        run = run_with(
            source.model, latents, {**zeros, layout.name: deviation}, source.args, source.kwargs
        )
        return read_observed(source.target, run.observed[source.target]).loc

    _, slope = jax.linearize(along, zeros[layout.name])
    return jax.vmap(slope)(moves).T

"""Checks that the location is what the designs say: an affine function of the effects, by row."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.injection import MarginalizeError, Values
from probmf.inference.marginal.layout import Found, SiteLayout
from probmf.inference.marginal.probe import Probe

#: Disagreement that rounding explains, as a share of the sum of the terms' magnitudes in the row.
TOLERANCE = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-3}
#: Moves in units in which the largest coefficient of a column is one.
SIZES = (1.0, 30.0)


def check_affine(
    probe: Probe,
    location: Callable[..., Any],
    slopes: Sequence[Callable[..., np.ndarray]],
    latents: Values,
    found: Sequence[Found],
    designs: Sequence[np.ndarray],
) -> None:
    """Compare the location at random effects, and its slopes there, with what the designs say.

    Args:
        probe: The traced model.
        location: Locations of the rows by latents and deviations.
        slopes: For each site the slope of the location along a move, at latents and deviations.
        latents: Values of the other latent sites.
        found: Arrangement and groups of each site.
        designs: Coefficients of each site at these latents.

    Raises:
        MarginalizeError: Naming the site and the first row that differs by more than rounding,
            measured by the sum of the magnitudes of the row's terms.
    """
    zeros = probe.zeros()
    offset = np.asarray(location(latents, zeros))
    moves: dict[str, np.ndarray] = {}
    terms: dict[str, np.ndarray] = {}
    for one, design in zip(found, designs, strict=True):
        layout = one.layout
        table = _move(layout, design)
        moves[layout.name] = np.asarray(layout.restore(table), zeros[layout.name].dtype)
        terms[layout.name] = design * table[one.group]

    def complain(names: Sequence[str], row: int, what: str) -> MarginalizeError:
        if len(names) == 1:
            return MarginalizeError(
                f"The site {names[0]!r} does not enter the location of {probe.target!r} affinely "
                f"(row {row}: {what}); only affine effects can be integrated out.",
                sites=names,
            )
        return MarginalizeError(
            f"{quoted(names)} do not enter the location of {probe.target!r} affinely together (row "
            f"{row}: {what}); a product of effects can't be integrated out.",
            "Leave one of its sites out.",
        )

    def compare(names: Sequence[str], size: float) -> None:
        moved = {**zeros, **{name: size * moves[name] for name in names}}
        change = np.asarray(location(latents, moved)) - offset
        parts = np.concatenate([size * terms[name] for name in names], axis=1)
        expected, magnitude = np.sum(parts, axis=1), np.sum(np.abs(parts), axis=1)
        row = _first_wrong(change, expected, np.abs(offset) + magnitude)
        if row is not None:
            moving, says = ("it", "its slope says") if len(names) == 1 else ("all", "slopes say")
            what = f"moving {moving} changes the location by {change[row]:g}, {says} "
            raise complain(names, row, f"{what}{expected[row]:g}")
        # The slope shows what the size of the location hides.
        for name, slope in zip(moves, slopes, strict=True):
            if name in names:
                there, here = slope(moves[name], latents, moved), np.sum(terms[name], axis=1)
                row = _first_wrong(there, here, np.sum(np.abs(terms[name]), axis=1))
                if row is not None:
                    what = f"the slope by {name!r} is {there[row]:g} at one value, {here[row]:g} "
                    raise complain(names, row, f"{what}at another")

    for size in SIZES:
        for name in moves:
            compare([name], size)
    if len(moves) > 1:
        compare(list(moves), 1.0)


def _move(layout: SiteLayout, design: np.ndarray) -> np.ndarray:
    """Random values (groups, coefficients), in units in which all columns are of one size."""
    rng = np.random.default_rng(zlib.crc32(layout.name.encode()))
    size = np.max(np.abs(design), axis=0, initial=0.0)
    unit = np.where(size > 0, 1.0 / np.where(size > 0, size, 1.0), 1.0)
    return rng.normal(size=(layout.num_groups, layout.dim)) * unit


def _first_wrong(got: np.ndarray, expected: np.ndarray, magnitude: np.ndarray) -> int | None:
    """The first row that differs by more than the rounding of terms of that magnitude."""
    wrong = ~(np.abs(got - expected) <= TOLERANCE.get(got.dtype, 1e-3) * magnitude)
    return int(np.argmax(wrong)) if wrong.any() else None

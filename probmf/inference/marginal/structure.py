"""Finding out, once and from concrete data, how the effects enter the observations.

Nothing is judged by its size: an element enters a row if the slope of the row's location along it
is not zero, which products with zero and gathers leave exact.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.generic import UndecidedError
from probmf.inference.marginal.injection import MarginalizeError, Values
from probmf.inference.marginal.layout import Found, SiteLayout, Structure
from probmf.inference.marginal.probe import Probe
from probmf.inference.marginal.traced import Traced

#: A site of which a row touches several elements is kept as one dense block up to this size.
MAX_DENSE_SITE = 256


#: Disagreement that rounding explains, as a share of the sum of the terms' magnitudes in the row.
TOLERANCE = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-3}
#: Moves in units in which the largest coefficient of a column is one.
SIZES = (1.0, 30.0)


def find_sites(probe: Probe) -> list[Found]:
    """The layout and design of every site, by numbering its elements in binary.

    Args:
        probe: The traced model.

    Returns:
        One entry per site, in order.

    Raises:
        MarginalizeError: If a site is not affine, or a row touches several groups of a large site.
    """
    zeros = probe.zeros()
    location = Traced(probe.location, probe.latents, zeros)
    _refuse_not_finite(
        np.asarray(location(probe.latents, zeros)), f"The location of {probe.target!r}",
        "with every latent site at a moderate value; look for missing values in the data",
    )  # fmt: skip
    _refuse_kinks(probe, location)
    slopes = [Slope(probe, name) for name in probe.sites]
    found = [_find_site(probe, slope) for slope in slopes]
    designs = [one.design for one in found]
    check_affine(probe, location, slopes, probe.latents, found, designs)
    if not all(one.constant for one in found):
        latents = probe.values(seed=1)
        designs = [
            one.design if one.constant else _design(one.layout, slope, latents)
            for one, slope in zip(found, slopes, strict=True)
        ]
        check_affine(probe, location, slopes, latents, found, designs)
    _refuse_bends(probe, slopes)
    return found


def _refuse_kinks(probe: Probe, location: Traced) -> None:
    """Refuse effects that are affine piece by piece, which shows in the program alone."""
    # The leaves of a mapping lie in the order of its sorted keys.
    for leaf, name in enumerate(sorted(probe.shapes)):
        if (kink := location.kink_of(1, leaf)) is not None:
            raise MarginalizeError(
                f"The site {name!r} does not enter the location of {probe.target!r} affinely: it "
                f"goes through {kink!r}, which has a kink or a jump; only affine effects can be "
                "integrated out.",
                "Leave it out of the sites to integrate.",
                [name],
            )


def _refuse_bends(probe: Probe, slopes: Sequence["Slope"]) -> None:
    """Refuse effects whose slopes depend on effects by the program, wherever they are straight."""
    for leaf, name in enumerate(sorted(probe.shapes)):
        for slope in slopes:
            if not slope.traced.depends_on(1, leaf):
                continue
            if slope.name == name:
                raise MarginalizeError(
                    f"The site {name!r} does not enter the location of {probe.target!r} affinely: "
                    "its slope depends on its own value; only affine effects can be integrated "
                    "out.",
                    "Leave it out of the sites to integrate.",
                    [name],
                )
            raise MarginalizeError(
                f"{quoted(sorted([name, slope.name]))} do not enter the location of "
                f"{probe.target!r} affinely together: the slope of one depends on the other; a "
                "product of effects can't be integrated out.",
                "Leave one of its sites out.",
            )


def probed_structure(probe: Probe) -> Structure:
    """The structure of any model.

    Args:
        probe: The traced model.

    Returns:
        What `find_sites` finds and the dependence of the rest.

    Raises:
        MarginalizeError: See `find_sites`.
    """
    probe.check()
    observed = probe.observations()
    on = probe.on_latents["observed"][probe.target]
    is_gaussian = probe.is_gaussian(probe.target)
    varies: tuple[Any, ...] = (True,)
    if is_gaussian:
        varies = (on["loc"], probe.on_latents["values"][probe.target], *jax.tree.leaves(on["mask"]))
    else:
        probe.check_rows()
    return Structure(
        target=probe.target,
        hidden=probe.hidden,
        shapes=probe.shapes,
        latent_shapes={name: jnp.shape(value) for name, value in probe.latents.items()},
        found=find_sites(probe),
        fixed_priors=not any(probe.on_latents["effects"].values()),
        fixed_targets=not any(varies),
        observed=observed,
        is_gaussian=is_gaussian,
    )


class Slope:
    """The change of the location by a move of one site.

    Args:
        probe: The traced model.
        name: The site.
    """

    def __init__(self, probe: Probe, name: str) -> None:
        """Trace it."""
        self.probe, self.name = probe, name
        zeros = probe.zeros()

        def slope(latents: Values, deviations: Values, move: Array) -> Array:
            def along(deviation: Array) -> Array:
                return probe.location(latents, {**deviations, name: deviation})

            return jax.jvp(along, (deviations[name],), (move,))[1]

        self.traced = Traced(slope, probe.latents, zeros, zeros[name])
        self.constant = not self.traced.depends_on(0)
        # Weights apart from each other, and twice, so that coefficients do not cancel.
        rng = np.random.default_rng(1)
        self.weights = rng.uniform(0.5, 1.5, size=(2, *probe.shapes[name]))

    def __call__(
        self, move: np.ndarray, latents: Values | None = None, deviations: Values | None = None
    ) -> np.ndarray:
        """Of each row, at the probe's latents and no deviation unless others are given."""
        zeros = self.probe.zeros()
        found = self.traced(
            self.probe.latents if latents is None else latents,
            zeros if deviations is None else deviations,
            np.asarray(move, zeros[self.name].dtype),
        )
        slope = np.asarray(found)
        _refuse_not_finite(
            slope, f"The slope of the location of {self.probe.target!r} by the site {self.name!r}",
            "so that its coefficients can't be read; look for infinite values in the data, and for "
            "functions without a derivative at the prior mean",
        )  # fmt: skip
        return slope

    def reaches(self, chosen: np.ndarray) -> np.ndarray:
        """Rows that the chosen elements may enter, at whatever latent values.

        Products with zero and gathers are exact, so what a move does not reach has slope zero.
        """
        zeros = self.probe.zeros()
        reached: Any = False
        for seed, weight in enumerate(self.weights):
            move = np.asarray(weight * chosen, zeros[self.name].dtype)
            reached = (self(move) != 0) | reached
            if not self.constant:
                generic = self.traced.at_generic(0, seed, self.probe.latents, zeros, move)
                reached |= np.asarray(generic) != 0
        return np.asarray(reached)


def _find_site(probe: Probe, slope: Slope) -> Found:
    name, shape = slope.name, probe.shapes[slope.name]
    several = f"Some rows of {probe.target!r} involve two or more groups of"
    try:
        for axis in _candidate_axes(probe, name):
            grouped = _group_by_digits(slope, shape, axis)
            if grouped is not None:
                layout = SiteLayout(name, shape, axis, name in probe.flat)
                return Found(layout, *grouped, _design(layout, slope), slope.constant)
    except UndecidedError:
        several = f"A latent site decides which group rows of {probe.target!r} involve of"
    size = int(np.prod(shape))
    if size > MAX_DENSE_SITE:
        if not _candidate_axes(probe, name):
            raise MarginalizeError(
                f"The prior of {name!r}, of shape {shape}, correlates all its values; at most "
                f"{MAX_DENSE_SITE} can be kept in one block.",
                "Leave it out, or give it a plate of groups.",
                [name],
            )
        raise several_groups(several, name, shape)
    rows = len(slope(np.zeros(shape)))
    layout = SiteLayout(name, shape, None, name in probe.flat)
    group = np.zeros(rows, np.int32)
    return Found(layout, group, np.ones(rows, bool), _design(layout, slope), slope.constant)


def several_groups(what: str, name: str, shape: tuple[int, ...]) -> MarginalizeError:
    """The error of a large site whose elements are not apart."""
    return MarginalizeError(
        f"{what} the site {name!r}, of shape {shape}; beyond {MAX_DENSE_SITE} values each row must "
        "involve one, and always the same.",
        "Split it into one site for each role, or leave it out.",
        [name],
    )


def _candidate_axes(probe: Probe, name: str) -> list[int]:
    """Axes that may number the groups, the longest first; never that of a correlated vector."""
    shape, correlated = probe.shapes[name], name in probe.correlated
    axes = [axis for axis in range(len(shape) - correlated) if shape[axis] > 1]
    return sorted(axes, key=lambda axis: -shape[axis])


def _group_by_digits(
    slope: Slope, shape: tuple[int, ...], axis: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Group of each row from the binary digits of its number, and which rows have one.

    A row of two groups is reached by one and by zero in a digit in which they differ: None then.
    """
    size = shape[axis]
    number = np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    group, known = np.zeros(0, np.int32), np.zeros(0, bool)
    for bit in range(int(size - 1).bit_length()):
        digit = (number >> bit) & 1
        ones, zeros = slope.reaches(digit), slope.reaches(1 - digit)
        if np.any(ones & zeros):
            return None
        if bit == 0:
            group, known = np.zeros(len(ones), np.int32), ones | zeros
        group |= np.where(ones, 1 << bit, 0).astype(np.int32)
    return group, known


def _design(layout: SiteLayout, slope: Slope, latents: Values | None = None) -> np.ndarray:
    """Coefficients of every row, one slope for each."""
    columns = []
    for coefficient in range(layout.dim):
        one = np.zeros((layout.num_groups, layout.dim))
        one[:, coefficient] = 1.0
        columns.append(slope(layout.restore(one), latents))
    return np.stack(columns, axis=1)


def _refuse_not_finite(values: np.ndarray, what: str, hint: str) -> None:
    if not np.all(np.isfinite(values)):
        row = int(np.argmin(np.isfinite(values)))
        raise MarginalizeError(f"{what} is not finite in row {row}, {hint}.")


def site_design(source: Any, latents: Values, layout: SiteLayout) -> Array:
    """Coefficients (rows, dim) of a site at given latents, inside a trace.

    Args:
        source: Has `predictor`, by latents and deviations, and `zeros`.
        latents: Values of the other latent sites.
        layout: The site's layout.
    """
    zeros = source.zeros()
    one = np.zeros((layout.dim, layout.num_groups, layout.dim))
    one[np.arange(layout.dim), :, np.arange(layout.dim)] = 1.0
    moves = jax.vmap(layout.restore)(jnp.asarray(one, zeros[layout.name].dtype))

    def along(deviation: Array) -> Array:
        found: Array = source.predictor(latents, {**zeros, layout.name: deviation})
        return found

    _, slope = jax.linearize(along, zeros[layout.name])
    return jax.vmap(slope)(moves).T


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

"""Rows left out whose effects the others tell of by their last digits, or not at all."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probmf.effects import Pattern
from probmf.effects.conditional_errors import spread_columns
from probmf.effects.standard import centre, orthogonalize
from probmf.inference.marginal.injection import Values, read_observed
from probmf.inference.marginal.prepared import Prepared
from probmf.numpyro_setup import run_unchecked
from probmf.run.compilation import count_numbers, quick_jit

#: Share of the columns' sums of squares below which those of the rows that stay are not found by
#: subtraction.
CLOSE = 1e-6
#: Rows that are factored at once.
ROWS = 256


class LeftOut:
    """Densities of some rows given the others, as that of all less that of the others.

    In place of a difference of numbers that are nearly the same, the others' density is found in
    coordinates of their own, whatever the size of the columns in the rows that are left out.

    Args:
        prepared: The model with its data, in double precision.
        latents: Draws of the latents, on the first axis.
    """

    def __init__(self, prepared: Prepared, latents: Values) -> None:
        """Find which rows count."""
        self.prepared, self.latents = prepared, latents
        self.first = {name: value[0] for name, value in latents.items()}
        run = prepared.run(self.first)
        there = read_observed(prepared.target, run.observed[prepared.target]).keep
        self.there = np.ones(prepared.pattern.num_rows, bool) if there is None else np.array(there)

    def __call__(self, left: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " draws"]:
        """Log densities of some rows at each draw.

        Args:
            left: Which rows are left out.

        Returns:
            The logarithms; NaN where the other rows leave an effect with a flat prior undetermined.
        """
        prepared, keep = self.prepared, self.there & ~left
        if prepared.flat and not determines(self._flat_columns[keep]):
            return np.full(len(self._whole), np.nan)
        designs, standards = list(prepared.designs), list(prepared.standards)
        for place in self._common if keep.any() else ():
            raw = self._raw[place]
            moved, standards[place] = orthogonalize(raw[keep])
            own = np.zeros_like(raw)
            own[keep] = moved
            designs[place] = own
        with run_unchecked():
            others = self._others(tuple(designs), tuple(standards), keep, dict(self.latents))
        return self._whole - np.asarray(others, np.float64)

    def is_close(self, part: Int[np.ndarray, " n"] | None) -> Bool[np.ndarray, " parts"]:
        """Parts that hold so much of a combination of columns that the others tell it badly.

        Args:
            part: Part of each row; None for rows, of which flat priors alone matter here.

        Returns:
            One for each. Cost O(n p^2) for p columns, all parts together.
        """
        prepared = self.prepared
        places = {prepared.flat} if part is None else {prepared.flat, *((k,) for k in self._common)}
        count = prepared.pattern.num_rows if part is None else int(part.max()) + 1
        left = np.ones(count)
        for own in places - {()}:
            basis, is_whole = self._basis(own)
            if not is_whole and own == prepared.flat:
                return np.ones(count, bool)
            if part is None:
                left = np.minimum(left, 1.0 - np.sum(np.square(basis), axis=1))
                continue
            order = np.argsort(part, kind="stable")
            rows = np.split(basis[order], np.searchsorted(part[order], np.arange(1, count)))
            left = np.minimum(left, [1.0 - np.linalg.norm(one, 2) ** 2 for one in rows])
        return left < CLOSE

    def _basis(self, places: tuple[int, ...]) -> tuple[Float[np.ndarray, "n r"], bool]:
        """Orthonormal columns of the same span in the rows that count, and if it has all."""
        designs = self.prepared.designs_at(self.first, jnp.result_type(float))
        columns = np.where(self.there[:, None], self._spread(places, designs), 0.0)
        size = np.linalg.norm(columns, axis=0)
        columns = columns / np.where(size > 0, size, 1.0)
        basis, upper, _ = scipy.linalg.qr(columns, mode="economic", pivoting=True)
        rank = int(np.sum(np.abs(np.diag(upper)) > _tolerance(columns.shape[1])))
        return basis[:, :rank], rank == columns.shape[1]

    @cached_property
    def _common(self) -> list[int]:
        """Blocks of effects of all rows, with columns that depend on nothing."""
        blocks = zip(self.prepared.blocks, self.prepared.designs, strict=True)
        return [
            place
            for place, (block, design) in enumerate(blocks)
            if block.num_groups == 1 and design is not None
        ]

    @cached_property
    def _raw(self) -> list[Float[np.ndarray, "n d"]]:
        """Columns in the user's coordinates, to the last digit, whatever other rows hold."""
        anew = replace(self.prepared, designs=(None,) * len(self.prepared.designs))
        return [np.asarray(own) for own in anew.designs_at(self.first, jnp.result_type(float))]

    @cached_property
    def _flat_columns(self) -> Float[np.ndarray, "n p"]:
        """Columns of all effects with a flat prior."""
        return self._spread(self.prepared.flat, self._raw)

    @cached_property
    def _whole(self) -> Float[np.ndarray, " draws"]:
        """Log densities of all rows."""
        prepared = self.prepared

        def densities(latents: Values) -> Array:
            return jax.lax.map(lambda own: prepared.log_density(prepared.run(own), own), latents)

        program = quick_jit(densities, count_numbers((prepared.args, prepared.kwargs)))
        with run_unchecked():
            return np.asarray(program(dict(self.latents)), np.float64)

    @cached_property
    def _others(self) -> Any:
        """Program for the log densities of some rows, in other coordinates."""
        prepared = self.prepared

        def densities(designs: Any, standards: Any, keep: Array, latents: Values) -> Array:
            moved = replace(prepared, designs=designs, standards=standards)
            return jax.lax.map(lambda own: moved.kept_density(moved.run(own), own, keep), latents)

        return quick_jit(densities, count_numbers((prepared.args, prepared.kwargs)))

    def _spread(
        self, places: tuple[int, ...], designs: Sequence[ArrayLike]
    ) -> Float[np.ndarray, "n p"]:
        """Columns of all effects of some blocks."""
        return spread_blocks(self.prepared.pattern, places, designs)


def spread_blocks(
    pattern: Pattern, places: Sequence[int], designs: Sequence[ArrayLike]
) -> Float[np.ndarray, "n p"]:
    """Columns of all effects of some blocks, side by side.

    Args:
        pattern: Which effects meet.
        places: Positions of the blocks.
        designs: Coefficients of each block of the pattern.
    """

    def groups(place: int) -> Int[np.ndarray, " n"]:
        if place == 0:
            return np.asarray(pattern.group)
        before = sum(dim for _, dim in pattern.shapes[1:place])
        first = np.asarray(pattern.column)[:, before]
        return (first - pattern.offsets[place - 1]) // pattern.shapes[place][1]

    shapes = pattern.shapes
    return np.concatenate(
        [
            spread_columns(groups(one), np.asarray(designs[one]), shapes[one][0]).toarray()
            for one in places
        ],
        axis=1,
    )


def determines(columns: Float[np.ndarray, "n p"]) -> bool:
    """True if columns have full rank, so that their rows determine all coefficients.

    Args:
        columns: Columns, in whatever units.

    Returns:
        The verdict, on the columns less their means, each in units of its size. They are factored
        by few rows at a time, so that rounding does not grow with their number. Cost O(n p^2).
    """
    num, size = columns.shape
    if num < size:
        return False
    largest = np.max(np.abs(columns), axis=0)
    if np.any(largest == 0):
        return False
    upper = centre(columns / largest).columns
    rows = max(ROWS, 4 * size)
    while len(upper) > rows:
        padded = np.zeros((-(-len(upper) // rows), rows, size))
        padded.reshape(-1, size)[: len(upper)] = upper
        upper = np.linalg.qr(padded, mode="r").reshape(-1, size)
    scale = np.linalg.norm(upper, axis=0)
    if np.any(scale == 0):
        return False
    pivots = np.abs(np.diag(scipy.linalg.qr(upper / scale, mode="r", pivoting=True)[0]))
    return bool(pivots[-1] > _tolerance(size))


def _tolerance(size: int) -> float:
    """Part of a column of one that rounding leaves where it depends on others."""
    return 10 * size * float(np.finfo(np.float64).eps)

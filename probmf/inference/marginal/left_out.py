"""Rows left out whose effects the others tell of by their last digits, or not at all."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Bool, Float, Int

from probmf.effects.conditional_errors import spread_columns
from probmf.effects.standard import orthogonalize
from probmf.inference.marginal.injection import Values, read_observed
from probmf.inference.marginal.prepared import Prepared
from probmf.numpyro_setup import run_unchecked
from probmf.run.compilation import count_numbers, quick_jit

#: Share of the columns' sums of squares below which those of the rows that stay are not found by
#: subtraction.
CLOSE = 1e-6


class LeftOut:
    """Densities of some rows given the others, as that of all less that of the others.

    In place of a difference of numbers that are nearly the same, the others' density is found in
    coordinates of their own, whatever the size of the columns in the rows that are left out.

    Args:
        prepared: The model with its data, in double precision.
        latents: Draws of the latents, on the first axis.
    """

    def __init__(self, prepared: Prepared, latents: Values) -> None:
        """Find the columns in the user's coordinates."""
        self.prepared, self.latents = prepared, latents
        first = {name: value[0] for name, value in latents.items()}
        designs = prepared.designs_at(first, jnp.result_type(float))
        self.raw = [
            np.asarray(own) if standard is None else np.asarray(own) @ standard.forward
            for own, standard in zip(designs, prepared.standards, strict=True)
        ]
        run = prepared.run(first)
        there = read_observed(prepared.target, run.observed[prepared.target]).keep
        self.there = np.ones(prepared.pattern.num_rows, bool) if there is None else np.array(there)

    def __call__(self, left: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " draws"]:
        """Log densities of some rows at each draw.

        Args:
            left: Which rows are left out.

        Returns:
            The logarithms; NaN where the other rows leave an effect with a flat prior undetermined.
        """
        prepared = self.prepared
        if prepared.flat and not determines(self._flat_columns, self.there & ~left):
            return np.full(len(next(iter(self.latents.values()))), np.nan)
        designs, standards = list(prepared.designs), list(prepared.standards)
        for place, block in enumerate(prepared.blocks):
            if block.num_groups == 1 and prepared.designs[place] is not None:
                moved, standards[place] = orthogonalize(self.raw[place][~left])
                own = np.zeros_like(self.raw[place])
                own[~left] = moved
                designs[place] = own
        with run_unchecked():
            found = self._program(tuple(designs), tuple(standards), ~left, dict(self.latents))
        return np.asarray(found, np.float64)

    def is_close(self, left: Bool[np.ndarray, " n"]) -> bool:
        """Whether the other rows hold so little of columns that subtraction does not tell it."""
        if self.prepared.flat and not determines(self._flat_columns, self.there & ~left):
            return True
        for block, design in zip(self.prepared.blocks, self.prepared.designs, strict=True):
            if block.num_groups == 1 and design is not None:
                size = np.linalg.norm(design, axis=0)
                own = design[~left] / np.where(size > 0, size, 1.0)
                if np.linalg.eigvalsh(own.T @ own)[0] < CLOSE:
                    return True
        return False

    @cached_property
    def _program(self) -> Any:
        prepared = self.prepared

        def densities(designs: Any, standards: Any, keep: Array, latents: Values) -> Array:
            moved = replace(prepared, designs=designs, standards=standards)

            def one(own: Values) -> Array:
                whole = prepared.log_density(prepared.run(own), own)
                return whole - moved.kept_density(moved.run(own), own, keep)

            return jax.lax.map(one, latents)

        return quick_jit(densities, count_numbers((prepared.args, prepared.kwargs)))

    @cached_property
    def _flat_columns(self) -> Float[np.ndarray, "n p"]:
        """Columns of all effects with a flat prior."""
        pattern = self.prepared.pattern
        return np.concatenate(
            [
                spread_columns(
                    self._groups(place), self.raw[place], pattern.shapes[place][0]
                ).toarray()
                for place in self.prepared.flat
            ],
            axis=1,
        )

    def _groups(self, place: int) -> Int[np.ndarray, " n"]:
        """Group of each row in a block."""
        pattern = self.prepared.pattern
        if place == 0:
            return np.asarray(pattern.group)
        before = sum(dim for _, dim in pattern.shapes[1:place])
        first = np.asarray(pattern.column)[:, before]
        return (first - pattern.offsets[place - 1]) // pattern.shapes[place][1]


def determines(columns: Float[np.ndarray, "n p"], keep: Bool[np.ndarray, " n"]) -> bool:
    """True if some rows of columns have full rank, and so determine all coefficients.

    Args:
        columns: Columns, in whatever units.
        keep: Which rows.

    Returns:
        The verdict. Each column is taken in units of its largest number and each row in units of
        its own, which changes no rank, so that what is left of a column is compared with its
        rounding. Cost O(n p^2).
    """
    size = np.max(np.abs(columns), axis=0)
    own = columns[keep] / np.where(size > 0, size, 1.0)
    widest = np.max(np.abs(own), axis=1, initial=0.0)
    own = own[widest > 0] / widest[widest > 0, None]
    if len(own) < own.shape[1]:
        return False
    pivots = np.abs(np.diag(scipy.linalg.qr(own, mode="r", pivoting=True)[0]))
    return bool(pivots[-1] > max(own.shape) * np.finfo(np.float64).eps * pivots[0])

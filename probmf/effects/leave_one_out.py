r"""Each observation given all others, from one factorization, where effects are Gaussian.

Row by row, the effects of its leading group are known from the group's other rows alone, which is
no subtraction: its residual e has variance v then. With the share h of the variance of e that the
other effects are given all observations, the row given the others is

.. math:: y_n - \hat y_n = \tfrac{e}{1 - h} \sim N\Big(0, \tfrac{v}{1 - h}\Big) .
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from probmf.effects.evidence_and_draws import draw_effects, eliminate, remainder_shapes
from probmf.effects.linalg import logdet_and_inverse, solve_lower
from probmf.effects.pattern import Pattern
from probmf.effects.remainder import factor_remainder, scale_columns
from probmf.effects.statistics import Statistics, of_columns

#: Share of a row's variance that is left by all others, below which too few of its digits are.
CLOSE = 1e-6
#: Rows whose variances are found side by side.
ROWS = 256


class GivenOthers(NamedTuple):
    """Conditional of each row given the others.

    Attributes:
        error: Its residual e.
        variance: The variance v of that, where the effects that share h is of are known.
        share: h, of effects that are subtracted.
    """

    error: Float[Array, " n"]
    variance: Float[Array, " n"]
    share: Float[Array, " n"]


def given_others(
    pattern: Pattern,
    statistics: Statistics,
    design: Sequence[Float[Array, "n d"]],
    trils: Sequence[Float[Array, "..."]],
    precision: Float[Array, ""],
    residual: Float[Array, " n"],
    weight: Float[Array, " n"],
    flat: Collection[int] = (),
) -> GivenOthers:
    """Conditional of each row given the others.

    Args:
        pattern: Which effects meet; concrete.
        statistics: Sums over the observations.
        design: Coefficients of each block, in the pattern's order.
        trils: Lower factors of the prior covariances; see `log_evidence`.
        precision: Noise precision that the sums are to be multiplied by.
        residual: Observations less their location without effects.
        weight: Noise precision of each row, zero where it does not count.
        flat: Positions of blocks whose prior is flat.

    Returns:
        The terms. Cost O(n D^2) for D columns that remain.
    """
    lead, group = design[0], pattern.group
    groups, dim = pattern.shapes[0]
    rest = of_columns(design)
    _, tables = draw_effects(pattern, statistics, trils, precision, None, flat)
    columns = jnp.concatenate([jnp.zeros(0, lead.dtype), *(table.ravel() for table in tables[1:])])
    error = residual - jnp.sum(rest * columns[pattern.column], axis=1)
    _, system, spread = eliminate(pattern, statistics, trils, precision, 0 in flat)
    met = lead[:, None] * (weight[:, None] * rest)[:, :, None]
    if groups == 1:  # All rows are of it, and its effects are subtracted as the others are.
        solved = lead @ spread[0]
        error = error - lead @ tables[0][0]
    else:
        own = np.asarray(group)
        products = sum_of_others(weight[:, None, None] * lead[:, :, None] * lead[:, None, :], own)
        tril = trils[0][group] if trils[0].ndim == 3 else trils[0][None]
        matrix = jnp.swapaxes(tril, -1, -2) @ products @ tril
        if 0 not in flat:
            matrix = matrix + jnp.eye(dim, dtype=matrix.dtype)[None]
        inverse = tril @ logdet_and_inverse(matrix)[1] @ jnp.swapaxes(tril, -1, -2)
        solved = jnp.einsum("nab,nb->na", inverse, lead)
        error = error - jnp.sum(solved * sum_of_others((weight * error)[:, None] * lead, own), 1)
        entry = np.asarray(pattern.entry)
        met = sum_of_others(met.reshape(-1, dim), entry.ravel()).reshape(*entry.shape, dim)
    within = jnp.sum(solved * lead, axis=1)
    among = jnp.zeros_like(within)
    if pattern.num_columns:
        shapes, others = remainder_shapes(pattern, flat), tuple(trils[1:])
        factor, _ = factor_remainder(shapes, system, others, precision)
        size = (groups, pattern.num_columns, dim)
        sums = jnp.zeros(size, lead.dtype)
        sums = sums.at[pattern.entry_group, pattern.entry_column].set(
            precision * statistics.lead_rest
        )

        def left(row: tuple[Array, ...]) -> Array:
            """The variance by the remaining effects: |R^-1 P^T a|^2."""
            own_solved, own_group, own_column, own_rest, own_met = row
            share = -sums[own_group] @ own_solved
            kept = share[own_column] if groups == 1 else -own_met @ own_solved
            share = share.at[own_column].set(own_rest + kept)
            scaled = scale_columns(shapes, others, share)
            return jnp.sum(jnp.square(solve_lower(factor, scaled)))

        among = lax.map(left, (solved, group, pattern.column, rest, met), batch_size=ROWS)
    if groups == 1:
        return GivenOthers(error, 1.0 / weight, weight * (within + among))
    variance = 1.0 / weight + within
    return GivenOthers(error, variance, among / variance)


def log_left_out(terms: GivenOthers) -> Float[Array, " n"]:
    """Log density of each row given all others.

    Args:
        terms: What the others leave of each.

    Returns:
        The logarithms; NaN where rounding leaves too little of what the others leave open.
    """
    left = 1.0 - terms.share
    left = jnp.where(left > CLOSE, left, jnp.nan)
    ratio = left / terms.variance
    return 0.5 * (jnp.log(ratio) - np.log(2 * np.pi) - ratio * jnp.square(terms.error / left))


def sum_of_others(
    values: Float[Array, "n ..."], segment: Int[np.ndarray, " n"]
) -> Float[Array, "n ..."]:
    """Sum over the other rows of each row's segment, without a subtraction.

    Args:
        values: One for each row.
        segment: Number of each row's segment.

    Returns:
        The sums, zero where a row is alone. Cost O(n).
    """
    order = np.argsort(segment, kind="stable")
    first = np.diff(segment[order], prepend=-1) != 0
    last = np.roll(first, -1)
    ordered = values[order]
    before = _sums_before(ordered, first)
    after = _sums_before(ordered[::-1], last[::-1])[::-1]
    return jnp.zeros_like(values).at[order].set(before + after)


def _sums_before(values: Array, first: Bool[np.ndarray, " n"]) -> Array:
    """Sums of the rows before each, back to one that is first."""
    begins = first.reshape(-1, *(1,) * (values.ndim - 1))
    moved = jnp.where(begins, 0.0, jnp.roll(values, 1, axis=0))

    def add(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(right[1], right[0], left[0] + right[0]), left[1] | right[1]

    return lax.associative_scan(add, (moved, jnp.asarray(begins)))[0]

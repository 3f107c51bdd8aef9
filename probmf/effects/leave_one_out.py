r"""Each observation given all others, from one factorization, where effects are Gaussian.

With the conditional mean m and variance s^2 of a row's share :math:`z_n^\top u` of the effects
given all observations, and its noise precision w, the row given the others is

.. math:: y_n \mid y_{-n} \sim N\Big(o_n + m - \tfrac{w s^2 (r_n - m)}{1 - w s^2},\;
   \tfrac{1}{w (1 - w s^2)}\Big), \qquad r_n = y_n - o_n .
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.evidence_and_draws import draw_effects, eliminate, remainder_shapes
from probmf.effects.linalg import solve_lower
from probmf.effects.pattern import Pattern
from probmf.effects.remainder import factor_remainder, scale_columns
from probmf.effects.statistics import Statistics

#: Share of a row's variance that is left by all others, below which too few of its digits are.
CLOSE = 1e-6
#: Rows whose variances are found side by side.
ROWS = 256


class Shares(NamedTuple):
    """Mean and variance of each row's share of the effects given all observations."""

    mean: Float[Array, " n"]
    variance: Float[Array, " n"]


def effect_shares(
    pattern: Pattern,
    statistics: Statistics,
    design: Sequence[Float[Array, "n d"]],
    trils: Sequence[Float[Array, "..."]],
    precision: Float[Array, ""],
    flat: Collection[int] = (),
) -> Shares:
    """Conditional mean and variance of each row's share of the effects.

    Args:
        pattern: Which effects meet.
        statistics: Sums over the observations.
        design: Coefficients of each block, in the pattern's order.
        trils: Lower factors of the prior covariances; see `log_evidence`.
        precision: Noise precision.
        flat: Positions of blocks whose prior is flat.

    Returns:
        The shares. Cost O(n D^2) for D columns that remain.
    """
    lead, group = design[0], pattern.group
    rest = jnp.concatenate([jnp.zeros((len(lead), 0), lead.dtype), *design[1:]], axis=1)
    _, tables = draw_effects(pattern, statistics, trils, precision, None, flat)
    mean = jnp.sum(lead * tables[0][group], axis=1)
    _, system, spread = eliminate(pattern, statistics, trils, precision, 0 in flat)
    variance = jnp.einsum("na,nab,nb->n", lead, spread[group], lead)
    if not pattern.num_columns:
        return Shares(mean, variance)
    columns = jnp.concatenate([table.ravel() for table in tables[1:]])
    mean = mean + jnp.sum(rest * columns[pattern.column], axis=1)
    shapes, others = remainder_shapes(pattern, flat), tuple(trils[1:])
    factor, _ = factor_remainder(shapes, system, others, precision)
    by_entry = jnp.einsum("eab,eb->ea", spread[pattern.entry_group], statistics.lead_rest)
    size = (pattern.shapes[0][0], pattern.num_columns, lead.shape[1])
    pulled = jnp.zeros(size, lead.dtype).at[pattern.entry_group, pattern.entry_column].set(by_entry)

    def left(row: tuple[Array, Array, Array, Array]) -> Array:
        """The variance by the remaining effects: |R^-1 P^T a|^2."""
        own_lead, own_group, own_column, own_rest = row
        share = -precision * pulled[own_group] @ own_lead
        share = share.at[own_column].add(own_rest)
        scaled = scale_columns(shapes, others, share[:, None])[:, 0]
        return jnp.sum(jnp.square(solve_lower(factor, scaled)))

    rows = (lead, group, pattern.column, rest)
    return Shares(mean, variance + lax.map(left, rows, batch_size=ROWS))


def log_left_out(
    shares: Shares, residual: Float[Array, " n"], precision: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Log density of each row given all others.

    Args:
        shares: Of the effects given all rows.
        residual: Observations less their location without effects.
        precision: Noise precision of each row.

    Returns:
        The logarithms; NaN where rounding leaves too little of what the others leave open.
    """
    left = 1.0 - precision * shares.variance
    left = jnp.where(left > CLOSE, left, jnp.nan)
    error = (residual - shares.mean) / left
    return 0.5 * (jnp.log(precision * left) - np.log(2 * np.pi) - precision * left * error**2)

r"""Exact evidence of crossed Gaussian effects, and exact joint draws of them.

With whitened effects v ~ N(0, I), leading effects u = L v, the other effects w = P x,

.. math::
    A_j = I + \beta L^\top G_j L, \quad H_j = L A_j^{-1} L^\top, \quad
    S = I + \beta P^\top (B - \beta \textstyle\sum_j C_j^\top H_j C_j) P, \quad
    b = \beta P^\top (c_2 - \beta \textstyle\sum_j C_j^\top H_j c_{1j})

.. math::
    \log p(y) = \tfrac n2 \log\tfrac{\beta}{2\pi}
      - \tfrac12 \big[\textstyle\sum_j \log|A_j| + \log|S| + \beta\, r^\top r
      - \beta^2 \sum_j c_{1j}^\top H_j c_{1j} - b^\top S^{-1} b\big] .

No inverse of a prior covariance is taken, so scales may be as small as they like.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.effects.linalg import cholesky, evidence_term, logdet_and_inverse, solve_lower
from probmf.effects.pattern import Pattern
from probmf.effects.remainder import (
    Remainder,
    Shape,
    factor_remainder,
    remainder_evidence,
    scale_columns,
)
from probmf.effects.statistics import Products, Statistics


def log_evidence(
    pattern: Pattern,
    statistics: Statistics,
    trils: Sequence[Float[Array, "..."]],
    precision: Float[Array, ""],
    flat: Collection[int] = (),
) -> Float[Array, ""]:
    r"""Log density of all observations with the effects integrated out.

    Args:
        pattern: Which effects meet.
        statistics: Sums over the observations; with weights, `precision` is 1 and half the sum of
            their logarithms is to be added.
        trils: Lower factors L of the prior covariance of each block in the pattern's order: (d, d)
            shared by the groups, or (groups, d, d).
        precision: Noise precision :math:`\beta`.
        flat: Positions of blocks whose prior is flat, with a tril of ones; their effects' density
            is one everywhere.

    Returns:
        The log density. Cost O(groups d^3 + pairs + D^3), without n.
    """
    n = pattern.num_rows
    constant = 0.5 * n * (jnp.log(precision) - np.log(2 * np.pi))
    constant = constant + flat_volume(pattern, flat)
    if pattern.num_columns == 0:
        matrix, vector = _lead_system(statistics, trils[0], precision, 0 in flat)
        value = jnp.sum(evidence_term(matrix, vector))
        return constant - 0.5 * precision * statistics.square + value
    value, system, _ = eliminate(pattern, statistics, trils, precision, 0 in flat)
    rest = remainder_evidence(remainder_shapes(pattern, flat), system, tuple(trils[1:]), precision)
    return constant + value + rest


def draw_effects(
    pattern: Pattern,
    statistics: Statistics,
    trils: Sequence[Float[Array, "..."]],
    precision: Float[Array, ""],
    key: Array | None,
    flat: Collection[int] = (),
) -> tuple[Float[Array, ""], list[Float[Array, "groups d"]]]:
    """The log evidence, and a draw of all effects from their exact joint conditional.

    Args:
        pattern: Which effects meet.
        statistics: Sums over the observations.
        trils: See `log_evidence`.
        precision: Noise precision.
        key: JAX key; None gives the conditional mean in place of a draw.
        flat: See `log_evidence`.

    Returns:
        The log evidence and the effects of each block in the pattern's order.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    tril, size = trils[0], pattern.num_columns
    constant = 0.5 * pattern.num_rows * (jnp.log(precision) - np.log(2 * np.pi))
    constant = constant + flat_volume(pattern, flat)
    lead_target, columns = statistics.lead, []
    if size:
        shapes, others = remainder_shapes(pattern, flat), tuple(trils[1:])
        value, system, _ = eliminate(pattern, statistics, trils, precision, 0 in flat)
        factor, half = factor_remainder(shapes, system, others, precision)
        value = constant + value + _gaussian_integral(factor, half)
        whitened = solve_lower(factor, half + _noise(keys[1], half), transpose=True)
        effects = scale_columns(shapes, others, whitened, transpose=False)
        pulled = statistics.lead_rest * effects[pattern.entry_column][:, None]
        lead_target = lead_target - jax.ops.segment_sum(
            pulled, pattern.entry_group, num_segments=pattern.shapes[0][0]
        )
        columns = pattern.tables(effects)
    pulled_to = statistics._replace(lead=lead_target)
    matrix, vector = _lead_system(pulled_to, tril, precision, 0 in flat)
    factor = cholesky(matrix)
    half = solve_lower(factor, vector)
    if not size:
        square = 0.5 * precision * statistics.square
        value = constant - square + jnp.sum(_gaussian_integral(factor, half))
    whitened = solve_lower(factor, half + _noise(keys[0], half), transpose=True)
    return value, [jnp.einsum(f"{_groups(tril)}ab,mb->ma", tril, whitened), *columns]


def block_covariance(
    pattern: Pattern,
    statistics: Statistics,
    trils: Sequence[Float[Array, "..."]],
    precision: Float[Array, ""],
    block: int,
    flat: Collection[int] = (),
) -> Float[Array, "D D"]:
    """Covariance of all effects of one block given the observations, the other effects unknown.

    Args:
        pattern: Which effects meet.
        statistics: Sums over the observations; those of the target are of no consequence.
        trils: See `log_evidence`.
        precision: Noise precision.
        block: Position of the block.
        flat: See `log_evidence`.

    Returns:
        The matrix. The conditional mean is linear in the sums of the target, and this its slope;
        one factorization serves all its columns.
    """
    groups, dim = pattern.shapes[block]
    sums = statistics._replace(
        lead=jnp.zeros_like(statistics.lead), rest=jnp.zeros_like(statistics.rest),
        square=jnp.zeros_like(statistics.square),
    )  # fmt: skip

    def column(unit: Array) -> Array:
        if block:
            start = pattern.offsets[block - 1]
            own = sums._replace(rest=sums.rest.at[start : start + groups * dim].set(unit))
        else:
            own = sums._replace(lead=unit.reshape(groups, dim))
        _, tables = draw_effects(pattern, own, trils, precision, None, flat)
        return tables[block].ravel() / precision

    return jax.vmap(column)(jnp.eye(groups * dim, dtype=statistics.rest.dtype))


def remainder_shapes(pattern: Pattern, flat: Collection[int] = ()) -> tuple[Shape, ...]:
    """The blocks that the columns belong to."""
    return tuple(
        Shape(groups, dim, index in flat)
        for index, (groups, dim) in enumerate(pattern.shapes[1:], start=1)
    )


def flat_volume(pattern: Pattern, flat: Collection[int]) -> float:
    """Share of each flat effect in the evidence, half of log 2 pi."""
    count = sum(groups * dim for i, (groups, dim) in enumerate(pattern.shapes) if i in flat)
    return 0.5 * float(np.log(2 * np.pi)) * count


def _noise(key: Array | None, like: Array) -> Array:
    return jnp.zeros_like(like) if key is None else jax.random.normal(key, like.shape, like.dtype)


def _gaussian_integral(factor: Array, half: Array) -> Array:
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return 0.5 * jnp.sum(jnp.square(half), -1) - jnp.sum(jnp.log(diagonal), -1)


def _lead_system(
    statistics: Statistics, tril: Array, precision: Array, is_flat: bool
) -> tuple[Array, Array]:
    """The whitened precision A and right-hand side of the leading groups."""
    vector = jnp.einsum(f"{_groups(tril)}ab,ma->mb", tril, statistics.lead)
    return _lead_matrix(statistics, tril, precision, is_flat), precision * vector


def _lead_matrix(
    sums: Products | Statistics, tril: Array, precision: Array, is_flat: bool
) -> Array:
    index = _groups(tril)
    matrix = jnp.einsum(f"{index}ab,mac,{index}cd->mbd", tril, sums.lead_lead, tril, optimize=True)
    prior = (0.0 if is_flat else 1.0) * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return prior[None] + precision * matrix


def _groups(tril: Array) -> str:
    return "m" if tril.ndim == 3 else ""


def eliminate(
    pattern: Pattern,
    statistics: Statistics,
    trils: Sequence[Array],
    precision: Array,
    is_flat: bool,
) -> tuple[Array, Remainder, Float[Array, "m d d"]]:
    """The leading block's share of the evidence, the system of the columns, and H."""
    found = eliminate_products(pattern, statistics, trils[0], precision, is_flat=is_flat)
    mean = jnp.einsum("mab,mb->ma", found.spread, statistics.lead)
    square = statistics.square - precision * jnp.sum(mean * statistics.lead)
    value = -0.5 * (jnp.sum(found.logdet) + precision * square)
    pulled = jnp.sum(statistics.lead_rest * mean[pattern.entry_group], axis=1)
    target = statistics.rest - precision * jax.ops.segment_sum(
        pulled, pattern.entry_column, num_segments=pattern.num_columns
    )
    return value, Remainder(found.products, pattern.element, target), found.spread


class Eliminated(NamedTuple):
    """The leading block's elimination, without targets.

    Attributes:
        logdet: Logarithm of the determinant of A.
        inverse: Its inverse.
        spread: H.
        products: B less the sum of C^T H C over the groups, by element or as a matrix.
    """

    logdet: Float[Array, " m"]
    inverse: Float[Array, "m d d"]
    spread: Float[Array, "m d d"]
    products: Float[Array, "D D"] | Float[Array, " elements"]


def eliminate_products(
    pattern: Pattern,
    sums: Products | Statistics,
    tril: Array,
    precision: Array,
    *,
    is_flat: bool,
) -> Eliminated:
    """Eliminate the leading block; of sums with a target, which play no part, too."""
    index, matrix = _groups(tril), _lead_matrix(sums, tril, precision, is_flat)
    logdet, inverse = logdet_and_inverse(matrix)
    spread = jnp.einsum(f"{index}ab,mbc,{index}dc->mad", tril, inverse, tril, optimize=True)
    if is_flat:
        sums = sums._replace(table=None)  # It is made for a prior's precision.
    products = _products(pattern, sums, tril, spread, precision)
    return Eliminated(logdet, inverse, spread, products)


def _products(
    pattern: Pattern,
    statistics: Products | Statistics,
    tril: Array,
    spread: Array,
    precision: Array,
) -> Array:
    """B less the sum of C^T H C over the leading groups, by element or as a matrix."""
    size, base, table = pattern.num_columns, statistics.rest_rest, statistics.table
    if table is not None and tril.ndim == 2:
        # 1 / (g + lambda) by 1 / lambda, which is zero at a scale of zero.
        ratio = precision * jnp.square(tril[0, 0])
        return base - table.terms @ (ratio / (1.0 + ratio * table.knot))
    if pattern.pairs is not None:
        left, right, which = pattern.pairs
        by_entry = jnp.einsum("eab,eb->ea", spread[pattern.entry_group], statistics.lead_rest)
        products = jnp.sum(statistics.lead_rest[left] * by_entry[right], axis=1)
        return base - precision * jax.ops.segment_sum(
            products, which, num_segments=len(base), indices_are_sorted=True
        )
    groups, dim = pattern.shapes[0]
    dense = jnp.zeros((groups, size, dim), spread.dtype)
    dense = dense.at[pattern.entry_group, pattern.entry_column].set(
        statistics.lead_rest, unique_indices=True
    )
    spreaded = jnp.einsum("mad,mdc->mac", dense, spread)
    by_column = dense.transpose(1, 0, 2).reshape(size, groups * dim)
    products = by_column @ spreaded.transpose(0, 2, 1).reshape(groups * dim, size)
    if pattern.element is not None:
        products = products.ravel()[pattern.element]
    return base - precision * products

r"""The dense system that remains after the leading block: its evidence, with a score by hand.

.. math::
    f = \tfrac12 b^\top S^{-1} b - \tfrac12 \log|S|, \qquad
    S = D + \beta P^\top M P, \quad b = \beta P^\top c

D is the identity, but zero on columns with a flat prior (tril of ones; the evidence is then that
of restricted maximum likelihood).

With m = S^{-1} b and W = S^{-1} + m m^T (the second moments of the whitened effects), Fisher's
identity gives the score from W alone:

.. math::
    \partial_M f = -\tfrac\beta2 P W P^\top, \quad \partial_c f = \beta P m, \quad
    \partial_L f = L^{-\top} \textstyle\sum_j (W_{jj} - I)

so that nothing is differentiated through the factorization, and M is passed over twice only.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.effects.linalg import gram_of_lower, invert_lower, solve_lower

Trils = tuple[Array, ...]


class Shape(NamedTuple):
    """A block of columns: its groups, coefficients per group, and whether its prior is flat."""

    groups: int
    dim: int
    flat: bool = False


Shapes = tuple[Shape, ...]


class Remainder(NamedTuple):
    """The unscaled system of the columns.

    Attributes:
        products: M, its lower triangle and whole blocks on the diagonal: as a matrix, or...
        element: ...by these flat positions, none twice, where the rest is zero; None for a matrix.
        target: c, or None for zero.
    """

    products: Float[Array, "D D"] | Float[Array, " elements"]
    element: Int[Array, " elements"] | None
    target: Float[Array, " D"] | None = None


def factor_remainder(
    shapes: Shapes, system: Remainder, trils: Trils, precision: Array
) -> tuple[Array, Any]:
    """The lower factor R of S, and R^-1 b, or None without a target."""
    size = _num_columns(shapes)
    values, element = precision * system.products, system.element
    if element is None:
        scaled = _scale_both(shapes, trils, values)
    else:
        # Scaled before they are spread: the matrix is written once and read by the factorization.
        scale = _scales(shapes, trils, values.dtype)
        row, column = jnp.divmod(element, size)
        spread = _spread(size, scale[row] * scale[column] * values, element)
        scaled = _scale_wide(shapes, trils, spread)
    prior = jnp.diag(prior_precision(shapes, scaled.dtype))
    factor = lax.linalg.cholesky(prior + scaled, symmetrize_input=False)
    if system.target is None:
        return factor, None
    return factor, solve_lower(factor, precision * scale_columns(shapes, trils, system.target))


def _whole_matrix(shapes: Shapes, system: Remainder) -> Float[Array, "D D"]:
    """M as a matrix."""
    if system.element is None:
        return system.products
    return _spread(_num_columns(shapes), system.products, system.element)


def _num_columns(shapes: Shapes) -> int:
    return sum(groups * dim for groups, dim, _ in shapes)


def _spread(size: int, values: Array, element: Array) -> Array:
    flat = jnp.zeros(size * size, values.dtype)
    return flat.at[element].set(values, unique_indices=True).reshape(size, size)


def _scales(shapes: Shapes, trils: Sequence[Array], dtype: Any) -> Float[Array, " D"]:
    """The diagonal of P where a block has one coefficient per group, and 1 elsewhere."""
    parts = [
        jnp.broadcast_to(tril.reshape(-1), (groups,)) if dim == 1 else jnp.ones(groups * dim, dtype)
        for (groups, dim, _), tril in zip(shapes, trils, strict=True)
    ]
    return jnp.concatenate([jnp.zeros(0, dtype), *parts])


def _forward(
    shapes: Shapes, system: Remainder, trils: Trils, precision: Array
) -> tuple[Array, tuple[Remainder, Trils, Array, Array, Any]]:
    factor, half = factor_remainder(shapes, system, trils, precision)
    value = -jnp.sum(jnp.log(jnp.diagonal(factor)))
    if half is not None:
        value = value + 0.5 * jnp.sum(jnp.square(half))
    return value, (system, trils, precision, factor, half)


def _remainder_evidence(
    shapes: Shapes, system: Remainder, trils: Trils, precision: Array
) -> Float[Array, ""]:
    """The evidence f of the remaining columns; see the head of the file.

    Args:
        shapes: (groups, coefficients) of the blocks that the columns belong to.
        system: The unscaled system.
        trils: Lower factors of the prior covariance, (d, d) or (groups, d, d).
        precision: Noise precision.

    Returns:
        f. Cost O(D^3), about three times as much with its gradient.
    """
    return _forward(shapes, system, trils, precision)[0]


remainder_evidence = jax.custom_vjp(_remainder_evidence, nondiff_argnums=(0,))


def _backward(
    shapes: Shapes,
    saved: tuple[Remainder, Trils, Array, Array, Any],
    cotangent: Array,
) -> tuple[Remainder, Trils, Array]:
    system, trils, precision, factor, half = saved
    size, dtype = len(factor), factor.dtype
    inverse_factor = invert_lower(factor)
    moment, mean, for_target = gram_of_lower(inverse_factor), None, None
    trace = jnp.sum(prior_precision(shapes, dtype) * jnp.diagonal(moment)) - size
    if half is not None:
        mean = half @ inverse_factor
        moment = moment + jnp.outer(mean, mean)
        for_target = cotangent * precision * scale_columns(shapes, trils, mean, transpose=False)
        square = jnp.sum(prior_precision(shapes, dtype) * jnp.square(mean))
        trace = trace + jnp.sum(jnp.square(half)) + square
    for_precision = 0.5 * cotangent / precision * trace

    # The stored part of M holds each element below its diagonal blocks once, for two.
    cell = jnp.asarray(cells(shapes))
    if system.element is None:
        lower = jnp.tril(jnp.full((size, size), 2.0, dtype))
        twice = jnp.where(cell[:, None] == cell[None], 1.0, lower)
        scaled = _scale_both(shapes, trils, moment, transpose=False)
    else:
        row, column = jnp.divmod(system.element, size)
        twice = jnp.where(cell[row] == cell[column], 1.0, 2.0).astype(dtype)
        scale = _scales(shapes, trils, dtype)
        wide = _scale_wide(shapes, trils, moment, transpose=False)
        scaled = scale[row] * scale[column] * wide.ravel()[system.element]
    for_products = -0.5 * cotangent * precision * twice * scaled
    scores = _tril_score(shapes, system, trils, precision, moment, mean)
    for_trils = tuple(cotangent * part for part in scores)
    no_gradient: Any = None
    if system.element is not None:
        no_gradient = np.zeros(system.element.shape, jax.dtypes.float0)
    return Remainder(for_products, no_gradient, for_target), for_trils, for_precision


remainder_evidence.defvjp(_forward, _backward)


def _tril_score(
    shapes: Shapes,
    system: Remainder,
    trils: Trils,
    precision: Array,
    moment: Array,
    mean: Array | None,
) -> list[Array]:
    """L^-T sum_j (W_jj - I) by block, lower part; 0 at a scalar scale of zero, by symmetry."""
    scores, start = [], 0
    for (groups, dim, _), tril in zip(shapes, trils, strict=True):
        own = start + jnp.arange(groups)[:, None] * dim + jnp.arange(dim)[None]
        excess = moment[own[:, :, None], own[:, None, :]] - jnp.eye(dim, dtype=moment.dtype)[None]
        if tril.ndim == 2:
            excess = jnp.sum(excess, axis=0)
        if dim == 1:
            scores.append(jnp.where(tril == 0, 0.0, excess / jnp.where(tril == 0, 1.0, tril)))
        else:
            scores.append(
                jnp.tril(
                    lax.cond(
                        jnp.any(jnp.diagonal(tril, axis1=-2, axis2=-1) == 0),
                        partial(_singular_score, shapes, system, trils, precision, moment, mean),
                        _regular_score, own, tril, excess,
                    )
                )
            )  # fmt: skip
        start += groups * dim
    return scores


def _regular_score(_: Array, tril: Array, excess: Array) -> Float[Array, "... d d"]:
    return lax.linalg.triangular_solve(tril, excess, left_side=True, lower=True, transpose_a=True)


def _singular_score(
    shapes: Shapes,
    system: Remainder,
    trils: Trils,
    precision: Array,
    moment: Array,
    mean: Array | None,
    own: Array,
    tril: Array,
    _: Array,
) -> Float[Array, "... d d"]:
    """One block's diagonal blocks of beta (c m^T - M P W): the score where no L^-1 exists."""
    lower = jnp.tril(_whole_matrix(shapes, system))
    matrix = lower + jnp.tril(lower, -1).T
    scaled = scale_columns(shapes, trils, moment[:, own.ravel()], transpose=False)
    score = -jnp.einsum("mak,kmb->mab", matrix[own], scaled.reshape(-1, *own.shape))
    if system.target is not None and mean is not None:
        score = score + system.target[own][:, :, None] * mean[own][:, None, :]
    return precision * (score if tril.ndim == 3 else jnp.sum(score, axis=0))


def prior_precision(shapes: Shapes, dtype: Any) -> Float[Array, " D"]:
    """The diagonal of D."""
    parts = [np.full(groups * dim, 0.0 if flat else 1.0) for groups, dim, flat in shapes]
    return jnp.asarray(np.concatenate([np.zeros(0), *parts]), dtype)


def cells(shapes: Shapes) -> Int[Array, " D"]:
    """Number of the group, over all blocks, that each column belongs to."""
    parts, offset = [], 0
    for groups, dim, _ in shapes:
        parts.append(offset + jnp.repeat(jnp.arange(groups), dim))
        offset += groups
    return jnp.concatenate(parts)


def _scale_both(
    shapes: Shapes, trils: Sequence[Array], matrix: Array, *, transpose: bool = True
) -> Array:
    """P^T X P, or P X P^T."""
    scale = _scales(shapes, trils, matrix.dtype)
    scaled = scale[:, None] * matrix * scale[None]
    return _scale_wide(shapes, trils, scaled, transpose=transpose)


def _scale_wide(
    shapes: Shapes, trils: Sequence[Array], matrix: Array, *, transpose: bool = True
) -> Array:
    """The part of that which belongs to blocks of several coefficients per group."""
    rows = _wide_rows(shapes, trils, matrix, transpose)
    return _wide_rows(shapes, trils, rows.T, transpose).T


def _wide_rows(shapes: Shapes, trils: Sequence[Array], matrix: Array, transpose: bool) -> Array:
    start, inner = 0, "ab,mac->mbc" if transpose else "ba,mac->mbc"
    for (groups, dim, _), tril in zip(shapes, trils, strict=True):
        own = slice(start, start + groups * dim)
        start += groups * dim
        if dim > 1:
            product = f"m{inner}" if tril.ndim == 3 else inner
            rows = jnp.einsum(product, tril, matrix[own].reshape(groups, dim, -1))
            matrix = matrix.at[own].set(rows.reshape(matrix[own].shape))
    return matrix


def scale_columns(
    shapes: Shapes, trils: Sequence[Array], table: Float[Array, "D ..."], *, transpose: bool = True
) -> Float[Array, "D ..."]:
    """P^T X, or P X, where P is block-diagonal with each block's tril for every group."""
    scale = _scales(shapes, trils, table.dtype).reshape(-1, *(1,) * (table.ndim - 1))
    return _wide_rows(shapes, trils, scale * table, transpose)

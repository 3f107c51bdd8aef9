"""Sums over the observations: with a constant design they are taken once and n disappears."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Array, Float, Int
from threadpoolctl import threadpool_limits

from probmf.backend import HAS_NUMBA
from probmf.effects.loops import SHARES, find_meetings, tabulate
from probmf.effects.pattern import Pattern

#: The most numbers of that table: a quarter of a gigabyte, read for each evaluation.
MAX_TABLE = 30_000_000
#: Relative error to which the table below reproduces every group's term.
TABLE_TOLERANCE = 1e-14


class EliminationTable(NamedTuple):
    r"""The elimination of a leading block of scalars, in a few numbers per element.

    Element e of the eliminated matrix is :math:`\sum_g t_{eg} / (g + \lambda)` over the groups'
    sums of squares g, with the same lambda for all. As functions of lambda these quotients span few
    dimensions, so a skeleton of them reproduces all others to rounding, for every lambda.

    Attributes:
        knot: Sums of squares g of the skeleton.
        terms: Coefficient of each skeleton quotient in each element.
        element: Flat position of each element in the remainder.
    """

    knot: Float[Array, " r"]
    terms: Float[Array, "elements r"]
    element: Int[Array, " elements"]


class Products(NamedTuple):
    """Weighted sums of products of the design z = (leading, columns).

    Attributes:
        lead_lead: Sums of z z^T within each leading group.
        lead_rest: The same between a leading group and a column, by entry.
        rest_rest: The same between columns: by element of the pattern's pairs, or as a matrix whose
            lower triangle and whole blocks on the diagonal count.
        table: For the fast elimination, or None.
    """

    lead_lead: Float[Array, "m d d"]
    lead_rest: Float[Array, "entries d"]
    rest_rest: Float[Array, " elements"] | Float[Array, "D D"]
    table: EliminationTable | None = None


class Statistics(NamedTuple):
    """Products of the design, and with the target t; see `Products`.

    Attributes:
        lead_lead: Sums of z z^T within each leading group.
        lead_rest: The same between a leading group and a column.
        rest_rest: The same between columns.
        lead: Sums of z t by leading group.
        rest: Sums of z t by column.
        square: Sum of t^2.
        table: For the fast elimination, or None.
    """

    lead_lead: Float[Array, "m d d"]
    lead_rest: Float[Array, "entries d"]
    rest_rest: Float[Array, " elements"] | Float[Array, "D D"]
    lead: Float[Array, "m d"]
    rest: Float[Array, " D"]
    square: Float[Array, ""]
    table: EliminationTable | None = None


def collect_statistics(
    pattern: Pattern,
    design: Sequence[Float[Array, "n d"]],
    target: Float[Array, " n"],
    weight: Float[Array, " n"] | None = None,
) -> Statistics:
    """Sum over the observations; differentiable in design, target and weight.

    Args:
        pattern: Where the sums go.
        design: Coefficients of each block, in the pattern's order.
        target: Observations less their offset.
        weight: Weight of each observation; None for one.

    Returns:
        The sums. Cost O(n q^2).
    """
    weighted = target if weight is None else weight * target
    lead, rest, _ = collect_targets(pattern, design, weighted)
    products = collect_products(pattern, design, weight)
    return Statistics(*products[:3], lead, rest, jnp.sum(weighted * target))


def collect_products(
    pattern: Pattern,
    design: Sequence[Float[Array, "n d"]],
    weight: Float[Array, " n"] | None = None,
) -> Products:
    """The sums without a target; differentiable in design and weight.

    Args:
        pattern: Where the sums go.
        design: Coefficients of each block, in the pattern's order.
        weight: Weight of each observation; None for one.

    Returns:
        The sums. Cost O(n q^2).
    """
    lead, rest = design[0], of_columns(design)
    weighted = lead if weight is None else lead * weight[:, None]
    groups, dim = pattern.shapes[0]
    if groups == 1:
        lead_lead = jnp.matmul(weighted.T, lead, precision="highest")[None]
    else:
        lead_lead = pattern.sum_by_group(weighted[:, :, None] * lead[:, None, :])
    across = rest[:, :, None] * weighted[:, None, :]
    cross = _sum(across.reshape(-1, dim), pattern.entry.ravel(), len(pattern.entry_group))
    return Products(lead_lead, cross, _rest_products(pattern, rest, weight))


def of_columns(design: Sequence[Float[Array, "n d"]]) -> Float[Array, "n q"]:
    """Coefficients of the columns that each observation has; of a leading block alone none."""
    return jnp.concatenate([design[0][:, :0], *design[1:]], axis=1)


def _rest_products(pattern: Pattern, rest: Array, weight: Array | None) -> Array:
    """Sums of products of columns: lower triangle, and whole blocks on the diagonal.

    Two columns that an observation has both are a pair of its leading group, so that the elements
    of the pairs hold all of them.
    """
    size, column, start = pattern.num_columns, pattern.column, 0
    total = jnp.zeros((size, size), rest.dtype)
    where: list[Array] = []
    products: list[Array] = []
    for place, (groups, dim) in enumerate(pattern.shapes[1:]):
        own = slice(start, start + dim)
        # All observations have the columns of a single group, which need not be sorted.
        other = slice(0, start if groups == 1 else start + dim)
        start += dim
        where.append(column[:, own, None] * size + column[:, None, other])
        products.append(rest[:, own, None] * rest[:, None, other])
        if groups == 1:
            weighted = rest[:, own] if weight is None else rest[:, own] * weight[:, None]
            matrix = jnp.matmul(weighted.T, rest[:, own], precision="highest")
            before = pattern.offsets[place]
            total = total + jnp.pad(matrix, (before, size - before - dim))
    if any(one.size for one in where):
        # One sum for all blocks, as each is compiled apart.
        index, flat = (
            jnp.concatenate([one.reshape(len(rest), -1) for one in parts], axis=1)
            for parts in (where, products)
        )
        flat = flat if weight is None else weight[:, None] * flat
        total = total.ravel().at[index].add(flat).reshape(size, size)
    # Summed as a whole matrix and then read: to look its elements up takes ten times as long.
    return total if pattern.element is None else total.ravel()[pattern.element]


def _sum(values: Array, index: Array, size: int) -> Array:
    return jax.ops.segment_sum(values, index, num_segments=size)


def sum_on_host(
    pattern: Pattern,
    design: Sequence[Float[np.ndarray, "n d"]],
    target: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> Statistics:
    """`collect_statistics` in NumPy's double precision, with nothing to compile; see there."""
    lead = np.asarray(design[0], np.float64)
    rest = np.concatenate([np.zeros((len(target), 0)), *design[1:]], axis=1)
    ones = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
    groups, dim = pattern.shapes[0]
    size = pattern.num_columns
    group, column, entry = (np.asarray(x) for x in (pattern.group, pattern.column, pattern.entry))
    entries = len(pattern.entry_group)
    element = None if pattern.element is None else np.asarray(pattern.element)

    def total(index: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
        # Of nothing at all, NumPy makes integers.
        return np.bincount(index.ravel(), values.ravel(), minlength=length).astype(np.float64)

    lead_lead = np.empty((groups, dim, dim))
    for a in range(dim):
        for b in range(dim):
            lead_lead[:, a, b] = total(group, ones * lead[:, a] * lead[:, b], groups)
    products = np.zeros(size * size if element is None else len(element))
    block = np.repeat(np.arange(len(pattern.shapes) - 1), [dim for _, dim in pattern.shapes[1:]])
    for i in range(len(block)):
        for j in range(len(block)):
            if block[i] >= block[j]:
                where = column[:, i].astype(np.int64) * size + column[:, j]
                where = where if element is None else np.searchsorted(element, where)
                products += total(where, ones * rest[:, i] * rest[:, j], len(products))
    cross = [total(entry, (ones * lead[:, a])[:, None] * rest, entries) for a in range(dim)]
    by_group = [total(group, ones * lead[:, a] * target, groups) for a in range(dim)]
    sums: dict[str, Any] = {
        "lead_lead": lead_lead,
        "lead_rest": np.stack(cross, axis=1),
        "rest_rest": products.reshape(size, size) if element is None else products,
        "lead": np.stack(by_group, axis=1),
        "rest": total(column, (ones * target)[:, None] * rest, size),
        "square": np.sum(ones * target * target),
    }
    return Statistics(**sums)


def compress(pattern: Pattern, statistics: Statistics) -> Statistics:
    """Add the table of a constant design, where the leading block is one scalar per group.

    Args:
        pattern: The pattern.
        statistics: Its sums, in float64 and concrete.

    Returns:
        The statistics with their table, or as they were if the pattern stores the whole remainder,
        the leading block has more than one coefficient per group, or the table were too large.
        Cost O(pairs x r), once.
    """
    if pattern.element is None or pattern.shapes[0][1] > 1:
        return statistics
    square = np.asarray(statistics.lead_lead)[:, 0, 0]
    knot, coefficients = _skeleton(square)
    cross = np.asarray(statistics.lead_rest, np.float64)[:, 0]
    if len(pattern.element) * len(knot) > MAX_TABLE:
        return statistics
    if HAS_NUMBA:
        terms, meetings = np.zeros((len(pattern.element), len(knot))), find_meetings(pattern)
        for share in range(SHARES):
            tabulate(meetings, share, cross, coefficients, terms)
    elif pattern.pairs is None:
        return statistics
    else:
        left, right, which = (np.asarray(x) for x in pattern.pairs)
        products = scipy.sparse.coo_matrix(
            (cross[left] * cross[right], (which, np.asarray(pattern.entry_group)[left])),
            shape=(len(pattern.element), len(square)),
        )
        terms = products.tocsr() @ coefficients
    table: dict[str, Any] = {"knot": knot, "terms": terms, "element": pattern.element}
    return statistics._replace(table=EliminationTable(**table))


def _skeleton(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots g_i, and coefficients such that 1/(g + lambda) = sum_i c_i / (g_i + lambda).

    An interpolative decomposition: a pivoted QR of the functions on a grid of lambda.
    """
    positive = square > 0
    if not positive.any():
        return np.ones(1), np.zeros((len(square), 1))
    values, inverse = np.unique(square[positive], return_inverse=True)
    grid = np.concatenate([[0.0], np.geomspace(values[0] * 1e-4, values[-1] * 1e4, 400)])
    functions = (values[0] + grid)[:, None] / (values[None] + grid[:, None])
    # Beside other programs the threads of BLAS wait for each other, a hundred times as long.
    with threadpool_limits(limits=1, user_api="blas"):
        _, upper, pivot = scipy.linalg.qr(functions, mode="economic", pivoting=True)
    size = np.abs(np.diag(upper))
    rank = max(1, int(np.sum(size > TABLE_TOLERANCE * size[0])))
    by_value = np.zeros((len(values), rank))
    by_value[pivot[:rank]] = np.eye(rank)
    by_value[pivot[rank:]] = scipy.linalg.solve_triangular(
        upper[:rank, :rank], upper[:rank, rank:]
    ).T
    coefficients = np.zeros((len(square), rank))
    coefficients[positive] = by_value[inverse]
    return values[pivot[:rank]], coefficients


def collect_targets(
    pattern: Pattern, design: Sequence[Float[Array, "n d"]], target: Float[Array, " n"]
) -> tuple[Float[Array, "m d"], Float[Array, " D"], Float[Array, ""]]:
    """The sums `lead`, `rest` and `square` alone, for a design that is constant.

    Args:
        pattern: Where the sums go.
        design: Coefficients of each block, in the pattern's order.
        target: Observations less their offset.

    Returns:
        The three sums. Cost O(n q).
    """
    rest = of_columns(design)
    return (
        pattern.sum_by_group(design[0] * target[:, None]),
        _sum((rest * target[:, None]).ravel(), pattern.column.ravel(), pattern.num_columns),
        jnp.sum(target * target),
    )

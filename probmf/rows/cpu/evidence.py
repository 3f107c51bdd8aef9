r"""The evidence of rows that are integrated out, with its gradient, in one pass over the rows.

Row m has ratings :math:`r_{mn} = c_n + x_n \cdot u_m + e` with :math:`u_m = L \xi_m`, L diagonal
and :math:`\xi_m` standard Normal. A column t of targets stands beside the designs x, so that one
product of small matrices gives the moments, and another the gradient by every design.
"""

from typing import NamedTuple

import numpy as np

from probmf.rows.cpu.kernels import add_moments, compiled, fill, gather_columns, mix_columns, sweep

#: Ratings whose designs are held at a time; a longer row is read twice.
BLOCK = 1024


class RatedRows(NamedTuple):
    """Ratings, row by row.

    Attributes:
        start: Where each row's ratings start, and where the last one's end.
        partner: Row of the other side.
        rating: The ratings.
        root: Roots of the weights; of length 0 when all are one.
    """

    start: np.ndarray
    partner: np.ndarray
    rating: np.ndarray
    root: np.ndarray


class Designs(NamedTuple):
    """Values that the ratings are conditioned on.

    Attributes:
        table: For each row of the other side its factors, a 1 where rows have a bias, minus its
            level; then zeros up to a multiple of four columns.
        scale: Prior scales of the rows, (rows, factors and bias).
        noise: Noise scale of a rating of weight one, (1,).
    """

    table: np.ndarray
    scale: np.ndarray
    noise: np.ndarray


class Slopes(NamedTuple):
    """Derivatives, zeros at the start. Those by the table lack the noise precision.

    Attributes:
        table: By the table: factors and levels; in the column of ones nothing.
        scale: By the prior scales.
        sums: Log determinants of the rows' precisions, squares of residuals at the means, squares
            of the whitened means, traces of covariance times moments; each over all rows.
    """

    table: np.ndarray
    scale: np.ndarray
    sums: np.ndarray


@compiled
def score_rows(seen: RatedRows, given: Designs, factors: int, out: Slopes) -> None:
    """Sums over the rows that make up their evidence, and its derivatives.

    Args:
        seen: The ratings.
        given: Designs, scales, noise.
        factors: How many of the table's columns are factors.
        out: Where the answers go.
    """
    one = given.noise[0] / given.noise[0]
    zero = one - one
    precision = one / (given.noise[0] * given.noise[0])
    width, size, dtype = given.table.shape[1], given.scale.shape[1], given.table.dtype
    space, mixed_space = np.empty(width * BLOCK, dtype), np.empty(width * BLOCK, dtype)
    moments, system = np.zeros((width, width), dtype), np.zeros((width, width), dtype)
    matrix, white = np.zeros((width, width), dtype), np.zeros(size, dtype)
    mean = np.zeros(size, dtype)
    for row in range(len(seen.start) - 1):
        first, last = seen.start[row], seen.start[row + 1]
        if first == last:
            continue
        for j in range(width):
            fill(moments[j], zero)
        for begin in range(first, last, BLOCK):
            end = min(begin + BLOCK, last)
            design = space[: width * (end - begin)].reshape((width, end - begin))
            _gather(seen, given.table, begin, end, size, design)
            add_moments(design, design, moments, zero)
        scale = given.scale[row]
        for i in range(size):
            for j in range(size):
                lower = moments[max(i, j), min(i, j)]
                system[i, j] = precision * scale[i] * lower * scale[j]
            system[i, i] += one
        out.sums[0] += sweep(system, size, one)
        for i in range(size):
            total = zero
            for j in range(size):
                total += system[i, j] * scale[j] * moments[size, j]
            white[i] = precision * total
            mean[i] = scale[i] * white[i]
            out.sums[2] += white[i] * white[i]
        for i in range(size):
            score, spread = moments[size, i], zero
            for j in range(size):
                lower = moments[max(i, j), min(i, j)]
                score -= lower * mean[j]
                spread += lower * scale[j] * system[i, j]
            out.sums[3] += scale[i] * spread
            out.scale[row, i] = precision * (score * white[i] - spread)
        # Row i gives the derivative by factor i of a design (x, t), row `size` the residual.
        for i in range(size):
            matrix[size, i] = -mean[i]
            if i < factors:
                for j in range(size):
                    matrix[i, j] = -scale[i] * scale[j] * system[i, j] - mean[i] * mean[j]
                matrix[i, size] = mean[i]
        matrix[size, size] = one
        for begin in range(first, last, BLOCK):
            end = min(begin + BLOCK, last)
            n = end - begin
            design = space[: width * n].reshape((width, n))
            mixed = mixed_space[: width * n].reshape((width, n))
            if last - first > BLOCK:
                _gather(seen, given.table, begin, end, size, design)
            mix_columns(matrix, design, mixed)
            residual, total = mixed[size], zero
            for i in range(n):
                total += residual[i] * residual[i]
            out.sums[1] += total
            _weigh(seen.root, begin, end, mixed)
            for i in range(n):
                own = out.table[seen.partner[begin + i]]
                for j in range(width):
                    own[j] += mixed[j, i]


@compiled
def _gather(
    seen: RatedRows, table: np.ndarray, begin: int, end: int, target: int, design: np.ndarray
) -> None:
    """Designs and targets of some ratings, by column, times the roots of their weights."""
    gather_columns(table, seen.partner[begin:end], len(design), design)
    own = design[target]
    for i in range(end - begin):
        own[i] += seen.rating[begin + i]
    _weigh(seen.root, begin, end, design)


@compiled
def _weigh(root: np.ndarray, begin: int, end: int, columns: np.ndarray) -> None:
    """Multiplies every rating's column by the root of its weight."""
    if len(root) == 0:
        return
    for j in range(len(columns)):
        own = columns[j]
        for i in range(end - begin):
            own[i] *= root[begin + i]

"""Rows of few observations, many of them side by side on a CPU, under a quadratic loss.

An observation changes its row's precision by a rank-one term, so that a row of n observations and d
coordinates costs n^2 d, where a Cholesky factor costs d^3. With A = L0 D0 L0^T the precision before
the observations (a diagonal prior is D0, and L0 = I),

    A + sum_m w_m z_m z_m^T = L0 L1 ... Ln D Ln^T ... L1^T L0^T .

Lm has ones on the diagonal and p_i b_j below it, where L0 ... L(m-1) p = z_m and, from a = w_m on
(Gill, Golub, Murray and Saunders, 1974, method C1),

    d'_j = d_j + a p_j^2     b_j = a p_j / d'_j     a := a d_j / d'_j .

All terms are positive, and L0 ... Ln D^(1/2) is the Cholesky factor, so that means and draws are
those of `probmf.rows.cpu.rows.solve_exactly`, to rounding. Rows of one length lie side by side,
each in a lane of its own: no lane's numbers depend on the others'.
"""

import numpy as np

from probmf.rows.cpu.arrays import Present, RowInputs, RowObservations, RowOutputs
from probmf.rows.cpu.kernels import compiled, fill

#: Rows side by side.
LANES = 32


@compiled
def _project(design: np.ndarray, x: np.ndarray, e: np.ndarray) -> None:
    """Takes the scores from e."""
    for j in range(len(x)):
        for i in range(LANES):
            e[i] -= design[j, i] * x[j, i]


@compiled
def _solve_lower(p: np.ndarray, b: np.ndarray, x: np.ndarray, total: np.ndarray) -> None:
    """Replaces x by Lm^-1 x; `total` is room for sums."""
    fill(total, 0)
    for j in range(len(x)):
        for i in range(LANES):
            here = x[j, i] - p[j, i] * total[i]
            x[j, i] = here
            total[i] += b[j, i] * here


@compiled
def _solve_upper(p: np.ndarray, b: np.ndarray, x: np.ndarray, total: np.ndarray) -> None:
    """Replaces x by Lm^-T x."""
    fill(total, 0)
    for j in range(len(x) - 1, -1, -1):
        for i in range(LANES):
            here = x[j, i] - b[j, i] * total[i]
            x[j, i] = here
            total[i] += p[j, i] * here


@compiled
def _solve_shared_lower(factor: np.ndarray, x: np.ndarray) -> None:
    """Replaces x by L0^-1 x."""
    for j in range(len(x)):
        for c in range(j):
            for i in range(LANES):
                x[j, i] -= factor[j, c] * x[c, i]
        for i in range(LANES):
            x[j, i] /= factor[j, j]


@compiled
def _solve_shared_upper(factor: np.ndarray, x: np.ndarray) -> None:
    """Replaces x by L0^-T x."""
    for j in range(len(x) - 1, -1, -1):
        for i in range(LANES):
            x[j, i] /= factor[j, j]
        for c in range(j):
            for i in range(LANES):
                x[c, i] -= factor[j, c] * x[j, i]


@compiled
def _update(
    weight: np.ndarray, p: np.ndarray, diagonal: np.ndarray, b: np.ndarray, a: np.ndarray
) -> None:
    """D and b of the next factor; `a` is room for the weights that are left."""
    for i in range(LANES):
        a[i] = weight[i]
    for j in range(len(p)):
        for i in range(LANES):
            scaled = a[i] * p[j, i]
            new = diagonal[j, i] + scaled * p[j, i]
            b[j, i] = scaled / new
            a[i] *= diagonal[j, i] / new
            diagonal[j, i] = new


@compiled
def solve_few(
    seen: RowObservations,
    lo: int,
    hi: int,
    given: RowInputs,
    table: Present,
    solved: RowOutputs,
    columns: int,
    noise: np.ndarray,
    shared: np.ndarray,
) -> None:
    """Each row of a stretch exactly; a draw with noise. See `solve_exactly`.

    Args:
        seen: Observations.
        lo: First place of the stretch in the order of work, which is that of length.
        hi: Place after the last.
        given: The prior. With a gram, all rows have the same precision.
        table: Present values of both sides.
        solved: Where the answers go.
        columns: Factors to solve for; later ones stay.
        noise: Standard normal numbers for every row, or of length 0 for the mean.
        shared: Cholesky factor of the prior precision of (bias, factors) that all rows share where
            there is a gram; else of size 0.
    """
    one = given.curvature[0] / given.curvature[0]
    dtype, d, free = solved.factors.dtype, 1 + columns, given.free
    longest = seen.start[seen.order[hi - 1] + 1] - seen.start[seen.order[hi - 1]]
    design = np.empty((longest, d, LANES), dtype)
    p, b = np.empty_like(design), np.empty_like(design)
    x, step, diagonal = np.empty((3, d, LANES), dtype)
    e, weight = np.empty((2, longest, LANES), dtype)
    room, pulled, loss, slope, total = np.empty((5, LANES), dtype)
    first = lo
    while first < hi:
        row = seen.order[first]
        n, last = seen.start[row + 1] - seen.start[row], min(first + LANES, hi)
        while seen.start[seen.order[last - 1] + 1] - seen.start[seen.order[last - 1]] > n:
            last -= 1
        for i in range(LANES):
            # Lanes without a row repeat the last one.
            row = seen.order[min(first + i, last - 1)]
            x[0, i], diagonal[0, i] = table.bias[row], given.precision[row, 0]
            for j in range(columns):
                x[1 + j, i] = table.factors[row, j]
                diagonal[1 + j, i] = given.precision[row, 1 + j]
            for m in range(n):
                place = seen.start[row] + m
                partner = seen.partner[place]
                e[m, i] = seen.rating[place] - given.intercept[0] - table.other_bias[partner]
                weight[m, i] = given.curvature[0] * (
                    seen.weight[place] if len(seen.weight) else one
                )
                design[m, 0, i] = one
                for j in range(columns):
                    design[m, 1 + j, i] = table.other_factors[partner, j]
        for j in range(d):
            # Minus the prior's part of the gradient; see `_gradient` in `rows`.
            for i in range(LANES):
                step[j, i] = -diagonal[j, i] * x[j, i]
            if len(given.gram):
                for c in range(d):
                    for i in range(LANES):
                        step[j, i] -= given.gram[j, c] * x[c, i]
                for i in range(LANES):
                    step[j, i] -= given.shift[j]
            if len(given.pull):
                for i in range(LANES):
                    step[j, i] += given.pull[seen.order[min(first + i, last - 1)], j]
        for m in range(n):
            _project(design[m], x, e[m])
            for i in range(LANES):
                room[i] = weight[m, i] * e[m, i]
            for j in range(d):
                for i in range(LANES):
                    step[j, i] += room[i] * design[m, j, i]
                    p[m, j, i] = free[j] * design[m, j, i]
        for j in range(d):
            for i in range(LANES):
                step[j, i] *= free[j]
            if len(shared) or not free[j] > 0:
                fill(diagonal[j], one)
        if len(shared):
            _solve_shared_lower(shared, step)
        for m in range(n):
            if len(shared):
                _solve_shared_lower(shared, p[m])
            for before in range(m):
                _solve_lower(p[before], b[before], p[m], room)
            _update(weight[m], p[m], diagonal, b[m], room)
            _solve_lower(p[m], b[m], step, room)
        for j in range(d):
            for i in range(LANES):
                step[j, i] /= diagonal[j, i]
            if len(noise):
                for i in range(LANES):
                    row = seen.order[min(first + i, last - 1)]
                    step[j, i] += free[j] * noise[row, j] / np.sqrt(diagonal[j, i])
        for m in range(n - 1, -1, -1):
            _solve_upper(p[m], b[m], step, room)
        if len(shared):
            _solve_shared_upper(shared, step)
        fill(loss, 0)
        fill(slope, 0)
        fill(total, 0)
        for m in range(n):
            _project(design[m], step, e[m])
            for i in range(LANES):
                pulled[i] = weight[m, i] * e[m, i]
                loss[i] += pulled[i] * e[m, i]
                slope[i] += pulled[i]
                total[i] += weight[m, i]
        for i in range(last - first):
            row = seen.order[first + i]
            solved.bias[row] = x[0, i] + step[0, i]
            for j in range(columns):
                solved.factors[row, j] = x[1 + j, i] + step[1 + j, i]
            solved.loss[row] = loss[i] / (one + one)
            solved.slope[row], solved.curvature[row] = slope[i], total[i]
        first = last

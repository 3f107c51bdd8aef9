"""Rows of few observations, many of them side by side on a CPU, under a quadratic loss.

Rows of one length lie side by side, each in a lane of its own: no lane's numbers depend on the
others'. `step_few` takes conjugate-gradient steps, `solve_few` the whole way:

An observation changes its row's precision by a rank-one term, so that a row of n observations and d
coordinates costs n^2 d, where a Cholesky factor costs d^3. With A = L0 D0 L0^T the precision before
the observations (a diagonal prior is D0, and L0 = I),

    A + sum_m w_m z_m z_m^T = L0 L1 ... Ln D Ln^T ... L1^T L0^T .

Lm has ones on the diagonal and p_i b_j below it, where L0 ... L(m-1) p = z_m and, from a = w_m on
(Gill, Golub, Murray and Saunders, 1974, method C1),

    d'_j = d_j + a p_j^2     b_j = a p_j / d'_j     a := a d_j / d'_j .

All terms are positive, and L0 ... Ln D^(1/2) is the Cholesky factor, so that means and draws are
those of `probmf.rows.cpu.rows.solve_exactly`, to rounding.
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
def _last_alike(seen: RowObservations, first: int, hi: int) -> int:
    """Place after the last row that lies beside the first: of its length, and in a lane."""
    row, last = seen.order[first], min(first + LANES, hi)
    n = seen.start[row + 1] - seen.start[row]
    while seen.start[seen.order[last - 1] + 1] - seen.start[seen.order[last - 1]] > n:
        last -= 1
    return last


@compiled
def _read(
    seen: RowObservations,
    first: int,
    last: int,
    given: RowInputs,
    table: Present,
    x: np.ndarray,
    diagonal: np.ndarray,
    design: np.ndarray,
    weight: np.ndarray,
    e: np.ndarray,
    gradient: np.ndarray,
) -> None:
    """Reads rows of one length, whose present values, prior precisions and designs (1, z) it keeps.

    With them come each observation's curvature, its residual, and the gradient of the log
    posterior, zero at fixed coordinates.
    """
    one = given.curvature[0] / given.curvature[0]
    n, d = design.shape[0], design.shape[1]
    # Lanes without a row repeat the last one. All lanes of a coordinate are written at once.
    rows, partners = np.empty((2, LANES), np.intp)
    for i in range(LANES):
        rows[i] = seen.order[min(first + i, last - 1)]
        x[0, i] = table.bias[rows[i]]
    for j in range(d):
        for i in range(LANES):
            diagonal[j, i] = given.precision[rows[i], j]
    for j in range(1, d):
        for i in range(LANES):
            x[j, i] = table.factors[rows[i], j - 1]
    for m in range(n):
        for i in range(LANES):
            place = seen.start[rows[i]] + m
            partner = seen.partner[place]
            partners[i] = partner
            e[m, i] = seen.rating[place] - given.intercept[0] - table.other_bias[partner]
            weight[m, i] = given.curvature[0] * (seen.weight[place] if len(seen.weight) else one)
        fill(design[m, 0], one)
        for j in range(1, d):
            for i in range(LANES):
                design[m, j, i] = table.other_factors[partners[i], j - 1]
    for j in range(d):
        # Minus the prior's part of the gradient; see `_gradient` in `rows`.
        for i in range(LANES):
            gradient[j, i] = -diagonal[j, i] * x[j, i]
        if len(given.gram):
            for c in range(d):
                for i in range(LANES):
                    gradient[j, i] -= given.gram[j, c] * x[c, i]
            for i in range(LANES):
                gradient[j, i] -= given.shift[j]
        if len(given.pull):
            for i in range(LANES):
                gradient[j, i] += given.pull[rows[i], j]
    for m in range(n):
        _project(design[m], x, e[m])
        for j in range(d):
            for i in range(LANES):
                gradient[j, i] += weight[m, i] * e[m, i] * design[m, j, i]
    for j in range(d):
        for i in range(LANES):
            gradient[j, i] *= given.free[j]


@compiled
def _write(
    seen: RowObservations,
    first: int,
    last: int,
    x: np.ndarray,
    step: np.ndarray,
    weight: np.ndarray,
    e: np.ndarray,
    sums: np.ndarray,
    solved: RowOutputs,
) -> None:
    """Writes rows after their steps, and their sums from what residuals are left."""
    loss, slope, total = sums[0], sums[1], sums[2]
    fill(loss, 0)
    fill(slope, 0)
    fill(total, 0)
    for m in range(len(e)):
        for i in range(LANES):
            pulled = weight[m, i] * e[m, i]
            loss[i] += pulled * e[m, i]
            slope[i] += pulled
            total[i] += weight[m, i]
    for i in range(last - first):
        row = seen.order[first + i]
        solved.bias[row] = x[0, i] + step[0, i]
        for j in range(1, len(x)):
            solved.factors[row, j - 1] = x[j, i] + step[j, i]
        solved.loss[row] = loss[i] / 2
        solved.slope[row], solved.curvature[row] = slope[i], total[i]


@compiled
def step_few(
    seen: RowObservations,
    lo: int,
    hi: int,
    given: RowInputs,
    table: Present,
    solved: RowOutputs,
    columns: int,
    steps: int,
) -> None:
    """A few conjugate-gradient steps for each row of a stretch; see `rows.solve_by_steps`.

    Args:
        seen: Observations.
        lo: First place of the stretch in the order of work, which is that of length.
        hi: Place after the last.
        given: The prior.
        table: Present values of both sides.
        solved: Where the answers go.
        columns: Factors to solve for; later ones stay.
        steps: Number of steps.
    """
    zero = given.curvature[0] - given.curvature[0]
    dtype, d = solved.factors.dtype, 1 + columns
    longest = seen.start[seen.order[hi - 1] + 1] - seen.start[seen.order[hi - 1]]
    designs = np.empty((longest, d, LANES), dtype)
    x, step, diagonal, r, p, q = np.empty((6, d, LANES), dtype)
    weights, residuals, alongs = np.empty((3, longest, LANES), dtype)
    square, new, length, share = np.empty((4, LANES), dtype)
    sums = np.empty((3, LANES), dtype)
    first = lo
    while first < hi:
        last = _last_alike(seen, first, hi)
        n = seen.start[seen.order[first] + 1] - seen.start[seen.order[first]]
        design, weight, e, along = designs[:n], weights[:n], residuals[:n], alongs[:n]
        _read(seen, first, last, given, table, x, diagonal, design, weight, e, r)
        fill(square, zero)
        fill(share, zero)
        for j in range(d):
            for i in range(LANES):
                step[j, i], p[j, i] = zero, zero
                square[i] += r[j, i] * r[j, i]
        for number in range(steps):
            # The share of the last direction, then of the new one; q becomes Lambda p.
            for j in range(d):
                for i in range(LANES):
                    p[j, i] = r[j, i] + share[i] * p[j, i]
                    q[j, i] = diagonal[j, i] * p[j, i]
            if len(given.gram):
                for j in range(d):
                    for c in range(d):
                        for i in range(LANES):
                            q[j, i] += given.gram[j, c] * p[c, i]
            fill(length, zero)
            for j in range(d):
                for i in range(LANES):
                    length[i] += p[j, i] * q[j, i]
            for m in range(n):
                fill(along[m], zero)
                for j in range(d):
                    for i in range(LANES):
                        along[m, i] += design[m, j, i] * p[j, i]
                for i in range(LANES):
                    length[i] += weight[m, i] * along[m, i] * along[m, i]
            for i in range(LANES):
                share[i] = square[i] / length[i] if length[i] > 0 else zero
            for m in range(n):
                for i in range(LANES):
                    e[m, i] -= share[i] * along[m, i]
                    along[m, i] *= weight[m, i]
            for j in range(d):
                for i in range(LANES):
                    step[j, i] += share[i] * p[j, i]
            if number + 1 == steps:
                break
            fill(new, zero)
            for j in range(d):
                for m in range(n):
                    for i in range(LANES):
                        q[j, i] += along[m, i] * design[m, j, i]
                for i in range(LANES):
                    r[j, i] -= share[i] * given.free[j] * q[j, i]
                    new[i] += r[j, i] * r[j, i]
            for i in range(LANES):
                share[i] = new[i] / square[i] if square[i] > 0 else zero
                square[i] = new[i]
        _write(seen, first, last, x, step, weight, e, sums, solved)
        first = last


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
    designs = np.empty((longest, d, LANES), dtype)
    p, b = np.empty_like(designs), np.empty_like(designs)
    x, step, diagonal = np.empty((3, d, LANES), dtype)
    residuals, weights = np.empty((2, longest, LANES), dtype)
    room, sums = np.empty(LANES, dtype), np.empty((3, LANES), dtype)
    first = lo
    while first < hi:
        last = _last_alike(seen, first, hi)
        n = seen.start[seen.order[first] + 1] - seen.start[seen.order[first]]
        design, weight, e = designs[:n], weights[:n], residuals[:n]
        _read(seen, first, last, given, table, x, diagonal, design, weight, e, step)
        for j in range(d):
            for m in range(n):
                for i in range(LANES):
                    p[m, j, i] = free[j] * design[m, j, i]
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
        for m in range(n):
            _project(design[m], step, e[m])
        _write(seen, first, last, x, step, weight, e, sums, solved)
        first = last

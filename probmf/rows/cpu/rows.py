"""Rows solved or drawn one after another on a CPU, under a loss that is quadratic in the score.

The equations are those of `probmf.rows.conditionals`. There, rows are batched and padded for
compilers that want few shapes; here, each row's observations are gathered once into a block that
stays in cache.
"""

import numpy as np

from probmf.rows.cpu.arrays import Present, RowInputs, RowObservations, RowOutputs
from probmf.rows.cpu.kernels import (
    add_moments,
    collect_columns,
    collect_rows,
    compiled,
    factorize,
    fill,
    gather_columns,
    gather_rows,
    project_columns,
    project_rows,
    solve_lower,
    solve_upper,
    symmetric_product,
)

#: Up to this many factors the designs of a row lie by column.
BY_COLUMN = 32
#: Observations of a block of second moments.
BLOCK = 256


@compiled
def _residuals(
    seen: RowObservations,
    given: RowInputs,
    table: Present,
    begin: int,
    end: int,
    own_bias: float,
    weight: np.ndarray,
    e: np.ndarray,
) -> None:
    """Rating less the scores without factors, and each observation's curvature."""
    curvature, base = given.curvature[0], given.intercept[0] + own_bias
    for i in range(end - begin):
        e[i] = seen.rating[begin + i] - base - table.other_bias[seen.partner[begin + i]]
    if len(seen.weight):
        for i in range(end - begin):
            weight[i] = curvature * seen.weight[begin + i]
    else:
        fill(weight, curvature)


@compiled
def _gradient(
    given: RowInputs,
    row: int,
    own_bias: float,
    x: np.ndarray,
    first_bias: float,
    first: np.ndarray,
    full: np.ndarray,
) -> float:
    """Gradient of the log posterior from that of the observations: bias, then factors in place."""
    free, precision = given.free, given.precision[row]
    bias = first_bias - precision[0] * own_bias
    k = len(x)
    if len(given.pull):
        bias += given.pull[row, 0]
        for j in range(k):
            first[j] += given.pull[row, 1 + j]
    if len(given.gram):
        full[0] = own_bias
        for j in range(k):
            full[1 + j] = x[j]
        pulled = np.zeros_like(full)
        collect_rows(given.gram, full, pulled)
        bias -= pulled[0] + given.shift[0]
        for j in range(k):
            first[j] -= pulled[1 + j] + given.shift[1 + j]
    for j in range(k):
        first[j] = free[1 + j] * (first[j] - precision[1 + j] * x[j])
    return free[0] * bias


@compiled
def solve_by_steps(
    seen: RowObservations,
    lo: int,
    hi: int,
    given: RowInputs,
    table: Present,
    solved: RowOutputs,
    columns: int,
    steps: int,
) -> None:
    """A few conjugate-gradient steps for each row of a stretch, from its present value.

    Args:
        seen: Observations.
        lo: First place of the stretch in the order of work.
        hi: Place after the last.
        given: The prior.
        table: Present values of both sides.
        solved: Where the answers go.
        columns: Factors to solve for; later ones stay.
        steps: Number of steps.
    """
    one = given.curvature[0] / given.curvature[0]
    zero, half = one - one, one / (one + one)
    by_row = columns > BY_COLUMN
    k = columns if by_row else (columns + 3) // 4 * 4
    longest = 0
    for row in seen.order[lo:hi]:
        longest = max(longest, seen.start[row + 1] - seen.start[row])
    space = np.empty(longest * k, solved.factors.dtype)
    residual, weight = np.empty(longest, space.dtype), np.empty(longest, space.dtype)
    change, weighed = np.empty(longest, space.dtype), np.empty(longest, space.dtype)
    x, r, p, q = (
        np.zeros(k, space.dtype), np.zeros(k, space.dtype), np.zeros(k, space.dtype),
        np.zeros(k, space.dtype),
    )  # fmt: skip
    full = np.zeros(1 + columns, space.dtype)
    curved = np.zeros(1 + columns, space.dtype)
    free = given.free
    for row in seen.order[lo:hi]:
        begin, end = seen.start[row], seen.start[row + 1]
        n = end - begin
        partner = seen.partner[begin:end]
        e, w, along, we = residual[:n], weight[:n], change[:n], weighed[:n]
        design = space[: n * k].reshape((n, k)) if by_row else space[: n * k].reshape((k, n))
        bias = table.bias[row]
        for j in range(columns):
            x[j] = table.factors[row, j]
        _residuals(seen, given, table, begin, end, bias, w, e)
        fill(along, zero)
        if by_row:
            gather_rows(table.other_factors, partner, columns, design)
            project_rows(design, x, along, zero)
        else:
            gather_columns(table.other_factors, partner, columns, design)
            project_columns(design, x, along)
        for i in range(n):
            e[i] -= along[i]
            we[i] = w[i] * e[i]
        rb = zero
        for i in range(n):
            rb += we[i]
        fill(r, zero)
        if by_row:
            collect_rows(design, we, r)
        else:
            collect_columns(design, we, r, zero)
        rb = _gradient(given, row, bias, x[:columns], rb, r[:columns], full)
        pb = rb
        square = rb * rb
        for j in range(k):
            square += r[j] * r[j]
        for j in range(k):
            p[j] = r[j]
        prior = given.precision[row]
        for step in range(steps):
            if not square > 0:
                break
            fill(along, pb)
            if by_row:
                project_rows(design, p, along, zero)
            else:
                project_columns(design, p, along)
            length, qb = prior[0] * pb * pb, zero
            for i in range(n):
                we[i] = w[i] * along[i]
            for i in range(n):
                qb += we[i]
                length += we[i] * along[i]
            for j in range(columns):
                length += prior[1 + j] * p[j] * p[j]
            if len(given.gram):
                full[0] = pb
                for j in range(columns):
                    full[1 + j] = p[j]
                fill(curved, zero)
                collect_rows(given.gram, full, curved)
                for j in range(1 + columns):
                    length += full[j] * curved[j]
            # The square of a tiny step is zero in single precision.
            if not length > 0:
                break
            alpha = square / length
            bias += alpha * pb
            for j in range(k):
                x[j] += alpha * p[j]
            for i in range(n):
                e[i] -= alpha * along[i]
            if step + 1 == steps:
                break
            fill(q, zero)
            if by_row:
                collect_rows(design, we, q)
            else:
                collect_columns(design, we, q, zero)
            qb += prior[0] * pb
            for j in range(columns):
                q[j] += prior[1 + j] * p[j]
            if len(given.gram):
                qb += curved[0]
                for j in range(columns):
                    q[j] += curved[1 + j]
            rb -= alpha * free[0] * qb
            for j in range(columns):
                r[j] -= alpha * free[1 + j] * q[j]
            new = rb * rb
            for j in range(columns):
                new += r[j] * r[j]
            beta = new / square
            square = new
            pb = rb + beta * pb
            for j in range(columns):
                p[j] = r[j] + beta * p[j]
        solved.bias[row] = bias
        for j in range(columns):
            solved.factors[row, j] = x[j]
        loss, slope, total = zero, zero, zero
        for i in range(n):
            loss += w[i] * e[i] * e[i]
            slope += w[i] * e[i]
            total += w[i]
        solved.loss[row], solved.slope[row], solved.curvature[row] = half * loss, slope, total


@compiled
def solve_exactly(
    seen: RowObservations,
    lo: int,
    hi: int,
    given: RowInputs,
    table: Present,
    solved: RowOutputs,
    columns: int,
    noise: np.ndarray,
) -> None:
    """Each row of a stretch by the Cholesky factor of its precision; a draw with noise.

    The bias is eliminated first. The sums move along with the step, without a second pass.

    Args:
        seen: Observations.
        lo: First place of the stretch in the order of work.
        hi: Place after the last.
        given: The prior.
        table: Present values of both sides.
        solved: Where the answers go.
        columns: Factors to solve for; later ones stay.
        noise: Standard normal numbers for every row, or of length 0 for the mean.
    """
    # Numbers of the arrays' own type: a literal would turn single precision into double.
    one = given.curvature[0] / given.curvature[0]
    zero, half = one - one, one / (one + one)
    k = (columns + 3) // 4 * 4
    dtype = solved.factors.dtype
    space, weighted_space = np.empty(k * BLOCK, dtype), np.empty(k * BLOCK, dtype)
    residual, weight, along = np.empty(BLOCK, dtype), np.empty(BLOCK, dtype), np.empty(BLOCK, dtype)
    x, first, cross = np.zeros(k, dtype), np.zeros(k, dtype), np.zeros(k, dtype)
    rhs, border, curved = np.zeros(k, dtype), np.zeros(k, dtype), np.zeros(k, dtype)
    moments, factor = np.zeros((k, k), dtype), np.zeros((k, k), dtype)
    full = np.zeros(1 + columns, dtype)
    free, draws = given.free, len(noise) > 0
    has_gram, even = len(given.gram) > 0, len(seen.weight) == 0
    for row in seen.order[lo:hi]:
        stop = seen.start[row + 1]
        bias = table.bias[row]
        for j in range(columns):
            x[j] = table.factors[row, j]
        for j in range(k):
            fill(moments[j], zero)
        fill(first, zero)
        fill(cross, zero)
        loss, slope, corner = zero, zero, zero
        for begin in range(seen.start[row], stop, BLOCK):
            end = min(begin + BLOCK, stop)
            n = end - begin
            e, w, score = residual[:n], weight[:n], along[:n]
            design = space[: k * n].reshape((k, n))
            gather_columns(table.other_factors, seen.partner[begin:end], columns, design)
            _residuals(seen, given, table, begin, end, bias, w, e)
            fill(score, zero)
            project_columns(design, x, score)
            for i in range(n):
                e[i] -= score[i]
            for i in range(n):
                loss += w[i] * e[i] * e[i]
            for i in range(n):
                e[i] *= w[i]
            for i in range(n):
                slope += e[i]
                corner += w[i]
            collect_columns(design, e, first, zero)
            collect_columns(design, w, cross, zero)
            if even:
                add_moments(design, design, moments, zero)
            else:
                heavy = weighted_space[: k * n].reshape((k, n))
                for j in range(k):
                    for i in range(n):
                        heavy[j, i] = w[i] * design[j, i]
                add_moments(heavy, design, moments, zero)
        if even:
            for j in range(k):
                for c in range(j + 1):
                    moments[j, c] *= given.curvature[0]
        for j in range(k):
            rhs[j] = first[j]
        rb = _gradient(given, row, bias, x[:columns], slope, rhs[:columns], full)
        prior = given.precision[row]
        # The precision of bias (pivot), bias by factors (border), factors (factor).
        pivot = free[0] * corner + (prior[0] if free[0] > 0 else one)
        fill(border, zero)
        for j in range(columns):
            border[j] = free[0] * free[1 + j] * cross[j]
        for j in range(k):
            for c in range(j):
                factor[j, c] = moments[j, c]
            factor[j, j] = one
        for j in range(columns):
            held = free[1 + j]
            for c in range(j):
                factor[j, c] *= held * free[1 + c]
            factor[j, j] = held * moments[j, j] + (prior[1 + j] if held > 0 else one)
        if has_gram:
            gram = given.gram
            pivot += free[0] * gram[0, 0]
            for j in range(columns):
                border[j] += free[0] * free[1 + j] * gram[0, 1 + j]
                for c in range(j + 1):
                    factor[j, c] += free[1 + j] * free[1 + c] * gram[1 + j, 1 + c]
        start = rb / pivot
        for j in range(columns):
            rhs[j] -= start * border[j]
            scaled = border[j] / pivot
            for c in range(j + 1):
                factor[j, c] -= scaled * border[c]
        factorize(factor, one)
        solve_lower(factor, rhs, zero)
        if draws:
            for j in range(columns):
                rhs[j] += free[1 + j] * noise[row, 1 + j]
            start += free[0] * noise[row, 0] / np.sqrt(pivot)
        solve_upper(factor, rhs)
        for j in range(columns):
            start -= border[j] * rhs[j] / pivot
        # rhs is now the step of the factors, start that of the bias.
        symmetric_product(moments, rhs, curved, zero)
        moved = corner * start
        for j in range(columns):
            moved += cross[j] * rhs[j]
        for j in range(columns):
            curved[j] += cross[j] * start
        loss = half * loss + start * (half * moved - slope)
        for j in range(columns):
            loss += rhs[j] * (half * curved[j] - first[j])
        for j in range(columns):
            solved.factors[row, j] = x[j] + rhs[j]
        solved.bias[row] = bias + start
        solved.loss[row], solved.slope[row], solved.curvature[row] = loss, slope - moved, corner

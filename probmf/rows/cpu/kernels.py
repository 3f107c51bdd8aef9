"""Dense algebra on the observations of one row, compiled for the CPU at hand.

A row's designs lie in one of two layouts. "By column", (k, n): every factor is contiguous over the
observations, so that products with short rows run at the full vector width. "By row", (n, k): as
in the table, cheaper to gather when rows are long. By column, k is padded to a multiple of four
with zeros, because the loops take four factors at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import numpy as np

from probmf.backend import HAS_NUMBA

if HAS_NUMBA:
    import numba
    from numba.core.caching import FunctionCache

    class _Cache(FunctionCache):
        """A cache on a disk that may fill up: what it can't keep is compiled again elsewhere."""

        @contextmanager
        def _guard_against_spurious_io_errors(self) -> Iterator[None]:
            try:
                yield
            except (OSError, EOFError):
                self.disable()


def compiled[F: Callable[..., Any]](function: F) -> F:
    """Compile on first use, without the interpreter's lock, and keep the result on disk.

    Sums may be reordered, as on any vector unit; NaN and infinities are kept as they are. Without
    Numba the function stays as it is.

    No inner loop both sums up and writes to an array: the compiler takes vectors there only where
    the arrays lie far enough apart, so that the sum's last digits would depend on where they lie.
    """
    if not HAS_NUMBA:
        return function
    options: dict[str, Any] = {
        "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}
    }  # fmt: skip
    dispatcher = numba.njit(**options)(function)
    # Without a cache where there is nowhere to write one: neither beside this file nor in the
    # user's folder.
    with suppress(RuntimeError, OSError):
        dispatcher._cache = _Cache(function)
    return cast("F", dispatcher)


@compiled
def fill(out: np.ndarray, value: float) -> None:
    """Sets a vector to one number; assigning to a slice takes several times as long."""
    for i in range(len(out)):
        out[i] = value


@compiled
def gather_columns(
    factors: np.ndarray, partner: np.ndarray, columns: int, design: np.ndarray
) -> None:
    """Designs of the partners, by column: design[j, i] = factors[partner[i], j]."""
    for i in range(len(partner)):
        own = factors[partner[i]]
        for j in range(columns):
            design[j, i] = own[j]
    for j in range(columns, len(design)):
        fill(design[j], 0)


@compiled
def project_columns(design: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """Adds to out[i] the product of design[:, i] with x."""
    n = len(out)
    for j in range(0, len(design), 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        z0, z1, z2, z3 = design[j], design[j + 1], design[j + 2], design[j + 3]
        for i in range(n):
            out[i] += x0 * z0[i] + x1 * z1[i] + x2 * z2[i] + x3 * z3[i]


@compiled
def collect_columns(design: np.ndarray, e: np.ndarray, out: np.ndarray, zero: float) -> None:
    """Adds to out[j] the product of design[j] with e."""
    n = len(e)
    for j in range(0, len(design), 4):
        z0, z1, z2, z3 = design[j], design[j + 1], design[j + 2], design[j + 3]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for i in range(n):
            s0 += z0[i] * e[i]
            s1 += z1[i] * e[i]
            s2 += z2[i] * e[i]
            s3 += z3[i] * e[i]
        out[j] += s0
        out[j + 1] += s1
        out[j + 2] += s2
        out[j + 3] += s3


@compiled
def gather_rows(factors: np.ndarray, partner: np.ndarray, columns: int, design: np.ndarray) -> None:
    """Designs of the partners, by row: design[i, j] = factors[partner[i], j]."""
    for i in range(len(partner)):
        own = factors[partner[i]]
        for j in range(columns):
            design[i, j] = own[j]


@compiled
def project_rows(design: np.ndarray, x: np.ndarray, out: np.ndarray, zero: float) -> None:
    """Adds to out[i] the product of design[i] with x."""
    n, k = len(out), len(x)
    whole = n - n % 4
    for i in range(0, whole, 4):
        z0, z1, z2, z3 = design[i], design[i + 1], design[i + 2], design[i + 3]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for j in range(k):
            s0 += z0[j] * x[j]
            s1 += z1[j] * x[j]
            s2 += z2[j] * x[j]
            s3 += z3[j] * x[j]
        out[i] += s0
        out[i + 1] += s1
        out[i + 2] += s2
        out[i + 3] += s3
    for i in range(whole, n):
        z0 = design[i]
        s0 = zero
        for j in range(k):
            s0 += z0[j] * x[j]
        out[i] += s0


@compiled
def collect_rows(design: np.ndarray, e: np.ndarray, out: np.ndarray) -> None:
    """Adds to out[j] the sum of e[i] design[i, j]; also a symmetric matrix times e."""
    n, k = len(e), len(out)
    whole = n - n % 4
    for i in range(0, whole, 4):
        e0, e1, e2, e3 = e[i], e[i + 1], e[i + 2], e[i + 3]
        z0, z1, z2, z3 = design[i], design[i + 1], design[i + 2], design[i + 3]
        for j in range(k):
            out[j] += e0 * z0[j] + e1 * z1[j] + e2 * z2[j] + e3 * z3[j]
    for i in range(whole, n):
        e0, z0 = e[i], design[i]
        for j in range(k):
            out[j] += e0 * z0[j]


@compiled
def add_moments(weighted: np.ndarray, design: np.ndarray, out: np.ndarray, zero: float) -> None:
    """Adds to the lower triangle of out, in blocks of 4 x 4, weighted design^T (by column).

    Cost n k^2 / 2 products, eight loads for every sixteen of them.
    """
    for j in range(0, len(design), 4):
        a0, a1, a2, a3 = weighted[j], weighted[j + 1], weighted[j + 2], weighted[j + 3]
        for c in range(0, j + 4, 4):
            b0, b1, b2, b3 = design[c], design[c + 1], design[c + 2], design[c + 3]
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for i in range(len(a0)):
                x0, x1, x2, x3 = a0[i], a1[i], a2[i], a3[i]
                y0, y1, y2, y3 = b0[i], b1[i], b2[i], b3[i]
                s00 += x0 * y0
                s01 += x0 * y1
                s02 += x0 * y2
                s03 += x0 * y3
                s10 += x1 * y0
                s11 += x1 * y1
                s12 += x1 * y2
                s13 += x1 * y3
                s20 += x2 * y0
                s21 += x2 * y1
                s22 += x2 * y2
                s23 += x2 * y3
                s30 += x3 * y0
                s31 += x3 * y1
                s32 += x3 * y2
                s33 += x3 * y3
            o0, o1, o2, o3 = out[j], out[j + 1], out[j + 2], out[j + 3]
            o0[c] += s00
            o0[c + 1] += s01
            o0[c + 2] += s02
            o0[c + 3] += s03
            o1[c] += s10
            o1[c + 1] += s11
            o1[c + 2] += s12
            o1[c + 3] += s13
            o2[c] += s20
            o2[c + 1] += s21
            o2[c + 2] += s22
            o2[c + 3] += s23
            o3[c] += s30
            o3[c + 1] += s31
            o3[c + 2] += s32
            o3[c + 3] += s33


@compiled
def mix_columns(matrix: np.ndarray, design: np.ndarray, out: np.ndarray) -> None:
    """Puts matrix design (by column) in out; all sizes but the last are multiples of four."""
    for j in range(0, len(out), 4):
        m0, m1, m2, m3 = matrix[j], matrix[j + 1], matrix[j + 2], matrix[j + 3]
        o0, o1, o2, o3 = out[j], out[j + 1], out[j + 2], out[j + 3]
        for o in (o0, o1, o2, o3):
            fill(o, 0)
        for c in range(0, len(design), 4):
            x0, x1, x2, x3 = design[c], design[c + 1], design[c + 2], design[c + 3]
            a00, a01, a02, a03 = m0[c], m0[c + 1], m0[c + 2], m0[c + 3]
            a10, a11, a12, a13 = m1[c], m1[c + 1], m1[c + 2], m1[c + 3]
            a20, a21, a22, a23 = m2[c], m2[c + 1], m2[c + 2], m2[c + 3]
            a30, a31, a32, a33 = m3[c], m3[c + 1], m3[c + 2], m3[c + 3]
            for i in range(len(x0)):
                z0, z1, z2, z3 = x0[i], x1[i], x2[i], x3[i]
                o0[i] += a00 * z0 + a01 * z1 + a02 * z2 + a03 * z3
                o1[i] += a10 * z0 + a11 * z1 + a12 * z2 + a13 * z3
                o2[i] += a20 * z0 + a21 * z1 + a22 * z2 + a23 * z3
                o3[i] += a30 * z0 + a31 * z1 + a32 * z2 + a33 * z3


@compiled
def sweep(a: np.ndarray, size: int, one: float) -> float:
    """Replaces the leading square of a, symmetric and definite, by its inverse.

    Elimination without a search for pivots: the diagonal stays positive throughout.

    Returns:
        The log determinant.
    """
    logdet = one - one
    for step in range(size):
        own = a[step]
        pivot = own[step]
        logdet += np.log(pivot)
        inverse = one / pivot
        for j in range(size):
            own[j] *= inverse
        for i in range(size):
            if i == step:
                continue
            other = a[i]
            factor = other[step]
            for j in range(size):
                other[j] -= factor * own[j]
            other[step] = -factor * inverse
        own[step] = inverse
    return logdet


@compiled
def factorize(a: np.ndarray, one: float) -> None:
    """Cholesky factor L of the lower triangle of a, in place. NaN where a is not definite.

    Left-looking, four columns at a time; the size is a multiple of four.
    """
    zero = one - one
    for j in range(0, len(a), 4):
        b0, b1, b2, b3 = a[j], a[j + 1], a[j + 2], a[j + 3]
        r0 = r1 = r2 = r3 = l10 = l20 = l30 = l21 = l31 = l32 = zero
        for i in range(j, len(a), 4):
            a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for c in range(j):
                x0, x1, x2, x3 = a0[c], a1[c], a2[c], a3[c]
                y0, y1, y2, y3 = b0[c], b1[c], b2[c], b3[c]
                s00 += x0 * y0
                s01 += x0 * y1
                s02 += x0 * y2
                s03 += x0 * y3
                s10 += x1 * y0
                s11 += x1 * y1
                s12 += x1 * y2
                s13 += x1 * y3
                s20 += x2 * y0
                s21 += x2 * y1
                s22 += x2 * y2
                s23 += x2 * y3
                s30 += x3 * y0
                s31 += x3 * y1
                s32 += x3 * y2
                s33 += x3 * y3
            s00, s10, s20, s30 = a0[j] - s00, a1[j] - s10, a2[j] - s20, a3[j] - s30
            s11, s21, s31 = a1[j + 1] - s11, a2[j + 1] - s21, a3[j + 1] - s31
            s22, s32, s33 = a2[j + 2] - s22, a3[j + 2] - s32, a3[j + 3] - s33
            if i == j:
                d0 = np.sqrt(s00)
                r0 = one / d0
                l10, l20, l30 = s10 * r0, s20 * r0, s30 * r0
                d1 = np.sqrt(s11 - l10 * l10)
                r1 = one / d1
                l21, l31 = (s21 - l20 * l10) * r1, (s31 - l30 * l10) * r1
                d2 = np.sqrt(s22 - l20 * l20 - l21 * l21)
                r2 = one / d2
                l32 = (s32 - l30 * l20 - l31 * l21) * r2
                d3 = np.sqrt(s33 - l30 * l30 - l31 * l31 - l32 * l32)
                r3 = one / d3
                a0[j], a1[j], a2[j], a3[j] = d0, l10, l20, l30
                a1[j + 1], a2[j + 1], a3[j + 1] = d1, l21, l31
                a2[j + 2], a3[j + 2], a3[j + 3] = d2, l32, d3
                continue
            s01, s02, s03 = a0[j + 1] - s01, a0[j + 2] - s02, a0[j + 3] - s03
            s12, s13, s23 = a1[j + 2] - s12, a1[j + 3] - s13, a2[j + 3] - s23
            s00, s10, s20, s30 = s00 * r0, s10 * r0, s20 * r0, s30 * r0
            s01, s11 = (s01 - s00 * l10) * r1, (s11 - s10 * l10) * r1
            s21, s31 = (s21 - s20 * l10) * r1, (s31 - s30 * l10) * r1
            s02 = (s02 - s00 * l20 - s01 * l21) * r2
            s12 = (s12 - s10 * l20 - s11 * l21) * r2
            s22 = (s22 - s20 * l20 - s21 * l21) * r2
            s32 = (s32 - s30 * l20 - s31 * l21) * r2
            a0[j], a0[j + 1], a0[j + 2] = s00, s01, s02
            a1[j], a1[j + 1], a1[j + 2] = s10, s11, s12
            a2[j], a2[j + 1], a2[j + 2] = s20, s21, s22
            a3[j], a3[j + 1], a3[j + 2] = s30, s31, s32
            a0[j + 3] = (s03 - s00 * l30 - s01 * l31 - s02 * l32) * r3
            a1[j + 3] = (s13 - s10 * l30 - s11 * l31 - s12 * l32) * r3
            a2[j + 3] = (s23 - s20 * l30 - s21 * l31 - s22 * l32) * r3
            a3[j + 3] = (s33 - s30 * l30 - s31 * l31 - s32 * l32) * r3


@compiled
def solve_lower(factor: np.ndarray, x: np.ndarray, zero: float) -> None:
    """Replaces x by L^-1 x."""
    for j in range(len(x)):
        own = factor[j]
        s = zero
        for c in range(j):
            s += own[c] * x[c]
        x[j] = (x[j] - s) / own[j]


@compiled
def solve_upper(factor: np.ndarray, x: np.ndarray) -> None:
    """Replaces x by L^-T x."""
    for j in range(len(x) - 1, -1, -1):
        own = factor[j]
        here = x[j] / own[j]
        x[j] = here
        for c in range(j):
            x[c] -= here * own[c]


@compiled
def symmetric_product(lower: np.ndarray, x: np.ndarray, out: np.ndarray, zero: float) -> None:
    """Sets out to S x, for a symmetric S given by its lower triangle."""
    for j in range(len(x)):
        own = lower[j]
        s, here = zero, x[j]
        for c in range(j):
            s += own[c] * x[c]
        for c in range(j):
            out[c] += here * own[c]
        out[j] = s + own[j] * here

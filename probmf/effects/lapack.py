"""LAPACK's Cholesky routines without the interpreter's lock, so that threads run side by side.

SciPy's own wrappers keep the lock. Matrices lie by column, lower triangle.

Large ones are worked off in tiles of one size, whatever the number of threads, each by BLAS on one
core. BLAS's own threads cut a matrix by their number, so that last digits would depend on it, and
wait for each other busily: beside other programs they take many times as long as one.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import cython_blas, cython_lapack
from threadpoolctl import threadpool_limits

#: Rows of a tile.
TILE = 128

_INT = ctypes.POINTER(ctypes.c_int)
#: Python's own ways into a capsule, in which Cython keeps the address of a function.
_NAME = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)
_POINTER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


#: Threads that share the tiles of a matrix; none in threads that are themselves side by side.
_threads: ContextVar[Executor | None] = ContextVar("probmf_tiles", default=None)


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Share the tiles of each large matrix among so many cores; all else of BLAS takes one.

    The numbers are the same for any count.
    """
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(count) as pool:
        token = _threads.set(pool if count > 1 else None)
        try:
            yield
        finally:
            _threads.reset(token)


def each(work: Callable[[int], None], tiles: Iterable[int]) -> None:
    """Work on several tiles, or shares of a sum, side by side where there are threads."""
    pool = _threads.get()
    for _ in map(work, tiles) if pool is None else pool.map(work, tiles):
        pass


def _routine(name: str, *arguments: Any) -> Any:
    """A routine of SciPy's LAPACK or BLAS; a call by ctypes gives the lock up while it runs."""
    capsules = cython_blas.__pyx_capi__ | cython_lapack.__pyx_capi__
    capsule = ctypes.py_object(capsules[name])
    address = _POINTER(capsule, _NAME(capsule))
    return ctypes.CFUNCTYPE(None, *arguments)(address)


_potrf = _routine("dpotrf", ctypes.c_char_p, _INT, ctypes.c_void_p, _INT, _INT)
_potri = _routine("dpotri", ctypes.c_char_p, _INT, ctypes.c_void_p, _INT, _INT)
_trtrs = _routine(
    "dtrtrs", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, _INT, _INT, ctypes.c_void_p,
    _INT, ctypes.c_void_p, _INT, _INT,
)  # fmt: skip


_CHAR, _ADDRESS = ctypes.c_char_p, ctypes.c_void_p
_REAL = ctypes.POINTER(ctypes.c_double)
_gemm = _routine(
    "dgemm", _CHAR, _CHAR, _INT, _INT, _INT, _REAL, _ADDRESS, _INT, _ADDRESS, _INT, _REAL, _ADDRESS,
    _INT,
)  # fmt: skip
_syrk = _routine(
    "dsyrk", _CHAR, _CHAR, _INT, _INT, _REAL, _ADDRESS, _INT, _REAL, _ADDRESS, _INT
)  # fmt: skip
_trsm = _routine(
    "dtrsm", _CHAR, _CHAR, _CHAR, _CHAR, _INT, _INT, _REAL, _ADDRESS, _INT, _ADDRESS, _INT
)  # fmt: skip


def factor(matrix: np.ndarray) -> bool:
    """Replace the lower triangle by the Cholesky factor; False if it is not positive definite.

    Tile column by tile column: each is factored and taken off those to its right.
    """
    size = len(_checked(matrix))
    for first in range(0, size, TILE):
        if _in_place(_potrf, matrix[first : first + TILE, first : first + TILE]) != 0:
            return False
        rest = range(first + TILE, size, TILE)
        each(partial(_finish_tile, matrix, first), rest)
        each(partial(_take_off, matrix, first), rest)
    return True


def _finish_tile(matrix: np.ndarray, column: int, row: int) -> None:
    """A tile of the factor, below the one that was factored."""
    own = slice(column, column + TILE)
    _solve(matrix[own, own], matrix[row : row + TILE, own], right=True)


def _take_off(matrix: np.ndarray, done: int, column: int) -> None:
    """Takes a tile column of the factor off another one, of the rest."""
    own, end = slice(done, done + TILE), column + TILE
    here = matrix[column:end, own]
    _add_square(here, matrix[column:end, column:end], -1.0, transpose=False)
    _add_product(matrix[end:, own], here, matrix[end:, column:end], -1.0, transpose=False)


def invert(factored: np.ndarray, out: np.ndarray) -> None:
    """Put the lower triangle of the inverse of what was factored in out, which may be the factor.

    With X = L^-1, by tile columns, that is X^T X.
    """
    size = len(_checked(factored))
    if size <= TILE:
        _checked(out)[:] = factored
        _in_place(_potri, out)
        return
    # Each from its diagonal tile down.
    columns = {
        first: np.eye(size - first, min(TILE, size - first), order="F")
        for first in range(0, size, TILE)
    }
    each(lambda first: _solve(factored[first:, first:], columns[first]), columns)
    each(partial(_multiply, columns, _checked(out)), columns)


def _multiply(columns: dict[int, np.ndarray], out: np.ndarray, row: int) -> None:
    """Puts a row of tiles of X^T X in the lower triangle of out."""
    left, own = columns[row], slice(row, row + TILE)
    for first in range(0, row, TILE):
        right, tile = columns[first][row - first :], out[own, first : first + TILE]
        _add_product(left, right, tile, 1.0, transpose=True, keep=0.0)
    _add_square(left, out[own, own], 1.0, transpose=True, keep=0.0)


def _solve(lower: np.ndarray, out: np.ndarray, *, right: bool = False) -> None:
    """Replaces out by L^-1 out, or with `right` by out L^-T."""
    rows, columns = map(ctypes.c_int, out.shape)
    _trsm(
        b"R" if right else b"L", b"L", b"T" if right else b"N", b"N", rows, columns, _real(1.0),
        lower.ctypes.data, _leading(lower), out.ctypes.data, _leading(out),
    )  # fmt: skip


def _add_square(
    part: np.ndarray, out: np.ndarray, factor: float, *, transpose: bool, keep: float = 1.0
) -> None:
    """Puts keep out + factor A A^T, or A^T A, in the lower triangle of out."""
    inner = part.shape[0 if transpose else 1]
    _syrk(
        b"L", b"T" if transpose else b"N", ctypes.c_int(len(out)), ctypes.c_int(inner),
        _real(factor), part.ctypes.data, _leading(part), _real(keep), out.ctypes.data,
        _leading(out),
    )  # fmt: skip


def _add_product(
    left: np.ndarray,
    right: np.ndarray,
    out: np.ndarray,
    factor: float,
    *,
    transpose: bool,
    keep: float = 1.0,
) -> None:
    """Puts keep out + factor A B^T, or A^T B, in out."""
    rows, columns = map(ctypes.c_int, out.shape)
    inner = ctypes.c_int(left.shape[0 if transpose else 1])
    _gemm(
        b"T" if transpose else b"N", b"N" if transpose else b"T", rows, columns, inner,
        _real(factor), left.ctypes.data, _leading(left), right.ctypes.data, _leading(right),
        _real(keep), out.ctypes.data, _leading(out),
    )  # fmt: skip


def _real(value: float) -> ctypes.c_double:
    return ctypes.c_double(value)


def _leading(part: np.ndarray) -> ctypes.c_int:
    """Distance of a part's columns, in numbers: at least one and its rows, as BLAS wants it."""
    return ctypes.c_int(max(part.strides[1] // 8, len(part), 1))


def solve(factored: np.ndarray, vector: np.ndarray, *, transpose: bool = False) -> np.ndarray:
    """The solution of R x = b, or of R^T x = b."""
    size = ctypes.c_int(len(_checked(factored)))
    solution = np.array(vector, np.float64)
    one, info = ctypes.c_int(1), ctypes.c_int()
    _trtrs(
        b"L", b"T" if transpose else b"N", b"N", size, one, factored.ctypes.data,
        _leading(factored), solution.ctypes.data, _leading(factored), info,
    )  # fmt: skip
    return solution


def _in_place(routine: Any, matrix: np.ndarray) -> int:
    info = ctypes.c_int()
    routine(b"L", ctypes.c_int(len(matrix)), matrix.ctypes.data, _leading(matrix), info)
    return info.value


def _checked(matrix: np.ndarray) -> np.ndarray:
    """The matrix, checked: LAPACK reads memory without asking."""
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    # Of a larger one that is, a part's columns are apart.
    by_column = matrix.flags.f_contiguous or matrix.strides[0] == 8 <= matrix.strides[1]
    if not (square and matrix.dtype == np.float64 and by_column):
        raise ValueError(
            f"matrix of shape {matrix.shape} and type {matrix.dtype}; expected a square one of "
            "float64, stored by column."
        )
    return matrix

"""LAPACK's Cholesky routines without the interpreter's lock, so that threads run side by side.

SciPy's own wrappers keep the lock. Matrices lie by column, lower triangle.
"""

import ctypes
from typing import Any

import numpy as np
from scipy.linalg import cython_lapack

_INT = ctypes.POINTER(ctypes.c_int)
#: Python's own ways into a capsule, in which Cython keeps the address of a function.
_NAME = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)
_POINTER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _routine(name: str, *arguments: Any) -> Any:
    """A routine of SciPy's LAPACK; a call by ctypes gives the lock up while it runs."""
    capsule = ctypes.py_object(cython_lapack.__pyx_capi__[name])
    address = _POINTER(capsule, _NAME(capsule))
    return ctypes.CFUNCTYPE(None, *arguments)(address)


_potrf = _routine("dpotrf", ctypes.c_char_p, _INT, ctypes.c_void_p, _INT, _INT)
_potri = _routine("dpotri", ctypes.c_char_p, _INT, ctypes.c_void_p, _INT, _INT)
_trtrs = _routine(
    "dtrtrs", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, _INT, _INT, ctypes.c_void_p,
    _INT, ctypes.c_void_p, _INT, _INT,
)  # fmt: skip


def factor(matrix: np.ndarray) -> bool:
    """Replace the lower triangle by the Cholesky factor; False if it is not positive definite."""
    return _in_place(_potrf, matrix) == 0


def invert(factored: np.ndarray) -> None:
    """Replace a Cholesky factor by the lower triangle of the inverse of what was factored."""
    _in_place(_potri, factored)


def solve(factored: np.ndarray, vector: np.ndarray, *, transpose: bool = False) -> np.ndarray:
    """The solution of R x = b, or of R^T x = b."""
    size, leading = _sizes(factored)
    solution = np.array(vector, np.float64)
    one, info = ctypes.c_int(1), ctypes.c_int()
    _trtrs(
        b"L", b"T" if transpose else b"N", b"N", size, one, factored.ctypes.data, leading,
        solution.ctypes.data, leading, info,
    )  # fmt: skip
    return solution


def _in_place(routine: Any, matrix: np.ndarray) -> int:
    size, leading = _sizes(matrix)
    info = ctypes.c_int()
    routine(b"L", size, matrix.ctypes.data, leading, info)
    return info.value


def _sizes(matrix: np.ndarray) -> tuple[ctypes.c_int, ctypes.c_int]:
    """Size and leading dimension of a checked matrix: LAPACK reads memory without asking.

    It wants a leading dimension of at least one, and complains on the standard output of others.
    """
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not (square and matrix.dtype == np.float64 and matrix.flags.f_contiguous):
        raise ValueError(
            f"matrix of shape {matrix.shape} and type {matrix.dtype}; expected a square one of "
            "float64, stored by column."
        )
    return ctypes.c_int(len(matrix)), ctypes.c_int(max(len(matrix), 1))

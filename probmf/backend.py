"""Choice between XLA's programs, which run on any device, and loops written for a CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast, get_args

import jax

try:
    import numba
except ImportError:  # Such as on a Python that Numba does not support yet.
    HAS_NUMBA = False
else:
    HAS_NUMBA = bool(numba.__version__)

Backend = Literal["auto", "xla"]

#: Environment variable with the choice for a whole process.
VARIABLE = "PROBMF_BACKEND"
_chosen: ContextVar[Backend | None] = ContextVar("probmf_backend", default=None)


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Choose how the calls within the block compute.

    The environment variable PROBMF_BACKEND chooses for a whole process.

    Args:
        name: "auto" takes, on a CPU, loops compiled by Numba and calls of LAPACK where they are
            quicker than XLA's programs; "xla" takes XLA's programs for everything, as on an
            accelerator, and where Numba is missing. Results agree to rounding.

    Returns:
        A context manager.

    Raises:
        ValueError: If there is no such backend.

    Example:
        >>> from probmf import MatrixFactorization, Ratings, fit_als
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> with use_backend("xla"):
        ...     fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
        >>> fit.method
        'als/cg'
    """
    token = _chosen.set(_checked(name, "The backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def _checked(name: str, what: str) -> Backend:
    if name not in get_args(Backend):
        raise ValueError(f"{what} is {name!r}; expected 'auto' or 'xla'.")
    return cast("Backend", name)


def platform() -> str:
    """Kind of device that arrays go to, such as "cpu" or "gpu"."""
    device = jax.config.jax_default_device
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else str(device.platform)


def uses_loops() -> bool:
    """True where loops for a CPU may take the place of XLA's programs."""
    chosen = _chosen.get() or _checked(os.environ.get(VARIABLE, "auto"), VARIABLE)
    return chosen == "auto" and platform() == "cpu" and HAS_NUMBA

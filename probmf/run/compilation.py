"""Compilation: `jax.jit` for programs that run for less time than they take to compile."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from probmf.backend import platform
from probmf.numpyro_setup import run_unchecked

#: Up to so many numbers a program takes longer to optimize than to run a thousand times.
SMALL = 20_000


def quick_jit(
    function: Callable[..., Any], numbers: int | None = None, *, static_argnums: int | None = None
) -> Any:
    """`jax.jit` for programs that run for less time than they take to compile.

    On a CPU the optimizer's expensive passes double the time of compilation and gain nothing here,
    where the time goes to a few calls of linear algebra. What is left of it halves the time of
    loops over large arrays, and is left out for small ones.

    Args:
        function: What to compile.
        numbers: How many numbers it works with, where that is known.
        static_argnums: As in `jax.jit`.

    Returns:
        The compiled function.
    """
    if platform() != "cpu":
        return jax.jit(function, static_argnums=static_argnums)
    options = {
        "xla_backend_optimization_level": 1 if numbers is None or numbers > SMALL else 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options)


def traced_jit(
    function: Callable[..., Any],
    numbers: int | None,
    *example: Any,
    static_argnums: int | None = None,
) -> Any:
    """`quick_jit` of a function that runs NumPyro models, traced here and now.

    Args:
        function: What to compile; its programs are shared by all who ask for the same one.
        numbers: See `quick_jit`.
        *example: Arguments, for their structure and shapes.
        static_argnums: As in `jax.jit`.

    Returns:
        The compiled function. Called with arguments of these shapes it runs no model, so that
        threads may call it side by side.
    """
    run = quick_jit(function, numbers, static_argnums=static_argnums)
    with run_unchecked():
        run.trace(*example)
    return run


def count_numbers(tree: Any) -> int:
    """Number of numbers in the arrays of a tree."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))

"""Compilation: models as arguments of programs, and `jax.jit` where compiling takes the time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.backend import platform
from probmf.models import MatrixFactorization, MixedEffects, Network
from probmf.numpyro_setup import run_unchecked
from probmf.run.fingerprint import fingerprint

#: Up to so many numbers a program takes longer to optimize than to run so many times.
SMALL, RUNS = 20_000, 1_000


def quick_jit(
    function: Callable[..., Any],
    numbers: int | None = None,
    *,
    runs: int | None = None,
    static_argnums: int | None = None,
) -> Any:
    """`jax.jit` for programs that run for less time than they take to compile.

    On a CPU the optimizer's expensive passes double the time of compilation and gain nothing here,
    where the time goes to a few calls of linear algebra. What is left of it halves the time of
    loops over large arrays, and is left out for small ones.

    `numbers` says how many numbers it works with, where that is known, and `runs` about how often
    it runs, where that is seldom.
    """
    # Whoever has switched the optimizer off wants it off here, too.
    if platform() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return jax.jit(function, static_argnums=static_argnums)
    few = numbers is not None and numbers * (runs or RUNS) <= SMALL * RUNS
    options = {
        "xla_backend_optimization_level": 0 if few else 1,
        "xla_llvm_disable_expensive_passes": True,
    }
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options)


def traced_jit(
    function: Callable[..., Any],
    numbers: int | None,
    *example: Any,
    runs: int | None = None,
    static_argnums: int | None = None,
) -> Any:
    """`quick_jit` of a function that runs NumPyro models, traced here and now.

    Called with arguments of the shapes of `example` it runs no model, so that threads may call it
    side by side. Its programs are shared by all who ask for the same one.
    """
    run = quick_jit(function, numbers, runs=runs, static_argnums=static_argnums)
    with run_unchecked():
        run.trace(*example)
    return run


def count_numbers(tree: Any) -> int:
    """Number of numbers in the arrays of a tree."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def as_tree(model: Any) -> Any:
    """A NumPyro model as a pytree, so that models of one form share their programs.

    Of our own models the program, whose leaves are the numbers of the priors, or the model told
    apart by its contents; another one as it is if it is a pytree, else without leaves and told
    apart by identity.
    """
    # A subclass may do otherwise.
    if type(model) is MixedEffects or type(model) is MatrixFactorization:
        return model.program
    if type(model) is Network:
        return jax.tree_util.Partial(_ByContents(model))
    return jax.tree_util.Partial(model) if jax.tree_util.all_leaves([model]) else model


class _ByContents:
    """A model that is equal to all others of the same contents."""

    def __init__(self, model: Any) -> None:
        self.model, self.mark = model, fingerprint(model)

    def __call__(self, *args: Any) -> Any:
        return self.model(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContents) and self.mark == other.mark

    def __hash__(self) -> int:
        return hash(self.mark)


def ask_host(
    function: Callable[..., np.ndarray], length: int, vector: Array, *others: Array
) -> Array:
    """Call a NumPy function on a vector from inside a compiled program.

    All goes in and out as bits: a program may call from a thread of its own, where JAX does not
    know of the caller's choice of precision, and would round.

    `function` takes an array in double precision and the others as they are, which are of no type
    that could be rounded, and gives a flat array of `length`. In the precision of the vector.
    """
    dtype = np.dtype(vector.dtype)
    shape = jax.ShapeDtypeStruct((length * dtype.itemsize // 4,), jnp.uint32)
    answer = jax.pure_callback(partial(_answer, function, dtype.name), shape, bits(vector), *others)
    halves = (2,) if dtype.itemsize == 8 else ()
    return jax.lax.bitcast_convert_type(answer.reshape(length, *halves), dtype)


def bits(array: Array) -> Array:
    """An array as words of 32 bits."""
    return jax.lax.bitcast_convert_type(array, jnp.uint32).ravel()


def _answer(function: Callable[..., np.ndarray], kind: str, words: Any, *others: Any) -> np.ndarray:
    vector = np.asarray(words).view(kind).astype(np.float64, copy=False)
    found = function(vector, *(np.asarray(other) for other in others))
    return np.ascontiguousarray(found, kind).view(np.uint32)

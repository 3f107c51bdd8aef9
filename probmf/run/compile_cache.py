"""Traced programs whose captured arrays are arguments, compiled once and kept.

Programs are kept by the text of what they compute: another data set of the same shapes compiles
nothing.
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array

from probmf.backend import platform
from probmf.numpyro_setup import run_unchecked
from probmf.run.captured import captured_digest

#: Compiled programs kept, by what they compute.
PROGRAMS_KEPT = 64
#: Up to so many captured numbers a program takes longer to optimize than to run a thousand times.
SMALL = 20_000
_programs: dict[Any, Any] = {}
_lock = threading.Lock()


def quick_jit(
    function: Callable[..., Any], numbers: int | None = None, *, static_argnums: int | None = None
) -> Any:
    """`jax.jit` for programs that run for less time than they take to compile.

    On a CPU the optimizer's expensive passes double the time of compilation and gain nothing here,
    where the time goes to a few calls of linear algebra. What is left of it halves the time of
    loops over large arrays, and is left out for small ones.

    Args:
        function: What to compile.
        numbers: How many numbers it captures, where that is known.
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
    function: Callable[..., Any], numbers: int, *example: Any, static_argnums: int | None = None
) -> Any:
    """`quick_jit` of a function that runs NumPyro models, traced here and now.

    Args:
        function: What to compile; its programs are shared by all who ask for the same one.
        numbers: How many numbers it works with.
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


def compiled(key: Any, make: Callable[[], Any]) -> Any:
    """The program under a key, made when it is not there; what was used longest ago is dropped."""
    found = _programs.get(key)
    if found is None:
        found = make()  # May compile for seconds; other threads go on.
    with _lock:
        # Another thread's, where it was quicker, so that JAX compiles it once.
        found = _programs.pop(key, found)
        _programs[key] = found
        while len(_programs) > PROGRAMS_KEPT:
            del _programs[next(iter(_programs))]
    return found


class Program(NamedTuple):
    """A function of arrays, traced: its text, its captured arrays, and how to evaluate it.

    Attributes:
        text: What it computes, up to the captured arrays' values.
        consts: The captured arrays.
        evaluate: (consts, *leaves) -> list of output leaves; differentiable, not compiled.
    """

    text: str
    consts: list[Any]
    evaluate: Callable[..., list[Array]]

    @property
    def numbers(self) -> int:
        """Number of captured numbers."""
        return count_numbers(self.consts)


def trace_program(function: Callable[..., Any], *example: Any) -> Program:
    """Trace a function of arrays (no pytrees) so that what it captures can be passed in."""
    return trace_tree(function, *example)[0]


def trace_tree(function: Callable[..., Any], *example: Any) -> tuple[Program, Any]:
    """Trace a function of arrays, and tell the structure of the tree that it gives."""
    with run_unchecked():
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
    return as_program(closed), jax.tree.structure(shape)


def as_program(closed: Any) -> Program:
    """A traced function with the arrays that it captured."""
    jaxpr, scalars = _lift_scalars(closed.jaxpr)
    consts = [jnp.asarray(const) for const in (*closed.consts, *scalars)]
    shapes = [f"{const.shape}{const.dtype}" for const in consts]
    text = f"{jaxpr}|{shapes}|{captured_digest(jaxpr)}|{jax.config.jax_enable_x64}"

    def evaluate(consts: list[Any], *leaves: Array) -> list[Array]:
        return jax.core.eval_jaxpr(jaxpr, consts, *leaves)

    return Program(text, consts, evaluate)


def _lift_scalars(jaxpr: Jaxpr) -> tuple[Jaxpr, list[Any]]:
    """Captured scalars, which JAX writes into the program as numbers, made captured arrays.

    Numbers of the source text have no type of their own and stay.
    """
    variables, values = [], []

    def lift(atom: Any) -> Any:
        aval: Any = atom.aval
        if not isinstance(atom, Literal) or aval.weak_type or aval.dtype.kind != "f":
            return atom
        variables.append(Var(atom.aval))
        values.append(atom.val)
        return variables[-1]

    equations = [eqn.replace(invars=[lift(atom) for atom in eqn.invars]) for eqn in jaxpr.eqns]
    lifted = jaxpr.replace(eqns=equations, constvars=[*jaxpr.constvars, *variables])
    return lifted, values

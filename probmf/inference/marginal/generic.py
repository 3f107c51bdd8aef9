"""Entries that a traced slope can depend on at any latent values: a run on generic values.

Latent inputs get generic values, and so does every function of them that is not a sum, product or
rearrangement of its inputs. What comes out as zero is then zero at all latent values: a polynomial
that vanishes at independent generic values vanishes everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

#: Sums, products and rearrangements, whose zeros are those of their inputs.
_POLYNOMIAL = frozenset(
    {
        *("add", "add_any", "sub", "mul", "neg", "square", "integer_pow", "dot_general"),
        *("reduce_sum", "cumsum", "gather", "scatter", "scatter-add", "concatenate", "split"),
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "pad"),
        *("dynamic_slice", "dynamic_update_slice", "rev", "copy", "convert_element_type"),
        *("reduce_precision", "select_n"),
    }
)
#: Functions of one argument that are zero where it is, and may be zero elsewhere.
_ZERO_AT_ZERO = frozenset(
    {"abs", "sqrt", "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "log1p", "expm1", "erf"}
)


class UndecidedError(Exception):
    """Raised where the values that are read depend on a latent value."""


class _Unknown:
    """An integer or truth value that depends on a latent value."""


_UNKNOWN = _Unknown()


def generic_run(jaxpr: Any, latent: Sequence[bool]) -> Callable[..., list[Array]]:
    """A traced function with generic values in the place of its latent inputs.

    Args:
        jaxpr: An open jaxpr that is linear in its other inputs.
        latent: Which of its inputs are latent.

    Returns:
        A function of the captured arrays, a number that tells which generic values, and the leaves
        of the inputs, to be compiled.

    Raises:
        UndecidedError: From that function, if an index depends on a latent value.
    """

    def run(consts: Sequence[Array], seed: Array, *leaves: Array) -> list[Array]:
        values = _Values(seed)
        inputs = [
            (values.like(leaf), True) if on else (leaf, False)
            for leaf, on in zip(leaves, latent, strict=True)
        ]
        outputs = _evaluate(jaxpr, [(const, False) for const in consts], inputs, values)
        return [jnp.asarray(value) for value, _ in outputs]

    return run


class _Values:
    """A stream of generic values between 1/2 and 3/2, none twice."""

    def __init__(self, seed: Array) -> None:
        self.count = 1000 * seed

    def like(self, shape: Any) -> Any:
        """Generic values of a shape; of integers and truth values none is known."""
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            return _UNKNOWN
        self.count += 1
        number = jax.lax.iota(jnp.result_type(float), int(np.prod(shape.shape))) + 1.0
        # No random numbers, whose program takes long to compile.
        wave = 43758.5453 * jnp.sin(12.9898 * number + 0.7391 * self.count)
        return (0.5 + wave - jnp.floor(wave)).reshape(shape.shape).astype(shape.dtype)


Valued = tuple[Any, bool]


def _evaluate(
    jaxpr: Any, consts: Sequence[Valued], inputs: Sequence[Valued], values: _Values
) -> list[Valued]:
    """The outputs of an open jaxpr, and whether each depends on a latent value."""
    known: dict[Any, Valued] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Valued:
        return (atom.val, False) if isinstance(atom, core.Literal) else known[atom]

    for equation in _needed(jaxpr):
        incoming = [read(atom) for atom in equation.invars]
        if not any(on for _, on in incoming):
            outgoing = [(value, False) for value in bind(equation, [v for v, _ in incoming])]
        else:
            outgoing = [(value, True) for value in _generic(equation, incoming, values)]
        known.update(zip(equation.outvars, outgoing, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """Equations that the outputs depend on."""
    wanted, found = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if any(id(var) in wanted for var in equation.outvars):
            wanted.update(map(id, equation.invars))
            found.append(equation)
    return found[::-1]


def _generic(equation: Any, incoming: Sequence[Valued], values: _Values) -> list[Any]:
    """One equation with latent inputs."""
    operands, name = [value for value, _ in incoming], equation.primitive.name
    inner = inner_jaxpr(equation)
    if inner is not None:
        jaxpr, consts = inner
        found = _evaluate(jaxpr, [(const, False) for const in consts], incoming, values)
        return [value for value, _ in found]
    shapes = [out.aval for out in equation.outvars]
    if not any(jnp.issubdtype(shape.dtype, jnp.floating) for shape in shapes):
        return [_UNKNOWN for _ in shapes]
    if name == "select_n" and operands[0] is _UNKNOWN:
        # Any of the cases may be chosen.
        return [sum(values.like(case) * case for case in operands[1:])]
    if any(operand is _UNKNOWN for operand in operands):
        if name == "convert_element_type":
            return [values.like(shapes[0])]
        raise UndecidedError
    if name == "div":
        return [operands[0] * values.like(shapes[0])]
    if name in _POLYNOMIAL and equation.params.get("y", 0) >= 0:
        return bind(equation, operands)
    if name in _ZERO_AT_ZERO:
        return [jnp.where(operands[0] == 0, 0, values.like(shapes[0]))]
    if name in ("while", "scan", "cond"):
        # Loops are run as they are.
        return bind(equation, operands)
    return [values.like(shape) for shape in shapes]


def bind(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """The outputs of an equation for its operands."""
    # JAX 0.12 has parameters only, releases before it also functions to call.
    bound = equation.primitive.get_bind_params(equation.params)
    subfuns, params = bound if isinstance(bound, tuple) else ((), bound)
    found = equation.primitive.bind(*subfuns, *operands, **params)
    return list(found) if equation.primitive.multiple_results else [found]


def inner_jaxpr(equation: Any) -> tuple[Any, list[Any]] | None:
    """The jaxpr and constants of a plain call, which takes and gives what the equation does."""
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)  # closed or open
        if isinstance(inner, core.Jaxpr) and (
            len(inner.invars) == len(equation.invars)
            and len(inner.outvars) == len(equation.outvars)
        ):
            return inner, list(getattr(value, "consts", ()))
    return None

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

from probmf.inference.marginal.dependence import body_of, follow, inner_jaxpr, split_scan

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

    def of_step(self, step: Array) -> "_Values":
        """Others for each step of a loop."""
        found = _Values(step + 1)
        found.count = found.count + self.count
        return found

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
    if name == "cond":
        return _generic_cond(equation, incoming, values)
    if name == "scan":
        return _generic_scan(equation, incoming, values)
    if name == "while":
        raise UndecidedError
    shapes = [out.aval for out in equation.outvars]
    if not any(jnp.issubdtype(shape.dtype, jnp.floating) for shape in shapes):
        return [_UNKNOWN for _ in shapes]
    if name == "select_n" and operands[0] is _UNKNOWN:
        # Any of the cases may be chosen.
        return [sum(values.like(shapes[0]) * case for case in operands[1:])]
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
    return [values.like(shape) for shape in shapes]


def _generic_cond(equation: Any, incoming: Sequence[Valued], values: _Values) -> list[Any]:
    """The branch that is taken, or generic shares of all where a latent value decides."""
    index, *given = incoming
    branches = [
        _evaluate(getattr(branch, "jaxpr", branch), [], given, values)
        for branch in equation.params["branches"]
    ]
    found: list[Any] = []
    for place, cases in enumerate(zip(*branches, strict=True)):
        own, shape = [value for value, _ in cases], equation.outvars[place].aval
        if any(value is _UNKNOWN for value in own):
            found.append(_UNKNOWN)
        elif index[1] or index[0] is _UNKNOWN:
            known = jnp.issubdtype(shape.dtype, jnp.floating)
            found.append(sum(values.like(shape) * value for value in own) if known else _UNKNOWN)
        else:
            found.append(jax.lax.select_n(jnp.asarray(index[0]), *map(jnp.asarray, own)))
    return found


def _generic_scan(equation: Any, incoming: Sequence[Valued], values: _Values) -> list[Any]:
    """A loop, with other generic values at each step."""
    if any(value is _UNKNOWN for value, _ in incoming):
        raise UndecidedError
    body, length = body_of(equation), equation.params["length"]
    consts, carry, steps = split_scan(equation, [value for value, _ in incoming])
    ((_, latent),) = follow(equation, [on for _, on in incoming]).bodies

    def step(carry: list[Array], given: tuple[Array, list[Array]]) -> tuple[list[Array], Any]:
        number, own = given
        inputs = list(zip([*consts, *carry, *own], latent, strict=True))
        found = [value for value, _ in _evaluate(body, [], inputs, values.of_step(number))]
        if any(value is _UNKNOWN for value in found):
            raise UndecidedError
        kinds = [out.aval.dtype for out in body.outvars]
        found = [jnp.asarray(value, kind) for value, kind in zip(found, kinds, strict=True)]
        return found[: len(carry)], found[len(carry) :]

    carry = [jnp.asarray(value) for value in carry]
    given = (jnp.arange(length), [jnp.asarray(value) for value in steps])
    last, stacked = jax.lax.scan(step, carry, given, reverse=equation.params["reverse"])
    return [*last, *stacked]


def bind(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """The outputs of an equation for its operands."""
    # JAX 0.12 has parameters only, releases before it also functions to call.
    bound = equation.primitive.get_bind_params(equation.params)
    subfuns, params = bound if isinstance(bound, tuple) else ((), bound)
    found = equation.primitive.bind(*subfuns, *operands, **params)
    return list(found) if equation.primitive.multiple_results else [found]

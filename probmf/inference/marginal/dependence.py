"""Dependence of the outputs of a traced function on its inputs."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from probmf.inference.marginal.generic import generic_run, inner_jaxpr
from probmf.run.compilation import count_numbers, quick_jit

#: Choices, of which only what decides counts, and operations with kinks, in NumPy's words.
CHOICES = {"select_n": "where", "cond": "cond"}
KINKS = {
    "max": "maximum", "min": "minimum", "clamp": "clip", "abs": "abs", "sign": "sign",
    "floor": "floor", "ceil": "ceil", "round": "round", "rem": "mod", "sort": "sort",
    "reduce_max": "max", "reduce_min": "min", "cummax": "cummax", "cummin": "cummin",
    "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
}  # fmt: skip


def depends(jaxpr: Any, sources: Sequence[bool]) -> list[bool]:
    """Follow dependence through a jaxpr; sound, and exact up to opaque branches and calls.

    Args:
        jaxpr: An open jaxpr.
        sources: Which of its inputs are followed.

    Returns:
        Whether each output depends on one of them.
    """
    tainted = {var for var, on in zip(jaxpr.invars, sources, strict=True) if on}
    for equation in jaxpr.eqns:
        _follow(equation, tainted)
    return _among(jaxpr.outvars, tainted)


def find_kink(jaxpr: Any, sources: Sequence[bool]) -> str | None:
    """An operation with a kink or a jump that followed inputs meet on the way to an output.

    No probe at a few points tells such functions from affine ones.

    Args:
        jaxpr: An open jaxpr.
        sources: Which of its inputs are followed.

    Returns:
        The operation's name, or None. Smooth operations and loops of unknown length are not told.
    """
    live, used = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if any(_among(equation.outvars, live)):
            used.append(equation)
            live.update(var for var in equation.invars if not isinstance(var, core.Literal))
    tainted = {var for var, on in zip(jaxpr.invars, sources, strict=True) if on}
    for equation in reversed(used):
        incoming, name = _among(equation.invars, tainted), equation.primitive.name
        _follow(equation, tainted)
        if incoming and (any(incoming) if name in KINKS else name in CHOICES and incoming[0]):
            return KINKS.get(name) or CHOICES[name]
        for body, entering in _bodies(equation, incoming) if any(incoming) else ():
            if (found := find_kink(body, entering)) is not None:
                return found
    return None


def _among(variables: Sequence[Any], chosen: set[Any]) -> list[bool]:
    return [not isinstance(var, core.Literal) and var in chosen for var in variables]


def _follow(equation: Any, tainted: set[Any]) -> None:
    """Add what an equation makes of followed values."""
    incoming = _among(equation.invars, tainted)
    if not any(incoming):
        return
    if equation.primitive.name == "scan":
        outgoing = _through_scan(equation, incoming)[1]
    elif (inner := inner_jaxpr(equation)) is not None:
        outgoing = depends(inner[0], incoming)
    else:
        outgoing = [True] * len(equation.outvars)
    tainted.update(v for v, out in zip(equation.outvars, outgoing, strict=True) if out)


def _bodies(equation: Any, incoming: list[bool]) -> list[tuple[Any, list[bool]]]:
    """The functions that an equation calls, and which of their inputs are followed."""
    if equation.primitive.name == "cond":
        return [(branch.jaxpr, incoming[1:]) for branch in equation.params["branches"]]
    if equation.primitive.name == "scan":
        return [(_body(equation), _through_scan(equation, incoming)[0])]
    inner = inner_jaxpr(equation)
    return [] if inner is None else [(inner[0], incoming)]


def _body(equation: Any) -> Any:
    body = equation.params["jaxpr"]
    return getattr(body, "jaxpr", body)  # closed or open


def _through_scan(equation: Any, incoming: list[bool]) -> tuple[list[bool], list[bool]]:
    """Go round until carried values depend on nothing more: what enters the body, and leaves."""
    body = _body(equation)
    # Constants, carried values, and what has an axis of steps; no parameter counts them by name.
    ends = len(incoming) - _count_stacked(equation.invars, body.invars)
    begin = ends - (len(body.outvars) - _count_stacked(equation.outvars, body.outvars))
    consts, carry, steps = incoming[:begin], incoming[begin:ends], incoming[ends:]
    while True:
        entering = [*consts, *carry, *steps]
        outgoing = depends(body, entering)
        after = [a or b for a, b in zip(carry, outgoing, strict=False)]
        if after == carry:
            return entering, [*carry, *outgoing[len(carry) :]]
        carry = after


def _count_stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outside, inside, strict=True))


class Traced:
    """A function traced once; its captured arrays become arguments of the compiled program.

    Captured arrays would otherwise be compiled into the program as constants, which takes long and
    holds them twice.

    Args:
        function: A function of pytrees.
        example: Its arguments, for their shapes.
    """

    def __init__(self, function: Any, *example: Any) -> None:
        """Trace the function."""
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
        self.jaxpr, self.consts = closed.jaxpr, [jnp.asarray(const) for const in closed.consts]
        self.num_leaves = [len(jax.tree.leaves(one)) for one in example]
        self.output = jax.tree.structure(shape)
        self._generic: dict[int, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """Evaluate, compiled."""
        return jax.tree.unflatten(self.output, self._run(self.consts, *jax.tree.leaves(args)))

    def at_generic(self, position: int, seed: int, *args: Any) -> Any:
        """Evaluate with generic values in the place of one argument; see `generic`."""
        if position not in self._generic:
            run = generic_run(self.jaxpr, self._leaves_of(position))
            self._generic[position] = quick_jit(run, count_numbers(self.consts))
        found = self._generic[position](self.consts, seed, *jax.tree.leaves(args))
        return jax.tree.unflatten(self.output, found)

    @cached_property
    def _run(self) -> Any:
        def run(consts: list[Array], *leaves: Array) -> list[Array]:
            found: list[Array] = jax.core.eval_jaxpr(self.jaxpr, consts, *leaves)
            return found

        return quick_jit(run, count_numbers(self.consts))

    def depends_on(self, position: int, leaf: int | None = None) -> Any:
        """The output's pytree: whether each leaf depends on an argument, or on one leaf of it."""
        found = depends(self.jaxpr, self._leaves_of(position, leaf))
        return jax.tree.unflatten(self.output, found)

    def kink_of(self, position: int, leaf: int) -> str | None:
        """An operation with a kink that one leaf of an argument meets on its way; see there."""
        return find_kink(self.jaxpr, self._leaves_of(position, leaf))

    def _leaves_of(self, position: int, leaf: int | None = None) -> list[bool]:
        """Marks of the leaves that belong to one argument, or are one leaf of it."""
        return [
            index == position and leaf in (None, place)
            for index, count in enumerate(self.num_leaves)
            for place in range(count)
        ]

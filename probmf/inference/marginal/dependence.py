"""Which outputs of a traced function depend on which of its inputs."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
from jax.extend import core

from probmf.inference.marginal.generic import generic_run, inner_jaxpr
from probmf.run.compile_cache import Program, as_program, compiled, quick_jit


def depends(jaxpr: Any, sources: Sequence[bool]) -> list[bool]:
    """Follow dependence through a jaxpr; sound, and exact up to opaque branches and calls.

    Args:
        jaxpr: An open jaxpr.
        sources: Which of its inputs are followed.

    Returns:
        Whether each output depends on one of them.
    """
    tainted = {var for var, on in zip(jaxpr.invars, sources, strict=True) if on}

    def on(var: Any) -> bool:
        return not isinstance(var, core.Literal) and var in tainted

    for equation in jaxpr.eqns:
        incoming = [on(var) for var in equation.invars]
        if not any(incoming):
            continue
        inner = inner_jaxpr(equation)
        if equation.primitive.name == "scan":
            outgoing = _through_scan(equation, incoming)
        elif inner is not None:
            outgoing = depends(inner[0], incoming)
        else:
            outgoing = [True] * len(equation.outvars)
        tainted.update(v for v, out in zip(equation.outvars, outgoing, strict=True) if out)
    return [on(var) for var in jaxpr.outvars]


def _through_scan(equation: Any, incoming: list[bool]) -> list[bool]:
    """Go round until the carried values depend on nothing more."""
    body = equation.params["jaxpr"]
    body = getattr(body, "jaxpr", body)  # closed or open
    # Constants, carried values, and what has an axis of steps; no parameter counts them by name.
    ends = len(incoming) - _count_stacked(equation.invars, body.invars)
    begin = ends - (len(body.outvars) - _count_stacked(equation.outvars, body.outvars))
    consts, carry, steps = incoming[:begin], incoming[begin:ends], incoming[ends:]
    while True:
        outgoing = depends(body, [*consts, *carry, *steps])
        after = [a or b for a, b in zip(carry, outgoing, strict=False)]
        if after == carry:
            return [*carry, *outgoing[len(carry) :]]
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
        self.closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
        self.num_leaves = [len(jax.tree.leaves(one)) for one in example]
        self.output = jax.tree.structure(shape)

    def __call__(self, *args: Any) -> Any:
        """Evaluate, compiled."""
        program = self._program
        run = compiled(
            (program.text, "traced"), lambda: quick_jit(program.evaluate, program.numbers)
        )
        return jax.tree.unflatten(self.output, run(program.consts, *jax.tree.leaves(args)))

    def at_generic(self, position: int, seed: int, *args: Any) -> Any:
        """Evaluate with generic values in the place of one argument; see `generic`."""
        latent = self._leaves_of(position)
        program = self._program
        run = compiled(
            (program.text, "generic", position, seed),
            lambda: quick_jit(generic_run(self.closed.jaxpr, latent, seed), program.numbers),
        )
        return jax.tree.unflatten(self.output, run(self.closed.consts, *jax.tree.leaves(args)))

    @cached_property
    def _program(self) -> Program:
        return as_program(self.closed)

    def depends_on(self, position: int, leaf: int | None = None) -> Any:
        """The output's pytree: whether each leaf depends on an argument, or on one leaf of it."""
        found = depends(self.closed.jaxpr, self._leaves_of(position, leaf))
        return jax.tree.unflatten(self.output, found)

    def _leaves_of(self, position: int, leaf: int | None = None) -> list[bool]:
        """Which leaves of the arguments are those of one, or are one leaf of it."""
        return [
            index == position and leaf in (None, place)
            for index, count in enumerate(self.num_leaves)
            for place in range(count)
        ]

"""Functions traced once, to be evaluated, and to be asked what their outputs depend on."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probmf.inference.marginal.dependence import depends, find_kink
from probmf.inference.marginal.generic import generic_run
from probmf.run.compilation import count_numbers, quick_jit


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

"""The linear predictor of the rows of any observed site, found in the traced program.

The log densities of the rows are traced as a function of the effects' deviations. A value of one
number for each row through which all of a site's influence passes, and which is affine in the
deviations, is a linear predictor; the last such value in the program is taken. The program before
it gives the predictor, and the program after it the density of each row at any predictor.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from probmf.inference.marginal.dependence import inner_jaxpr
from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.generic import bind
from probmf.inference.marginal.injection import (
    MarginalizeError,
    Model,
    Values,
    mask_of,
    run_with,
    unwrap,
)

#: Operations that are linear in each argument, of which one depends on effects.
_BILINEAR = {"mul", "dot_general"}
#: Operations whose result is linear in all arguments together.
_LINEAR = frozenset(
    {
        *("add", "add_any", "sub", "neg", "reduce_sum", "cumsum", "concatenate", "split"),
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "pad"),
        *("rev", "copy", "convert_element_type", "reduce_precision", "optimization_barrier"),
    }
)
#: Those that are linear if all but the given arguments are free of effects.
_LINEAR_IN = {
    "div": (0,), "gather": (0,), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1),
    "scatter": (0, 2), "scatter-add": (0, 2),
}  # fmt: skip
#: Calls that are part of the program that they stand in.
_INLINED = {"jit", "pjit", "closed_call"}


class Known(NamedTuple):
    """A constant of the program."""

    value: Any


class Step(NamedTuple):
    """An operation; variables are numbers."""

    equation: Any
    inputs: tuple[int | Known, ...]
    outputs: tuple[int, ...]


class RowProgram:
    """Log densities of the rows of one observed site, as a program that can be entered midway.

    Args:
        model: The NumPyro model.
        target: The observed site.
        latents: Values of the other latent sites.
        deviations: Zeros for each effect site.
        args: The model's arguments.
        kwargs: Its keyword arguments.
        value: Other observations than those of the model, or None.
    """

    def __init__(
        self,
        model: Model,
        target: str,
        latents: Values,
        deviations: Values,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        value: Array | None = None,
    ) -> None:
        """Trace it."""

        def rows(latents: Values, deviations: Values) -> Array:
            run = run_with(model, latents, deviations, args, kwargs, target)
            site = run.observed[target]
            return log_densities(site["law"], site["value"] if value is None else value)

        self.target = target
        closed = jax.make_jaxpr(rows)(latents, deviations)
        self.size = int(np.prod(closed.out_avals[0].shape))
        self.leaves, self.given = jax.tree.leaves(latents), jax.tree.leaves(deviations)
        self.consts = list(closed.consts)
        self.names = sorted(deviations)
        self.shapes: dict[int, Any] = {}
        self.steps: list[Step] = []
        self._inputs = self._number(closed.jaxpr.invars)
        self._consts = self._number(closed.jaxpr.constvars)
        (output,) = self._inline(closed.jaxpr, self._inputs, self._consts)
        self.output = output
        self._drop_unused()

    def _number(self, variables: Sequence[Any]) -> list[int | Known]:
        first = len(self.shapes)
        self.shapes |= {first + place: one.aval for place, one in enumerate(variables)}
        return list(range(first, first + len(variables)))

    def _inline(
        self, jaxpr: Any, inputs: Sequence[int | Known], consts: Sequence[int | Known]
    ) -> list[int | Known]:
        """The outputs of a jaxpr whose calls become part of the program."""
        known: dict[Any, int | Known] = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> int | Known:
            return Known(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            incoming = [read(atom) for atom in equation.invars]
            inner = inner_jaxpr(equation) if equation.primitive.name in _INLINED else None
            if inner is None:
                outgoing = self._number(equation.outvars)
                numbers = tuple(one for one in outgoing if not isinstance(one, Known))
                self.steps.append(Step(equation, tuple(incoming), numbers))
            else:
                outgoing = self._inline(inner[0], incoming, [Known(const) for const in inner[1]])
            known.update(zip(equation.outvars, outgoing, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _drop_unused(self) -> None:
        wanted, kept = {self.output}, []
        for step in reversed(self.steps):
            if wanted.intersection(step.outputs):
                wanted.update(one for one in step.inputs if not isinstance(one, Known))
                kept.append(step)
        self.steps = kept[::-1]

    def find_predictor(self, sites: Sequence[str]) -> int | None:
        """The last value of one number a row that all of some sites' influence passes, affinely.

        Args:
            sites: Effect sites.

        Returns:
            Its number in the program; None if there is none.
        """
        first = len(self.leaves)
        sources = {self._inputs[first + self.names.index(site)] for site in sites}
        reached: dict[Any, bool] = dict.fromkeys(sources, True)  # Whether affine.
        last = {one: place for place, step in enumerate(self.steps) for one in step.inputs
                if not isinstance(one, Known)}  # fmt: skip
        last |= {self.output: len(self.steps)} if isinstance(self.output, int) else {}
        found = None
        live = {one for one in reached if one in last}
        for place in range(-1, len(self.steps)):
            if place >= 0:
                step = self.steps[place]
                on = [not isinstance(one, Known) and one in reached for one in step.inputs]
                if any(on):
                    affine = all(reached[one] for one, is_on in zip(step.inputs, on, strict=True)
                                 if is_on) and _is_linear(step.equation, on)  # fmt: skip
                    reached |= dict.fromkeys(step.outputs, affine)
                live |= {one for one in step.outputs if one in reached}
                live = {one for one in live if last.get(one, -1) > place}
            if len(live) == 1:
                (only,) = live
                if reached[only] and self._is_row_sized(only):
                    found = only
        return found

    def require_predictor(self, sites: Sequence[str]) -> int:
        """The same, where there has to be one.

        Raises:
            MarginalizeError: If there is none.
        """
        found = self.find_predictor(sites)
        if found is None:
            raise MarginalizeError(
                f"{quoted(sites)} do not enter the observed site {self.target!r} through one "
                "linear predictor, a number for each row that is affine in them;",
                "integrate fewer of them out.",
            )
        return found

    def _is_row_sized(self, number: int) -> bool:
        shape = self.shapes[number]
        return int(np.prod(shape.shape)) == self.size and jnp.issubdtype(shape.dtype, jnp.floating)

    def predictor(self, number: int) -> Float[Array, " n"]:
        """The value that `find_predictor` found, at the given latents and deviations."""
        found = self._evaluate(self.leaves, self.consts, {}, {number})
        return jnp.ravel(found[number])

    def density(
        self, number: int, predictor: Float[Array, " n"], parameters: Any
    ) -> Float[Array, " n"]:
        """Log densities of the rows at a predictor.

        Args:
            number: The predictor in the program.
            predictor: Its values.
            parameters: `parameters`, or others in their place.
        """
        leaves, consts = parameters
        tiny = jnp.finfo(predictor.dtype).tiny
        # NumPyro writes some densities with |x|, which bends nowhere but at zero itself.
        apart = predictor + jnp.where(predictor == 0, tiny, 0.0).astype(predictor.dtype)
        value = apart.reshape(self.shapes[number].shape)
        found = self._evaluate(leaves, consts, {number: value}, {self.output})
        return found[self.output]

    @property
    def parameters(self) -> Any:
        """Arrays that the density depends on."""
        return self.leaves, self.consts

    def _evaluate(
        self, leaves: list[Any], consts: list[Any], put: Mapping[Any, Array], wanted: set[Any]
    ) -> dict[Any, Any]:
        """Run what is needed for some values, others put in."""
        needed, steps = set(wanted) - set(put), []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                needed.update(
                    one for one in step.inputs if not isinstance(one, Known) and one not in put
                )
                steps.append(step)
        known: dict[Any, Any] = dict(zip(self._inputs, [*leaves, *self.given], strict=True))
        known |= dict(zip(self._consts, consts, strict=True))
        known |= put
        for step in reversed(steps):
            given = [one.value if isinstance(one, Known) else known[one] for one in step.inputs]
            outgoing = dict(zip(step.outputs, bind(step.equation, given), strict=True))
            known |= {one: value for one, value in outgoing.items() if one not in put}
        return known


def _is_linear(equation: Any, on: Sequence[bool]) -> bool:
    """True if an operation is linear in the inputs that depend on effects, together."""
    name = equation.primitive.name
    if name in _BILINEAR:
        return sum(on) == 1
    if name in _LINEAR_IN:
        return not any(is_on for place, is_on in enumerate(on) if place not in _LINEAR_IN[name])
    if name == "select_n":
        return not on[0]
    return name in _LINEAR


def log_densities(law: Any, value: Array) -> Float[Array, " n"]:
    """Log density of each row, zero where it is masked."""
    base, mask = unwrap(law), mask_of(law)
    shape = tuple(law.batch_shape) + tuple(law.event_shape)
    value = jnp.broadcast_to(jnp.asarray(value), shape)
    if mask is None:
        return jnp.ravel(base.log_prob(value))
    events = value.reshape(-1, *base.event_shape)
    keep = jnp.broadcast_to(mask, shape).reshape(len(events), -1)[:, 0]
    # A missing value must not reach a derivative.
    other = events[jnp.argmax(keep)][None]
    known = jnp.where(keep.reshape(-1, *(1,) * len(base.event_shape)), events, other)
    return jnp.where(keep, jnp.ravel(base.log_prob(known.reshape(shape))), 0.0)

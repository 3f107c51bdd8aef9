"""Dependence of the outputs of a traced function on its inputs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

#: Choices, of which only what decides counts, and operations with kinks, in NumPy's words.
CHOICES = {"select_n": "where", "cond": "cond"}
KINKS = {
    "max": "maximum", "min": "minimum", "clamp": "clip", "abs": "abs", "sign": "sign",
    "floor": "floor", "ceil": "ceil", "round": "round", "rem": "mod", "sort": "sort",
    "reduce_max": "max", "reduce_min": "min", "cummax": "cummax", "cummin": "cummin",
    "argmax": "argmax", "argmin": "argmin", "top_k": "top_k", "reduce_window_max": "max",
    "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
}  # fmt: skip


def depends(jaxpr: Any, sources: Sequence[bool]) -> list[bool]:
    """Follow dependence through a jaxpr; sound, and exact up to calls that can't be looked into.

    Args:
        jaxpr: An open jaxpr.
        sources: Which of its inputs are followed.

    Returns:
        Whether each output depends on one of them.
    """
    tainted = {var for var, on in zip(jaxpr.invars, sources, strict=True) if on}
    for equation in jaxpr.eqns:
        incoming = _among(equation.invars, tainted)
        if any(incoming):
            outgoing = follow(equation, incoming).outgoing
            tainted.update(v for v, out in zip(equation.outvars, outgoing, strict=True) if out)
    return _among(jaxpr.outvars, tainted)


def find_kink(jaxpr: Any, sources: Sequence[bool]) -> str | None:
    """An operation with a kink or a jump that followed inputs meet on the way to an output.

    No probe at a few points tells such functions from affine ones.

    Args:
        jaxpr: An open jaxpr.
        sources: Which of its inputs are followed.

    Returns:
        The operation's name, or None. Smooth operations are not told.
    """
    live, used = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if any(_among(equation.outvars, live)):
            used.append(equation)
            live.update(var for var in equation.invars if not isinstance(var, core.Literal))
    tainted = {var for var, on in zip(jaxpr.invars, sources, strict=True) if on}
    for equation in reversed(used):
        incoming = _among(equation.invars, tainted)
        if not any(incoming):
            continue
        flow = follow(equation, incoming)
        tainted.update(v for v, out in zip(equation.outvars, flow.outgoing, strict=True) if out)
        if (kink := _kink_of(equation, incoming, flow)) is not None:
            return kink
        for body, entering in flow.bodies:
            if (kink := find_kink(body, entering)) is not None:
                return kink
    return None


def _kink_of(equation: Any, incoming: list[bool], flow: "Flow") -> str | None:
    """The equation's own kink where followed inputs meet it, in NumPy's words."""
    name = equation.primitive.name
    if name in CHOICES:
        return CHOICES[name] if incoming[0] else None
    if name == "convert_element_type":
        return None if jnp.issubdtype(equation.params["new_dtype"], jnp.inexact) else "astype"
    return "while" if flow.decides else KINKS.get(name)


def _among(variables: Sequence[Any], chosen: set[Any]) -> list[bool]:
    return [not isinstance(var, core.Literal) and var in chosen for var in variables]


class Flow(NamedTuple):
    """The way of followed inputs through an equation.

    Attributes:
        outgoing: Which outputs depend on them.
        bodies: The functions that the equation calls, and which of their inputs are followed.
        decides: Whether they decide how often a loop is gone round.
    """

    outgoing: list[bool]
    bodies: list[tuple[Any, list[bool]]]
    decides: bool = False


def follow(equation: Any, incoming: list[bool]) -> Flow:
    """Follow inputs of which some are followed through an equation."""
    name = equation.primitive.name
    if name == "scan":
        entering, outgoing = _through_scan(equation, incoming)
        return Flow(outgoing, [(body_of(equation), entering)])
    if name == "while":
        return _through_while(equation, incoming)
    if name == "cond":
        branches = [(_open(branch), incoming[1:]) for branch in equation.params["branches"]]
        found = zip(*(depends(*branch) for branch in branches), strict=True)
        return Flow([incoming[0] or any(own) for own in found], branches)
    inner = inner_jaxpr(equation)
    if inner is None:
        return Flow([True] * len(equation.outvars), [])
    return Flow(depends(inner[0], incoming), [(inner[0], incoming)])


def body_of(equation: Any) -> Any:
    """The open jaxpr of a scan's step."""
    return _open(equation.params["jaxpr"])


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def inner_jaxpr(equation: Any) -> tuple[Any, list[Any]] | None:
    """The jaxpr and constants of a plain call, which takes and gives what the equation does."""
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    for value in equation.params.values():
        inner = _open(value)
        if isinstance(inner, core.Jaxpr) and (
            len(inner.invars) == len(equation.invars)
            and len(inner.outvars) == len(equation.outvars)
        ):
            return inner, list(getattr(value, "consts", ()))
    return None


def _through_while(equation: Any, incoming: list[bool]) -> Flow:
    """Go round until carried values depend on nothing more."""
    first, second = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    condition, body = (_open(equation.params[f"{one}_jaxpr"]) for one in ("cond", "body"))
    consts, carry = incoming[first : first + second], incoming[first + second :]
    while (after := _joined(carry, depends(body, [*consts, *carry]))) != carry:
        carry = after
    (decides,) = depends(condition, [*incoming[:first], *carry])
    return Flow([decides or one for one in carry], [(body, [*consts, *carry])], decides)


def _joined(one: Sequence[bool], other: Sequence[bool]) -> list[bool]:
    return [a or b for a, b in zip(one, other, strict=True)]


def split_scan(equation: Any, inputs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Inputs of a scan: constants, carried values, and what has an axis of steps."""
    body = body_of(equation)  # No parameter counts them by name.
    ends = len(inputs) - _count_stacked(equation.invars, body.invars)
    begin = ends - (len(body.outvars) - _count_stacked(equation.outvars, body.outvars))
    return list(inputs[:begin]), list(inputs[begin:ends]), list(inputs[ends:])


def _through_scan(equation: Any, incoming: list[bool]) -> tuple[list[bool], list[bool]]:
    """Go round until carried values depend on nothing more: what enters the body, and leaves."""
    consts, carry, steps = split_scan(equation, incoming)
    while True:
        entering = [*consts, *carry, *steps]
        outgoing = depends(body_of(equation), entering)
        after = _joined(carry, outgoing[: len(carry)])
        if after == carry:
            return entering, [*carry, *outgoing[len(carry) :]]
        carry = after


def _count_stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outside, inside, strict=True))

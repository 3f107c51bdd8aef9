"""Fingerprint of values that a traced program has captured outside of its text.

JAX hoists the arrays that a function captures out of its program, but not those of a nested
`jax.jit`, nor those that a rule of `jax.custom_vjp` or `jax.custom_jvp` captures: two programs
that differ only there read the same.
"""

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal

#: Objects looked at before a rule is taken for one that can't be told apart.
MOST_OBJECTS = 20_000
_unique = count()


def captured_digest(jaxpr: Jaxpr) -> str:
    """A digest of the values captured within a program's equations.

    Args:
        jaxpr: The program; its own constants are not counted.

    Returns:
        Equal for equal contents. Where a rule holds more than can be looked through, a text that
        no other program has.
    """
    walk = _Walk()
    try:
        walk.equations(jaxpr)
    except _UnreadableError:
        return f"program {next(_unique)}"
    return walk.digest.hexdigest()


class _UnreadableError(Exception):
    """A rule holds more than can be looked through."""


class _Walk:
    """Goes through equations, and through what their rules hold, once each."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.seen: dict[int, Any] = {}

    def equations(self, jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            for atom in eqn.invars:
                if isinstance(atom, Literal) and np.ndim(atom.val):
                    self.add(atom.val)
            for name in sorted(eqn.params):
                self.visit(eqn.params[name])

    def add(self, array: Any) -> None:
        """Contents of an array."""
        values = np.ascontiguousarray(array)
        self.digest.update(repr((values.shape, values.dtype)).encode())
        self.digest.update(
            repr(values.tolist()).encode() if values.dtype == object else values.data
        )

    def visit(self, thing: Any) -> None:
        if isinstance(thing, bool | int | float | complex | str | bytes):
            self.digest.update(repr(thing).encode())
            return
        # A trace under way holds what was computed so far, not what is captured.
        if isinstance(thing, jax.core.Tracer | jax.core.Trace) or id(thing) in self.seen:
            return
        self.seen[id(thing)] = thing  # Held, so that no other object takes its identity.
        if len(self.seen) > MOST_OBJECTS:
            raise _UnreadableError
        if isinstance(thing, np.ndarray | np.generic | jax.Array) or hasattr(thing, "__array__"):
            self.add(thing)
        elif hasattr(thing, "eqns"):
            for const in getattr(thing, "consts", ()):
                self.visit(const)
            self.equations(thing)
        else:
            for part in _parts(thing):
                self.visit(part)


def _parts(thing: Any) -> Iterator[Any]:
    """Objects that an object refers to, without a function's globals and JAX's own objects."""
    if isinstance(thing, type | types.ModuleType):
        return
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield key
            yield value
        return
    if isinstance(thing, list | tuple | set | frozenset):
        yield from thing
        return
    if isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
        return
    if isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
        return
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
        if "memoize" in thing.__qualname__:
            # Results kept by JAX, which come with use; what they come from is in another cell.
            cells = [content for content in cells if not isinstance(content, dict)]
        yield from cells
        yield from (thing.__defaults__, thing.__kwdefaults__)
        return
    names = [name for kind in type(thing).__mro__ for name in _slots(kind)]
    yield from (getattr(thing, name) for name in names if hasattr(thing, name))
    yield from getattr(thing, "__dict__", {}).values()


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True

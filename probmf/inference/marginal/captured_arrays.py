"""Things that models capture: told apart by contents, and NumPy arrays among them copied.

JAX remembers each array in one precision, and a program that is compiled for a function holds what
the function captured at the time.
"""

import copy
import functools
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpyro import handlers

from probmf.run.fingerprint import PLAIN, fingerprint

#: Folders of code that captures no arrays of the user's.
_OWN = str(Path(__file__).parents[2])
#: What handlers change when their models run.
STATE = {handlers.seed: "rng_key", handlers.trace: "trace"}
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def fresh_arrays(tree: Any) -> Any:
    """The same tree with its NumPy arrays copied.

    JAX remembers a NumPy array by its identity, in the precision of the program that used it, for
    as long as that program lives; the same array then fails in the other precision.
    """
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def with_fresh_captures[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """The same function with the NumPy arrays that it captures copied, as `fresh_arrays` does.

    Captured is what a function finds in an enclosing function, among the globals that it names, in
    its defaults, in the object whose method it is, in modules that it names, and through functions
    that it names in turn; but for what is installed, and attributes of classes.

    Args:
        function: A function, a method, a partial, or an object that can be called.

    Returns:
        A copy; the function itself where it captures no array.
    """
    fresh: Callable[P, T] = _fresh(function, {})
    return fresh


class Captured:
    """A model with what it captures now: equal to another of the same code and contents.

    What is captured is as in `with_fresh_captures`. Arrays, numbers and texts count by their
    contents, what a list holds beside arrays does not count, and other objects by identity.

    Args:
        model: A function, or an object that can be called.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        """Read it. Cost O(size of the arrays)."""
        self.model = model
        # They are held, so that no other object takes their identity.
        self.told = _contents(model)
        self.mark = fingerprint(self.told, others=_identity)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.model(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        """By contents."""
        return isinstance(other, Captured) and self.mark == other.mark

    def __hash__(self) -> int:
        """By contents."""
        return hash(self.mark)

    def fresh(self, memo: dict[int, Any]) -> "Captured":
        """The same with its arrays copied; itself where it captures none."""
        model = _fresh(self.model, memo)
        if model is self.model:
            return self
        found = copy.copy(self)
        found.model = model
        return found


def _contents(model: Any) -> list[Any]:
    """Parts of a model, in one order; what comes again by the number of its place."""
    told: list[Any] = []
    seen: dict[int, int] = {}
    waiting = [model]
    while waiting:
        value = waiting.pop()
        if isinstance(value, PLAIN):
            told.append(value)
        elif id(value) in seen:
            told.append(("again", seen[id(value)]))
        else:
            seen[id(value)] = len(told)
            head, parts = _taken_apart(value)
            told.append(head)
            waiting.extend(reversed(parts))
    return told


class _Same:
    """An object that counts by its identity, whatever it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _identity(value: Any) -> int:
    return id(value.value if isinstance(value, _Same) else value)


def _taken_apart(value: Any) -> tuple[Any, list[Any]]:
    """Marks that tell a captured value from others, and its parts, which do as well."""
    kind = type(value)
    if isinstance(value, jax.core.Tracer):
        return _Same(value), []
    if isinstance(value, types.FunctionType):
        if _is_ours(value.__code__.co_filename):
            return value, []
        names = [n for n in dict.fromkeys(_names(value.__code__)) if n in value.__globals__]
        cells = [_content_of(cell) for cell in value.__closure__ or ()]
        own = [value.__globals__[name] for name in names]
        return (
            ("function", _code(value.__code__), names, len(cells)),
            [*own, *cells, value.__defaults__, value.__kwdefaults__],
        )
    if isinstance(value, types.MethodType):
        return "method", [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return ("partial", kind), [value.func, value.args, value.keywords]
    if isinstance(value, types.ModuleType):
        path = getattr(value, "__file__", None)
        if path is None or _is_ours(path):
            return _Same(value), []
        return ("module", list(vars(value))), list(vars(value).values())
    if kind is tuple:
        return ("tuple", len(value)), list(value)
    if kind is dict:
        return ("dict", len(value)), [part for pair in value.items() for part in pair]
    if kind is list:
        parts = [one for one in value if not isinstance(one, PLAIN)]
        return (_Same(value), len(parts)), parts
    if isinstance(value, type | jax.stages.Wrapped | Mapping | Sequence | np.ndarray | jax.Array):
        return value, []
    if hasattr(value, "__dict__") and (callable(value) or not _is_installed(kind)):
        held = {name: one for name, one in vars(value).items() if name != STATE.get(kind)}
        # Of other kinds than the user's there may be more than attributes tell.
        alike = value if _is_installed(kind) else None
        return (_Same(alike), kind, list(held)), list(held.values())
    return value, []


def _content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # A name that has no value yet.
        return None


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """Code of a function, wherever it was written."""
    consts = [_code(one) if isinstance(one, types.CodeType) else one for one in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, tuple(consts)


def _fresh(value: Any, memo: dict[int, Any]) -> Any:
    """A captured value with its arrays copied, itself where it holds none."""
    if id(value) in memo:
        return memo[id(value)]
    memo[id(value)] = value  # What refers to itself, until it is known better.
    found: Any
    if isinstance(value, Captured):
        found = value.fresh(memo)
    elif isinstance(value, types.FunctionType):
        found = _fresh_function(value, memo)
    elif isinstance(value, types.MethodType):
        owner = _fresh(value.__self__, memo)
        found = value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    elif isinstance(value, functools.partial):
        parts = value.func, value.args, value.keywords
        own = tuple(_fresh(part, memo) for part in parts)
        same = all(a is b for a, b in zip(own, parts, strict=True))
        found = value if same else functools.partial(own[0], *own[1], **own[2])
    elif isinstance(value, types.ModuleType):
        found = _fresh_module(value, memo)
    elif isinstance(value, type | jax.stages.Wrapped):
        found = value
    elif isinstance(value, np.ndarray):
        found = value.copy()
    elif type(value) in (list, tuple):
        items = [_fresh(one, memo) for one in value]
        same = all(a is b for a, b in zip(items, value, strict=True))
        found = value if same else type(value)(items)
    elif type(value) is dict:
        found = {name: _fresh(one, memo) for name, one in value.items()}
        found = value if all(found[name] is one for name, one in value.items()) else found
    elif any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(value)):
        found = fresh_arrays(value)
    elif hasattr(value, "__dict__") and (callable(value) or not _is_installed(type(value))):
        attributes = {name: _fresh(one, memo) for name, one in vars(value).items()}
        found = value
        if any(attributes[name] is not one for name, one in vars(value).items()):
            found = copy.copy(value)
            vars(found).update(attributes)
    else:
        found = value
    memo[id(value)] = found
    return found


def _fresh_function(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    if _is_ours(function.__code__.co_filename):
        return function
    cells = function.__closure__ or ()
    changed = False

    def copied(value: Any) -> Any:
        nonlocal changed
        found = _fresh(value, memo)
        changed |= found is not value
        return found

    own = function.__globals__
    new_globals = {name: copied(own[name]) for name in _names(function.__code__) if name in own}
    new_cells = []
    for cell in cells:
        try:
            new_cells.append(types.CellType(copied(cell.cell_contents)))
        except ValueError:  # A name that has no value yet.
            new_cells.append(cell)
    defaults = copied(function.__defaults__)
    keyword_defaults = copied(function.__kwdefaults__)
    if not changed:
        return function
    found = types.FunctionType(
        function.__code__, {**own, **new_globals}, function.__name__, defaults, tuple(new_cells)
    )
    found.__kwdefaults__ = keyword_defaults
    found.__dict__.update(function.__dict__)
    return found


def _fresh_module(module: types.ModuleType, memo: dict[int, Any]) -> types.ModuleType:
    """A module of the user's with its arrays, and what captures them, copied."""
    path = getattr(module, "__file__", None)
    if path is None or _is_ours(path):
        return module
    fresh = {name: _fresh(one, memo) for name, one in list(vars(module).items())}
    if all(fresh[name] is one for name, one in list(vars(module).items())):
        return module
    found = types.ModuleType(module.__name__)
    vars(found).update(fresh)
    return found


def _is_ours(path: str) -> bool:
    """True for a file that is no user's."""
    return path.startswith((*_INSTALLED, _OWN))


def _is_installed(kind: type) -> bool:
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return path is not None and path.startswith(_INSTALLED)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a code looks up outside of itself, with those of the functions that it defines."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)

"""NumPy arrays that models capture or are given, copied: JAX remembers each in one precision."""

import copy
import functools
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

#: Folders of code that captures no arrays of the user's.
_OWN = str(Path(__file__).parents[2])
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


def _fresh(value: Any, memo: dict[int, Any]) -> Any:
    """A captured value with its arrays copied, itself where it holds none."""
    if id(value) in memo:
        return memo[id(value)]
    memo[id(value)] = value  # What refers to itself, until it is known better.
    found: Any
    if isinstance(value, types.FunctionType):
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
    if function.__code__.co_filename.startswith(_INSTALLED):
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
    if path is None or path.startswith((*_INSTALLED, _OWN)):
        return module
    fresh = {name: _fresh(one, memo) for name, one in list(vars(module).items())}
    if all(fresh[name] is one for name, one in list(vars(module).items())):
        return module
    found = types.ModuleType(module.__name__)
    vars(found).update(fresh)
    return found


def _is_installed(kind: type) -> bool:
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return path is not None and path.startswith(_INSTALLED)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a code looks up outside of itself, with those of the functions that it defines."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)

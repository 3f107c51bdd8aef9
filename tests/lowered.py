"""Cells of the contract, every compiled program of which is lowered for accelerators, too.

A program, run as `python tests/lowered.py CELL ...`: it prints as JSON how many programs each cell
has, and what went wrong. Lowering needs no accelerator; a program that calls back into Python, or
holds an operation that a platform lacks, fails.
"""

import functools
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax

PLATFORMS = ("cuda", "tpu")
_compile = jax.jit
_lowered: list[str] = []
_failed: list[str] = []


class Lowered:
    """A jitted function that is lowered for other platforms, too, for every new kind of input."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function = function
        self.jitted = _compile(function, **options)
        self.seen: set[Any] = set()
        functools.update_wrapper(self, function, updated=())

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else functools.partial(self, owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.jitted, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.check(*args, **kwargs)
        return self.jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """For programs that are compiled before they are called."""
        self.check(*args, **kwargs)
        return self.jitted.lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Likewise."""
        self.check(*args, **kwargs)
        return self.jitted.trace(*args, **kwargs)

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Lower for the platforms, once for every kind of input."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        kinds = [(leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf for leaf in leaves]
        inputs = (structure, tuple(map(str, kinds)), jax.config.jax_enable_x64)
        if inputs in self.seen or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return
        self.seen.add(inputs)
        name = f"{getattr(self.function, '__module__', '')}.{self.__qualname__}"
        _lowered.append(name)
        for platform in PLATFORMS:
            try:
                self.jitted.trace(*args, **kwargs).lower(lowering_platforms=(platform,))
            except Exception as error:
                _failed.append(f"{name} for {platform}: {str(error)[:300]}")


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`jax.jit` for all that is imported after this."""
    # Options of the compiler for a CPU have no place on other platforms.
    options.pop("compiler_options", None)
    return functools.partial(jit, **options) if function is None else Lowered(function, options)


def main(names: list[str]) -> None:
    # After `jit` has taken the place of JAX's.
    from test_contract import CELLS

    from probmf import fit_als, sample_gibbs, sample_nuts
    from probmf.results import RatingsFit

    counts = {}
    for name in names or list(CELLS):
        cell, before = CELLS[name], len(_lowered)
        key = {"key": 0} if "key" in inspect.signature(cell.method).parameters else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = cell.method(cell.model, cell.data, **cell.options | key)
            cell.predict(fit)
            if isinstance(fit, RatingsFit):
                fit.recommend(fit.data.users.ids[:2], k=2, exclude=None)
                fit.recommend(fit.data.users.ids[:2], k=2, exclude=None, rank_by="upper")
            if cell.method in (fit_als, sample_gibbs) and isinstance(fit, RatingsFit):
                again = cell.method(cell.model, cell.data, devices=1, **cell.options | key)
                again.recommend(fit.data.users.ids[:2], k=2, exclude=None, devices=1)
            if "marginalize" in cell.options and cell.method is sample_nuts:
                mesh = jax.make_mesh((1, 1), ("chain", "row"))
                cell.method(cell.model, cell.data, devices=mesh, **cell.options | key)
        counts[name] = len(_lowered) - before
    sys.stdout.write(json.dumps({"programs": counts, "failed": _failed}))


if __name__ == "__main__":
    os.environ["PROBMF_BACKEND"] = "xla"
    jax.jit = jit  # type: ignore[assignment]
    main(sys.argv[1:])

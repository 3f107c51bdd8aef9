"""Traced mixed models, kept: a second call on the same model and data traces nothing.

`compile_cache` keeps compiled programs; to find one by its text, the model must be traced first,
which takes longer than to run it. Here traced things are kept by what they were made from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any

import jax

from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.prepared import argument_fingerprint
from probmf.inference.marginal.transform import MarginalModel
from probmf.inference.potential import Potential
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.models.mixed.program import MixedProgram
from probmf.run.compile_cache import count_numbers

#: So many of a kind are kept, none of more than so many numbers.
MOST_KEPT, MOST_NUMBERS = 4, 2_000_000


@dataclass(frozen=True)
class _Contents:
    """Arguments that are equal where their fingerprints are."""

    mark: str
    arguments: tuple[Any, ...] = field(compare=False)


def kept[T](make: Callable[..., T]) -> Callable[..., T]:
    """Memoize a function of a mixed model, its arguments by their contents, and settings."""

    @lru_cache(MOST_KEPT)
    def made(program: MixedProgram, contents: _Contents, *settings: Any) -> T:
        return make(program, contents.arguments, *settings)

    @wraps(make)
    def found(program: MixedProgram, arguments: tuple[Any, ...], *settings: Any) -> T:
        if count_numbers(arguments) > MOST_NUMBERS:
            return make(program, arguments, *settings)
        mark = argument_fingerprint(arguments, str(jax.config.jax_default_device))
        return made(program, _Contents(mark, arguments), *settings)

    return found


@kept
def kept_density(
    program: MixedProgram, arguments: tuple[Any, ...], sites: tuple[str, ...]
) -> MarginalDensity:
    """The density with sites integrated out, shared by all callers: not to be changed.

    Args:
        program: The model.
        arguments: Its arguments.
        sites: Integrated out.
    """
    marginal = MarginalModel(program, sites)
    potential = Potential(marginal, arguments, {}, mixed_coordinates(program, arguments[0]))
    return MarginalDensity(marginal, arguments, {}, potential)


@kept
def joint_potential(program: MixedProgram, arguments: tuple[Any, ...]) -> Potential:
    """The density of all sites in standard coordinates, shared by all callers: not to be changed.

    Args:
        program: The model.
        arguments: Its arguments.
    """
    return Potential(program, arguments, {}, mixed_coordinates(program, arguments[0]))

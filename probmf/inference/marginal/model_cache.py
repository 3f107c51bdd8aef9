"""Traced mixed models, kept: a second call on the same model and data traces nothing.

`_program.py` keeps compiled programs; to find one by its text, the model must be traced first,
which takes longer than to run it. Here traced things are kept by what they were made from.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

from probmf.inference.marginal import marginalize
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.prepared import argument_fingerprint
from probmf.inference.potential import Potential
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.models import MixedEffects
from probmf.run.compile_cache import count_numbers

#: So many are kept, none of more than so many numbers.
MOST_KEPT, MOST_NUMBERS = 4, 2_000_000
_kept: dict[Any, tuple[MixedEffects, Any]] = {}
_lock = threading.Lock()


def kept[T](kind: str, model: MixedEffects, arguments: tuple[Any, ...], make: Callable[[], T]) -> T:
    """Memoize `make()` by model and arguments.

    Args:
        kind: What is made.
        model: The model that it is made of; priors count as the same if they are the same objects.
        arguments: Its arguments; they count by their contents.
        make: Makes it.

    Returns:
        It, shared by all callers.
    """
    if count_numbers(arguments) > MOST_NUMBERS:
        return make()
    mark = argument_fingerprint(arguments, str(jax.config.jax_default_device))
    key = (kind, _identity(model), mark)
    found = _kept.get(key)
    # The model is held, so that no other prior takes the identity of one of its.
    entry = (model, make()) if found is None else found
    with _lock:
        entry = _kept.pop(key, entry)  # Another thread's, where it was quicker.
        _kept[key] = entry
        while len(_kept) > MOST_KEPT:
            del _kept[next(iter(_kept))]
    value: T = entry[1]
    return value


def kept_density(
    model: MixedEffects, arguments: tuple[Any, ...], sites: tuple[str, ...]
) -> MarginalDensity:
    """The density with sites integrated out.

    Args:
        model: The model.
        arguments: Its arguments.
        sites: Integrated out.

    Returns:
        The density, shared by all callers: not to be changed.
    """

    def make() -> MarginalDensity:
        marginal = marginalize(model, sites)
        coordinates = mixed_coordinates(model, arguments[0])
        potential = Potential(marginal, arguments, {}, coordinates)
        return MarginalDensity(marginal, arguments, {}, potential)

    return kept(f"density without {sites}", model, arguments, make)


def joint_potential(model: MixedEffects, arguments: tuple[Any, ...]) -> Potential:
    """The density of all sites, in standard coordinates.

    Args:
        model: The model.
        arguments: Its arguments.

    Returns:
        The potential, shared by all callers: not to be changed.
    """

    def make() -> Potential:
        return Potential(model, arguments, {}, mixed_coordinates(model, arguments[0]))

    return kept("joint", model, arguments, make)


def _identity(model: MixedEffects) -> tuple[Any, ...]:
    priors: list[Any] = []
    for name, prior in model.priors.items():
        parts = prior.items() if isinstance(prior, Mapping) else ((None, prior),)
        priors += [(name, part, id(one)) for part, one in parts]
    centered = model.centered if isinstance(model.centered, bool) else tuple(model.centered)
    return (model.formula, model.scale_formula, model.likelihood, centered, *priors)

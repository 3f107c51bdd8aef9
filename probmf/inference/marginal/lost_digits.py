"""Log densities of which rounding, or a quadrature, leaves too little: words that name effects."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from probmf.effects.rounding import Rounding
from probmf.inference.marginal.prepared_model import PreparedModel

#: Draws that are looked at.
LOOKED_AT = 3
#: Part of a group's log integral that its nodes may miss, and how far what is missed in all may
#: differ between draws.
MOST_OF_GROUP, MOST_IN_ALL = 0.05, 0.5


def some_of(count: int) -> np.ndarray:
    """Positions of the draws that are looked at, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, LOOKED_AT).astype(int))


def lost_digits(prepared: PreparedModel, found: Sequence[Rounding]) -> str:
    """A sentence about the worst of some points, empty where double precision does.

    Args:
        prepared: The model with its data.
        found: What rounding leaves at the points.
    """
    lost = [rounding for rounding in found if not rounding.is_small]
    if not lost:
        return ""
    worst = max(lost, key=lambda rounding: rounding.error)
    sizes = zip(worst.sizes, prepared.blocks, strict=True)
    # Of effects of groups if there are any: those of all rows have wide priors, which do no harm.
    _, size, block = max(
        ((block.num_groups > 1, size, block) for size, block in sizes), key=lambda one: one[:2]
    )
    names = " and ".join(repr(layout.name) for layout in block.layouts)
    change = f"may change it by {worst.error:.1g}" if np.isfinite(worst.error) else "leaves nothing"
    return (
        "The log density of the observations can't be relied upon, as rounding "
        f"{change}: the effects of {names} have a prior standard deviation of "
        f"{size:.1g} noise scales on the rows of a group, and double precision can't "
        "tell them from others that enter alike. Centre the columns that they are slopes of, or "
        "give their scales a prior of smaller values."
    )


def trouble_of_draws(prepared: PreparedModel, samples: Mapping[str, ArrayLike]) -> str:
    """Trouble with the density that a few draws of the remaining sites tell: rounding, or nodes.

    Nothing is said within a compiled program.

    Args:
        prepared: The model with its data.
        samples: Draws by site, with one or more leading axes.
    """
    if any(isinstance(samples[name], jax.core.Tracer) for name in prepared.latent_shapes):
        return ""
    return lost_digits_of_draws(prepared, samples) or _missed_mass(prepared, samples)


def lost_digits_of_draws(prepared: PreparedModel, samples: Mapping[str, ArrayLike]) -> str:
    """`lost_digits` of a few draws of the remaining sites; nothing is said in single precision."""
    traced = any(isinstance(samples[name], jax.core.Tracer) for name in prepared.latent_shapes)
    if traced or not jax.config.jax_enable_x64:
        return ""
    found = [prepared.rounding(latents) for latents in _looked_at(prepared, samples)]
    return lost_digits(prepared, [rounding for rounding in found if rounding is not None])


def _missed_mass(prepared: PreparedModel, samples: Mapping[str, ArrayLike]) -> str:
    """A sentence about a quadrature that misses a part of some integral at a few draws."""
    each = [prepared.missed(latents) for latents in _looked_at(prepared, samples)]
    found = np.array([one for one in each if one is not None])
    if not found.size:
        return ""
    found = np.where(np.isnan(found), 0.0, found)  # No density there: no draw comes from it.
    off = np.abs(found)
    group = int(np.argmax(np.max(off, axis=0)))
    totals = np.sum(off, axis=1)
    if np.max(off) <= MOST_OF_GROUP and np.ptp(np.sum(found, axis=1)) <= MOST_IN_ALL:
        return ""
    names = " and ".join(repr(layout.name) for layout in prepared.blocks[0].layouts)
    return (
        f"The quadrature over {names} can't be relied upon: its nodes, which lie about the mode of "
        f"each group, miss up to {np.max(totals):.2g} of the log density, and group {group} alone "
        f"{np.max(off):.2g} of its own. Such an integral has several modes, as of outliers, or "
        "tails too long for so many nodes. Leave the site in the model, or give num_nodes more."
    )


def _looked_at(prepared: PreparedModel, samples: Mapping[str, ArrayLike]) -> list[dict[str, Any]]:
    """A few draws of the remaining sites."""
    draws = {
        name: np.reshape(samples[name], (-1, *shape))
        for name, shape in prepared.latent_shapes.items()
    }
    count = min((len(values) for values in draws.values()), default=1)
    return [{name: values[place] for name, values in draws.items()} for place in some_of(count)]

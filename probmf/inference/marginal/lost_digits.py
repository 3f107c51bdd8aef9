"""Log densities of which rounding leaves too little, in words that name the effects."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from probmf.effects.rounding import Rounding
from probmf.inference.marginal.prepared_model import PreparedModel

#: Draws that are looked at.
LOOKED_AT = 3


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


def lost_digits_of_draws(prepared: PreparedModel, samples: Mapping[str, ArrayLike]) -> str:
    """The same about a few draws of the remaining sites.

    Nothing is said in single precision and within a compiled program.

    Args:
        prepared: The model with its data.
        samples: Draws by site, with one or more leading axes.
    """
    traced = any(isinstance(samples[name], jax.core.Tracer) for name in prepared.latent_shapes)
    if traced or not jax.config.jax_enable_x64:
        return ""
    draws = {
        name: np.reshape(samples[name], (-1, *shape))
        for name, shape in prepared.latent_shapes.items()
    }
    count = min((len(values) for values in draws.values()), default=1)
    found = [
        prepared.rounding({name: values[place] for name, values in draws.items()})
        for place in some_of(count)
    ]
    return lost_digits(prepared, [rounding for rounding in found if rounding is not None])

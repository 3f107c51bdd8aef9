"""Coefficients whose likelihood grows without bound, as their columns separate the responses."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probmf.inference.marginal.recession import ROUNDING, open_direction
from probmf.inference.mixed.identifiability import Finding
from probmf.likelihoods.censored import CENSORING, KIND
from probmf.models import MixedEffects
from probmf.models.mixed.design import Design

#: Scores beyond which nothing more happens to a row, seen from where it would lie by itself and in
#: noise scales if there are any, and slopes that count as none there.
FAR, NOTHING = 40.0, 1e-6


def separated_coefficients(
    model: MixedEffects, design: Design, samples: dict[str, Any]
) -> list[Finding]:
    r"""Coefficients along which no row's likelihood ever falls, and some rows' rises.

    A direction b of the coefficients is such a one if :math:`x_n^\top b` is zero in every row but
    those whose log density does not fall with their score on the side to which it moves: yes
    answers upwards, no answers and counts of zero downwards. Whatever the scales of effects are,
    there is then no best value. A linear program finds it.

    Args:
        model: A model whose response is not Gaussian.
        design: Its design.
        samples: A point fit's own parameters, by site.

    Returns:
        One finding that names the coefficients, or none.
    """
    data = design.data
    if not data.mean.names:
        return []
    likelihood = model.likelihood.coded(data.num_levels)
    rating = np.asarray(data.response, np.float64)
    with jax.enable_x64(True):
        own = model.program.parameters_at(data, samples)
        unit = np.asarray(own.get("noise_scale", 1.0), np.float64)
        middle = np.broadcast_to(np.asarray(likelihood.place(rating), np.float64), rating.shape)
        up, down = (
            unit * np.asarray(likelihood.slope(jnp.asarray(end), jnp.asarray(rating), own))
            for end in (middle + FAR * unit, middle - FAR * unit)
        )
    # However wide an interval is, it ends somewhere.
    inside = np.asarray(own.get(KIND, 0.0)) == CENSORING["interval"]
    may_rise, may_fall = (up > -NOTHING) & ~inside, (down < NOTHING) & ~inside
    columns = np.asarray(data.population, np.float64)
    size = np.max(np.abs(columns), axis=0)
    columns = columns / np.where(size > 0, size, 1.0)
    direction = partial(open_direction, columns, may_rise, may_fall)
    ones = np.ones(columns.shape[1])
    move = direction()
    if move is None:
        return []
    moving = np.flatnonzero(np.abs(move) > ROUNDING)
    # Those without which there is no such direction, as one of many may move others along.
    needed = [
        place
        for place in moving
        if direction(np.where(ones.cumsum() == place + 1, 0.0, 1.0)) is None
    ]
    names = [repr(data.mean.names[place]) for place in needed or moving]
    rows = int(np.sum(np.abs(columns @ move) > ROUNDING))
    listed = f"the coefficient{'s' * (len(names) > 1)} {', '.join(names)}"
    text = (
        f"Complete separation: along {listed} the likelihood of {rows:,} of the {len(rating):,} "
        "rows rises without end and that of no row falls, so that there is no best value, and the "
        "one given is where the search stopped. Leave the column out, join levels of a factor, or "
        "use objective='map' or a sampler, where priors hold it."
    )
    return [Finding(frozenset({data.mean.site}), text)]

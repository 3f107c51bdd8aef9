"""Predictive distributions over the levels of ordinal ratings."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from probmf.models.ordinal import Ordinal
from probmf.results.draws import Draws
from probmf.results.mixtures import row_blocks, tails
from probmf.results.row_problem import to_device
from probmf.results.side_ratings import power_of_two


def level_probabilities(
    likelihood: Ordinal,
    mean: Float[np.ndarray, " n"],
    sd: Float[np.ndarray, " n"],
    scales: Mapping[str, Any],
) -> Float[np.ndarray, "n K"]:
    """Probabilities of the levels when scores are Normal(mean, sd).

    Args:
        likelihood: The likelihood.
        mean: Means of the scores.
        sd: Their standard deviations.
        scales: The likelihood's own parameters.

    Returns:
        Lines that sum to one. Few shapes are compiled, whatever n is.
    """
    padding = (0, power_of_two(len(mean)) - len(mean))
    padded = [to_device(np.pad(np.asarray(array), padding)) for array in (mean, sd)]
    own = {name: to_device(np.asarray(value)) for name, value in scales.items()}
    found = _level_probabilities(*padded, own, likelihood=likelihood.canonical())
    chance = np.asarray(found, np.float64)[: len(mean)]
    return chance / chance.sum(axis=1, keepdims=True)


@partial(jax.jit, static_argnames="likelihood")
def _level_probabilities(
    mean: Array, sd: Array, scales: dict[str, Array], *, likelihood: Ordinal
) -> Array:
    return likelihood.level_probabilities(mean, scales, sd)


def averaged_probabilities(
    draws: Draws, likelihood: Ordinal, user: np.ndarray, item: np.ndarray
) -> Float[np.ndarray, "n K"]:
    """Probabilities of the levels of pairs of codes, averaged over the draws."""
    scales = draws.likelihood_scales()
    total = np.zeros((len(user), likelihood.num_levels))
    for rows in row_blocks(len(user), draws.num_draws):
        score, variance = draws.scores(user[rows], item[rows])
        for draw, (mean, sd) in enumerate(zip(score, np.sqrt(variance), strict=True)):
            own = {name: value[draw] for name, value in scales.items()}
            total[rows] += level_probabilities(likelihood, mean, sd, own)
    return total / draws.num_draws


def level_moments(
    likelihood: Ordinal, chance: Float[np.ndarray, "n K"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Means and standard deviations of ratings whose levels have these probabilities."""
    levels = np.asarray(likelihood.levels)
    mean = chance @ levels
    return mean, np.sqrt(np.sum(chance * np.square(levels - mean[:, None]), axis=1))


def level_interval(
    likelihood: Ordinal, chance: Float[np.ndarray, "n K"], interval: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The levels at which the distribution function reaches the tails of a central interval.

    The interval holds at least its probability, as a rule more.
    """
    levels = np.asarray(likelihood.levels)
    below = np.cumsum(chance, axis=1)[:, :-1]
    lower, upper = (levels[np.sum(below < tail, axis=1)] for tail in tails(interval))
    return lower, upper

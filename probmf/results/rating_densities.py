"""Log densities of the training ratings at each draw, and ratings drawn there."""

from typing import Any

import numpy as np

from probmf.data import Ratings
from probmf.likelihoods import Likelihood
from probmf.likelihoods.gaussian import NormalNoise
from probmf.results.draws import Draws
from probmf.results.mixtures import row_blocks


def log_densities(draws: Draws) -> np.ndarray:
    """Log densities of the ratings at each draw; 0 for ratings of weight zero."""
    data, likelihood = draws.data, draws.model.likelihood
    weight = _weights(data)
    scales = _by_draw(draws)
    found = np.empty((draws.num_draws, len(data)), np.float32)
    for rows in row_blocks(len(data), draws.num_draws):
        score, _ = draws.scores(data.user[rows], data.item[rows])
        own = np.where(weight[rows] > 0, weight[rows], 1.0)[None]
        density = likelihood.log_density(score, data.rating[None, rows], own, scales)
        found[:, rows] = np.where(weight[rows] > 0, np.asarray(density), 0.0)
    return _by_chain(draws, found)


def draw_ratings(draws: Draws, rng: np.random.Generator) -> np.ndarray:
    """A rating of each pair at each draw; one of weight zero as if it weighed one."""
    data, likelihood = draws.data, draws.model.likelihood
    weight = _weights(data)
    found = np.empty((draws.num_draws, len(data)), np.float32)
    for rows in row_blocks(len(data), draws.num_draws):
        score, _ = draws.scores(data.user[rows], data.item[rows])
        if isinstance(likelihood, NormalNoise):
            own = np.where(weight[rows] > 0, weight[rows], 1.0)
            noise = draws.noise_scale[:, None] / np.sqrt(own)
            drawn = score + noise * rng.standard_normal(score.shape)
            found[:, rows] = likelihood.from_score(drawn)
        else:
            found[:, rows] = _draw_levels(likelihood, score, _by_draw(draws), rng)
    return _by_chain(draws, found)


def _draw_levels(
    likelihood: Likelihood, score: np.ndarray, scales: dict[str, Any], rng: np.random.Generator
) -> np.ndarray:
    """A level for each score: the number of tails above it that a uniform number lies below."""
    levels = likelihood.levels
    chance, found = rng.random(score.shape), np.full(score.shape, levels[0])
    for level in levels[1:]:
        found[chance < np.asarray(likelihood.tail(score, level, scales))] = level
    return found


def _by_draw(draws: Draws) -> dict[str, Any]:
    """The likelihood's own parameters, to broadcast against scores by draw and row."""
    return {name: value[:, None] for name, value in draws.likelihood_scales().items()}


def _weights(data: Ratings) -> np.ndarray:
    return np.ones(len(data)) if data.weight is None else np.asarray(data.weight)


def _by_chain(draws: Draws, values: np.ndarray) -> np.ndarray:
    first = next(iter(draws.samples.values()))
    return values.reshape(*first.shape[:2], *values.shape[1:])

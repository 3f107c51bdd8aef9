"""Probabilities that a rating is at least so high."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import is_number
from probmf.results.draws import Draws
from probmf.results.exclusions import Exclusions
from probmf.results.mixtures import row_blocks
from probmf.results.plug_in import PlugIn
from probmf.results.ranking import BLOCK_SCORES, top_scores
from probmf.results.ranking_of_draws import draw_blocks, pairs_of_rows, spread_of_strangers
from probmf.results.row_problem import to_device
from probmf.results.side_ratings import power_of_two


def check_at_least(at_least: object) -> float:
    """A threshold for ratings that is a finite number.

    Args:
        at_least: The threshold.

    Returns:
        The threshold as a float.

    Raises:
        ValueError: If it is none.
    """
    if not is_number(at_least):
        raise ValueError(
            f"at_least is {at_least!r}; expected a finite number, the least rating that counts, "
            "such as 4.0."
        )
    return float(at_least)


def tail_probabilities(
    source: PlugIn | Draws,
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    at_least: float,
) -> Float[np.ndarray, " n"]:
    """Probabilities that the ratings of pairs are at least a threshold.

    Args:
        source: The fit. Of a point the score is Normal with its plug-in variance; over draws the
            probabilities at each draw are averaged.
        user: User codes, -1 for new users.
        item: Item codes.
        at_least: The threshold.

    Returns:
        The probabilities. Cost O(draws n d) time; memory is bounded.
    """
    if isinstance(source, PlugIn):
        mean, variance = source.means(user, item)[None], source.variances(user, item)[None]
        scales = {name: value[None] for name, value in source.likelihood_scales().items()}
        return _average(source.conditionals.model.likelihood, mean, variance, at_least, scales)
    scales, found = source.likelihood_scales(), np.empty(len(user))
    for rows in row_blocks(len(user), source.num_draws):
        mean, variance = source.scores(user[rows], item[rows])
        found[rows] = _average(source.model.likelihood, mean, variance, at_least, scales)
    return found


def top_by_probability(
    draws: Draws,
    codes: Int[np.ndarray, " lines"],
    items: Int[np.ndarray, " items"],
    k: int,
    exclusions: Exclusions | None,
    at_least: float,
) -> Int[np.ndarray, "lines k"]:
    """Places in `items` of those whose ratings most probably are at least a threshold.

    Args:
        draws: The draws.
        codes: User codes; -1 is a new user, with the prior of each draw.
        items: Item codes.
        k: How many.
        exclusions: Pairs to leave out, their items as places in `items`.
        at_least: The threshold.

    Returns:
        The places, -1 where none is left. Time O(draws x lines x items x d); memory is bounded.
    """
    size = min(power_of_two(len(codes)), max(8, BLOCK_SCORES // power_of_two(len(items))))
    likelihood = draws.model.likelihood.canonical()
    places = np.empty((len(codes), k), np.int64)
    for start in range(0, len(codes), size):
        part = slice(start, min(start + size, len(codes)))
        own = codes[part]
        new = own < 0
        total = np.zeros((len(own), len(items)))
        for some in draw_blocks(draws, len(own) + len(items)):
            rows = pairs_of_rows(draws, own, items, some)
            scales = jax.tree.map(to_device, draws.likelihood_scales(some))
            total += np.asarray(
                _sum_of_tails(
                    *map(to_device, (*rows, *spread_of_strangers(draws, new, rows[1], some))),
                    scales, to_device(np.asarray(at_least)),
                    likelihood=likelihood, strangers=bool(new.any()),
                )
            )  # fmt: skip
        places[part] = top_scores(total, k, exclusions, part, size)[0]
    return places


@partial(jax.jit, static_argnames=("likelihood", "strangers"))
def _sum_of_tails(
    users: Array, items: Array, spread: Array, lengths: Array, scales: Mapping[str, Array],
    threshold: Array,
    *, likelihood: Likelihood, strangers: bool,
) -> Array:  # fmt: skip
    def add(total: Array, draw: tuple[Any, ...]) -> Any:
        x, y, scale, length, own = draw
        score = x @ y.T
        if not strangers:
            return total + likelihood.tail(score, threshold, own), None
        variance = jnp.square(scale[:, :1]) + jnp.square(scale[:, 1:]) * length[None, :]
        return total + likelihood.tail(score, threshold, own, jnp.sqrt(variance)), None

    start = jnp.zeros((users.shape[1], items.shape[1]), users.dtype)
    return lax.scan(add, start, (users, items, spread, lengths, scales))[0]


def _average(
    likelihood: Likelihood, mean: np.ndarray, variance: np.ndarray, at_least: float,
    scales: Mapping[str, np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Probabilities by column, averaged over the draws in the rows; few shapes are compiled."""
    size = mean.shape[1]
    padding = ((0, 0), (0, power_of_two(size) - size))
    arrays = (np.pad(mean, padding), np.pad(np.sqrt(variance), padding), np.asarray(at_least))
    found = _mean_tail(
        *map(to_device, arrays), jax.tree.map(to_device, dict(scales)),
        likelihood=likelihood.canonical(), exact=not variance.any(),
    )  # fmt: skip
    return np.asarray(found, np.float64)[:size]


@partial(jax.jit, static_argnames=("likelihood", "exact"))
def _mean_tail(
    mean: Array, sd: Array, threshold: Array, scales: Mapping[str, Array],
    *, likelihood: Likelihood, exact: bool,
) -> Array:  # fmt: skip
    def add(total: Array, draw: tuple[Array, Array, Mapping[str, Array]]) -> Any:
        m, s, own = draw
        if exact:
            return total + likelihood.tail(m, threshold, own), None
        return total + likelihood.tail(m, threshold, own, s), None

    return lax.scan(add, jnp.zeros_like(mean[0]), (mean, sd, scales))[0] / len(mean)

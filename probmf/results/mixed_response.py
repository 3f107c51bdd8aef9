"""From draws of a mixed model's linear predictor to the response: means, spreads, intervals."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from probmf.results.mixtures import mixture_quantiles, tails

type Kind = Literal["mean", "response"]
type Level = Literal["groups", "population"]


class Summary(NamedTuple):
    """Mean of rows, and if an interval was asked for their sd and the interval's ends.

    Attributes:
        values: One array, or four.
        probability: Probabilities of the levels of an ordinal response, shape (n, levels).
    """

    values: tuple[np.ndarray, ...]
    probability: np.ndarray | None = None


def summarize(
    likelihood: str,
    predictor: Float[np.ndarray, "draws n"],
    own: Float[np.ndarray, "draws own"] | None,
    levels: tuple[Any, ...],
    interval: float | None,
    kind: Kind,
) -> Summary:
    """Summarize the responses of rows.

    Args:
        likelihood: That of the model.
        predictor: The linear predictor at each draw.
        own: Noise scale, of shape (draws, 1) or (draws, n), or cutpoints.
        levels: Levels of an ordinal response.
        interval: Probability of the interval, or None for means only.
        kind: "mean" for how well the mean is known, "response" for where a response will lie.

    Returns:
        The summary. In closed form given the draws: a response is a mixture over them.
    """
    if likelihood == "ordinal" and own is not None:
        return _ordinal(predictor, own, level_values(levels), interval, kind)
    if likelihood == "bernoulli":
        probability = expit(predictor)
        if kind == "mean" or interval is None:
            return Summary(over_draws(probability, interval))
        mean = probability.mean(axis=0)
        return Summary(discrete(np.stack([1 - mean, mean], axis=1), np.arange(2.0), interval))
    scale = np.zeros((1, 1)) if own is None else own
    if likelihood == "lognormal":
        return Summary(_lognormal(predictor, scale, interval, kind))
    if kind == "mean" or interval is None:
        return Summary(over_draws(predictor, interval))
    sd = np.sqrt(predictor.var(axis=0) + np.mean(np.square(scale), axis=0))
    ends = mixture_quantiles(predictor, scale, tails(interval))
    return Summary((predictor.mean(axis=0), sd, *ends))


def level_values(levels: tuple[Any, ...]) -> Float[np.ndarray, " levels"]:
    """Levels that are numbers as they are, others by their places from 0."""
    if all(isinstance(level, int | float | np.number) for level in levels):
        return np.asarray(levels, np.float64)
    return np.arange(len(levels), dtype=np.float64)


def level_probabilities(
    predictor: Float[np.ndarray, "draws n"], cutpoints: Float[np.ndarray, "draws levels1"]
) -> Float[np.ndarray, "draws n levels"]:
    """Probability of each level under the cumulative logit."""
    below = expit(cutpoints[:, None, :] - predictor[:, :, None])
    ends = np.zeros((*predictor.shape, 1)), np.ones((*predictor.shape, 1))
    return np.diff(np.concatenate([ends[0], below, ends[1]], axis=2), axis=2)


def over_draws(values: np.ndarray, interval: float | None) -> tuple[np.ndarray, ...]:
    """Mean of draws along the first axis; with an interval their sd and quantiles, too."""
    mean = values.mean(axis=0)
    if interval is None:
        return (mean,)
    return (mean, values.std(axis=0), *np.quantile(values, tails(interval), axis=0))


def _lognormal(
    predictor: np.ndarray, scale: np.ndarray, interval: float | None, kind: Kind
) -> tuple[np.ndarray, ...]:
    variance = np.square(scale)
    given = np.exp(predictor + 0.5 * variance)
    if kind == "mean" or interval is None:
        return over_draws(given, interval)
    mean = given.mean(axis=0)
    second = np.mean(np.square(given) * np.exp(variance), axis=0)
    ends = mixture_quantiles(predictor, scale, tails(interval))
    return (mean, np.sqrt(np.maximum(second - np.square(mean), 0.0)), *np.exp(ends))


def _ordinal(
    predictor: np.ndarray,
    cutpoints: np.ndarray,
    values: np.ndarray,
    interval: float | None,
    kind: Kind,
) -> Summary:
    given = level_probabilities(predictor, cutpoints)
    probability = given.mean(axis=0)
    if kind == "mean" or interval is None:
        return Summary(over_draws(given @ values, interval), probability)
    return Summary(discrete(probability, values, interval), probability)


def discrete(
    probability: np.ndarray, values: np.ndarray, interval: float
) -> tuple[np.ndarray, ...]:
    """Mean, sd and quantiles of distributions over a few values."""
    mean = probability @ values
    sd = np.sqrt(np.maximum(probability @ np.square(values) - np.square(mean), 0.0))
    # The last sum may fall short of one by rounding.
    below = np.cumsum(probability, axis=1)[:, :-1]
    ends = [values[np.sum(below < tail, axis=1)] for tail in tails(interval)]
    return (mean, sd, *ends)

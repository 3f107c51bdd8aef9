"""From draws of a mixed model's linear predictor to the response: means, spreads, intervals."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit, ndtr, ndtri

from probmf.models.logistic import expected_sigmoid, expected_slope
from probmf.results.mixtures import mixture_quantiles, tails

type Kind = Literal["mean", "response"]
type Level = Literal["groups", "population"]


#: Nodes of a Normal expectation that has no closed form, and the same with equal weights.
NODES = 64
PLACES, WEIGHTS = np.polynomial.hermite_e.hermegauss(NODES)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
QUANTILES = ndtri((np.arange(NODES) + 0.5) / NODES)


class Given(NamedTuple):
    """Parameters of the rows' responses at each draw.

    Attributes:
        mean: The linear predictor, or its mean over the effects of new groups.
        variance: Its variance by these effects, which are Normal; None without new groups.
        own: Noise scale, of shape (draws, 1) or (draws, n), or cutpoints, or None.
        spread: Variance of the noise scale's logarithm by effects of new groups, or None; `own` is
            then the scale's median.
    """

    mean: Float[np.ndarray, "draws n"]
    variance: Float[np.ndarray, "draws n"] | None
    own: Float[np.ndarray, "draws own"] | None
    spread: Float[np.ndarray, "draws n"] | None = None


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
    given: Given,
    levels: tuple[Any, ...],
    interval: float | None,
    kind: Kind,
) -> Summary:
    """Summarize the responses of rows.

    Args:
        likelihood: That of the model.
        given: What they depend on at each draw.
        levels: Levels of an ordinal response.
        interval: Probability of the interval, or None for means only.
        kind: "mean" for how well the mean is known, "response" for where a response will lie.

    Returns:
        The summary. In closed form given the draws, effects of new groups integrated out: a
        response is a mixture over the draws.
    """
    if likelihood == "ordinal":
        return _ordinal(given, level_values(levels), interval, kind)
    if likelihood == "bernoulli":
        return Summary(_bernoulli(given, interval, kind))
    if likelihood == "lognormal":
        return Summary(_lognormal(given, interval, kind))
    return Summary(_gaussian(given, interval, kind))


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


def _integrated_levels(
    mean: Float[np.ndarray, "draws n"],
    sd: Float[np.ndarray, "draws n"],
    cutpoints: Float[np.ndarray, "draws levels1"],
) -> Float[np.ndarray, "draws n levels"]:
    """The same, averaged over Normal predictors."""
    above = mean[:, :, None] - cutpoints[:, None, :]
    passed = expected_sigmoid(above, sd[:, :, None], ndtr)
    ends = np.ones((*mean.shape, 1)), np.zeros((*mean.shape, 1))
    return -np.diff(np.concatenate([ends[0], passed, ends[1]], axis=2), axis=2)


def over_draws(values: np.ndarray, interval: float | None) -> tuple[np.ndarray, ...]:
    """Mean of draws along the first axis; with an interval their sd and quantiles, too."""
    mean = values.mean(axis=0)
    if interval is None:
        return (mean,)
    return (mean, values.std(axis=0), *np.quantile(values, tails(interval), axis=0))


def _gaussian(given: Given, interval: float | None, kind: Kind) -> tuple[np.ndarray, ...]:
    if interval is None:
        return (given.mean.mean(axis=0),)
    center, variance, noise, weights = _components(given)
    width = np.sqrt(variance if kind == "mean" else variance + np.square(noise))
    mean = np.average(center, axis=0, weights=weights)
    square = np.average(np.square(center - mean) + np.square(width), axis=0, weights=weights)
    return (mean, np.sqrt(square), *mixture_quantiles(center, width, tails(interval), weights))


def _lognormal(given: Given, interval: float | None, kind: Kind) -> tuple[np.ndarray, ...]:
    center, variance, noise, weights = _components(given)
    if kind == "mean" and given.variance is given.spread is None:
        return over_draws(np.exp(center + 0.5 * np.square(noise)), interval)
    if kind == "mean":
        center, width = center + 0.5 * np.square(noise), np.sqrt(variance)
    else:
        width = np.sqrt(variance + np.square(noise))
    # E exp(sigma^2 / 2) is infinite where log(sigma) is Normal.
    endless = np.zeros(1, bool) if given.spread is None else given.spread.any(axis=0)
    square = np.where(endless, 0.0, np.square(width))
    mean = np.average(np.exp(center + 0.5 * square), axis=0, weights=weights)
    second = np.average(np.exp(2 * center + 2 * square), axis=0, weights=weights)
    sd = np.sqrt(np.maximum(second - np.square(mean), 0.0))
    mean, sd = np.where(endless, np.inf, [mean, sd])
    if interval is None:
        return (mean,)
    return (mean, sd, *np.exp(mixture_quantiles(center, width, tails(interval), weights)))


def _bernoulli(given: Given, interval: float | None, kind: Kind) -> tuple[np.ndarray, ...]:
    if given.variance is None:
        known = expit(given.mean)
        if kind == "mean" or interval is None:
            return over_draws(known, interval)
        mean = known.mean(axis=0)
    else:
        width = np.sqrt(given.variance)
        mean = expected_sigmoid(given.mean, width, ndtr).mean(axis=0)
        if interval is None:
            return (mean,)
        if kind == "mean":
            square = mean - expected_slope(given.mean, width).mean(axis=0)
            ends = expit(mixture_quantiles(given.mean, width, tails(interval)))
            return (mean, np.sqrt(np.maximum(square - np.square(mean), 0.0)), *ends)
    return discrete(np.stack([1 - mean, mean], axis=1), np.arange(2.0), interval)


def _components(
    given: Given,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Float[np.ndarray, " components"] | None]:
    """Means, variances, noise scales and weights: draws, or draws at nodes of the noise scale."""
    variance = np.zeros((1, 1)) if given.variance is None else given.variance
    noise = np.zeros((1, 1)) if given.own is None else given.own
    if given.spread is None:
        return given.mean, variance, noise, None
    draws = len(given.mean)
    shift = np.multiply.outer(PLACES, np.sqrt(given.spread))
    center, width = (
        np.tile(np.broadcast_to(x, given.mean.shape), (NODES, 1)) for x in (given.mean, variance)
    )
    scale = (noise * np.exp(shift)).reshape(NODES * draws, -1)
    return center, width, scale, np.repeat(WEIGHTS / draws, draws)


def _ordinal(given: Given, values: np.ndarray, interval: float | None, kind: Kind) -> Summary:
    cutpoints, mean = np.asarray(given.own), given.mean
    if given.variance is None:
        each = level_probabilities(mean, cutpoints)
        probability = each.mean(axis=0)
    else:
        width = np.sqrt(given.variance)
        probability = _integrated_levels(mean, width, cutpoints).mean(axis=0)
    if kind == "response" and interval is not None:
        return Summary(discrete(probability, values, interval), probability)
    if given.variance is None or interval is None:
        found = (probability @ values,) if interval is None else over_draws(each @ values, interval)
        return Summary(found, probability)
    expected = probability @ values
    square, ends = np.zeros_like(expected), []
    for place, weight, quantile in zip(PLACES, WEIGHTS, QUANTILES, strict=True):
        at = level_probabilities(mean + place * width, cutpoints) @ values
        square += weight * np.square(at - expected).mean(axis=0)
        ends.append(level_probabilities(mean + quantile * width, cutpoints) @ values)
    sides = np.quantile(np.concatenate(ends), tails(interval), axis=0)
    return Summary((expected, np.sqrt(square), *sides), probability)


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

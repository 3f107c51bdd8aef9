"""Summaries of responses whose scores are mixtures of Normals: means, sds, intervals, levels.

A fit says of the score of a row that it is Normal at each draw (without variance where all of it
is drawn) and has the likelihood's own parameters beside it. All that follows for the response is
asked of the likelihood here, for every kind of model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtri

from probmf.likelihoods import Likelihood
from probmf.results.mixtures import mixture_quantiles, tails, weighted_quantiles
from probmf.rows.batches import power_of_two

type Kind = Literal["mean", "response"]

#: Nodes of a Normal expectation that has no closed form, and the same with equal weights.
NODES = 64
PLACES, WEIGHTS = np.polynomial.hermite_e.hermegauss(NODES)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
QUANTILES = ndtri((np.arange(NODES) + 0.5) / NODES)
#: The most steps of a search for a quantile, which takes ten as a rule.
MOST_STEPS = 200


class ScoreMixture(NamedTuple):
    """Scores of rows, Normal at each draw, whose weights sum to one; None for zero or equal."""

    mean: Float[np.ndarray, "draws n"]
    sd: Float[np.ndarray, "draws n"] | None
    scales: Mapping[str, np.ndarray]
    weights: Float[np.ndarray, " draws"] | None = None


#: Places of some rows, and their scores, by blocks.
type Mixtures = Iterator[tuple[Int[np.ndarray, " part"], ScoreMixture]]


class Summary(NamedTuple):
    """Mean of rows, and as far as asked for their sd, interval, and probabilities of levels."""

    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"] | None = None
    lower: Float[np.ndarray, " n"] | None = None
    upper: Float[np.ndarray, " n"] | None = None
    probabilities: Float[np.ndarray, "n levels"] | None = None


def summarize(
    likelihood: Likelihood,
    scores: ScoreMixture,
    interval: float | None,
    kind: Kind,
    values: Float[np.ndarray, " levels"] | None = None,
) -> Summary:
    """Summarize the responses of rows.

    "mean" is how well the expected response is known, "response" where a response will lie.
    `values` are numbers that the levels of a discrete response stand for, if not themselves. In
    closed form given the draws where there is one.
    """
    if likelihood.normal:
        return _of_normal(likelihood, scores, interval, kind)
    if not likelihood.levels:
        return _by_tails(likelihood, scores, interval, kind)
    values = np.asarray(likelihood.levels) if values is None else values
    return _of_levels(likelihood, scores, interval, kind, values)


def joined(parts: Sequence[tuple[np.ndarray, Summary]], size: int) -> Summary:
    """One summary of the summaries of some rows each."""
    columns: list[Any] = [None] * len(Summary._fields)
    for place in range(len(columns)):
        for rows, found in parts:
            values = found[place]
            if values is None:
                continue
            if columns[place] is None:
                columns[place] = np.empty((size, *values.shape[1:]))
            columns[place][rows] = values
    return Summary(*columns)


def over_draws(values: np.ndarray, interval: float | None) -> tuple[np.ndarray, ...]:
    """Mean of draws along the first axis; with an interval their sd and quantiles, too."""
    mean = values.mean(axis=0)
    if interval is None:
        return (mean,)
    return (mean, values.std(axis=0), *np.quantile(values, tails(interval), axis=0))


def level_interval(
    probabilities: Float[np.ndarray, "n K"], values: Float[np.ndarray, " K"], interval: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Values at which the distribution function reaches the tails; at least the probability."""
    # The last sum may fall short of one by rounding.
    below = np.cumsum(probabilities, axis=1)[:, :-1]
    lower, upper = (values[np.sum(below < tail, axis=1)] for tail in tails(interval))
    return lower, upper


def evaluate(
    likelihood: Likelihood,
    question: str,
    *arrays: Any,
    scales: Mapping[str, np.ndarray],
    sd: np.ndarray | None = None,
    slope: bool = False,
) -> Any:
    """A method of the likelihood at arrays on the host, in double precision.

    The method called `question` takes the arrays, whose last axis is that of the rows, `scales`
    that broadcast against them, and an `sd` if there is one. With `slope` it is the derivative by
    the first array's elements, each of which its own row depends on alone. Few shapes are compiled,
    whatever the number of rows.
    """
    size = arrays[0].shape[-1]

    def padded(array: np.ndarray) -> np.ndarray:
        array = np.asarray(array, np.float64)
        if array.ndim == 0 or array.shape[-1] != size or size == power_of_two(size):
            return array
        before = ((0, 0),) * (array.ndim - 1)
        return np.pad(array, (*before, (0, power_of_two(size) - size)))

    own = {
        name: np.asarray(value, np.float64) if name in likelihood.labels else padded(value)
        for name, value in scales.items()
    }
    with jax.enable_x64(True):
        given = [padded(array) for array in arrays]
        spread = {} if sd is None else {"sd": padded(sd)}
        found = _evaluate(likelihood.canonical(), question, slope, given, own, spread)
        rows = (*([slice(None)] * (arrays[0].ndim - 1)), slice(size))
        return jax.tree.map(lambda value: np.asarray(value)[rows], found)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluate(
    likelihood: Likelihood, question: str, slope: bool, arrays: list[Any],
    scales: dict[str, Array], spread: dict[str, Array],
) -> Any:  # fmt: skip
    first, *others = arrays

    def asked(first: Array) -> Any:
        return getattr(likelihood, question)(first, *others, scales, **spread)

    return jax.jvp(asked, (first,), (jnp.ones_like(first),))[1] if slope else asked(first)


def _average(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.average(values, axis=0, weights=weights)


def _of_normal(
    likelihood: Any, scores: ScoreMixture, interval: float | None, kind: Kind
) -> Summary:
    center, noise = scores.mean, scores.scales["noise_scale"]
    if interval is None and likelihood.quadratic:
        return Summary(_average(center, scores.weights))
    if kind == "mean":
        expected = evaluate(likelihood, "mean", center, scales=scores.scales)
        if scores.sd is None and scores.weights is None:
            return Summary(*over_draws(expected, interval))
        center, noise = likelihood.to_score(expected), np.zeros((1, 1))
    sd = np.zeros((1, 1)) if scores.sd is None else scores.sd
    width = np.broadcast_to(np.sqrt(np.square(sd) + np.square(noise)), center.shape)
    each, spread = evaluate(
        likelihood, "integrate", center, width, scales={"noise_scale": np.zeros((1, 1))}
    )
    mean = _average(each, scores.weights)
    if interval is None:
        return Summary(mean)
    # Means may be infinite, and then standard deviations are.
    finite = np.isfinite(mean)
    apart = np.where(finite, each, 0.0) - np.where(finite, mean, 0.0)
    with np.errstate(over="ignore"):
        square = _average(np.square(apart) + np.square(spread), scores.weights)
    square = np.where(finite, square, np.inf)
    ends = mixture_quantiles(center, width, tails(interval), scores.weights)
    return Summary(mean, np.sqrt(square), *map(likelihood.from_score, ends))


def _of_levels(
    likelihood: Likelihood,
    scores: ScoreMixture,
    interval: float | None,
    kind: Kind,
    values: np.ndarray,
) -> Summary:
    each = evaluate(
        likelihood, "level_probabilities", scores.mean, scales=scores.scales, sd=scores.sd
    )
    probabilities = _average(each, scores.weights)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    if interval is None:
        return Summary(probabilities @ values, probabilities=probabilities)
    if kind == "response":
        mean = probabilities @ values
        sd = np.sqrt(np.sum(probabilities * np.square(values - mean[:, None]), axis=1))
        ends = level_interval(probabilities, values, interval)
        return Summary(mean, sd, *ends, probabilities)
    if scores.sd is None and scores.weights is None:
        return Summary(*over_draws(each @ values, interval))._replace(probabilities=probabilities)

    def expected(at: np.ndarray) -> np.ndarray:
        found = evaluate(likelihood, "level_probabilities", at, scales=scores.scales)
        return np.asarray(found @ values)

    found = _of_expected(likelihood, scores, each @ values, interval, expected)
    return found._replace(mean=probabilities @ values, probabilities=probabilities)


def tail_probability(
    likelihood: Likelihood, scores: ScoreMixture, at_least: float | Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Probabilities, averaged over draws, that responses reach a number, or one for each row."""
    at = np.asarray(at_least, np.float64)
    at = at if at.ndim == 0 else np.broadcast_to(at, scores.mean.shape)
    found = evaluate(likelihood, "tail", scores.mean, at, scales=scores.scales, sd=scores.sd)
    return _average(found, scores.weights)


def _by_tails(
    likelihood: Likelihood, scores: ScoreMixture, interval: float | None, kind: Kind
) -> Summary:
    """Summary of counts and other numbers, by their moments and tail probabilities."""
    sd = np.zeros((1, 1)) if scores.sd is None else scores.sd
    width = np.broadcast_to(sd, scores.mean.shape)
    each, spread = evaluate(likelihood, "integrate", scores.mean, width, scales=scores.scales)
    mean = _average(each, scores.weights)
    if interval is None:
        return Summary(mean)
    if kind == "mean":

        def expected(at: np.ndarray) -> np.ndarray:
            return np.asarray(evaluate(likelihood, "mean", at, scales=scores.scales))

        if scores.sd is None and scores.weights is None:
            return Summary(*over_draws(expected(scores.mean), interval))
        return _of_expected(likelihood, scores, each, interval, expected)
    with np.errstate(invalid="ignore", over="ignore"):
        square = _average(np.square(each - mean) + np.square(spread), scores.weights)
    square = np.where(np.isfinite(mean), square, np.inf)

    tail = partial(tail_probability, likelihood, scores)
    deviation = np.sqrt(square)
    ends = (quantiles(tail, mean, deviation, p, step=likelihood.step) for p in tails(interval))
    return Summary(mean, deviation, *ends)


def quantiles(
    tail: Callable[[np.ndarray], np.ndarray],
    mean: Float[np.ndarray, " n"],
    sd: Float[np.ndarray, " n"],
    probability: float,
    *,
    step: float,
) -> Float[np.ndarray, " n"]:
    r"""Quantiles of numbers: the least x with :math:`P(r \le x) \ge p`.

    Between the ends that Cantelli's inequality gives for the mean and sd, by secants that are cut
    short where they don't come near (the Illinois rule) and bisection.

    `tail` is P(r >= x) by row; where `sd` is infinite, ends are searched; `step` is 1 of counts,
    and 0 if all between two numbers are numbers. Gives multiples of the step; other numbers within
    1e-8 of the probability, 1e-7 of their size or 1e-8 of the sd.
    """

    def excess(x: np.ndarray) -> np.ndarray:
        return 1.0 - tail(x + step) - probability

    low, high = _ends(excess, mean, sd, probability, step)
    below, above = excess(low), excess(high)
    least = (1e-15 if step else 1e-7) * np.maximum(np.abs(low), np.abs(high))
    floor = step if step else np.where(np.isfinite(sd), 1e-9 * (high - low), 0.0)
    side = np.zeros(len(mean))
    for count in range(MOST_STEPS):
        open_ = high - low > np.maximum(floor, least)
        if not open_.any():
            break
        share = 0.5 if count % 6 == 5 else np.clip(below / (below - above), 0.01, 0.99)
        middle = low + share * (high - low)
        if step:
            middle = np.clip(step * np.floor(middle / step), low + step, high - step)
        found = excess(middle)
        up, down = open_ & (found < 0), open_ & (found >= 0)
        low, below = np.where(up, middle, low), np.where(up, found, below)
        high, above = np.where(down, middle, high), np.where(down, found, above)
        if not step:
            met = open_ & (np.abs(found) <= 1e-8)
            low, high = np.where(met, middle, low), np.where(met, middle, high)
        # The end that stays twice counts half.
        above = np.where(up & (side > 0), 0.5 * above, above)
        below = np.where(down & (side < 0), 0.5 * below, below)
        side = np.where(up, 1.0, np.where(down, -1.0, side))
        least = (1e-15 if step else 1e-7) * np.maximum(np.abs(low), np.abs(high))
    return high


def _ends(
    excess: Callable[[np.ndarray], np.ndarray],
    mean: np.ndarray,
    sd: np.ndarray,
    probability: float,
    step: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers below and at least at the quantile."""
    odds = np.sqrt(probability / (1 - probability))
    finite = np.isfinite(sd)
    # No sd is so small that its ends would be one and the same number.
    half = np.maximum(sd, np.spacing(np.abs(mean)))
    low = np.where(finite, mean - half / odds, -1.0)
    high = np.where(finite, mean + half * odds, 1.0)
    if step:
        low = step * (np.floor(np.maximum(low, 0.0) / step) - 1.0)
        high = step * np.maximum(np.ceil(high / step), 0.0)
    while np.any(short := excess(high) < 0):
        high = np.where(short, high + 2.0 * (high - low) + step, high)
    while np.any(long := excess(low) >= 0):
        low = np.where(long, low - 2.0 * (high - low), low)
    return low, high


def _of_expected(
    likelihood: Likelihood,
    scores: ScoreMixture,
    each: Float[np.ndarray, "draws n"],
    interval: float,
    expected: Callable[[np.ndarray], np.ndarray],
) -> Summary:
    """Mean, sd and interval of the expected response; its means at the draws are `each`."""
    sd = np.zeros((1, 1)) if scores.sd is None else scores.sd
    mean = _average(each, scores.weights)
    if likelihood.has("mean_variance"):
        within = likelihood.mean_variance(scores.mean, sd)
        with np.errstate(invalid="ignore", over="ignore"):
            square = _average(np.square(each - mean) + within, scores.weights)
        square = np.where(np.isfinite(mean), square, np.inf)
        ends = mixture_quantiles(scores.mean, sd, tails(interval), scores.weights)
        lower, upper = (evaluate(likelihood, "mean", end, scales={}) for end in ends)
        return Summary(mean, np.sqrt(square), lower, upper)
    square, drawn = np.zeros_like(mean), []
    nodes = list(zip(PLACES, WEIGHTS, QUANTILES, strict=True)) if sd.any() else [(0.0, 1.0, 0.0)]
    for place, weight, quantile in nodes:
        at, beside = (expected(scores.mean + z * sd) for z in (place, quantile))
        square += weight * _average(np.square(at - mean), scores.weights)
        drawn.append(beside)
    if scores.weights is None:
        ends = np.quantile(np.concatenate(drawn), tails(interval), axis=0)
    else:
        weights = np.tile(scores.weights / len(drawn), len(drawn))
        ends = weighted_quantiles(np.concatenate(drawn), weights, tails(interval))
    return Summary(mean, np.sqrt(square), *ends)

"""Predictions of ratings, from the plug-in uncertainty of a point fit or from many draws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

from probmf.data.ids import read_ids, to_arrow
from probmf.models.ordinal import Ordinal
from probmf.results.asked import check_interval, read_pairs
from probmf.results.chances import chances
from probmf.results.draws import Draws
from probmf.results.events import check_at_least
from probmf.results.levels import (
    averaged_probabilities,
    level_interval,
    level_moments,
    level_probabilities,
)
from probmf.results.mixtures import mixture_quantiles, row_blocks, tails
from probmf.results.plug_in import PlugIn
from probmf.results.side_ratings import power_of_two


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted ratings of pairs, in the order in which they were asked for.

    Attributes:
        user: User ids, shape (n,).
        item: Item ids.
        mean: Expected rating; for yes/no data the probability of a one, averaged over the prior of
            unknown users and items (if an interval was asked for, or there are many draws, over
            all uncertainty of the score).
        sd: Standard deviation of the rating, noise included; None if no interval was asked for.
        lower: Lower end of the interval: for Gaussian ratings of the rating itself, for yes/no
            data of the probability; for ordinal ratings the quantile, which is a level.
        upper: Upper end of the interval.
        known_user: False where the user has no ratings in the fit: the prior is used.
        known_item: False where the item has none.
        probabilities: Of ordinal ratings the probability of each level, shape (n, K), averaged
            over the same uncertainty as `mean`; otherwise None.
        levels: The K levels of ordinal ratings, otherwise None.
        probability: That the rating is at least `at_least`, or None if not asked for.
    """

    user: np.ndarray
    item: np.ndarray
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"] | None
    lower: Float[np.ndarray, " n"] | None
    upper: Float[np.ndarray, " n"] | None
    known_user: Bool[np.ndarray, " n"]
    known_item: Bool[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n K"] | None = None
    levels: tuple[float, ...] | None = None
    probability: Float[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.mean)

    def __repr__(self) -> str:
        """How many there are, the first of them, and how many are guesses from the prior."""
        first = f"{plain_text(self.user[0])} of {plain_text(self.item[0])}: {self.mean[0]:.4g}"
        if self.lower is not None and self.upper is not None:
            first += f" ({self.lower[0]:.4g} to {self.upper[0]:.4g})"
        unknown = int(np.sum(~(self.known_user & self.known_item)))
        guesses = f"; {unknown:,} with a user or item unknown to the fit" if unknown else ""
        return f"Predictions({len(self):,} pairs, the first {first}{guesses})"

    def to_arrow(self) -> pa.Table:
        """The predictions as an Arrow table (`.to_pandas()` and `polars.from_arrow` follow).

        Returns:
            One line per pair, with a column for each field that is not None, and one for the
            probability of each level of ordinal ratings, as "probability_4".

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        columns: dict[str, Any] = {
            "user": ids_to_arrow(self.user, "user"), "item": ids_to_arrow(self.item, "item"),
        }  # fmt: skip
        for name in (
            "mean", "sd", "lower", "upper", "probability", "known_user", "known_item",
        ):  # fmt: skip
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name)
        if self.probabilities is not None and self.levels is not None:
            for place, level in enumerate(self.levels):
                columns[f"probability_{level:g}"] = self.probabilities[:, place]
        return pa.table(columns)


class Moments(NamedTuple):
    """Mean of ratings, and if an interval was asked for their sd and the interval's ends."""

    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"] | None
    lower: Float[np.ndarray, " n"] | None
    upper: Float[np.ndarray, " n"] | None
    probabilities: Float[np.ndarray, "n K"] | None = None


def predict(
    source: PlugIn | Draws, pairs: Any, *, interval: float | None, user: str, item: str,
    at_least: float | None = None,
) -> Predictions:  # fmt: skip
    """Predict pairs; see `Fit.predict`."""
    if at_least is not None:
        at_least = check_at_least(at_least)
    if interval is not None:
        check_interval(interval)
    of = source if isinstance(source, Draws) else source.conditionals
    data, likelihood = of.data, of.model.likelihood
    users, items = read_pairs(pairs, data, user=user, item=item)
    found = (
        summarize_draws(source, users.codes, items.codes, interval)
        if isinstance(source, Draws)
        else summarize_point(source, users.codes, items.codes, interval)
    )
    return Predictions(
        users.ids, items.ids, found.mean, found.sd, found.lower, found.upper,
        source.known("user", users.codes), source.known("item", items.codes),
        found.probabilities, likelihood.levels if isinstance(likelihood, Ordinal) else None,
        None if at_least is None else chances(source, users.codes, items.codes, at_least),
    )  # fmt: skip


def summarize_point(
    plug_in: PlugIn,
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    interval: float | None,
) -> Moments:
    """Ratings of pairs of codes under a point fit."""
    score = plug_in.means(user, item)
    likelihood = plug_in.conditionals.model.likelihood
    if isinstance(likelihood, Ordinal):
        uncertain = plug_in.prior_variances if interval is None else plug_in.variances
        score_sd = np.sqrt(uncertain(user, item))
        scales = plug_in.conditionals.scales
        return _of_levels(
            likelihood, level_probabilities(likelihood, score, score_sd, scales), interval
        )
    if interval is None:
        return Moments(expected(plug_in, score, user, item), None, None, None)
    score_sd = np.sqrt(plug_in.variances(user, item))
    mean, sd = moments(plug_in, score, score_sd)
    return Moments(mean, sd, *interval_ends(plug_in, score, score_sd, interval))


def summarize_draws(
    draws: Draws,
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    interval: float | None,
) -> Moments:
    """Ratings of pairs of codes under many draws: averages and quantiles over the draws."""
    likelihood = draws.model.likelihood
    if isinstance(likelihood, Ordinal):
        chance = averaged_probabilities(draws, likelihood, user, item)
        return _of_levels(likelihood, chance, interval)
    found = np.empty((4, len(user)))
    for rows in row_blocks(len(user), draws.num_draws):
        found[:, rows] = _summarize_block(draws, user[rows], item[rows], interval)
    mean, sd, lower, upper = found
    return Moments(mean, None, None, None) if interval is None else Moments(mean, sd, lower, upper)


def _of_levels(likelihood: Ordinal, chance: np.ndarray, interval: float | None) -> Moments:
    mean, sd = level_moments(likelihood, chance)
    if interval is None:
        return Moments(mean, None, None, None, chance)
    return Moments(mean, sd, *level_interval(likelihood, chance, interval), chance)


def _summarize_block(
    draws: Draws, user: np.ndarray, item: np.ndarray, interval: float | None
) -> list[np.ndarray]:
    likelihood = draws.model.likelihood
    score, variance = draws.scores(user, item)
    nothing = np.full(len(user), np.nan)
    if not likelihood.binary:
        mean = score.mean(axis=0)
        if interval is None:
            return [mean, nothing, nothing, nothing]
        variance += np.square(draws.noise_scale)[:, None]
        sd = np.sqrt(score.var(axis=0) + variance.mean(axis=0))
        return [mean, sd, *mixture_quantiles(score, np.sqrt(variance), tails(interval))]
    given = [np.asarray(likelihood.integrate(m, np.sqrt(v), {})[0])
             for m, v in zip(score, variance, strict=True)]  # fmt: skip
    mean = np.mean(given, axis=0, dtype=np.float64)
    if interval is None:
        return [mean, nothing, nothing, nothing]
    ends = np.empty((2, len(user)))
    drawn = (user < 0) | (item < 0)
    for some in (drawn, ~drawn):
        if some.any():
            ends[:, some] = mixture_quantiles(
                score[:, some], np.sqrt(variance[:, some]), tails(interval)
            )
    return [mean, np.sqrt(mean * (1 - mean)), *np.asarray(likelihood.mean(ends, {}), np.float64)]


def expected(
    plug_in: PlugIn,
    score: Float[np.ndarray, " n"],
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Expected ratings (probabilities for yes/no data) of pairs.

    Args:
        plug_in: The fit.
        score: Scores of the pairs at the fit's values.
        user: User codes.
        item: Item codes.

    Returns:
        Expectations, averaged over the prior of rows without ratings.
    """
    likelihood = plug_in.conditionals.model.likelihood
    if not likelihood.discrete:
        return at_score(plug_in, score)
    score_sd = np.sqrt(plug_in.prior_variances(user, item))
    if isinstance(likelihood, Ordinal):
        chance = level_probabilities(likelihood, score, score_sd, plug_in.conditionals.scales)
        return level_moments(likelihood, chance)[0]
    mean, new = at_score(plug_in, score), score_sd > 0
    if new.any():
        mean[new] = moments(plug_in, score[new], score_sd[new])[0]
    return mean


def at_score(plug_in: PlugIn, score: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Expected ratings (probabilities for yes/no data) at given scores."""
    rows = plug_in.conditionals
    (mean,) = _evenly(lambda scores: (rows.model.likelihood.mean(scores, rows.scales),), score)
    return mean


def moments(
    plug_in: PlugIn, score: Float[np.ndarray, " n"], score_sd: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Means and standard deviations of ratings whose scores are Normal."""
    rows = plug_in.conditionals
    mean, sd = _evenly(
        lambda m, s: rows.model.likelihood.integrate(m, s, rows.scales), score, score_sd
    )
    return mean, sd


def interval_ends(
    plug_in: PlugIn,
    score: Float[np.ndarray, " n"],
    score_sd: Float[np.ndarray, " n"],
    interval: float,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Ends of the interval of the rating, or for yes/no data of the probability of a one."""
    likelihood = plug_in.conditionals.model.likelihood
    if isinstance(likelihood, Ordinal):
        chance = level_probabilities(likelihood, score, score_sd, plug_in.conditionals.scales)
        return level_interval(likelihood, chance, interval)
    if not likelihood.binary:
        return intervals(score, moments(plug_in, score, score_sd)[1], interval)
    lower, upper = intervals(score, score_sd, interval)
    return at_score(plug_in, lower), at_score(plug_in, upper)


def intervals(
    mean: Float[np.ndarray, " n"], sd: Float[np.ndarray, " n"], interval: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Central Normal interval of the given probability."""
    half = float(ndtri(0.5 + interval / 2)) * sd
    return mean - half, mean + half


def ids_to_arrow(ids: np.ndarray, name: str) -> pa.Array:
    """Ids as an Arrow array that reads back as the same ids."""
    if not len(ids):
        return pa.nulls(0)
    return to_arrow(read_ids(ids, f"the column of {name}s"))


def plain_text(value: object) -> str:
    """An id as a message should show it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _evenly(
    function: Callable[..., tuple[Any, ...]], *arrays: Float[np.ndarray, " n"]
) -> list[Int[np.ndarray, " n"]]:
    """Apply an elementwise JAX function; few shapes are compiled, whatever n is."""
    size = len(arrays[0])
    padded = [np.pad(array, (0, power_of_two(size) - size)) for array in arrays]
    return [np.asarray(values, np.float64)[:size] for values in function(*padded)]

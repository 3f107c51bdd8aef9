"""Predictions of ratings, from the plug-in uncertainty of a point fit or from many draws."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from probmf.likelihoods import Likelihood
from probmf.results.asked import check_interval, read_pairs
from probmf.results.draws import Draws
from probmf.results.mixtures import mixture_quantiles, row_blocks, tails
from probmf.results.plug_in import PlugIn
from probmf.results.predictions import Predictions
from probmf.results.probabilities import check_at_least, tail_probabilities
from probmf.results.summaries import ScoreMixture, Summary, evaluate, summarize


def predict(
    source: PlugIn | Draws, pairs: Any, *, interval: float | None, user: str, item: str,
    at_least: float | None = None,
) -> Predictions:  # fmt: skip
    """Predict pairs; see `RatingsFit.predict`."""
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
    known_user, known_item = source.known("user", users.codes), source.known("item", items.codes)
    ordered = likelihood.discrete and not likelihood.binary
    return Predictions(
        mean=found.mean, sd=found.sd, lower=found.lower, upper=found.upper,
        probabilities=found.probabilities if ordered else None,
        levels=likelihood.levels if ordered else (),
        probability=None
        if at_least is None
        else tail_probabilities(source, users.codes, items.codes, at_least),
        user=users.ids, item=items.ids, known_user=known_user, known_item=known_item,
        known=known_user & known_item,
    )  # fmt: skip


def summarize_point(
    plug_in: PlugIn,
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    interval: float | None,
) -> Summary:
    """Ratings of pairs of codes under a point fit."""
    likelihood = plug_in.conditionals.model.likelihood
    score = plug_in.means(user, item)
    if interval is None and likelihood.quadratic:
        return Summary(score)
    uncertain = plug_in.prior_variances if interval is None else plug_in.variances
    return summarize_scores(plug_in, score, np.sqrt(uncertain(user, item)), interval)


def summarize_scores(
    plug_in: PlugIn,
    score: Float[np.ndarray, " n"],
    score_sd: Float[np.ndarray, " n"],
    interval: float | None,
) -> Summary:
    """Ratings whose scores are Normal, with the parameters of a point fit."""
    scales = {name: value[None, None] for name, value in plug_in.likelihood_scales().items()}
    mixture = ScoreMixture(score[None], score_sd[None] if score_sd.any() else None, scales)
    return _summarize(plug_in.conditionals.model.likelihood, mixture, interval)


def summarize_draws(
    draws: Draws,
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    interval: float | None,
) -> Summary:
    """Ratings of pairs of codes under many draws: averages and quantiles over the draws."""
    likelihood = draws.model.likelihood
    scales = {name: value[:, None] for name, value in draws.likelihood_scales().items()}
    parts = []
    # Pairs with a row from the prior have quantiles of their own kind; the others those of draws.
    for some in (np.flatnonzero(drawn) for drawn in _by_kind(user, item)):
        for rows in row_blocks(len(some), draws.num_draws * max(1, likelihood.num_levels)):
            part = some[rows]
            score, variance = draws.scores(user[part], item[part])
            sd = np.sqrt(variance) if variance.any() else None
            found = _summarize(likelihood, ScoreMixture(score, sd, scales), interval)
            parts.append((part, found))
    return _joined(parts, len(user))


def _by_kind(user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    drawn = (user < 0) | (item < 0)
    return drawn, ~drawn


def _joined(parts: list[tuple[np.ndarray, Summary]], size: int) -> Summary:
    """Summaries of some rows each, in the order of all rows."""
    columns: list[Any] = []
    for place in range(len(Summary._fields)):
        columns.append(None)
        for rows, found in parts:
            values = found[place]
            if values is None:
                continue
            if columns[-1] is None:
                columns[-1] = np.empty((size, *values.shape[1:]))
            columns[-1][rows] = values
    return Summary(*columns)


def _summarize(likelihood: Likelihood, scores: ScoreMixture, interval: float | None) -> Summary:
    """Summary of ratings; for yes/no data the interval is that of the probability."""
    found = summarize(likelihood, scores, interval, "response")
    if interval is None or not likelihood.binary:
        return found
    # Quantiles of the score give those of the probability, whichever its mean is.
    sd = np.zeros((1, 1)) if scores.sd is None else scores.sd
    ends = mixture_quantiles(scores.mean, sd, tails(interval))
    lower, upper = (evaluate(likelihood, "mean", end, scales={}) for end in ends)
    return found._replace(lower=lower, upper=upper)


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
    if plug_in.conditionals.model.likelihood.quadratic:
        return score
    return summarize_scores(plug_in, score, np.sqrt(plug_in.prior_variances(user, item)), None).mean


def intervals(
    mean: Float[np.ndarray, " n"], sd: Float[np.ndarray, " n"], interval: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Central Normal interval of the given probability."""
    half = float(ndtri(0.5 + interval / 2)) * sd
    return mean - half, mean + half

"""Predictions and rankings of neural factorizations."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probmf.models.ordinal import Ordinal
from probmf.results.asked import Asked, read_pairs, read_some
from probmf.results.chances import chances
from probmf.results.choices import Exclude, read_choice, read_exclusions
from probmf.results.exclusions import Exclusions
from probmf.results.neural_draws import Scorer
from probmf.results.predict import Moments, Predictions, plain_text, summarize_draws
from probmf.results.recommend import Recommendations, described


def predict_neural(
    scorer: Scorer, pairs: Any, *, interval: float | None, at_least: float | None, user: str,
    item: str,
) -> Predictions:  # fmt: skip
    """Predict pairs; see `NeuralFit.predict`."""
    draws = scorer.draws
    users, items = read_pairs(pairs, draws.data, user=user, item=item)
    found = _summarize(scorer, users.codes, items.codes, interval)
    likelihood = draws.model.likelihood
    return Predictions(
        users.ids, items.ids, found.mean, found.sd, found.lower, found.upper,
        draws.known("user", users.codes), draws.known("item", items.codes),
        found.probabilities, likelihood.levels if isinstance(likelihood, Ordinal) else None,
        None if at_least is None else _chances(scorer, users.codes, items.codes, at_least),
    )  # fmt: skip


def recommend_neural(
    scorer: Scorer,
    users: Any,
    k: int,
    *,
    exclude: Exclude,
    candidates: Any,
    at_least: float | None,
    seen: Exclusions,
) -> Recommendations:
    """The k best items of each user; see `NeuralFit.recommend`."""
    draws = scorer.draws
    data = draws.data
    if users is None:
        asked = Asked(data.users.ids, np.arange(data.num_users, dtype=np.int32))
    else:
        asked = read_some(users, data.users, "users")
    choice = read_choice(candidates, exclude, data)
    items, k = choice.items, choice.count(k)
    exclusions = read_exclusions(choice.exclude, asked, data, seen)
    if exclusions is not None and len(items) < data.num_items:
        exclusions = exclusions.among(items, data.num_items)
    places, best = scorer.top(asked.codes, items, k, exclusions)
    code = np.where(places < 0, -1, items[places])
    if users is not None and (code[:, 0] < 0).any():
        user = plain_text(asked.ids[int(np.argmax(code[:, 0] < 0))])
        raise ValueError(
            f"All {len(items):,} candidates are excluded for user {user}. Give other candidates, "
            "or exclude=None to allow items that were rated already."
        )
    chance = None
    filled = code >= 0
    if at_least is not None:
        own = np.broadcast_to(asked.codes[:, None], code.shape)[filled]
        chance = _chances(scorer, own, code[filled], at_least)
    found = Moments(best[filled], None, None, None)
    return described(draws, data, asked, code, found, chance)


def _summarize(
    scorer: Scorer,
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    interval: float | None,
) -> Moments:
    """Ratings of pairs of codes; of a point fit those with rows of the prior by many draws."""
    user, item = scorer.codes("user", user), scorer.codes("item", item)
    if not scorer.is_point:
        return summarize_draws(scorer.draws, user, item, interval)
    likelihood = scorer.draws.model.likelihood
    mean = np.empty(len(user))
    levels = np.empty((len(user), likelihood.num_levels if isinstance(likelihood, Ordinal) else 0))
    strange = (user < 0) | (item < 0)
    for some, draws in ((~strange, lambda: scorer.draws), (strange, lambda: scorer.for_strangers)):
        if some.any():
            part = summarize_draws(draws(), user[some], item[some], None)
            mean[some] = part.mean
            if part.probabilities is not None:
                levels[some] = part.probabilities
    given = levels if isinstance(likelihood, Ordinal) else None
    return Moments(mean, None, None, None, given)


def _chances(
    scorer: Scorer, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"], at_least: float
) -> Float[np.ndarray, " n"]:
    """Probabilities that the ratings of pairs of codes are at least a threshold."""
    user, item = scorer.codes("user", user), scorer.codes("item", item)
    found = np.empty(len(user))
    strange = (user < 0) | (item < 0)
    for some, own in ((~strange, False), (strange, True)):
        if some.any():
            draws = scorer.for_strangers if own else scorer.draws
            found[some] = chances(draws, user[some], item[some], at_least)
    return found

"""Predictions of ratings by a fit; their intervals come from `prediction_intervals`."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from probmf.results.asked import check_interval, read_pairs
from probmf.results.predictions import Predictions, id_columns
from probmf.results.scores import Scores


def predict(
    scores: Scores, pairs: Any, *, interval: float | None, user: str | None = None,
    item: str | None = None, at_least: float | None = None,
) -> Predictions:  # fmt: skip
    """Predict pairs; see `RatingsFit.predict`."""
    if at_least is not None:
        at_least = scores.check_at_least(at_least)
    if interval is not None:
        check_interval(interval)
    users, items = read_pairs(pairs, scores.data, user=user, item=item)
    found = scores.summary(users.codes, items.codes, interval)
    known_user, known_item = scores.known("user", users.codes), scores.known("item", items.codes)
    likelihood = scores.model.likelihood
    ordered = bool(likelihood.levels) and not likelihood.binary
    if not ordered:
        found = found._replace(probabilities=None)
    return Predictions(
        **found._asdict(), levels=likelihood.levels if ordered else (),
        probability=None if at_least is None else scores.tail(users.codes, items.codes, at_least),
        user=users.ids, item=items.ids, known_user=known_user, known_item=known_item,
        known=known_user & known_item, id_columns=id_columns(scores.data),
    )  # fmt: skip


def intervals(
    mean: Float[np.ndarray, " n"], sd: Float[np.ndarray, " n"], interval: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Ends of a central interval of a Normal."""
    half = float(ndtri(0.5 + interval / 2)) * sd
    return mean - half, mean + half

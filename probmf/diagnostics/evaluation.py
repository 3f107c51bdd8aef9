"""Figures that say how good a fit is on data that it has not seen."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from probmf import metrics
from probmf.data import Ratings
from probmf.diagnostics.remarks import (
    constant_wins,
    events_alone,
    seen_items,
    wide_intervals,
)
from probmf.results import MixedFit, RatingsFit
from probmf.results.exclusions import Exclusions
from probmf.results.held_out import HeldOut, held_out
from probmf.results.ranking import top_products

#: Probabilities of the intervals whose coverage is reported.
LEVELS = (0.5, 0.9)


def evaluation(
    fit: RatingsFit | MixedFit,
    test: Any,
    ks: tuple[int, ...] = (10,),
    *,
    relevant_from: float | None = None,
) -> dict[str, Any]:
    """Every figure that `probmf evaluate` shows.

    Args:
        fit: A fit of ratings, or of a mixed model.
        test: Ratings that it has not seen, or for a mixed model a table with its columns. Users,
            items and groups that it does not know get the prior.
        ks: Lengths of recommendation lists.
        relevant_from: Least rating of a relevant item; None takes every test item, or for yes/no
            data every yes.

    Returns:
        "errors", "constant" (the same of a prediction that is the training mean for all rows),
        "coverage" (by level), and "remarks": sentences on what the figures can't tell. Of ratings
        also counts, "ranking" (by k and measure) and "popular" (the same of lists of the items
        with the most training ratings). Of a fit that ranks only, lists alone are judged.

    Raises:
        TypeError: If the test data are of the wrong type.
        ValueError: If they do not suit the fit's likelihood.
    """
    return judge(fit, test, held_out(fit, test, interval=LEVELS[-1]), ks, relevant_from)


def judge(
    fit: RatingsFit | MixedFit,
    test: Any,
    found: HeldOut,
    ks: tuple[int, ...] = (10,),
    relevant_from: float | None = None,
) -> dict[str, Any]:
    """The figures of `evaluation` from predictions that were made.

    Args:
        fit: See `evaluation`.
        test: See `evaluation`.
        found: Predictions of the test data, with intervals of the last of `LEVELS`.
        ks: See `evaluation`.
        relevant_from: See `evaluation`.

    Returns:
        See `evaluation`.
    """
    result: dict[str, Any] = {"num_ratings": len(found.observed)}
    result |= {"errors": {}, "constant": {}, "coverage": {}}
    remarks = events_alone(found.training, found.observed)
    if not remarks and not (isinstance(fit, RatingsFit) and fit.ranks_only):
        result |= {"errors": found.errors(), "constant": found.constant()}
        if not found.likelihood.binary:
            result["coverage"] = {f"{level:g}": found.covered(level) for level in LEVELS}
        if not found.likelihood.levels:
            ends = (np.asarray(found.predicted.lower), np.asarray(found.predicted.upper))
            remarks += wide_intervals(found.training, *ends, LEVELS[-1])
    remarks = constant_wins(result["errors"], result["constant"]) + remarks
    if isinstance(fit, MixedFit):
        return result | {"remarks": remarks}
    ranking, more = _ranking(fit, test, ks, relevant_from)
    return result | _unknown(found) | ranking | {"remarks": remarks + more}


def _unknown(found: HeldOut) -> dict[str, int]:
    """Numbers of ratings of unknown users and items."""
    count, own = len(found.observed), found.predicted
    return {
        "num_unknown_user": count - int(np.sum(np.asarray(own.known_user))),
        "num_unknown_item": count - int(np.sum(np.asarray(own.known_item))),
    }


def _ranking(
    fit: RatingsFit, test: Ratings, ks: tuple[int, ...], relevant_from: float | None
) -> tuple[dict[str, Any], list[str]]:
    """Measures of the lists of users who have training ratings and a relevant test item."""
    if relevant_from is None and fit.model.likelihood.binary:
        relevant_from = 1.0
    chosen = np.ones(len(test), bool) if relevant_from is None else test.rating >= relevant_from
    words = (
        "every test item" if relevant_from is None else f"test rating at least {relevant_from:g}"
    )
    user = fit.data.users.encode(test.users.ids, unknown="flag")[test.user]
    item = fit.data.items.encode(test.items.ids, unknown="flag")[test.item]
    chosen = chosen & (user >= 0) & (item >= 0)
    # A user or item may be in the vocabulary and have no training rating all the same.
    chosen[chosen] &= (fit.data.user_degree[user[chosen]] > 0) & (
        fit.data.item_degree[item[chosen]] > 0
    )
    users = np.unique(user[chosen])
    result: dict[str, Any] = {
        "relevant": words,
        "num_ranked_users": len(users),
        "ranking": {},
        "popular": {},
    }
    if not len(users):
        return result, []
    pairs = (np.ones(int(chosen.sum())), (np.searchsorted(users, user[chosen]), item[chosen]))
    relevant = csr_array(pairs, shape=(len(users), fit.data.num_items))
    lists = fit.recommend(fit.data.users.decode(users), k=max(ks)).code
    popular = _most_rated(fit.data, users, max(ks))
    for size in ks:
        result["ranking"][str(size)] = _judged(lists, relevant, size)
        result["popular"][str(size)] = _judged(popular, relevant, size)
    # A pair as one number, of training and of test.
    pair = user[chosen].astype(np.int64) * fit.data.num_items + item[chosen]
    trained = fit.data.user.astype(np.int64) * fit.data.num_items + fit.data.item
    return result, seen_items(len(pair), int(np.isin(pair, trained).sum()))


def _judged(lists: np.ndarray, relevant: csr_array, k: int) -> dict[str, float]:
    """Measures of lists of k items."""
    return {
        "recall": metrics.recall_at_k(lists, relevant, k),
        "precision": metrics.precision_at_k(lists, relevant, k),
        "NDCG": metrics.ndcg_at_k(lists, relevant, k),
        "MAP": metrics.map_at_k(lists, relevant, k),
    }


def _most_rated(data: Ratings, users: np.ndarray, k: int) -> np.ndarray:
    """For each user the items with the most ratings, those that the user has rated left out."""
    seen = Exclusions.from_pairs(data.user, data.item, data.num_users).for_lines(users)
    degree = data.item_degree[:, None].astype(np.float64)
    return top_products(np.ones((len(users), 1)), degree, k, seen)[0]

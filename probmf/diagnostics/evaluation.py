"""Figures that say how good a fit is on data that it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from probmf.results.table import Table

#: Probabilities of the intervals whose coverage is reported.
LEVELS = (0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a fit is on data that it has not seen.

    Attributes:
        num_ratings: Number of test ratings, or rows.
        errors: Measures of the predictions by name; None where one is not defined. None of a fit
            that ranks only.
        constant: The same of a prediction that is the training mean for all rows.
        coverage: Shares of the responses inside of predicted intervals, by their probability.
        num_unknown_user: Ratings of users without training ratings.
        num_unknown_item: Ratings of items without.
        relevant: Which test items are relevant, in words; empty for a mixed model.
        num_ranked_users: Users whose lists are judged.
        ranking: Measures of recommendation lists by length and name.
        popular: The same of lists of the items with the most training ratings.
        remarks: Sentences on what the figures can't tell.
    """

    num_ratings: int
    errors: Mapping[str, float | None]
    constant: Mapping[str, float | None]
    coverage: Mapping[str, float]
    num_unknown_user: int = 0
    num_unknown_item: int = 0
    relevant: str = ""
    num_ranked_users: int = 0
    ranking: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    popular: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def error_table(self) -> Table:
        """The errors beside those of the constant."""
        return Table(
            tuple(
                {"measure": name, "this fit": in_digits(value),
                 "constant": in_digits(self.constant[name])}
                for name, value in self.errors.items()
            )
        )  # fmt: skip

    @property
    def coverage_table(self) -> Table:
        """The intervals and what they cover."""
        shares = self.coverage.items()
        return Table(
            tuple({"interval": f"{float(own):.0%}", "covers": f"{s:.1%}"} for own, s in shares)
        )

    @property
    def list_table(self) -> Table:
        """Measures of lists beside those of the most rated items."""
        both = {"this fit": self.ranking, "popular": self.popular}
        return Table(
            tuple(
                {"k": size, "lists": which} | {n: f"{v:.4f}" for n, v in of[size].items()}
                for size in self.ranking
                for which, of in both.items()
            )
        )


def in_digits(value: float | None) -> str:
    """A measure with as many digits as say enough."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.4g}"


def evaluation(
    fit: RatingsFit | MixedFit,
    test: Any,
    ks: tuple[int, ...] = (10,),
    *,
    relevant_from: float | None = None,
    found: HeldOut | None = None,
) -> Evaluation:
    """Every figure that `probmf evaluate` shows.

    Args:
        fit: A fit of ratings, or of a mixed model.
        test: Ratings that it has not seen, or for a mixed model a table with its columns. Users,
            items and groups that it does not know get the prior.
        ks: Lengths of recommendation lists.
        relevant_from: Least rating of a relevant item; None takes every test item, or for yes/no
            data every yes.
        found: Predictions of the test data with intervals of the last of `LEVELS`, if they have
            been made.

    Returns:
        The figures. Of a fit that ranks only, lists alone are judged.

    Raises:
        TypeError: If the test data are of the wrong type.
        ValueError: If they do not suit the fit's likelihood.
    """
    found = held_out(fit, test, interval=LEVELS[-1]) if found is None else found
    errors, constant, coverage = {}, {}, {}
    remarks = events_alone(found.training, found.observed)
    if not remarks and not (isinstance(fit, RatingsFit) and fit.ranks_only):
        errors, constant = found.errors(), found.constant()
        if not found.likelihood.binary:
            coverage = {f"{level:g}": found.covered(level) for level in LEVELS}
        if not found.likelihood.levels:
            ends = (np.asarray(found.predicted.lower), np.asarray(found.predicted.upper))
            remarks += wide_intervals(found.training, *ends, LEVELS[-1])
    remarks = constant_wins(errors, constant) + remarks
    result = Evaluation(len(found.observed), errors, constant, coverage, remarks=remarks)
    if isinstance(fit, MixedFit):
        return result
    known = (np.asarray(found.predicted.known_user), np.asarray(found.predicted.known_item))
    users, items = (int(np.sum(~own)) for own in known)
    result = replace(result, num_unknown_user=users, num_unknown_item=items)
    return _ranked(result, fit, test, ks, relevant_from)


def _ranked(
    result: Evaluation,
    fit: RatingsFit,
    test: Ratings,
    ks: tuple[int, ...],
    relevant_from: float | None,
) -> Evaluation:
    """The same with measures of lists of users who have training ratings and a relevant item."""
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
    result = replace(result, relevant=words, num_ranked_users=len(users))
    if not len(users):
        return result
    pairs = (np.ones(int(chosen.sum())), (np.searchsorted(users, user[chosen]), item[chosen]))
    relevant = csr_array(pairs, shape=(len(users), fit.data.num_items))
    lists = fit.recommend(fit.data.users.decode(users), k=max(ks)).code
    popular = _most_rated(fit.data, users, max(ks))
    # A pair as one number, of training and of test.
    pair = user[chosen].astype(np.int64) * fit.data.num_items + item[chosen]
    trained = fit.data.user.astype(np.int64) * fit.data.num_items + fit.data.item
    more = seen_items(len(pair), int(np.isin(pair, trained).sum()))
    return replace(
        result, ranking={str(size): _judged(lists, relevant, size) for size in ks},
        popular={str(size): _judged(popular, relevant, size) for size in ks},
        remarks=[*result.remarks, *more],
    )  # fmt: skip


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

"""Figures that say how good a fit is on data that it has not seen."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from probmf import metrics
from probmf.data import Ratings
from probmf.likelihoods.base import Predicted
from probmf.results import MixedFit, RatingsFit
from probmf.results.held_out import HeldOut, held_out
from probmf.results.ranking import top_products
from probmf.results.table import Table

#: Probabilities of the intervals whose coverage is reported.
LEVELS = (0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a fit on data that it has not seen, by name; none of a fit that ranks only.

    Ratings count by their weights in errors, as in early stopping.

    Beside them stand those of the training mean and of the mean rating of each item, shares of the
    responses inside of predicted intervals by their probability, and measures of recommendation
    lists by length and name, also of the items with the most training ratings. `relevant` says
    which test items are relevant, in words; remarks what the figures can't tell.
    """

    num_ratings: int
    errors: Mapping[str, float | None]
    constant: Mapping[str, float | None]
    coverage: Mapping[str, float]
    item_means: Mapping[str, float | None] = field(default_factory=dict)
    num_unknown_user: int = 0
    num_unknown_item: int = 0
    relevant: str = ""
    num_ranked_users: int = 0
    ranking: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    popular: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def error_table(self) -> Table:
        """The errors beside those of the constant, and of the items' means."""
        others = {"constant": self.constant, "item mean": self.item_means}
        return Table(
            tuple(
                {"measure": name, "this fit": in_digits(value)}
                | {other: in_digits(own[name]) for other, own in others.items() if own}
                for name, value in self.errors.items()
            )
        )

    @property
    def baselines(self) -> str:
        """The other columns of that table, in words."""
        means = "; item mean: of the item's training ratings, and one more at the constant"
        return f"constant: the training mean{means if self.item_means else ''}"

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
    if value is None or np.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def evaluation(
    fit: RatingsFit | MixedFit,
    test: Any,
    ks: tuple[int, ...] = (10,),
    *,
    relevant_from: float | None = None,
    found: HeldOut | None = None,
) -> Evaluation:
    """Every figure that `probmf evaluate` shows.

    Users, items and groups that the fit does not know get the prior. `relevant_from` is the least
    rating of a relevant item; None takes every test item, or for yes/no data every yes. `found` are
    predictions of the test data with intervals of the last of `LEVELS`, if they have been made. Of
    a fit that ranks only, lists alone are judged.
    """
    test = test.counted if isinstance(test, Ratings) else test
    blocks = _blocks(fit, test, found)
    first, others_of_first = next(blocks)
    errors, coverage = {}, {}
    others: dict[str, dict[str, float | None]] = {"constant": {}}
    observed = test.rating if isinstance(test, Ratings) else first.observed
    remarks = events_alone(first.training, observed)
    judges = not remarks and not (isinstance(fit, RatingsFit) and fit.ranks_only)
    every = itertools.chain([(first, others_of_first)], blocks)
    figures = [_figures(*own, judges=judges) for own in every]
    counts = [own.num_rows for own in figures]
    if judges:
        weights = [own.weight for own in figures]
        errors = _together(first.likelihood, [own.errors for own in figures], weights)
        others = {
            name: _together(first.likelihood, [own.others[name] for own in figures], weights)
            for name in figures[0].others
        }
        names = figures[0].covered
        coverage = {n: _mean([own.covered[n] for own in figures], counts) for n in names}
        if not first.likelihood.levels:
            width = _mean([own.width for own in figures], counts)
            remarks += wide_intervals(first.training, width, LEVELS[-1])
    constant, means = others["constant"], others.get("item mean", {})
    won = baseline_wins(errors, constant, "the constant does")
    if means and not won:
        won = baseline_wins(errors, means, "the items' means do")
    result = Evaluation(
        sum(counts), errors, constant, coverage, item_means=means, remarks=won + remarks
    )
    if isinstance(fit, MixedFit):
        return result
    users, items = (sum(own.unknown[side] for own in figures) for side in (0, 1))
    result = replace(result, num_unknown_user=users, num_unknown_item=items)
    return _ranked(result, fit, test, ks, relevant_from)


def _blocks(
    fit: RatingsFit | MixedFit, test: Any, found: HeldOut | None
) -> Iterator[tuple[HeldOut, dict[str, Predicted]]]:
    """Predictions of test data beside simple ones, of ratings a block at a time if not `found`."""
    parts: Iterator[Any] = iter([test])
    if found is None and isinstance(fit, RatingsFit) and isinstance(test, Ratings):
        # Once for all, so that a message counts rows of the whole.
        fit.model.likelihood.check_ratings(np.asarray(test.rating))
        parts = test.blocks()
    constant: Predicted | None = None
    for part in parts:
        own = held_out(fit, part, interval=LEVELS[-1]) if found is None else found
        if constant is None:
            constant = own.likelihood.constant(own.training, own.weight, 1)
            if isinstance(fit, RatingsFit):
                data = fit.data.counted
                code, count = np.asarray(data.item), data.num_items
                items = own.likelihood.by_group(own.training, own.weight, code, count)
        others = {"constant": _at(constant, np.zeros(len(own.observed), int))}
        if isinstance(fit, RatingsFit):
            # Items that are unknown have the code -1, and their mean is the last one.
            others["item mean"] = _at(items, _codes(fit.data, part, "item")[part.item])
        yield own, others


def _at(one: Predicted, rows: np.ndarray) -> Predicted:
    """Predictions of rows."""
    mean, *more = (None if values is None else values[rows] for values in one)
    return Predicted(np.asarray(mean), *more)


class _Figures(NamedTuple):
    """Figures of a block: of the fit and of simple predictions, or what they are computed from."""

    num_rows: int
    weight: float
    errors: Any
    others: dict[str, Any]
    covered: dict[str, float]
    width: float
    unknown: tuple[int, int]


def _figures(found: HeldOut, others: dict[str, Predicted], *, judges: bool) -> _Figures:
    own, count, unknown = found.predicted, len(found.observed), (0, 0)
    if own.known_user is not None and own.known_item is not None:
        unknown = int(np.sum(~own.known_user)), int(np.sum(~own.known_item))
    given = found.test_weight
    total = float(count if given is None else np.sum(given))
    if not judges:
        return _Figures(count, total, {}, {}, {}, 0.0, unknown)
    if found.likelihood.binary:
        # The area under the ROC curve compares the scores of all rows.
        weight = np.ones(count) if given is None else np.asarray(given)
        means = {"": own.mean} | {name: other.mean for name, other in others.items()}
        scores = {name: (found.observed, np.asarray(mean), weight) for name, mean in means.items()}
        return _Figures(count, total, scores.pop(""), scores, {}, 0.0, unknown)
    width = 0.0
    if not found.likelihood.levels:
        width = float(np.mean(np.asarray(own.upper) - np.asarray(own.lower)))
    covered = {f"{level:g}": found.covered(level) for level in LEVELS}
    errors = {
        name: found.likelihood.errors(found.observed, other, given)
        for name, other in others.items()
    }
    return _Figures(count, total, found.errors(), errors, covered, width, unknown)


def _together(likelihood: Any, parts: list[Any], counts: list[float]) -> dict[str, float | None]:
    """Measures of all rows from those of blocks."""
    if likelihood.binary:
        observed, mean, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        found: dict[str, float | None] = likelihood.errors(observed, Predicted(mean, None), weight)
        return found
    return {
        name: float(np.sqrt(_mean([own[name] ** 2 for own in parts], counts)))
        if name == "RMSE" and len(parts) > 1
        else _mean([own[name] for own in parts], counts)
        for name in parts[0]
    }


def _mean(values: list[float], counts: Sequence[float]) -> float:
    """Mean of all rows from those of blocks."""
    return values[0] if len(values) == 1 else float(np.average(values, weights=counts))


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
    words = (
        "every test item" if relevant_from is None else f"test rating at least {relevant_from:g}"
    )
    # A user or item may be in the vocabulary and have no training rating all the same.
    counted = fit.data.counted
    code = {
        side: np.where(degree[own] > 0, own, -1)
        for side, degree in (("user", counted.user_degree), ("item", counted.item_degree))
        for own in [_codes(fit.data, test, side)]
    }
    # A user who has rated every item in training has none left to be listed.
    full = fit._seen.counts == fit.data.num_items
    num_full, parts = 0, []
    for rows in test.by_user.blocks():
        user, item = code["user"][test.user[rows]], code["item"][test.item[rows]]
        chosen = (user >= 0) & (item >= 0)
        if relevant_from is not None:
            chosen &= test.rating[rows] >= relevant_from
        num_full += len(np.unique(user[chosen & full[user]]))
        chosen &= ~full[user]
        if chosen.any():
            parts.append(_lists(fit, user[chosen], item[chosen], ks))
    result = replace(result, relevant=words, num_ranked_users=sum(own.num_users for own in parts))
    result = replace(result, remarks=[*result.remarks, *left_without_items(num_full)])
    if not parts:
        none = [] if num_full else no_lists(words)
        return replace(result, remarks=[*result.remarks, *none])

    def over_all(which: str) -> dict[str, dict[str, float]]:
        found = [getattr(own, which) for own in parts]
        return {
            str(size): {
                name: float(np.mean(np.concatenate([own[size][name] for own in found])))
                for name in found[0][size]
            }
            for size in ks
        }

    more = seen_items(sum(own.num_pairs for own in parts), sum(own.num_seen for own in parts))
    return replace(
        result, ranking=over_all("own"), popular=over_all("popular"),
        remarks=[*result.remarks, *more],
    )  # fmt: skip


def _codes(data: Ratings, test: Ratings, side: Any) -> np.ndarray:
    """Codes in the training data of the test data's users or items, -1 for unknown ones."""
    known, asked = getattr(data, f"{side}s"), getattr(test, f"{side}s")
    found: np.ndarray = known.encode(asked.ids, unknown="flag")
    return found


class _Lists(NamedTuple):
    """Measures of users' lists, and of the most rated items', and numbers of relevant pairs."""

    num_users: int
    own: dict[int, dict[str, np.ndarray]]
    popular: dict[int, dict[str, np.ndarray]]
    num_pairs: int
    num_seen: int


def _lists(fit: RatingsFit, user: np.ndarray, item: np.ndarray, ks: tuple[int, ...]) -> _Lists:
    """The lists of users judged by their relevant items."""
    data = fit.data
    users, line = np.unique(user, return_inverse=True)
    relevant = csr_array((np.ones(len(line)), (line, item)), shape=(len(users), data.num_items))
    lists = fit.recommend(data.users.decode(users), k=max(ks)).code
    seen = fit._seen.for_lines(users)
    degree = data.counted.item_degree[:, None].astype(np.float64)
    popular = top_products(np.ones((len(users), 1)), degree, max(ks), seen)[0]
    trained_line, trained_item = seen.block(0, len(users))
    # A pair as one number, of training and of test.
    trained = trained_line.astype(np.int64) * data.num_items + trained_item
    num_seen = int(np.isin(line.astype(np.int64) * data.num_items + item, trained).sum())
    own, others = ({k: _judged(one, relevant, k) for k in ks} for one in (lists, popular))
    return _Lists(len(users), own, others, len(line), num_seen)


def _judged(lists: np.ndarray, relevant: csr_array, k: int) -> dict[str, np.ndarray]:
    """Measures of lists of k items, by user."""
    return {
        "recall": metrics.recall_at_k(lists, relevant, k, per_user=True),
        "precision": metrics.precision_at_k(lists, relevant, k, per_user=True),
        "NDCG": metrics.ndcg_at_k(lists, relevant, k, per_user=True),
        "MAP": metrics.map_at_k(lists, relevant, k, per_user=True),
    }


#: Measures that are the better the larger they are.
LARGER = frozenset({"log score", "AUC"})


def baseline_wins(errors: dict[str, Any], others: dict[str, Any], what: str) -> list[str]:
    """A sentence if a simple prediction, such as "the constant does", is better by any measure."""
    both = {name: (own, others[name]) for name, own in errors.items()}
    better = [
        name for name, (own, other) in both.items()
        if own is not None and other is not None
        and ((other > own) if name in LARGER else (other < own))
    ]  # fmt: skip
    if not better:
        return []
    return [
        f"By {' and '.join(better)} {what} better than this fit: the data are too few, "
        "or its scales do not suit them (those of a factorization are learned by sample_gibbs or "
        "fit_variational)."
    ]


def events_alone(training: np.ndarray, observed: np.ndarray) -> list[str]:
    """A sentence if all responses are the same, so that errors would tell nothing."""
    value = training[0]
    if np.any(training != value) or np.any(observed != value):
        return []
    return [
        f"All training and test data are {value:g}, as of events: errors would need pairs that did "
        "not occur as well, so that only lists are judged."
    ]


def wide_intervals(training: np.ndarray, width: float, level: float) -> list[str]:
    """A sentence if the intervals are on average wider than the range of the training responses."""
    span = float(np.ptp(training))
    if not width > span > 0:
        return []
    return [
        f"The {level:.0%} intervals are {width:.3g} wide on average, but all training data lie "
        f"within {span:.3g} ({training.min():g} to {training.max():g}): the fit's scales are far "
        "too large (those of a factorization are learned by sample_gibbs or fit_variational)."
    ]


def seen_items(num_relevant: int, num_seen: int) -> list[str]:
    """A sentence if test pairs were trained on, whose items the lists leave out."""
    if not num_seen:
        return []
    if num_seen == num_relevant:
        return [
            "The fit was trained on every one of these pairs, and lists leave out what a user has "
            "rated: the measures of lists are 0 for that reason alone, and the errors are those of "
            "training. Evaluate on ratings that the fit has not seen."
        ]
    return [
        f"The fit was trained on {num_seen:,} of the {num_relevant:,} relevant pairs, and lists "
        "leave out what a user has rated: these count as missed. Evaluate on ratings that the fit "
        "has not seen."
    ]


def left_without_items(num_users: int) -> list[str]:
    """A sentence if users with relevant items have rated every item, so that no list is theirs."""
    if not num_users:
        return []
    have = "1 user" if num_users == 1 else f"{num_users:,} users"
    return [
        f"{have} with a relevant test item rated every item in training: lists leave out what a "
        "user has rated, so that there is none to judge, and averages are those of other users."
    ]


def no_lists(relevant: str) -> list[str]:
    """A sentence where no list can be judged; `relevant` says which test items are relevant."""
    return [
        f"No list is judged: no test pair is relevant ({relevant}) and of a user and an item with "
        "training ratings."
    ]

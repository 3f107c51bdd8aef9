"""`probmf evaluate`: how good a saved fit is on ratings that it has not seen."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.sparse import csr_array

from probmf import metrics
from probmf.cli import shared_options as options
from probmf.cli.console import heading, note, out, plain_errors, plain_table, say
from probmf.cli.reading import Columns, Source, load_fit, read_ratings, same_kind_of_ids
from probmf.cli.remarks import constant_wins, seen_items, wide_intervals
from probmf.data import Ratings
from probmf.likelihoods.base import Predicted
from probmf.results import RatingsFit
from probmf.results.exclusions import Exclusions
from probmf.results.ranking import top_products

#: Probabilities of the intervals whose coverage is reported.
LEVELS = (0.5, 0.9)


def evaluate(
    directory: options.FitDirectory,
    test: Annotated[Path, typer.Argument(metavar="TEST", help="CSV or Parquet file of ratings.")],
    user: options.SameUserColumn = None,
    item: options.SameItemColumn = None,
    rating: options.SameRatingColumn = None,
    pairs_only: options.PairsOnly = False,
    threshold: options.Threshold = None,
    k: Annotated[
        list[int] | None,
        typer.Option("-k", "--k", min=1, help="Length of the lists to judge; may be repeated."),
    ] = None,
    relevant_from: Annotated[
        float | None,
        typer.Option(help="Test items with at least this rating are relevant. Default: all."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print JSON instead of a table.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Judge a saved fit on test ratings."""
    with plain_errors(debug):
        fit = load_fit(directory)
        source = Source.of(directory)
        rating = None if pairs_only else rating or source.rating
        columns = Columns(user or fit.data.users.column, item or fit.data.items.column, rating)
        data = same_kind_of_ids(read_ratings(test, columns), fit.data)
        if threshold is None and source.threshold is not None:
            threshold = source.threshold
            note(
                f"Ratings of at least {threshold:g} are taken for yes, as in the fit's own; "
                "--threshold sets another value."
            )
        if threshold is not None:
            data = data.binarize(threshold)
        scores = evaluation(fit, data, tuple(k or [10]), relevant_from=relevant_from)
        if as_json:
            typer.echo(json.dumps(_finite(scores), indent=2))
        else:
            show(scores)


def evaluation(
    fit: RatingsFit,
    test: Ratings,
    ks: tuple[int, ...] = (10,),
    *,
    relevant_from: float | None = None,
) -> dict[str, Any]:
    """Every figure that `probmf evaluate` shows.

    Args:
        fit: The fit.
        test: Ratings that it has not seen; users and items that it does not know get the prior.
        ks: Lengths of recommendation lists.
        relevant_from: Least rating of a relevant item; None takes every test item, or for yes/no
            data every yes.

    Returns:
        "errors", "constant" (the same of a prediction that is the training mean for all pairs),
        "coverage" (by level), "ranking" (by k and measure), "popular" (the same of lists of the
        items with the most training ratings), counts, and "remarks": sentences on
        what the figures can't tell. Where unobserved pairs count as zeros only lists are judged.

    Raises:
        ValueError: If the ratings do not suit the fit's likelihood.
    """
    fit.model.likelihood.check_ratings(test.rating)
    predicted = fit.predict(test, interval=LEVELS[-1])
    observed = np.asarray(test.rating)
    result: dict[str, Any] = {
        "num_ratings": len(test),
        "num_unknown_user": len(test) - int(np.sum(np.asarray(predicted.known_user))),
        "num_unknown_item": len(test) - int(np.sum(np.asarray(predicted.known_item))),
    }
    likelihood, remarks = fit.model.likelihood, []
    if fit.model.unobserved_weight:
        result |= {"errors": {}, "constant": {}, "coverage": {}}
    else:
        found = Predicted(predicted.mean, predicted.sd, predicted.probabilities)
        result["errors"] = likelihood.errors(observed, found)
        result["constant"] = likelihood.errors(observed, likelihood.constant(fit.data, len(test)))
        told = {level: fit.predict(test, interval=level) for level in LEVELS[:-1]}
        ends = {
            level: (np.asarray(own.lower), np.asarray(own.upper))
            for level, own in (told | {LEVELS[-1]: predicted}).items()
        }
        result["coverage"] = {
            f"{level:g}": metrics.coverage(observed, *own)
            for level, own in ends.items() if not likelihood.binary
        }  # fmt: skip
        if not likelihood.levels:
            remarks += wide_intervals(fit, *ends[LEVELS[-1]], LEVELS[-1])
    remarks = constant_wins(result["errors"], result["constant"]) + remarks
    ranking, more = _ranking(fit, test, ks, relevant_from)
    return result | ranking | {"remarks": remarks + more}


def show(scores: dict[str, Any]) -> None:
    """Print an evaluation as tables."""
    if scores["errors"]:
        heading(f"Errors of {scores['num_ratings']:,} test ratings")
        table = plain_table("", "this fit", "constant")
        for name, value in scores["errors"].items():
            table.add_row(name, *map(_four_digits, (value, scores["constant"][name])))
        out.print(table)
        say("constant: the training mean for every pair\n", "dim")
    if scores["coverage"]:
        heading("Coverage")
        table = plain_table("interval", "covers")
        for level, share in scores["coverage"].items():
            table.add_row(f"{float(level):.0%}", f"{share:.1%}")
        out.print(table, "")
    if scores["ranking"]:
        names = list(next(iter(scores["ranking"].values())))
        heading(f"Lists of k items, for {scores['num_ranked_users']:,} users")
        table = plain_table("k", "", *names)
        table.columns[1].justify = "left"
        for size, values in scores["ranking"].items():
            for which, own in (("this fit", values), ("popular", scores["popular"][size])):
                table.add_row(size, which, *(f"{own[name]:.4f}" for name in names))
        out.print(table)
        say(f"relevant: {scores['relevant']}; popular: the items with the most ratings", "dim")
    for remark in scores["remarks"]:
        say(f"\n{remark}", "yellow")
    unknown = [(scores[f"num_unknown_{side}"], side) for side in ("user", "item")]
    for count, side in unknown:
        if count:
            note(
                f"{count:,} of the ratings are of a {side} without training ratings: these are "
                "predicted from the prior, and left out of the lists."
            )


def _four_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _finite(scores: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(scores, dict):
        return {name: _finite(value) for name, value in scores.items()}
    return None if isinstance(scores, float) and not np.isfinite(scores) else scores


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

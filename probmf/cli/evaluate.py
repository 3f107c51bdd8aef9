"""`probmf evaluate`: how good a saved fit is on ratings that it has not seen."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from probmf.cli import shared_options as options
from probmf.cli.console import as_printed, heading, note, out, plain_errors, say
from probmf.cli.reading import load_fit, read_test
from probmf.cli.words import in_options
from probmf.diagnostics.evaluation import Evaluation, evaluation


def evaluate(
    directory: options.FitDirectory,
    test: Annotated[
        Path, typer.Argument(metavar="TEST", help="CSV or Parquet file of ratings, or a folder.")
    ],
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
        data = read_test(
            test, fit, directory, user=user, item=item, rating=rating, pairs_only=pairs_only,
            threshold=threshold,
        )  # fmt: skip
        scores = evaluation(fit, data, tuple(k or [10]), relevant_from=relevant_from)
        scores = replace(scores, remarks=[in_options(remark) for remark in scores.remarks])
        if as_json:
            typer.echo(json.dumps(_finite(asdict(scores)), indent=2))
        else:
            show(scores)


def show(scores: Evaluation) -> None:
    """Print an evaluation as tables."""
    if scores.errors:
        heading(f"Errors of {scores.num_ratings:,} test ratings")
        out.print(as_printed(scores.error_table))
        say(f"{scores.baselines}\n", "dim")
    if scores.coverage:
        heading("Coverage")
        out.print(as_printed(scores.coverage_table), "")
    if scores.ranking:
        heading(f"Lists of k items, for {scores.num_ranked_users:,} users")
        out.print(as_printed(scores.list_table, num_left=2))
        say(f"relevant: {scores.relevant}; popular: the items with the most ratings", "dim")
    for remark in scores.remarks:
        say(f"\n{remark}", "yellow")
    for count, side in ((scores.num_unknown_user, "user"), (scores.num_unknown_item, "item")):
        if count:
            note(
                f"{count:,} of the ratings are of a {side} without training ratings: these are "
                "predicted from the prior, and left out of the lists."
            )


def _finite(scores: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(scores, dict):
        return {name: _finite(value) for name, value in scores.items()}
    return None if isinstance(scores, float) and not np.isfinite(scores) else scores

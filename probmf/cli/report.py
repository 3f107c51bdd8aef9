"""`probmf report`: one HTML file of a saved fit."""

from pathlib import Path
from typing import Annotated, Any

import typer

from probmf.cli import shared_options as options
from probmf.cli.console import plain_errors, say
from probmf.cli.reading import check_place, read_rows, read_test
from probmf.report import write_report
from probmf.results import MixedFit, RatingsFit, load


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a fit of ratings or a mixed model.")
    ],
    test: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet file of data that the fit has not seen."),
    ] = None,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write. Default: DIR.html."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    user: options.SameUserColumn = None,
    item: options.SameItemColumn = None,
    rating: options.SameRatingColumn = None,
    pairs_only: options.PairsOnly = False,
    threshold: options.Threshold = None,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Replace a file that is there already.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Write one HTML file about a saved fit, with pictures and tables."""
    with plain_errors(debug):
        target = out_file or Path(f"{str(directory).rstrip('/')}.html")
        if target.exists() and not force:
            raise FileExistsError(f"{target} is there already. Give another name, or --force.")
        check_place(target)
        fit = load(directory)
        if not isinstance(fit, RatingsFit | MixedFit):
            raise ValueError(
                f"{directory} holds a {type(fit).__name__}, and a report is of a fit of ratings or "
                "of a mixed model. In Python probmf.load reads it: "
                "probmf.diagnostics.summary(fit) and the plots of probmf.plots tell of it."
            )
        data: Any = None
        if test is not None and isinstance(fit, MixedFit):
            data = read_rows(test, fit.model, fit.design)
        elif test is not None and isinstance(fit, RatingsFit):
            data = read_test(
                test, fit, directory, user=user, item=item, rating=rating, pairs_only=pairs_only,
                threshold=threshold,
            )  # fmt: skip
        write_report(fit, target, test=data, title=title)
        say(f"Wrote {target}: open it in a browser.")

"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

FitDirectory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder that `probmf fit` or Fit.save wrote.")
]
UserColumn = Annotated[str, typer.Option("--user", metavar="COLUMN", help="Column of user ids.")]
ItemColumn = Annotated[str, typer.Option("--item", metavar="COLUMN", help="Column of item ids.")]
RatingColumn = Annotated[str, typer.Option("--rating", metavar="COLUMN", help="Column of ratings.")]
PairsOnly = Annotated[
    bool, typer.Option("--pairs-only", help="There are no ratings: every pair counts as 1.")
]
WeightColumn = Annotated[
    str | None, typer.Option("--weight", metavar="COLUMN", help="Column of weights.")
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Make ratings yes/no: 1 where they are at least this, else 0."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

FitDirectory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder that `probmf fit` or RatingsFit.save wrote.")
]
# The metavar of flags is empty: "<bool>" looks as if they took a value.
UserColumn = Annotated[str, typer.Option("--user", metavar="COLUMN", help="Column of user ids.")]
ItemColumn = Annotated[str, typer.Option("--item", metavar="COLUMN", help="Column of item ids.")]
RatingColumn = Annotated[str, typer.Option("--rating", metavar="COLUMN", help="Column of ratings.")]
SameUserColumn = Annotated[
    str | None,
    typer.Option("--user", metavar="COLUMN", help="Column of user ids. Default: the fit's."),
]
SameItemColumn = Annotated[
    str | None,
    typer.Option("--item", metavar="COLUMN", help="Column of item ids. Default: the fit's."),
]
SameRatingColumn = Annotated[
    str | None,
    typer.Option("--rating", metavar="COLUMN", help="Column of ratings. Default: the fit's."),
]
PairsOnly = Annotated[
    bool,
    typer.Option("--pairs-only", metavar="", help="There are no ratings: every pair counts as 1."),
]
Force = Annotated[
    bool, typer.Option("--force", metavar="", help="Replace a fit that is there already.")
]
WeightColumn = Annotated[
    str | None, typer.Option("--weight", metavar="COLUMN", help="Column of weights.")
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Make ratings yes/no: 1 where they are at least this, else 0."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")]

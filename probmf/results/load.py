"""Saved fits of every kind, read."""

from os import PathLike
from pathlib import Path
from typing import Any

from probmf.results.formula_code import refuse_foreign_code
from probmf.results.mixed_fit import MixedFit
from probmf.results.network_fit import NetworkFit
from probmf.results.ratings_fit import RatingsFit
from probmf.results.storage import read_fit, unreadable
from probmf.results.training_columns import as_table


def load(path: str | PathLike[str]) -> Any:
    """Read a fit that `save` wrote.

    Args:
        path: The directory.

    Returns:
        The fit, of the class that was saved: `RatingsFit`, `MixedFit` or `NetworkFit`. Its
        predictions are those of the fit that was saved, bit for bit.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If a file is missing, truncated, altered or not of this package, or a formula
            calls anything but formulaic's transforms and functions of NumPy's.

    Example:
        >>> import tempfile
        >>> from probmf import MatrixFactorization, Ratings, fit_als
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit.save(f"{folder}/fit")
        ...     again = load(f"{folder}/fit")
        >>> again.recommend("b", k=1).item.tolist()
        [[2]]
    """
    kind, fields = read_fit(path)
    try:
        if kind == "MixedFit":
            refuse_foreign_code(fields["model"])
            fields["data"] = as_table(fields["data"])
            return MixedFit(design=fields["model"].design(fields["data"]), **fields)
        return {"RatingsFit": RatingsFit, "NetworkFit": NetworkFit}[kind](**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(Path(path), error) from error

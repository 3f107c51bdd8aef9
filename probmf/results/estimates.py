"""`Estimates`: what a mixed model expects at rows, how that changes, and averages of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from probmf.data.column import plain, python_values
from probmf.data.tables import load
from probmf.results.table import SHOWN, Table, Tabular

#: Numbers of each line.
NUMBERS = ("mean", "sd", "lower", "upper")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Estimates(Tabular):
    """Predictions, comparisons or slopes of a mixed model, one line each.

    Attributes:
        what: "predictions", "comparisons" or "slopes".
        response: Name of the response.
        columns: What each line is about, arrays of shape (n,): "term" and "contrast" of comparisons
            and slopes, columns of the data, and the "level" of a probability. A column of the data
            that is called as one of these is here "level of the data".
        mean: The estimates, shape (n,): means over the draws, or of a point fit its own.
        sd: Standard deviations over the draws, or standard errors of a point fit; None without an
            interval, or where a point fit has none.
        lower: Lower ends of the intervals, or None.
        upper: Upper ends, or None.
        interval: Probability of the intervals, or None.
        draws: The estimates at each draw, shape (draws, n), if they were asked for.
        comparison: Name of the comparison, or None of other estimates and of functions.
    """

    what: str
    response: str
    columns: Mapping[str, np.ndarray]
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"] | None = None
    lower: Float[np.ndarray, " n"] | None = None
    upper: Float[np.ndarray, " n"] | None = None
    interval: float | None = None
    draws: Float[np.ndarray, "draws n"] | None = None
    comparison: str | None = None

    def __len__(self) -> int:
        """Number of lines."""
        return len(self.mean)

    def __repr__(self) -> str:
        """The first lines as a table."""
        more = len(self) - SHOWN
        notes = (f"{more:,} more {'row' if more == 1 else 'rows'}",) if more > 0 else ()
        return repr(Table(tuple(self.to_arrow().slice(0, SHOWN).to_pylist()), notes))

    @property
    def _headline(self) -> str:
        told = "" if self.lower is None else f", {self.interval:.0%} intervals"
        what = self.what if len(self) != 1 else self.what.removesuffix("s")
        return f"{len(self):,} {what} of {self.response}{told}"

    def to_arrow(self) -> pa.Table:
        """The estimates as an Arrow table.

        Returns:
            One line each, with the columns that say what it is about, and "mean", "sd", "lower" and
            "upper" as far as there are any.
        """
        columns: dict[str, Any] = {
            name: load(values, f"column {name!r}").to_arrow()
            for name, values in self.columns.items()
        }
        for name in NUMBERS:
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name)
        return pa.table(columns)

    def labels(self) -> list[str]:
        """Each line in words; of many lines the columns that differ are told."""
        every = [python_values(values) for values in self.columns.values()]
        told = [values for values in every if len(set(values)) > 1] or every[:1]
        words = [texts_of(values) for values in told]
        return [", ".join(line) for line in zip(*words, strict=True)]


def texts_of(values: Sequence[Any]) -> list[str]:
    """Values of a column in words, numbers with as many digits as tell them apart."""
    count = len(set(values))
    for digits in range(4, 17):
        found = [f"{v:.{digits}g}" if isinstance(v, float) else str(plain(v)) for v in values]
        if len(set(found)) == count:
            break
    return found

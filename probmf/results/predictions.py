"""`Predictions`, the class that every kind of fit returns: its columns, table and repr."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Shaped

from probmf.data import Ratings
from probmf.data.column import plain
from probmf.data.ids import read_ids, to_arrow
from probmf.results.table import Tabular

#: Fields that summarize the draws; without an interval there is the first only.
SUMMARY = ("mean", "sd", "lower", "upper")


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions(Tabular):
    """Predicted responses of rows, or ratings of pairs, in the order in which they were asked for.

    Attributes:
        mean: Expected response, shape (n,), or (n, responses) for several: of yes/no data the
            probability of a one, of ordered levels the expected level, with levels that are numbers
            as they are, and others counted from 0. Of classes, shape (n, classes), their
            probabilities.
        sd: Standard deviation of the response, noise included, or with kind="mean" that of `mean`
            by the draws; None if no interval was asked for, or a point fit cannot know it.
        lower: Lower end of the interval of the same: for yes/no ratings of the probability, for
            ordered levels the quantile, which is a level; or None.
        upper: Upper end, or None.
        probabilities: Probability of each level or class, shape (n, ..., levels), averaged over
            the same uncertainty as `mean`; None for responses that are numbers.
        levels: The levels or classes in the order of `probabilities`, as the user has them.
        label: The most probable class of a network, in the user's labels, or None.
        probability: That a rating is at least `at_least`, or None if not asked for.
        user: User ids of pairs, or None.
        item: Item ids of pairs, or None.
        known_user: False where the user has no ratings in the fit: the prior is used.
        known_item: False where the item has none.
        known: False where something is new to the fit: a user, an item, or a group.
        draws: Draws of what `mean` is the mean of, shape (draws, n), if they were asked for.
        id_columns: Names of the columns of users and items in the training data.
    """

    mean: Float[np.ndarray, "n ..."]
    sd: Float[np.ndarray, "n ..."] | None = None
    lower: Float[np.ndarray, "n ..."] | None = None
    upper: Float[np.ndarray, "n ..."] | None = None
    probabilities: Float[np.ndarray, "n ... levels"] | None = None
    levels: tuple[Any, ...] = ()
    label: Shaped[np.ndarray, "n ..."] | None = None
    probability: Float[np.ndarray, " n"] | None = None
    user: np.ndarray | None = None
    item: np.ndarray | None = None
    known_user: Bool[np.ndarray, " n"] | None = None
    known_item: Bool[np.ndarray, " n"] | None = None
    known: Bool[np.ndarray, " n"] | None = None
    draws: Float[np.ndarray, "draws n"] | None = None
    id_columns: tuple[str, str] = ("user", "item")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.mean)

    def __repr__(self) -> str:
        """Number of rows, the first of them, and the number of those that are new."""
        rows, whose, new = "rows", "", "with a new group"
        if self.user is not None and self.item is not None:
            rows, new = "pairs", "with a user or item unknown to the fit"
            whose = (
                f"{plain_text(self.user[0])} of {plain_text(self.item[0])}: " if len(self) else ""
            )
        first = ""
        if len(self) and self.label is not None and self.probabilities is not None:
            first = f"{self.label.ravel()[0]} ({np.max(self.probabilities[0]):.2f})"
        elif len(self):
            first = f"{self.mean.ravel()[0]:.4g}"
            if self.lower is not None and self.upper is not None:
                first += f" ({self.lower.ravel()[0]:.4g} to {self.upper.ravel()[0]:.4g})"
        count = 0 if self.known is None else int(np.sum(~self.known))
        told = f"; {count:,} {new}" if count else ""
        return f"Predictions({len(self):,} {rows}, the first {whose}{first}{told})"

    def to_arrow(self) -> pa.Table:
        """The predictions as an Arrow table.

        Returns:
            One line per row, with a column for each field that is not None (numbered from 0 where
            there are several responses), and for levels and classes a column
            "probability of {level}" for each.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        columns: dict[str, Any] = {}
        by_class = self.probabilities is not None and self.mean.shape == self.probabilities.shape
        for name in SUMMARY:
            values = getattr(self, name)
            if values is None or (by_class and name == "mean"):
                continue
            if values.ndim == 1:
                columns[name] = values
                continue
            ends = [f" of {level}" for level in self.levels] if by_class else range(values.shape[1])
            for end, column in zip(ends, values.T, strict=True):
                columns[f"{name}{'' if by_class else ' '}{end}"] = np.ascontiguousarray(column)
        if self.label is not None and self.label.ndim == 1:
            columns["label"] = self.label.tolist()
        if self.probabilities is not None and self.probabilities.ndim == 2:
            for level, column in zip(self.levels, self.probabilities.T, strict=True):
                columns[f"probability of {_plain(level)}"] = np.ascontiguousarray(column)
        flags = ("known_user", "known_item") if self.user is not None else ("known",)
        for name in ("probability", *flags):
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name)
        ids = {name: getattr(self, name) for name in ("user", "item")}
        present = {name: own for name, own in ids.items() if own is not None}
        return pa.table(with_ids(present, self.id_columns, columns))

    @property
    def _num_ids(self) -> int:  # type: ignore[override]
        return 0 if self.user is None else 2


def id_columns(data: Ratings) -> tuple[str, str]:
    """Names of the columns of users and items in the training data."""
    return data.users.column, data.items.column


def with_ids(
    ids: Mapping[str, np.ndarray], own: tuple[str, str], columns: Mapping[str, Any]
) -> dict[str, Any]:
    """Columns of ids before others, called as in the training data where that is possible."""
    names = dict(zip(("user", "item"), own, strict=True))
    if len(set(own)) < 2 or set(own) & columns.keys():
        names = {name: name for name in names}
    read = {
        names[name]: to_arrow(read_ids(of, f"the column of {name}s")) if len(of) else pa.nulls(0)
        for name, of in ids.items()
    }
    return read | dict(columns)


def plain_text(value: object) -> str:
    """An id as a message should show it."""
    return repr(plain(value))


def told_unknown(known: bool | Bool[np.ndarray, " n"]) -> str:
    """For `repr`: that users, or items, have no ratings in the fit; empty if all have some."""
    every = np.atleast_1d(known)
    unknown = int(np.sum(~every))
    if not unknown:
        return ""
    if len(every) == 1:
        return "; no ratings in the fit, so by the prior alone"
    return f"; {unknown:,} of {len(every):,} have no ratings in the fit: by the prior alone"


def _plain(level: Any) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)

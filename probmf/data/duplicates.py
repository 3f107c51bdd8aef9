"""Policies for several ratings of one item by one user."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from probmf.data.column import plain
from probmf.data.ids import first_repeat
from probmf.data.vocabulary import Vocabulary

Duplicates = Literal["error", "first", "last", "mean", "sum"]


class RatingColumns(NamedTuple):
    """The columns of a table of ratings, n rows each."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    weight: np.ndarray | None
    time: np.ndarray | None
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, table: Any) -> "RatingColumns":
        """The columns of a `RatingTable`."""
        return cls(*(getattr(table, name) for name in cls._fields))

    def take(self, rows: np.ndarray | slice) -> "RatingColumns":
        """Some of the rows."""
        kept: dict[str, Any] = {
            name: None if values is None else values[rows]
            for name, values in self._asdict().items()
            if name != "columns"
        }
        return RatingColumns(
            **kept, columns={name: own[rows] for name, own in self.columns.items()}
        )


def resolve_duplicates(
    rows: RatingColumns, users: Vocabulary, items: Vocabulary, policy: Duplicates
) -> RatingColumns:
    """One row for each pair of user and item, in the order of the kept (or first) rows.

    For the policies see `Ratings.from_frame`; the vocabularies are for messages.
    """
    if policy not in get_args(Duplicates):
        names = ", ".join(map(repr, get_args(Duplicates)))
        raise ValueError(f"duplicates is {policy!r}; expected one of {names}.")
    pair = rows.user.astype(np.int64) * len(items) + rows.item
    if not _repeats(pair):
        return rows
    _, first, group = np.unique(pair, return_index=True, return_inverse=True)
    if policy == "error":
        raise ValueError(_message(rows, users, items, group))
    order = np.argsort(first)
    if policy == "first":
        return rows.take(first[order])
    if policy == "last":
        last = np.zeros_like(first)
        last[group] = np.arange(len(pair))  # Of several assignments the last one stays.
        return rows.take(np.sort(last))
    return combine(rows, first, group, mean=policy == "mean").take(order)


def _repeats(pair: np.ndarray) -> bool:
    """True if a number occurs twice; in half the memory of a table of those seen."""
    ordered = np.sort(pair)
    return bool((ordered[1:] == ordered[:-1]).any())


def combine(
    rows: RatingColumns, first: np.ndarray, group: np.ndarray, *, mean: bool
) -> RatingColumns:
    """One row for each pair: means or sums of ratings, sums of weights, the latest times.

    Args:
        rows: The rows.
        first: The first row of each pair.
        group: The pair of each row.
        mean: True for means of ratings.

    Returns:
        The rows, in the order of `first`.
    """
    kept = rows.take(first)
    rating = np.bincount(group, rows.rating)
    weight = None if rows.weight is None else np.bincount(group, rows.weight)
    if mean:
        rating = rating / np.bincount(group)
        if rows.weight is not None and weight is not None:
            # Where all weights are zero the plain mean stays: it will not count anyhow.
            total = np.bincount(group, rows.weight * rows.rating)
            rating = np.divide(total, weight, out=rating, where=weight > 0)
    time = kept.time
    if rows.time is not None and time is not None:
        np.maximum.at(time, group, rows.time)
    return kept._replace(rating=rating, weight=weight, time=time)


def _message(rows: RatingColumns, users: Vocabulary, items: Vocabulary, group: np.ndarray) -> str:
    before, again = first_repeat(group)
    repeated = int((np.bincount(group) > 1).sum())
    user: Any = plain(users.ids[rows.user[again]])
    item: Any = plain(items.ids[rows.item[again]])
    pairs = "1 pair occurs" if repeated == 1 else f"{repeated:,} pairs occur"
    return (
        f"User {user!r} and item {item!r} occur together in rows {before} and {again}; {pairs} "
        "more than once. Choose what a repeated pair means: duplicates='first' or 'last' keeps one "
        "row, 'mean' averages the ratings, 'sum' adds them."
    )

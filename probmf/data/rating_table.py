"""The table of ratings itself: its fields, what must hold of them, and what they add up to."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa

from probmf.data.column import FINITE, LARGEST, refuse, refuse_large
from probmf.data.vocabulary import Vocabulary
from probmf.rows.store import RowStore, sort_rows

#: Ratings of a block.
BLOCK = 1 << 20
NOTHING_CHOSEN = "rows chooses no rating at all; at least one is needed."


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


class RowsByUser(NamedTuple):
    """Row numbers, user after user (None where the table has this order), and where each begins."""

    order: np.ndarray | None
    start: np.ndarray

    def blocks(self) -> Iterator[Any]:
        """Rows by blocks of whole users, of `BLOCK` ratings or of one user."""
        begin, num_rows = 0, int(self.start[-1])
        while begin < num_rows:
            place = int(np.searchsorted(self.start, begin + BLOCK, side="right")) - 1
            end = int(self.start[place])
            if end <= begin:
                end = int(self.start[np.searchsorted(self.start, begin, side="right")])
            rows = slice(begin, end)
            yield rows if self.order is None else self.order[rows]
            begin = end


@dataclass(frozen=True, eq=False, repr=False)
class RatingTable:
    """The fields of `Ratings`, where they are described, checked; and its sums."""

    users: Vocabulary
    items: Vocabulary
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    weight: np.ndarray | None = None
    time: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    user_features: pa.Table | None = None
    item_features: pa.Table | None = None
    #: The same ratings by row, where they were opened so; no field, as any change makes it false.
    rows: ClassVar[RowStore | None] = None

    def __post_init__(self) -> None:
        """Check the fields against each other and freeze the arrays."""
        if not len(self.user):
            raise ValueError("There are no ratings; at least one is needed.")
        fields: dict[str, Any] = {
            "user": _codes(self.user, "user", self.users),
            "item": _codes(self.item, "item", self.items),
            "rating": _finite(self.rating, "rating"),
            "weight": None if self.weight is None else _finite(self.weight, "weight"),
            "time": None if self.time is None else np.asarray(self.time),
        }
        columns = {name: np.asarray(values) for name, values in self.columns.items()}
        for name, values in (fields | columns).items():
            if values is not None and values.shape != (len(self.user),):
                raise ValueError(
                    f"{name} has shape {values.shape}, but user has shape {fields['user'].shape}; "
                    "every column needs one entry per rating."
                )
        if fields["weight"] is not None:
            refuse_weights(fields["weight"], "weight")
        for features, vocabulary in (
            (self.user_features, self.users), (self.item_features, self.items),
        ):  # fmt: skip
            if features is not None and features.num_rows != len(vocabulary):
                raise ValueError(
                    f"{vocabulary.name}_features has {features.num_rows:,} rows, expected one for "
                    f"each of the {len(vocabulary):,} {vocabulary.name}s, in code order."
                )
        for name, values in fields.items():
            object.__setattr__(self, name, None if values is None else _frozen(values))
        frozen = {name: _frozen(values) for name, values in columns.items()}
        object.__setattr__(self, "columns", frozen)

    def __len__(self) -> int:
        """Number of ratings."""
        return len(self.rating)

    @property
    def num_users(self) -> int:
        """Number of users in the vocabulary, rated or not."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        """Number of items in the vocabulary, rated or not."""
        return len(self.items)

    @property
    def num_ratings(self) -> int:
        """Number of ratings."""
        return len(self.rating)

    @cached_property
    def counted(self) -> Self:
        """The same without the ratings of weight zero, which are left out of all fits."""
        if self.weight is None or bool(np.all(self.weight > 0)):
            return self
        return self.select(self.weight > 0)

    @cached_property
    def user_degree(self) -> np.ndarray:
        """Number of ratings of each user, int64 of shape (num_users,)."""
        return _frozen(np.bincount(self.user, minlength=self.num_users))

    @cached_property
    def item_degree(self) -> np.ndarray:
        """Number of ratings of each item, int64 of shape (num_items,)."""
        return _frozen(np.bincount(self.item, minlength=self.num_items))

    @cached_property
    def by_user(self) -> "RowsByUser":
        """The ratings in the order of their users."""
        start = np.concatenate([[0], np.cumsum(self.user_degree)])
        if self.rows is not None or bool(np.all(self.user[1:] >= self.user[:-1])):
            return RowsByUser(None, start)
        return RowsByUser(sort_rows(self.user, self.num_users)[0], start)

    def blocks(self) -> Iterator[Self]:
        """The ratings a block at a time, in their order."""
        for begin in range(0, len(self), BLOCK):
            yield self.select(slice(begin, begin + BLOCK))

    @property
    def density(self) -> float:
        """Share of all pairs of a user and an item that are rated."""
        return self.num_ratings / (self.num_users * self.num_items)

    @property
    def mean(self) -> float:
        """Mean rating, weighted: sum w r / sum w.

        Raises:
            ValueError: If all weights are zero.
        """
        if self.weight is None:
            return float(self.rating.mean())
        total = self.weight.sum()
        if total == 0:
            raise ValueError("All weights are zero, so there is no mean rating; weigh one row.")
        return float(self.weight @ self.rating / total)

    def select(self, rows: Any) -> Self:
        """Some of the ratings, with the same vocabularies and side tables.

        Args:
            rows: Booleans of shape (n,), or row numbers in the order wanted, or a slice.

        Returns:
            Those ratings. Users and items that now have none keep their codes.

        Raises:
            TypeError: If `rows` is neither booleans nor whole numbers.
            ValueError: If nothing is chosen, a row is out of range, or is chosen twice.

        Example:
            >>> from probmf import Ratings
            >>> ratings = Ratings.from_frame({"user": [1, 2], "item": [8, 9], "rating": [5, 1]})
            >>> high = ratings.select(ratings.rating > 2)
            >>> len(high), high.num_users
            (1, 2)
        """
        if isinstance(rows, slice):
            if not len(range(len(self))[rows]):
                raise ValueError(NOTHING_CHOSEN)
            return replace(self, **RatingColumns.of(self).take(rows)._asdict())
        chosen = np.asarray(rows)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
            raise TypeError(
                f"rows has shape {chosen.shape} and type {chosen.dtype}, expected booleans of "
                f"shape ({len(self)},), or row numbers of shape (k,)."
            )
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise ValueError(
                    f"rows has {len(chosen):,} booleans, but there are {len(self):,} ratings."
                )
            chosen = np.flatnonzero(chosen)
        if not len(chosen):
            raise ValueError(NOTHING_CHOSEN)
        if chosen.min() < 0 or chosen.max() >= len(self):
            bad = chosen[(chosen < 0) | (chosen >= len(self))][0]
            raise ValueError(f"Row {bad} is out of range: rows are 0 to {len(self) - 1}.")
        if np.bincount(chosen, minlength=len(self)).max() > 1:
            raise ValueError("rows holds a row twice; to count a rating more often, give weights.")
        return replace(self, **RatingColumns.of(self).take(chosen)._asdict())


def _frozen(values: np.ndarray) -> np.ndarray:
    view = values.view()
    view.flags.writeable = False
    return view


def _codes(values: Any, name: str, vocabulary: Vocabulary) -> np.ndarray:
    codes = np.asarray(values)
    if codes.dtype.kind not in "iu":
        raise TypeError(
            f"{name} is of type {codes.dtype}, expected codes (whole numbers). For a table with "
            "ids use Ratings.from_frame."
        )
    # The extremes first: of a hundred million codes a mask takes more than the answer.
    if len(codes) and (codes.min() < 0 or codes.max() >= len(vocabulary)):
        wrong = (codes < 0) | (codes >= len(vocabulary))
        refuse(wrong, codes, name, f", but codes are 0 to {len(vocabulary) - 1}.")
    return codes.astype(np.int32, copy=False)


def _finite(values: Any, name: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    # Fits add up squares, of residuals that may be several times as large.
    largest = 0.1 * math.sqrt(LARGEST / max(1, numbers.size))
    if numbers.size and not (numbers.min() >= -largest and numbers.max() <= largest):
        refuse(~np.isfinite(numbers.ravel()), numbers.ravel(), name, FINITE)
        refuse_large(numbers.ravel(), name, largest=largest)
    return numbers


def refuse_weights(weight: np.ndarray, what: str) -> None:
    """Raise a ValueError that names the first negative weight."""
    if weight.size and weight.min() < 0:
        problem = ", but a weight can't be negative; zero leaves a rating out of the fit."
        refuse(weight < 0, weight, what, problem)

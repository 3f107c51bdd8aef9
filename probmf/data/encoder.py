"""Fitted encodings of side tables: plain values that a file can hold, applied again to new rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from probmf.data.column import TEXT, Column, plain, refuse, sentence, some_of
from probmf.data.tables import load, require_columns
from probmf.data.vocabulary import Vocabulary

#: Spread of a column, as a share of its size, below which it is constant.
CONSTANT = 1e-12

Policy = Literal["error", "average"]
Kind = Literal["numeric", "categorical", "multi_hot", "text"]
KINDS: tuple[Kind, ...] = ("numeric", "categorical", "multi_hot", "text")


@dataclass(frozen=True)
class ColumnEncoding:
    """The encoding of one column, by its levels, labels or words in order; none of numbers."""

    column: str
    kind: Kind
    levels: tuple[Any, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoded columns, as `year` or `genre[drama]`."""
        if self.kind == "numeric":
            return (self.column,)
        return tuple(f"{self.column}[{level}]" for level in self.levels[self._first :])

    @property
    def _first(self) -> int:
        # Of two levels the second is told by the first.
        return int(self.kind == "categorical" and len(self.levels) < 3)

    def raw(
        self, column: Column, separator: str, unknown: Policy
    ) -> tuple[Float[np.ndarray, "rows columns"], Bool[np.ndarray, " rows"]]:
        """A column encoded, before anything is subtracted, and which rows have a known value."""
        known = ~column.missing()
        if self.kind == "numeric":
            return column.numbers(gaps=True)[:, None], known
        if self.kind == "categorical":
            codes = Vocabulary(self.column, self.levels).encode_known(column)
            if unknown == "error":
                column.refuse(known & (codes < 0), self._unknown)
            return (codes[:, None] == np.arange(self._first, len(self.levels))) * 1.0, codes >= 0
        place = {level: place for place, level in enumerate(self.levels)}
        rows = split(column, separator) if self.kind == "multi_hot" else words(column)
        values = np.zeros((len(rows), len(place)))
        ones = [(r, place[p]) for r, parts in enumerate(rows) for p in parts if p in place]
        values[tuple(np.array(ones, int).reshape(-1, 2).T)] = 1.0
        if self.kind == "multi_hot" and unknown == "error":
            strange = [next((part for part in parts if part not in place), None) for parts in rows]
            is_strange = np.array([part is not None for part in strange], bool)
            refuse(is_strange, strange, column.what, self._unknown, column.row)
        return values, known

    @property
    def _unknown(self) -> str:
        return (
            f", which training had not (it had {some_of(self.levels)}). Correct it, or train with "
            "Features(unknown='average'), which leaves it out."
        )


@dataclass(frozen=True)
class Encoder:
    """Encoding that `Features.fit` learned from a side table; `encode` applies it to any rows.

    Attributes:
        blocks: The columns' encodings.
        separator: What stands between labels.
        missing: What missing values give, see `Features`.
        unknown: What unknown levels give.
    """

    blocks: tuple[ColumnEncoding, ...]
    separator: str
    missing: Policy
    unknown: Policy

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return tuple(name for block in self.blocks for name in block.names)

    def encode(
        self, table: pa.Table | None, vocabulary: Vocabulary
    ) -> Float[np.ndarray, "rows features"]:
        """The features of an aligned side table.

        Args:
            table: The ids first, row i for code i.
            vocabulary: The ids.

        Returns:
            One row per id; the average row is zero.

        Raises:
            TypeError: If a column has another type than in training.
            ValueError: If a column or a value is missing, or a level is unknown.
        """
        names = [block.column for block in self.blocks]
        if table is None:
            raise ValueError(
                f"The features {', '.join(names)} are needed; give {vocabulary.name}_features="
                "table."
            )
        columns = read_features(names, table, vocabulary, self.missing)
        parts = []
        for block, column in zip(self.blocks, columns, strict=True):
            values, known = block.raw(column, self.separator, self.unknown)
            values = (values - np.asarray(block.center)) / np.asarray(block.scale)
            parts.append(np.where(known[:, None], values, 0.0))
        return np.concatenate(parts, axis=1)


def read_features(
    names: Sequence[str], table: pa.Table, vocabulary: Vocabulary, missing: Policy
) -> list[Column]:
    """Columns of an aligned side table, filled unless missing values count as average."""
    what, own = f"{vocabulary.name}_features", vocabulary.name
    require_columns(names, table.column_names, what)
    columns = [
        replace(load(table[name], f"column {name!r} of {what}"), owners=vocabulary)
        for name in names
    ]
    if missing == "average":
        return columns
    advice = "or take the average for it with Features(missing='average')."
    nothing = np.all([column.missing() for column in columns], axis=0)
    if nothing.any():
        raise ValueError(
            f"{sentence(what)} has nothing for {own} {plain(vocabulary.ids[nothing.argmax()])!r} "
            f"({nothing.sum():,} of {len(nothing):,} {own}s lack a row, or all of "
            f"{', '.join(names)}). Add the row, {advice}"
        )
    for column in columns:
        column.refuse_missing(f"fill it, {advice}")
    return columns


def split(column: Column, separator: str) -> list[list[Any]]:
    """Labels of each row: a column of lists, or of text with a separator; none where missing."""
    parts = column.to_list()
    if any(isinstance(own, list) for own in parts):
        return [own or [] for own in parts]
    column.refuse_others({TEXT}, "text")
    return [[label for label in (text or "").split(separator) if label] for text in parts]


def words(column: Column) -> list[list[str]]:
    """Words of each row of a column of text, in small letters, those of one letter left out."""
    column.refuse_others({TEXT}, "text")
    return [re.findall(r"\b\w\w+\b", (text or "").lower()) for text in column.to_list()]


def is_constant(x: Float[np.ndarray, "n columns"]) -> Bool[np.ndarray, " columns"]:
    """Marks of the columns that are the same in all rows, up to rounding."""
    return np.asarray(np.ptp(x, axis=0) <= CONSTANT * np.maximum(np.abs(x).max(axis=0), 1e-300))


def standardization(
    x: Float[np.ndarray, "n columns"],
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """Means and standard deviations of columns, of constant ones 1."""
    return x.mean(axis=0), np.where(is_constant(x), 1.0, x.std(axis=0))


def equal_columns(columns: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Places of columns that are equal in all rows: the first of them, and each after it."""
    first: dict[Any, int] = {}
    found = []
    for place, values in enumerate(columns):
        # Plus zero: -0.0 and 0.0 differ in their bytes.
        bits = (values + 0.0).tobytes()
        before = first.setdefault((values.shape, bits), place)
        if before != place:
            found.append((before, place))
    return found

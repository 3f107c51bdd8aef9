"""Fitted encodings of side tables: plain values that a file can hold, applied again to new rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from probmf.data.columns import refuse_large
from probmf.data.frames import require_columns
from probmf.data.vocabulary import Vocabulary, plain

Kind = Literal["numeric", "categorical", "multi_hot", "text"]
KINDS: tuple[Kind, ...] = ("numeric", "categorical", "multi_hot", "text")


@dataclass(frozen=True)
class Block:
    """The encoding of one column.

    Attributes:
        column: Its name.
        kind: How it is encoded.
        levels: Its levels, labels or words in order; none of a column of numbers.
        center: What is subtracted from each encoded column.
        scale: What that is divided by.
    """

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
        # Of two levels the second is told by the first.
        first = {1: 1, 2: 1}.get(len(self.levels), 0) if self.kind == "categorical" else 0
        return tuple(f"{self.column}[{level}]" for level in self.levels[first:])


@dataclass(frozen=True)
class Encoder:
    """Encoding that `Features.fit` learned from a side table; `encode` applies it to any rows.

    Attributes:
        blocks: The columns' encodings.
        separator: What stands between labels.
        missing: What missing values give, see `Features`.
        unknown: What unknown levels give.
    """

    blocks: tuple[Block, ...]
    separator: str
    missing: Literal["error", "average"]
    unknown: Literal["error", "average"]

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
        what = f"{vocabulary.name}_features"
        columns = [block.column for block in self.blocks]
        if table is None:
            raise ValueError(f"The features {', '.join(columns)} are needed; give {what}=table.")
        require_columns(columns, table.column_names, what)
        check_filled(columns, table, vocabulary, self.missing)
        parts = []
        for block in self.blocks:
            values, known = raw_values(
                block, table[block.column], self.separator, what, self.unknown, vocabulary
            )
            values = (values - np.asarray(block.center)) / np.asarray(block.scale)
            parts.append(np.where(known[:, None], values, 0.0))
        return np.concatenate(parts, axis=1)

    def to_config(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Encoder":
        """The encoder whose `to_config` this is."""
        fields = {**config}
        blocks = []
        for block in fields.pop("blocks"):
            many = {name: tuple(block[name]) for name in ("levels", "center", "scale")}
            blocks.append(Block(**{**block, **many}))
        return cls(blocks=tuple(blocks), **fields)

    @staticmethod
    def labels(
        name: str, column: pa.ChunkedArray, separator: str, what: str
    ) -> list[list[Any] | None]:
        """Labels of each row of a `multi_hot` column; None where it is missing."""
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            return list(column.to_pylist())
        texts = Encoder.texts(name, column, what)
        return [
            None if text is None else [label for label in text.split(separator) if label]
            for text in texts
        ]

    @staticmethod
    def texts(name: str, column: pa.ChunkedArray, what: str) -> list[str | None]:
        """A column of text."""
        values = list(column.to_pylist())
        if not all(value is None or isinstance(value, str) for value in values):
            raise TypeError(f"Column {name!r} of {what} is of type {column.type}; expected text.")
        return values


def check_filled(
    columns: Sequence[str], table: pa.Table, vocabulary: Vocabulary, missing: str
) -> None:
    """Refuse missing values, unless they count as average.

    Args:
        columns: The columns that are used.
        table: The side table.
        vocabulary: Its ids, for the message.
        missing: The policy.

    Raises:
        ValueError: With the column and the first row; or the first id that has nothing at all.
    """
    if missing == "average":
        return
    what, own = f"{vocabulary.name}_features", vocabulary.name
    empty = {name: _is_missing(table[name]) for name in columns}
    nothing = np.all(list(empty.values()), axis=0)
    advice = "or take the average for it with Features(missing='average')"
    if nothing.any():
        code = int(np.argmax(nothing))
        raise ValueError(
            f"{what} has nothing for {own} {plain(vocabulary.ids[code])!r} ({nothing.sum():,} of "
            f"{len(nothing):,} {own}s lack a row, or all of {', '.join(columns)}). Add the row, "
            f"{advice}."
        )
    for name, where in empty.items():
        if where.any():
            code = int(np.argmax(where))
            raise ValueError(
                f"Column {name!r} of {what} has no value for {own} "
                f"{plain(vocabulary.ids[code])!r} (row {code}; {where.sum():,} in all). Fill it, "
                f"{advice}."
            )


def _is_missing(column: pa.ChunkedArray) -> Bool[np.ndarray, " rows"]:
    floating = pa.types.is_floating(column.type)
    return np.asarray(pc.is_null(column, nan_is_null=floating).to_numpy(), bool)


def raw_values(
    block: Block,
    column: pa.ChunkedArray,
    separator: str,
    what: str,
    unknown: str = "error",
    vocabulary: Vocabulary | None = None,
) -> tuple[Float[np.ndarray, "rows columns"], Bool[np.ndarray, " rows"]]:
    """A column encoded, before anything is subtracted.

    Args:
        block: The encoding.
        column: The column.
        separator: Between labels.
        what: What messages call the table.
        unknown: What unknown levels give.
        vocabulary: The ids, for messages.

    Returns:
        Numbers, and which rows have a value (and a known one).

    Raises:
        TypeError: If the type does not suit the encoding.
        ValueError: If a number is infinite or too large, or a level is unknown.
    """
    # Importing it takes a second, and most fits have no features.
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import MultiLabelBinarizer, OneHotEncoder

    known = ~_is_missing(column)
    if block.kind == "numeric":
        return _numbers(block.column, column, known, what), known
    if block.kind == "text":
        texts = Encoder.texts(block.column, column, what)
        counter = CountVectorizer(vocabulary=list(block.levels), binary=True)
        counts = counter.transform("" if text is None else text for text in texts)
        return np.asarray(counts.toarray(), np.float64), known
    if block.kind == "multi_hot":
        labels = Encoder.labels(block.column, column, separator, what)
        there = set(block.levels)
        if unknown == "error":
            for row, own in enumerate(labels):
                strange = [label for label in own or () if label not in there]
                if strange:
                    raise ValueError(_unknown(block, strange[0], row, what, vocabulary))
        kept = [[label for label in own or () if label in there] for own in labels]
        binarizer = MultiLabelBinarizer(classes=list(block.levels)).fit([])
        return np.asarray(binarizer.transform(kept), np.float64), known
    values = column.to_pylist()
    # By type as well: True is no 1, and 1 is no 1.0 in a file.
    there = set(block.levels)
    strange_rows = [row for row in np.flatnonzero(known) if values[row] not in there]
    if strange_rows and unknown == "error":
        row = int(strange_rows[0])
        raise ValueError(_unknown(block, values[row], row, what, vocabulary))
    known[strange_rows] = False
    filled = [value if is_known else block.levels[0] for value, is_known in
              zip(values, known, strict=True)] if block.levels else []  # fmt: skip
    if len(block.levels) < 2:
        return np.zeros((len(values), 0)), known
    levels = _objects(block.levels)
    encoder = OneHotEncoder(categories=[levels[:, 0]], drop="if_binary", sparse_output=False)
    return np.asarray(encoder.fit(levels).transform(_objects(filled)), np.float64), known


def _numbers(name: str, column: pa.ChunkedArray, known: np.ndarray, what: str) -> np.ndarray:
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    # A column without any value has no type.
    if not number and not pa.types.is_null(kind):
        raise TypeError(f"Column {name!r} of {what} is of type {kind}; expected numbers.")
    values = np.asarray(column.to_pylist(), dtype=object)
    found = np.zeros(len(values))
    found[known] = values[known].astype(np.float64)
    if np.isinf(found).any():
        row = int(np.argmax(np.isinf(found)))
        raise ValueError(
            f"Column {name!r} of {what} is {found[row]:g} in row {row}; expected finite numbers."
        )
    refuse_large(found, f"column {name!r} of {what}")
    return found[:, None]


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def _unknown(
    block: Block, value: Any, row: int, what: str, vocabulary: Vocabulary | None
) -> str:  # fmt: skip
    whose = "" if vocabulary is None else f" of {vocabulary.name} {plain(vocabulary.ids[row])!r}"
    shown = ", ".join(repr(level) for level in block.levels[:5])
    more = ", ..." if len(block.levels) > 5 else ""
    return (
        f"Column {block.column!r} of {what} has {value!r} in row {row}{whose}, which training had "
        f"not (it had {shown}{more}). Correct it, or train with Features(unknown='average'), which "
        "leaves it out."
    )

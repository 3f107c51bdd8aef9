"""Which columns of a side table are features, and how they become numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from probmf.data.encoder import KINDS, Block, Encoder, Kind, check_filled, raw_values
from probmf.data.frames import require_columns
from probmf.data.vocabulary import Vocabulary

#: Levels that a column of text may have to be taken for a category unasked.
MAX_LEVELS = 100

Policy = Literal["error", "average"]


@dataclass(frozen=True)
class Features:
    r"""Columns of a side table that say what is known of users or items, and how they are encoded.

    Numbers are centred and divided by their standard deviation. A category has an indicator for
    each level (one, if there are two), a `multi_hot` column one for each label, text one for each
    of its commonest words; indicators, and numbers that are all 0 or 1, are centred only, so that a
    weight is what a level adds. An average row is hence encoded as zeros.

    Without any column named, all of them are taken: numbers as numeric, text, truth values and
    dictionaries as categorical.

    Args:
        numeric: Names of columns of numbers.
        categorical: Names of columns of levels, of text or of whole numbers.
        multi_hot: Names of columns with several labels: lists, or text with a separator.
        text: Names of columns of text.
        separator: What stands between labels of `multi_hot` columns of text.
        max_words: The most words of a column of text.
        missing: What a missing value gives: an "error", or the "average" of the column.
        unknown: What a level or label gives that training had not: an "error", or the "average"
            (a label is left out). Words that training had not are left out.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a column is named twice, or an argument is out of its range.

    Example:
        >>> import pyarrow as pa
        >>> from probmf.data import Vocabulary
        >>> table = pa.table({"item": [1, 2, 3], "year": [1979, 1985, 1991],
        ...                   "genres": ["horror|scifi", "scifi", "drama"]})
        >>> films = Vocabulary.from_values([1, 2, 3], "item")[0]
        >>> encoder = Features(numeric=["year"], multi_hot=["genres"]).fit(table, films)
        >>> encoder.names
        ('year', 'genres[drama]', 'genres[horror]', 'genres[scifi]')
        >>> encoder.encode(table, films).round(2)[0].tolist()
        [-1.22, -0.33, 0.67, 0.33]
    """

    numeric: Sequence[str] = ()
    categorical: Sequence[str] = ()
    multi_hot: Sequence[str] = ()
    text: Sequence[str] = ()
    separator: str = "|"
    max_words: int = 200
    missing: Policy = "error"
    unknown: Policy = "error"

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        named: dict[str, str] = {}
        for kind in KINDS:
            given: Any = getattr(self, kind)
            names = None if isinstance(given, str) else list(given)
            if names is None or not all(isinstance(name, str) for name in names):
                raise TypeError(f"{kind} is {given!r}; expected a list of names of columns.")
            object.__setattr__(self, kind, tuple(names))
            for name in names:
                if name in named:
                    raise ValueError(
                        f"Column {name!r} is named twice, in {named[name]} and in {kind}; a column "
                        "is encoded in one way."
                    )
                named[name] = kind
        for policy in ("missing", "unknown"):
            if getattr(self, policy) not in ("error", "average"):
                raise ValueError(
                    f"{policy} is {getattr(self, policy)!r}; expected 'error' or 'average'."
                )
        separator: Any = self.separator
        if not isinstance(separator, str) or not separator:
            raise ValueError(f"separator is {separator!r}; expected text such as '|'.")
        words: Any = self.max_words
        if isinstance(words, bool) or not isinstance(words, int | np.integer):
            raise TypeError(f"max_words is {words!r}; expected a whole number.")
        if self.max_words < 1:
            raise ValueError(f"max_words is {self.max_words}; expected 1 or more.")

    def fit(self, table: pa.Table | None, vocabulary: Vocabulary) -> Encoder:
        """Learn levels, means and standard deviations.

        Args:
            table: An aligned side table: the ids first, row i for code i.
            vocabulary: The ids.

        Returns:
            The encoder.

        Raises:
            TypeError: If a column's type does not suit its role.
            ValueError: If there is no table, a column is missing, constant, a copy of another or
                has missing values, or a type does not tell what to do with a column.
        """
        what = f"{vocabulary.name}_features"
        if table is None:
            raise ValueError(
                f"{vocabulary.name}_mean needs features, and the ratings have no {what}; give "
                f"Ratings.from_frame(..., {what}=table), a table with one row for each "
                f"{vocabulary.name}."
            )
        chosen = self._chosen(table, what)
        require_columns([name for name, _ in chosen], table.column_names, what)
        check_filled([name for name, _ in chosen], table, vocabulary, self.missing)
        blocks: list[Block] = []
        raw: list[np.ndarray] = []
        for name, kind in chosen:
            values, block = self._learn(name, kind, table[name], what)
            for other, before in zip(blocks, raw, strict=True):
                if before.shape == values.shape and np.array_equal(before, values, equal_nan=True):
                    raise ValueError(
                        f"Columns {other.column!r} and {name!r} of {what} say the same in every "
                        "row; name one of them only."
                    )
            blocks.append(block)
            raw.append(values)
        return Encoder(tuple(blocks), self.separator, self.missing, self.unknown)

    def _chosen(self, table: pa.Table, what: str) -> list[tuple[str, Kind]]:
        named = [(name, kind) for kind in KINDS for name in getattr(self, kind)]
        if named:
            return named
        chosen = [(name, _guess(name, table[name], what)) for name in table.column_names[1:]]
        if not chosen:
            raise ValueError(f"{what} has no column besides the ids, hence no features.")
        return chosen

    def _learn(
        self, name: str, kind: Kind, column: pa.ChunkedArray, what: str
    ) -> tuple[np.ndarray, Block]:
        """Values before centring, and the block."""
        # Here and not above: importing it takes a second, and most fits have no features.
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import StandardScaler

        levels: tuple[Any, ...] = ()
        if kind == "categorical":
            levels = _sorted({value for value in column.to_pylist() if value is not None}, name)
        elif kind == "multi_hot":
            labels = Encoder.labels(name, column, self.separator, what)
            levels = _sorted({label for row in labels if row is not None for label in row}, name)
        elif kind == "text":
            counter = CountVectorizer(max_features=int(self.max_words), binary=True)
            texts = [text for text in Encoder.texts(name, column, what) if text is not None]
            try:
                counter.fit(texts)
            except ValueError as error:
                raise ValueError(f"Column {name!r} of {what} holds no words ({error}).") from None
            levels = tuple(counter.get_feature_names_out().tolist())
        first = Block(name, kind, levels, (), ())
        values, known = raw_values(first, column, self.separator, what)
        _refuse_constant(first, values, known, what)
        some = values[known]
        # Of 0 and 1 only the mean is taken off: a rare one would become a huge number.
        spread = kind == "numeric" and not np.isin(some, (0.0, 1.0)).all()
        scaler = StandardScaler(with_std=spread).fit(some)
        scale = scaler.scale_ if spread else np.ones(values.shape[1])
        block = Block(name, kind, levels, tuple(scaler.mean_.tolist()), tuple(scale.tolist()))
        return values, block


def _guess(name: str, column: pa.ChunkedArray, what: str) -> Kind:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numeric"
    levels = pa.types.is_boolean(kind) or pa.types.is_dictionary(kind)
    if levels or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        count = len(pc.unique(column.drop_null()))
        if count <= MAX_LEVELS:
            return "categorical"
        raise ValueError(
            f"Column {name!r} of {what} has {count:,} different values, too many to be taken for "
            f"levels unasked. Name the columns to use, as Features(categorical=[{name!r}]) or "
            f"Features(text=[{name!r}]), and leave out those that are no features."
        )
    raise ValueError(
        f"Column {name!r} of {what} is of type {kind}, which does not tell how to encode it. Name "
        "the columns to use, as Features(numeric=[...], multi_hot=[...]); convert dates to numbers."
    )


def _sorted(levels: set[Any], name: str) -> tuple[Any, ...]:
    try:
        return tuple(sorted(levels))
    except TypeError:
        raise TypeError(
            f"Column {name!r} holds values of several types, such as "
            f"{sorted(map(repr, levels))[:3]}; convert them to one."
        ) from None


def _refuse_constant(block: Block, values: np.ndarray, known: np.ndarray, what: str) -> None:
    some = values[known]
    if block.names and len(some) and np.ptp(some, axis=0).any():
        return
    # One level leaves no indicator, one label a column of ones.
    rows = np.flatnonzero(known)
    row = f" (row {rows[0]})" if len(rows) else ""
    raise ValueError(
        f"Column {block.column!r} of {what} is the same in every row that has it{row}, so it tells "
        "nothing; leave it out."
    )

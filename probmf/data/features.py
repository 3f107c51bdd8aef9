"""Features: columns of a side table, and their way to numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from probmf.data.column import BOOLEANS, NUMBERS, TEXT, Column, sentence
from probmf.data.encoder import (
    KINDS,
    ColumnEncoding,
    Encoder,
    Kind,
    Policy,
    equal_columns,
    is_constant,
    read_features,
    split,
    standardization,
    words,
)
from probmf.data.vocabulary import Vocabulary

#: Levels that a column of text may have to be taken for a category unasked.
MAX_LEVELS = 100


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
        kinds = {name: kind for kind in KINDS for name in getattr(self, kind)}
        names = list(kinds) or table.column_names[1:]
        if not names:
            raise ValueError(f"{what} has no column besides the ids, hence no features.")
        columns = read_features(names, table, vocabulary, self.missing)
        learned = [
            self._learn(name, kinds.get(name) or _guess(name, column), column)
            for name, column in zip(names, columns, strict=True)
        ]
        for before, after in equal_columns([values for values, _ in learned]):
            raise ValueError(
                f"Columns {names[before]!r} and {names[after]!r} of {what} say the same in every "
                "row; name one of them only."
            )
        blocks = tuple(block for _, block in learned)
        return Encoder(blocks, self.separator, self.missing, self.unknown)

    def _learn(self, name: str, kind: Kind, column: Column) -> tuple[np.ndarray, ColumnEncoding]:
        """Values before centring, and the block."""
        block = ColumnEncoding(name, kind, self._levels(name, kind, column), (), ())
        values, known = block.raw(column, self.separator, "error")
        some = values[known]
        # One level leaves no indicator, one label a column of ones.
        if not some.size or is_constant(some).all():
            where = f" ({column.row(int(known.argmax()))})" if known.any() else ""
            raise ValueError(
                f"{sentence(column.what)} is the same in every row that has it{where}, so it tells "
                "nothing; leave it out."
            )
        center, scale = standardization(some)
        # Of 0 and 1 only the mean is taken off: a rare one would become a huge number.
        if kind != "numeric" or np.isin(some, (0.0, 1.0)).all():
            scale = np.ones(len(center))
        return values, replace(block, center=tuple(center.tolist()), scale=tuple(scale.tolist()))

    def _levels(self, name: str, kind: Kind, column: Column) -> tuple[Any, ...]:
        """Levels, labels or words in order."""
        known = column.known()
        if kind == "numeric" or not len(known):
            return ()
        if kind == "categorical":
            ids = Vocabulary.from_values(known, name)[0].ids
            return tuple(ids if ids.dtype.kind in "mM" else ids.tolist())
        if kind == "multi_hot":
            return tuple(sorted({label for row in split(column, self.separator) for label in row}))
        counts = Counter(word for row in words(column) for word in set(row))
        if not counts:
            raise ValueError(f"{sentence(column.what)} holds no words.")
        commonest = sorted(counts, key=lambda word: (-counts[word], word))
        return tuple(sorted(commonest[: int(self.max_words)]))


def _guess(name: str, column: Column) -> Kind:
    if column.categories is None and column.kinds <= NUMBERS - {BOOLEANS}:
        return "numeric"
    if column.categories is not None or column.kinds <= {TEXT, BOOLEANS}:
        count = len(pc.unique(column.known().values))
        if count <= MAX_LEVELS:
            return "categorical"
        raise ValueError(
            f"{sentence(column.what)} has {count:,} different values, too many to be taken for "
            f"levels unasked. Name the columns to use, as Features(categorical=[{name!r}]) or "
            f"Features(text=[{name!r}]), and leave out those that are no features."
        )
    raise ValueError(
        f"{sentence(column.what)} holds {', '.join(column.kinds)}, which does not tell how to "
        "encode it. Name the columns to use, as Features(numeric=[...], multi_hot=[...]); convert "
        "dates to numbers."
    )

"""Side tables: what is known of users or items, put in the order of the codes."""

from typing import Any

import numpy as np
import pyarrow as pa

from probmf.data.column import plain, sentence
from probmf.data.ids import first_repeat
from probmf.data.tables import read_table, require_columns
from probmf.data.vocabulary import Vocabulary


def read_side_table(frame: Any, side: str, id_name: str) -> tuple[Vocabulary, pa.Table]:
    """The ids of a side table, and the table in their order, with a column of the ids first."""
    what = f"{side}_features"
    columns = read_table(frame, None, what, label=f"column {{!r}} of {what}")
    if id_name not in columns and side in columns:
        id_name = side
    hint = f" It holds the {side}s' ids, and has the name that it has in the ratings."
    require_columns([id_name], columns, what, hints={id_name: hint})
    ids = columns.pop(id_name)
    vocabulary, codes = Vocabulary.from_values(ids, side)
    if len(vocabulary) < len(codes):
        before, again = first_repeat(codes)
        raise ValueError(
            f"{sentence(ids.what)} holds {plain(vocabulary.ids[codes[again]])!r} in rows {before} "
            f"and {again}; a side table has one row for each {side}."
        )
    arrays = {str(name): column.to_arrow() for name, column in columns.items()}
    table = pa.table({id_name: pa.array(codes), **arrays})
    return vocabulary, realign_features(table, np.argsort(codes), vocabulary)


def align_features(frame: Any, vocabulary: Vocabulary, id_name: str) -> pa.Table:
    """A side table with one row for each id of a vocabulary, with nulls where it has none."""
    side = vocabulary.name
    own, table = read_side_table(frame, side, id_name)
    rows = own.encode(vocabulary.ids, unknown="flag", what=f"the list of {side} ids")
    if (rows < 0).all():
        raise ValueError(
            f"None of the {len(own):,} ids in column {table.column_names[0]!r} of {side}_features "
            f"occurs in the ratings: the side table has {plain(own.ids[0])!r}, the ratings have "
            f"{plain(vocabulary.ids[0])!r}. Are they ids of {side}s?"
        )
    return realign_features(table, rows, vocabulary)


def realign_features(table: pa.Table, rows: np.ndarray, to: Vocabulary) -> pa.Table:
    """A side table with one row per id of a vocabulary: for each its row in the table, or -1."""
    taken = table.take(pa.array(rows, mask=rows < 0))
    return taken.set_column(0, table.column_names[0], id_column(to))


def extend_features(
    table: pa.Table, to: Vocabulary, added: np.ndarray, other: pa.Table | None
) -> pa.Table:
    """An aligned side table with rows for the last ids of `to`, which are `added` in another."""
    first, *names = table.column_names
    shared = [] if other is None else [name for name in other.column_names[1:] if name in names]
    if other is None or not shared:
        rows = np.concatenate([np.arange(table.num_rows), np.full(len(added), -1)])
        return realign_features(table, rows, to)
    try:
        joined = pa.concat_tables(
            [table.select(names), other.select(shared).take(pa.array(added))],
            promote_options="permissive",
        )
    except pa.ArrowException as error:
        raise ValueError(
            f"The new rows of {to.name}_features do not go with those there are: {error}. Convert "
            "the column to one type in both."
        ) from error
    return joined.add_column(0, first, id_column(to))


def id_column(vocabulary: Vocabulary) -> pa.Array:
    """The ids as the first column of a side table."""
    try:
        return vocabulary.to_arrow()
    except TypeError:  # Tuples and the like: the row number is what counts, the text is to read.
        return pa.array([str(value) for value in vocabulary.ids])


def labels(
    vocabulary: Vocabulary, features: pa.Table | None, codes: Any, column: str | None, usual: str
) -> np.ndarray:
    """Labels of users or items: from a column of the side table, or ids where that is null.

    See `Ratings.item_labels`; without a column it is the usual one, if there is one.
    """
    ids = vocabulary.decode(codes)
    there = [] if features is None else features.column_names
    if column is not None:
        require_columns([column], there, f"{vocabulary.name}_features")
    name = column or usual
    names: list[Any] = [None] * ids.size
    if features is not None and name in there:
        names = features[name].take(pa.array(np.asarray(codes, np.int64).reshape(-1))).to_pylist()
    texts = np.empty(ids.size, dtype=object)
    texts[:] = [
        str(plain(own)) if label is None else str(label)
        for own, label in zip(ids.reshape(-1), names, strict=True)
    ]
    return texts.reshape(ids.shape)

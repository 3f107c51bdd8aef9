"""Side tables: what is known of users or items, put in the order of the codes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from probmf.data.columns import load
from probmf.data.frames import check_lengths, collect, require_columns
from probmf.data.vocabulary import Vocabulary, plain


def align_features(frame: Any, vocabulary: Vocabulary, id_name: str) -> pa.Table:
    """A side table with one row for each id of a vocabulary.

    Args:
        frame: Any table with a column of ids, each at most once.
        vocabulary: The ids wanted.
        id_name: Name of the column of ids, as in the ratings; "user" or "item" will do too.

    Returns:
        The table, the ids first; row i belongs to code i, with nulls where the id is missing from
        `frame`. Ids that the vocabulary lacks are left out.

    Raises:
        TypeError: If it is no table, or a column's values have no common Arrow type.
        ValueError: If the ids are missing, repeated, of another kind, or all unknown.
    """
    what = f"{vocabulary.name}_features"
    found = _columns(frame, what)
    if id_name not in found and vocabulary.name in found:
        id_name = vocabulary.name
    require_columns([id_name], found, what)
    label = f"column {id_name!r} of {what}"
    own, codes = Vocabulary.from_values(found[id_name], vocabulary.name, what=label)
    if len(own) < len(codes):
        _refuse_repeated(own, codes, label)
    # Row of the side table that holds each id of the vocabulary, or -1.
    row_of = np.empty(len(own), dtype=np.int64)
    row_of[codes] = np.arange(len(codes))
    place = own.encode(vocabulary.ids, unknown="flag", what=f"the list of {vocabulary.name} ids")
    rows = np.where(place >= 0, row_of[place], -1)
    if (rows < 0).all():
        raise ValueError(
            f"None of the {len(own):,} ids in {label} occurs in the ratings: the side table has "
            f"{plain(own.ids[0])!r}, the ratings have {plain(vocabulary.ids[0])!r}. Are they ids "
            f"of {vocabulary.name}s?"
        )
    others = {name: values for name, values in found.items() if name != id_name}
    columns = {name: _to_arrow(values, name, what) for name, values in others.items()}
    return _take({id_name: None, **columns}, vocabulary, rows)


def side_ids(frame: Any, side: str, id_name: str) -> Vocabulary:
    """The ids that a side table has rows for.

    Args:
        frame: The side table.
        side: "user" or "item".
        id_name: Name of the column of ids; that of the side will do too.

    Returns:
        Their vocabulary.

    Raises:
        TypeError: If it is no table.
        ValueError: If the column is missing, or ids are missing or of several kinds.
    """
    what = f"{side}_features"
    found = _columns(frame, what)
    if id_name not in found and side in found:
        id_name = side
    require_columns([id_name], found, what)
    label = f"column {id_name!r} of {what}"
    return Vocabulary.from_values(found[id_name], side, what=label)[0]


def realign_features(table: pa.Table | None, rows: np.ndarray, to: Vocabulary) -> pa.Table | None:
    """An aligned side table in another vocabulary's order.

    Args:
        table: The side table, or None.
        rows: For each id of `to`, its row in the table, or -1.
        to: The new vocabulary.

    Returns:
        The side table with one row per id of `to`.
    """
    if table is None:
        return None
    first, *others = table.column_names
    return _take({first: None, **{name: table[name] for name in others}}, to, rows)


def _take(columns: Mapping[str, Any], vocabulary: Vocabulary, rows: np.ndarray) -> pa.Table:
    indices = pa.array(rows, mask=rows < 0)
    taken = [
        _id_column(vocabulary) if values is None else values.take(indices)
        for values in columns.values()
    ]
    return pa.table(taken, names=list(columns))


def labels(
    vocabulary: Vocabulary, features: pa.Table | None, codes: Any, column: str | None, usual: str
) -> np.ndarray:
    """Labels of users or items; see `Ratings.item_labels`.

    Args:
        vocabulary: Their ids.
        features: Their side table, or None.
        codes: Codes, of any shape.
        column: Column of the side table; None for the usual one, if there is one.
        usual: The usual column.

    Returns:
        Text in the shape of `codes`: from the column, or the id where that is null.
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


def _id_column(vocabulary: Vocabulary) -> pa.Array:
    try:
        return vocabulary.to_arrow()
    except TypeError:  # Tuples and the like: the row number is what counts, the text is to read.
        return pa.array([str(value) for value in vocabulary.ids])


def _columns(frame: Any, what: str) -> dict[str, Any]:
    if isinstance(frame, Mapping):
        loaded = {str(name): load(values, f"column {name!r}") for name, values in frame.items()}
        check_lengths({f"column {name!r}": values for name, values in loaded.items()}, what)
        return loaded
    table = collect(frame, None, what)
    return {str(name): table.get_column(name) for name in table.columns}


def _to_arrow(values: Any, name: str, what: str) -> pa.Array | pa.ChunkedArray:
    try:
        if isinstance(values, pa.Array):
            return values
        if isinstance(values, np.ndarray):
            return pa.array(values, from_pandas=True)
        return values.to_arrow()
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise TypeError(
            f"Column {name!r} of {what} can't be stored as one type ({error}); convert it to "
            "numbers or text, or leave it out."
        ) from error


def _refuse_repeated(own: Vocabulary, codes: np.ndarray, label: str) -> None:
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    again = order[1:][same].min()
    before = int(np.flatnonzero(codes == codes[again])[0])
    raise ValueError(
        f"{label[:1].upper() + label[1:]} holds {plain(own.ids[codes[again]])!r} in rows {before} "
        f"and {int(again)}; a side table has one row for each {own.name}."
    )

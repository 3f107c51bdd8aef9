"""Tables at the door: any kind of data frame becomes named columns."""

import difflib
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import narwhals as nw
import narwhals.exceptions
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from probmf.data.columns import Column, is_text, load, sentence

type PathLike = str | os.PathLike[str]


def read_columns(
    frame: Any,
    names: Sequence[str],
    what: str = "the frame",
    hints: Mapping[str, str] | None = None,
) -> dict[str, Column]:
    """Columns of any table, by name.

    Args:
        frame: pandas, polars, pyarrow, DuckDB or other table that narwhals knows (lazy ones are
            collected, these columns only); a mapping of names to sequences; a structured array.
        names: The columns wanted.
        what: What messages call the table.
        hints: What to do when a column is missing, by name.

    Returns:
        The loaded columns, all of one length; see `columns.load`.

    Raises:
        TypeError: If it is no table.
        ValueError: If a column is missing, a name is doubled, lengths differ, or a column has more
            than one dimension.
    """
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        frame = {name: frame[name] for name in frame.dtype.names}
    if isinstance(frame, Mapping):
        require_columns(names, frame, what, hints=hints)
        columns = {name: load(frame[name], f"column {name!r}") for name in names}
        check_lengths({f"column {name!r}": column for name, column in columns.items()}, what)
        return columns
    table = collect(frame, names, what, hints)
    return {name: load(table.get_column(name), f"column {name!r}") for name in names}


def collect(
    frame: Any,
    names: Iterable[str] | None,
    what: str,
    hints: Mapping[str, str] | None = None,
) -> nw.DataFrame[Any]:
    """Any data frame as an eager narwhals frame.

    Args:
        frame: The table; not a mapping.
        names: Columns that it must have (a lazy table is cut to them); None keeps all.
        what: What messages call the table.
        hints: What to do when a column is missing, by name.

    Returns:
        The frame.

    Raises:
        TypeError: If it is no table.
        ValueError: If a column is missing, or a name is doubled.
    """
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    try:
        table = nw.from_native(frame, allow_series=False)
        lazy = isinstance(table, nw.LazyFrame)
        found = table.collect_schema().names() if lazy else table.columns
    except narwhals.exceptions.DuplicateError:
        _refuse_doubled(_raw_names(frame), what)
        raise
    except TypeError:
        raise TypeError(
            f"{sentence(what)} is a {type(frame).__name__}, expected a table: a pandas, polars, "
            "pyarrow or DuckDB table, or a dict of columns such as {'user': [...], 'item': [...]}."
        ) from None
    _refuse_doubled(found, what)
    if names is not None:
        names = list(names)
        require_columns(names, found, what, hints=_index_hints(frame, names) or hints)
    if isinstance(table, nw.LazyFrame):
        return (table if names is None else table.select(*names)).collect()
    return table


def _raw_names(frame: Any) -> list[Any]:
    names = getattr(frame, "column_names", None)
    return list(frame.columns if names is None else names)


def _refuse_doubled(names: Sequence[Hashable], what: str) -> None:
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise ValueError(
            f"{sentence(what)} has {names.count(doubled[0])} columns called {doubled[0]!r}; column "
            "names must differ, so rename or drop all but one."
        )


def _index_hints(frame: Any, names: Sequence[str]) -> dict[str, str]:
    index = getattr(getattr(frame, "index", None), "names", None) or ()
    return {
        name: f" {name!r} is in the index: use frame.reset_index()."
        for name in names
        if name in index
    }


def require_columns(
    names: Iterable[str],
    found: Iterable[Any],
    what: str,
    *,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Raise a ValueError that names the first missing column and lists those there are."""
    there = list(found)
    for name in names:
        if name not in there:
            texts = [column for column in there if isinstance(column, str)]
            lower = {column.lower(): column for column in reversed(texts)}
            close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
            meant = f" Did you mean {lower[close[0]]!r}?" if close else ""
            columns = ", ".join(map(repr, there[:20])) + ", ..." * (len(there) > 20)
            raise ValueError(
                f"{sentence(what)} has no column {name!r}; its columns are: {columns or 'none'}."
                f"{meant}{(hints or {}).get(name, '')}"
            )


def check_lengths(columns: Mapping[str, Column], what: str) -> None:
    """Raise a ValueError that lists the lengths unless all are the same."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
        raise ValueError(
            f"The columns of {what} differ in length: {listed}. Row i must mean the same rating in "
            "every column."
        )


def read_csv(
    path: PathLike,
    names: Sequence[str],
    id_names: Sequence[str],
    *,
    delimiter: str,
    column_names: Sequence[str] | None,
) -> pa.Table:
    """Some columns of a CSV file, with ids read as they are written.

    Ids that are all written as whole numbers (no leading zero, no sign +) become integers; any
    other column of ids stays text, so that "007" and "7" remain two ids. Empty fields and the usual
    spellings of missing values ("NA", "nan", "null", ...) are missing among integers; among text
    only empty fields are.

    Args:
        path: The file; .gz, .bz2 and .zst are decompressed.
        names: The columns wanted.
        id_names: Those among them that hold ids.
        delimiter: What stands between fields.
        column_names: Names of the columns of a file without a header line.

    Returns:
        The table.

    Raises:
        ValueError: If the file is empty or malformed, or lacks a column.
    """
    read_options = pa.csv.ReadOptions(column_names=column_names)
    parse_options = pa.csv.ParseOptions(delimiter=delimiter)
    what = f"the file {os.fspath(path)}"
    types = {name: pa.string() for name in id_names}
    try:
        # The whole file and not its first block: a later block may change a column's type.
        table = pa.csv.read_csv(
            path, read_options, parse_options, pa.csv.ConvertOptions(column_types=types)
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{sentence(what)} could not be read as CSV with the delimiter {delimiter!r}: {error}."
        ) from error
    _refuse_doubled(table.column_names, what)
    hints = dict.fromkeys(names, _csv_hint(table, delimiter))
    require_columns(names, table.column_names, what, hints=hints)
    table = table.select(list(names))
    for name in id_names:
        ids = _written_ids(table[name].combine_chunks())
        table = table.set_column(table.column_names.index(name), name, ids)
    return table


_MISSING_TEXT = pa.array(
    ["", "#N/A", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "none", "-nan", "-NaN"]
)


def _csv_hint(table: pa.Table, delimiter: str) -> str:
    if len(table.column_names) > 1:
        return ""
    return f" There is one column only, so the delimiter may not be {delimiter!r}."


def _written_ids(texts: pa.Array) -> pa.Array:
    if not is_text(texts.type):
        return texts
    kept = pc.if_else(pc.is_in(texts, _MISSING_TEXT), None, texts)
    # "-0" and 20-digit numbers are the two that this pattern lets through and int64 changes.
    canonical = pc.match_substring_regex(kept, r"^(0|-?[1-9][0-9]{0,18})$")
    if pc.all(canonical, min_count=1).as_py():
        try:
            return kept.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    return pc.if_else(pc.equal(texts, ""), None, texts)


def read_parquet(path: PathLike, names: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet file or of a folder of them.

    Args:
        path: The file or folder.
        names: The columns wanted.

    Returns:
        The table, in the order of the file.

    Raises:
        ValueError: If the file lacks a column or is no Parquet file.
    """
    what = f"the file {os.fspath(path)}"
    try:
        found = pa.parquet.ParquetDataset(path).schema.names
    except pa.ArrowInvalid as error:
        raise ValueError(f"{sentence(what)} could not be read as Parquet: {error}.") from error
    _refuse_doubled(found, what)
    require_columns(names, found, what)
    return pa.parquet.read_table(path, columns=list(names))

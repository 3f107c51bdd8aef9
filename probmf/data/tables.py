"""Tables at the door: any kind of data frame becomes named columns."""

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import narwhals.exceptions
import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionArray

from probmf.data.column import Column, objects, sentence

#: What to do where a column of ids does not have the name that is taken without another.
IDS_ELSEWHERE = {
    role: f" If the ids of the {role}s are in another column, name it: {role}=."
    for role in ("user", "item")
}


class Frame(dict[str, Column]):
    """Columns of a table by name, all of one length; `num_rows` also where no column was wanted."""

    def __init__(self, columns: Mapping[str, Column], num_rows: int) -> None:
        """Hold the columns."""
        super().__init__(columns)
        self.num_rows = num_rows


def read_table(
    frame: Any,
    names: Iterable[str] | None = None,
    what: str = "the frame",
    *,
    hints: Mapping[str, str] | None = None,
    label: str = "column {!r}",
) -> Frame:
    """Columns of any table, by name.

    Any table is a pandas, polars, pyarrow, DuckDB or other table that narwhals knows (lazy ones are
    collected, these columns only); a mapping of names to sequences; a structured array. Without
    `names` all columns are read. `hints` say what to do when a column is missing; `label` has
    braces for a column's name.

    Raises:
        TypeError: If it is no table.
        ValueError: If a column is missing, a name is doubled, lengths differ, or a column has more
            than one dimension.
    """
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        frame = {name: frame[name] for name in frame.dtype.names}
    if isinstance(frame, Mapping):
        wanted = list(frame if names is None else names)
        require_columns(wanted, frame, what, hints=hints)
        columns = {name: load(frame[name], label.format(name)) for name in wanted}
        check_lengths(columns.values(), what)
        if isinstance(frame, Frame):
            return Frame(columns, frame.num_rows)
        return Frame(columns, len(next(iter(columns.values() or frame.values()), ())))
    table, enums = _collect(frame, names, what, hints)
    columns = {
        name: load(table.get_column(name), label.format(name))
        for name in (table.columns if names is None else names)
    }
    # As an Arrow array an Enum of DuckDB loses its order.
    columns |= {name: replace(columns[name], ordered=True) for name in enums & columns.keys()}
    return Frame(columns, len(table))


def _collect(
    frame: Any, names: Iterable[str] | None, what: str, hints: Mapping[str, str] | None
) -> tuple[nw.DataFrame[Any], set[str]]:
    """An eager narwhals frame that has the columns, and which columns a lazy one says are Enums."""
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    try:
        table = nw.from_native(frame, allow_series=False)
        lazy = isinstance(table, nw.LazyFrame)
        schema = table.collect_schema() if lazy else {}
        found = list(schema) if lazy else table.columns
    except narwhals.exceptions.DuplicateError:
        refuse_doubled(list(getattr(frame, "column_names", None) or frame.columns), what)
        raise
    except TypeError:
        raise TypeError(
            f"{sentence(what)} is a {type(frame).__name__}, expected a table: a pandas, polars, "
            "pyarrow or DuckDB table, or a dict of columns such as {'user': [...], 'item': [...]}."
        ) from None
    refuse_doubled(found, what)
    names = [] if names is None else list(names)
    index = getattr(getattr(frame, "index", None), "names", None) or ()
    in_index = {n: f" {n!r} is in the index: use frame.reset_index()." for n in names if n in index}
    require_columns(names, found, what, hints=in_index or hints)
    if isinstance(table, nw.LazyFrame):
        table = (table.select(*names) if names else table).collect()
    return table, {name for name, kind in schema.items() if kind == nw.Enum}


class MissingColumnError(ValueError):
    """A table lacks a column."""


def refuse_doubled(names: Sequence[Hashable], what: str) -> None:
    """Raise a ValueError that names the first column whose name another has, too."""
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise ValueError(
            f"{sentence(what)} has {names.count(doubled[0])} columns called {doubled[0]!r}; column "
            "names must differ, so rename or drop all but one."
        )


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
            raise MissingColumnError(
                f"{sentence(what)} has no column {name!r}; its columns are: {columns or 'none'}."
                f"{meant}{(hints or {}).get(name, '')}"
            )


def check_lengths(columns: Iterable[Column], what: str) -> None:
    """Raise a ValueError that lists the lengths unless all are the same."""
    columns = list(columns)
    if len(set(map(len, columns))) > 1:
        listed = ", ".join(f"{column.what} has {len(column):,}" for column in columns)
        raise ValueError(
            f"The columns of {what} differ in length: {listed}. Row i must mean the same in every "
            "column."
        )


def load(values: Any, what: str) -> Column:
    """Any sequence of values as a column: arrays, series, lists, tuples, ranges.

    `what` is its name in messages. A column stays what it is. Anything else, and what is not of one
    dimension, is refused.
    """
    if isinstance(values, Column):
        return values
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return Column(_decoded(values), what, *_categories(values))
    if isinstance(values, list | tuple | range):
        return Column(objects(values), what)
    if isinstance(values, pd.Index | ExtensionArray) and not isinstance(values, pd.MultiIndex):
        values = pd.Series(values)
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return Column(_series_values(series), what, *_categories(series))
    if hasattr(values, "__array__") and not isinstance(values, str | bytes):
        return Column(_numpy_values(np.asanyarray(values), what), what)
    raise TypeError(
        f"{sentence(what)} is of type {type(values).__name__}, expected a sequence of values, one "
        "for each row; give a list, an array or a series."
    )


def _series_values(series: nw.Series) -> pa.Array | np.ndarray:
    # Object columns hold Python objects of any type: Arrow would guess one or fail.
    if series.dtype != nw.Object:
        try:
            array = _decoded(series.to_arrow())
        except (pa.ArrowException, TypeError, NotImplementedError):
            pass
        else:
            if not isinstance(array.type, pa.BaseExtensionType) or array.type == pa.uuid():
                return array
    return objects(series.to_list())


def _decoded(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        combined = values.combine_chunks()
        values = combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _numpy_values(values: np.ndarray, what: str) -> pa.Array | np.ndarray:
    if values.ndim != 1:
        name = what.split("'")[1] if "'" in what else "values"
        raise ValueError(
            f"{sentence(what)} has shape {values.shape}, expected one dimension, "
            f"({len(values) if values.ndim else 'n'},), with one value for each row; "
            f"use {name}[:, 0], or choose the column that is meant."
        )
    if isinstance(values, np.ma.MaskedArray):
        return pa.array(values.data, mask=np.ma.getmaskarray(values))
    if values.dtype.kind == "V" and not issubclass(values.dtype.type, np.void):
        return values.astype(np.float64)  # bfloat16 and the like
    if values.dtype.kind in "USTV":
        return objects(values.tolist())
    return values


def _categories(values: nw.Series | pa.Array | pa.ChunkedArray) -> tuple[list[Any] | None, bool]:
    """Categories of a column in their own order, and whether they are declared to have one."""
    if not isinstance(values, nw.Series):
        if not pa.types.is_dictionary(values.type):
            return None, False
        parts = values.unify_dictionaries().chunks[:1] if hasattr(values, "chunks") else [values]
        found = [value for part in parts for value in part.dictionary.to_pylist()]
        return list(dict.fromkeys(found)), bool(values.type.ordered)
    if isinstance(values.dtype, nw.Enum) and not values.implementation.is_pandas():
        return list(values.dtype.categories), True
    if values.dtype not in (nw.Categorical, nw.Enum) or values.implementation.is_polars():
        return None, False
    if values.implementation.is_pandas():
        own = values.to_native().cat
        return list(own.categories), bool(own.ordered)
    return _categories(values.to_arrow())


def own_copy(table: Any) -> Any:
    """A table as it is now: what somebody changes in it later does not count.

    Tables that can't be changed, and lazy ones, stay what they are.
    """
    table = nw.to_native(table, pass_through=True)
    if isinstance(table, pd.DataFrame):
        # Of pandas 3 a column is copied only when somebody writes to it.
        return table.copy(deep=int(pd.__version__.partition(".")[0]) < 3)
    if isinstance(table, Mapping):
        return {name: own_copy(values) for name, values in table.items()}
    if isinstance(table, np.ndarray | list | pd.Series | pd.Index | ExtensionArray):
        return table.copy()
    return table.clone() if type(table).__module__.startswith("polars.") else table

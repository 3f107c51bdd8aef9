"""Columns that a formula uses, checked: numbers, or categories in a known order."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa

from probmf.data import Vocabulary
from probmf.data.columns import Column, is_text, load, missing_mask, read_numbers
from probmf.data.frames import collect, require_columns
from probmf.models.mixed.code import names_in
from probmf.models.mixed.formula import simple_formula, unquote


def variables(formula: str) -> list[str]:
    """Columns that a part of a formula mentions, in order.

    Args:
        formula: A formula for formulaic, without group terms, such as "x + poly(z, 2)".

    Returns:
        Names of columns: all names but those that are called and those formulaic knows (poly, np).

    Example:
        >>> variables("1 + x + np.log(z) + C(`my column`)")
        ['x', 'z', 'my column']
    """
    found: list[str] = []
    called: set[str] = set()
    for factor in [factor for term in simple_formula(formula) for factor in term.factors]:
        if factor.eval_method.value == "lookup":
            found.append(unquote(factor.expr))
        elif factor.eval_method.value == "python":
            names = names_in(factor.expr)
            found += names.columns
            called |= names.called
    both = [name for name in found if name in called]
    if both:
        raise ValueError(
            f"The formula part {formula!r} calls {both[0]!r} and has a column of that name; rename "
            "the column in the data and the formula."
        )
    return list(dict.fromkeys(found))


def categorical(formula: str) -> set[str]:
    """Columns that a part of a formula has within C(...)."""
    codes = [
        factor.expr
        for term in simple_formula(formula)
        for factor in term.factors
        if factor.eval_method.value == "python"
    ]
    return {name for code in codes for name in names_in(code).categories}


class Table:
    """The used columns of a data frame, loaded once.

    Args:
        data: Any table; see `probmf.data.frames.read_columns`.
        names: The columns wanted.

    Raises:
        TypeError: If `data` is no table.
        ValueError: If a column is missing, lengths differ, there are no rows, or a value is
            missing. Messages count rows from 0.
    """

    def __init__(self, data: Any, names: Sequence[str]) -> None:
        """Load the columns and check that nothing is missing."""
        if isinstance(data, np.ndarray) and data.dtype.names:
            data = {name: data[name] for name in data.dtype.names}
        if isinstance(data, Mapping):
            require_columns(names, data, "the data")
            raw = {name: data[name] for name in names}
            self.length = len(next(iter(data.values()), ())) if not names else 0
        else:
            table = collect(data, list(names) or None, "the data")
            raw = {name: table.get_column(name) for name in names}
            self.length = len(table)
        enums = _enums(data)
        self.columns: dict[str, Column] = {
            name: load(values, f"column {name!r}") for name, values in raw.items()
        }
        self.orders = {name: category_order(values) for name, values in raw.items()}
        self.ordered = {
            name for name, values in raw.items() if name in enums or _is_ordered(values)
        }
        self._check()

    def _check(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
            raise ValueError(
                f"The columns of the data differ in length: {listed}. Row i must be the same "
                "observation in every column."
            )
        self.length = next(iter(lengths.values()), self.length)
        if self.length == 0:
            raise ValueError("The data has no rows; at least one is needed.")
        for name, column in self.columns.items():
            rows = np.flatnonzero(missing_mask(column))
            if rows.size:
                raise ValueError(
                    f"Column {name!r} has {rows.size:,} missing value{'s'[: rows.size > 1]} (None, "
                    f"NaN or null), in row{'s'[: rows.size > 1]} {some(rows)}; drop these rows or "
                    "fill them in first."
                )

    def is_numeric(self, name: str) -> bool:
        """Whether a column holds numbers or booleans and no categories."""
        column = self.columns[name]
        if self.orders[name] is not None:
            return False
        if isinstance(column, pa.Array):
            return not (is_text(column.type) or pa.types.is_temporal(column.type))
        if column.dtype == object:
            return not isinstance(column[0], str | bytes | tuple)
        return column.dtype.kind in "biuf"

    def refuse_times(self, name: str) -> None:
        """Raise a TypeError if a column holds dates or times: as a term it could be many things."""
        column = self.columns[name]
        if isinstance(column, pa.Array):
            times = pa.types.is_temporal(column.type)
        else:
            times = column.dtype.kind in "mM"
        if times:
            raise TypeError(
                f"Column {name!r} holds dates or times, expected numbers or categories; make it a "
                "number, such as days since the first one, or text."
            )

    def is_whole(self, name: str) -> bool:
        """Whether a column holds integers or booleans, of a size that a float64 can hold."""
        column = self.columns[name]
        if isinstance(column, pa.Array):
            whole = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
        elif column.dtype == object:
            whole = all(issubclass(of, int | np.integer) for of in set(map(type, column)))
        else:
            whole = column.dtype.kind in "biu"
        return whole and bool(np.all(np.abs(self.numbers(name)) <= 2**53))

    def is_boolean(self, name: str) -> bool:
        """True for a column of booleans."""
        column = self.columns[name]
        if isinstance(column, pa.Array):
            return bool(pa.types.is_boolean(column.type))
        if column.dtype == object:
            return all(isinstance(value, bool | np.bool_) for value in column)
        return column.dtype.kind == "b"

    def numbers(self, name: str) -> np.ndarray:
        """A column as finite float64 numbers of shape (n,)."""
        return read_numbers(self.columns[name], f"column {name!r}")

    def categories(self, name: str) -> tuple[Vocabulary, np.ndarray]:
        """A column's levels, in their own order or else sorted, and its codes of shape (n,).

        Levels that do not occur are left out.
        """
        levels, codes = Vocabulary.from_values(self.columns[name], name, what=f"column {name!r}")
        order = self.orders[name]
        if order is None:
            return levels, codes
        place = {value: place for place, value in enumerate(order)}
        rank = np.argsort([place[value] for value in levels.ids.tolist()], kind="stable")
        codes_by_rank = np.empty(len(rank), np.int32)
        codes_by_rank[rank] = np.arange(len(rank), dtype=np.int32)
        return Vocabulary(name, levels.ids[rank]), codes_by_rank[codes]


def category_order(values: Any) -> list[Any] | None:
    """The categories of a categorical column in their own order, or None for any other column.

    A polars Categorical has no order but the alphabet (an Enum has one).
    """
    if isinstance(values, pd.Categorical):
        return list(values.categories)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _arrow_order(values)
    series = nw.from_native(values, series_only=True, pass_through=True)
    if not isinstance(series, nw.Series) or series.dtype not in (nw.Categorical, nw.Enum):
        return None
    if series.implementation.is_polars() and series.dtype == nw.Categorical:
        return None
    if series.implementation.is_pandas():
        return list(series.to_native().cat.categories)
    if isinstance(series.dtype, nw.Enum):
        return list(series.dtype.categories)
    return _arrow_order(series.to_arrow())


def _enums(data: Any) -> set[str]:
    """Columns that are Enums, whose levels have an order; as Arrow arrays DuckDB's lose it."""
    frame = nw.from_native(data, pass_through=True)
    if not isinstance(frame, nw.DataFrame | nw.LazyFrame):
        return set()
    return {name for name, kind in frame.collect_schema().items() if kind == nw.Enum}


def _is_ordered(values: Any) -> bool:
    """True for a categorical column whose levels are declared to have an order."""
    if isinstance(values, nw.Series):
        if isinstance(values.dtype, nw.Enum):
            return True
        values = values.to_native()
    if isinstance(values, pd.Series):
        return bool(getattr(values.dtype, "ordered", False))
    if isinstance(values, pd.Categorical | pd.CategoricalIndex):
        return bool(values.ordered)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return pa.types.is_dictionary(values.type) and bool(values.type.ordered)
    series = nw.from_native(values, series_only=True, pass_through=True)
    return isinstance(series, nw.Series) and isinstance(series.dtype, nw.Enum)


def _arrow_order(values: pa.Array | pa.ChunkedArray) -> list[Any] | None:
    if not pa.types.is_dictionary(values.type):
        return None
    if isinstance(values, pa.ChunkedArray):
        chunks = values.unify_dictionaries().chunks
        return list(dict.fromkeys(chunks[0].dictionary.to_pylist())) if chunks else []
    return list(dict.fromkeys(values.dictionary.to_pylist()))


def some(rows: Iterable[int]) -> str:
    """The first five rows, and dots if there are more."""
    listed = [int(row) for row in rows]
    return ", ".join(map(str, listed[:5])) + ", ..." * (len(listed) > 5)

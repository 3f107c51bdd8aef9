"""One column at the door: any sequence becomes an Arrow or NumPy array, checked value by value.

`load` accepts whatever holds values in order and leaves a `pyarrow.Array` (types and nulls known)
or a one-dimensional `numpy.ndarray`. The readers of numbers and times are here; that of ids, which
is the longest, is in `ids`. Rows are counted from 0 in every message.
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

type Column = pa.Array | np.ndarray

#: The largest number of single precision, which fits compute in unless they are told otherwise.
LARGEST = float(np.finfo(np.float32).max)


def load(values: Any, what: str) -> Column:
    """Any sequence of values as an Arrow array or a NumPy array of one dimension.

    Args:
        values: NumPy, Arrow or JAX array; pandas, polars or other series; list, tuple or range.
        what: What the messages call it, such as "column 'user'".

    Returns:
        The values in order. Dictionary-encoded values (categoricals) are decoded, so that unused
        categories are gone.

    Raises:
        TypeError: If it is no sequence of values.
        ValueError: If it is not of one dimension.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _from_arrow(values)
    if isinstance(values, np.ndarray):
        return _from_numpy(values, what)
    if isinstance(values, list | tuple | range):
        return objects(values)
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return _from_series(series)
    if hasattr(values, "__array__") and not isinstance(values, str | bytes):
        return _from_numpy(np.asarray(values), what)
    raise TypeError(
        f"{sentence(what)} is of type {type(values).__name__}, expected a sequence of values, one "
        "for each row; give a list, an array or a series."
    )


def objects(values: Sequence[Any]) -> np.ndarray:
    """A one-dimensional object array, whatever its entries are (tuples too stay one entry)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values if isinstance(values, list) else list(values)
    return array


def _from_series(series: nw.Series) -> Column:
    # Object columns hold Python objects of any type: Arrow would guess one or fail.
    if series.dtype != nw.Object:
        try:
            array = _from_arrow(series.to_arrow())
        except (pa.ArrowException, TypeError, NotImplementedError):
            pass
        else:
            if not isinstance(array.type, pa.BaseExtensionType) or array.type == pa.uuid():
                return array
    return objects(series.to_list())


def _from_arrow(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        combined = values.combine_chunks()
        values = combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    return values


def _from_numpy(values: np.ndarray, what: str) -> Column:
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


def sentence(phrase: str) -> str:
    """The phrase with its first letter large."""
    return phrase[:1].upper() + phrase[1:]


def is_missing(value: Any) -> bool:
    """True for a value that stands for nothing: None, NaN, NaT, pandas.NA, a tuple with NaN."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, tuple):
        return any(is_missing(entry) for entry in value if entry is not None)
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return False


def missing_mask(column: Column) -> np.ndarray:
    """Which values are missing, as booleans of shape (n,)."""
    if isinstance(column, pa.Array):
        nan_is_null = pa.types.is_floating(column.type)
        return np.asarray(pc.is_null(column, nan_is_null=nan_is_null))
    if column.dtype.kind in "mM":
        return np.isnat(column)
    if column.dtype.kind in "fc":
        return np.isnan(column)
    if column.dtype == object and not _never_missing(set(map(type, column.tolist()))):
        return np.fromiter(map(is_missing, column), bool, len(column))
    return np.zeros(len(column), dtype=bool)


def _never_missing(types: set[type]) -> bool:
    return all(issubclass(kind, str | bytes | int) for kind in types)


def refuse_missing(column: Column, what: str, advice: str) -> None:
    """Raise a ValueError that names the first missing value and says how many there are."""
    missing = missing_mask(column)
    if missing.any():
        count = int(missing.sum())
        raise ValueError(
            f"{sentence(what)} has {count:,} missing value{'s'[: count > 1]} (None, NaN or null), "
            f"the first in row {int(missing.argmax())}; {advice}"
        )


def read_numbers(column: Column, what: str) -> np.ndarray:
    """A loaded column as finite float64 numbers; booleans become 0 and 1.

    Args:
        column: From `load`.
        what: What the messages call it.

    Returns:
        A new array of shape (n,).

    Raises:
        TypeError: If it holds anything but real numbers.
        ValueError: If a number is missing, infinite, or too large for single precision.
    """
    numbers = _arrow_numbers(column) if isinstance(column, pa.Array) else _numpy_numbers(column)
    if numbers is None:
        row, value = first_other(column, lambda value: isinstance(value, Real) or is_missing(value))
        hint = " Text has to be converted first." if isinstance(value, str) else ""
        raise TypeError(
            f"{sentence(what)} must hold numbers, but row {row} holds {value!r} of type "
            f"{type(value).__name__}.{hint}"
        )
    refuse_missing(numbers, what, "drop these rows or fill them in first.")
    infinite = ~np.isfinite(numbers)
    if infinite.any():
        row = int(infinite.argmax())
        raise ValueError(
            f"{sentence(what)} is {numbers[row]} in row {row} ({int(infinite.sum()):,} such rows); "
            "every value must be finite: drop these rows or fill them in first."
        )
    refuse_large(numbers, what)
    return numbers


def refuse_large(numbers: np.ndarray, what: str, largest: float = LARGEST) -> None:
    """Refuse numbers that calculations in single precision would take for infinite.

    Args:
        numbers: Finite, of shape (n,).
        what: What the message calls them.
        largest: The largest that is none of them.

    Raises:
        ValueError: If one is larger; it names the first such row.
    """
    large = np.abs(numbers) > largest
    if large.any():
        row = int(large.argmax())
        raise ValueError(
            f"{sentence(what)} is {numbers[row]:g} in row {row} ({int(large.sum()):,} such rows), "
            f"and calculations in single precision bear at most {largest:.2g}: divide it by a "
            f"constant, such as {np.abs(numbers).max():.0e}, in every row."
        )


def _arrow_numbers(column: pa.Array) -> np.ndarray | None:
    kind = column.type
    if not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):  # fmt: skip
        return None
    # Unsafe only in that integers above 2**53 are rounded, as for every float64.
    return np.array(pc.cast(column, pa.float64(), safe=False), dtype=np.float64)


def _numpy_numbers(column: np.ndarray) -> np.ndarray | None:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype != object:
        return None
    values = column.tolist()
    if not all(_is_number_type(kind) for kind in set(map(type, values))):
        return None
    return np.array([np.nan if is_missing(v) else float(v) for v in values], dtype=np.float64)


def _is_number_type(kind: type) -> bool:
    # Decimal is no Real, as it does not mix with floats; as a rating it is a number all the same.
    names = ("NoneType", "NAType", "NaTType", "Decimal")
    return issubclass(kind, Real | np.bool_) or kind.__name__ in names


def first_other(column: Column, expected: Callable[[Any], bool]) -> tuple[int, Any]:
    """Row and value of the first value that is not as expected (or of the first of all)."""
    values = column.to_pylist() if isinstance(column, pa.Array) else column
    for row, value in enumerate(values):
        if not expected(value):
            return row, value
    return 0, values[0]


def read_times(column: Column, what: str) -> np.ndarray:
    """A loaded column of times: numbers (int64 exactly, or float64) or datetime64 (UTC).

    Args:
        column: From `load`.
        what: What the messages call it.

    Returns:
        A new array of shape (n,) that can be sorted.

    Raises:
        TypeError: If it holds neither numbers nor dates.
        ValueError: If a time is missing or infinite.
    """
    refuse_missing(column, what, "drop these rows or fill them in first.")
    if not isinstance(column, pa.Array) and column.dtype == object:
        try:
            column = pa.array(column)
        except pa.ArrowException:
            return read_numbers(column, what)
    if isinstance(column, pa.Array) and pa.types.is_temporal(column.type):
        if not pa.types.is_time(column.type):
            return column.to_numpy(zero_copy_only=False).copy()
    elif isinstance(column, pa.Array) and pa.types.is_integer(column.type):
        return np.array(column)
    elif isinstance(column, np.ndarray) and column.dtype.kind in "iumM":
        return column.copy()
    elif isinstance(column, np.ndarray) or not is_text(column.type):
        return read_numbers(column, what)
    raise TypeError(
        f"{sentence(what)} holds {column.type} values such as {column[0].as_py()!r}, expected "
        "numbers or dates; parse text into dates first."
    )


def is_text(kind: pa.DataType) -> bool:
    """True for the string types of Arrow."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def read_any(column: Column) -> np.ndarray:
    """A loaded column as a NumPy array, unchecked: nulls are None, or NaN among numbers."""
    if isinstance(column, pa.Array):
        return column.to_numpy(zero_copy_only=False).copy()
    return column.copy()

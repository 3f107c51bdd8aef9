"""Kinds of values, the same for Arrow, NumPy and Python: integers, text, dates, UUIDs and so on."""

from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

INTEGERS, FLOATS, BOOLEANS = "integers", "floating numbers", "booleans"
TEXT, BYTES, UUIDS, TUPLES = "text", "bytes", "UUIDs", "tuples"
DATES, DATETIMES, DURATIONS, CLOCK = "dates", "date-times", "durations", "times of day"
NOTHING, DECIMALS = "nothing", "Decimal objects"

NUMBERS = {INTEGERS, FLOATS, BOOLEANS, DECIMALS, "Fraction objects"}
TIMES = {DATES, DATETIMES, DURATIONS, CLOCK}
#: Only these are sure to have a total order (sets, for one, compare but do not).
SORTABLE = {INTEGERS, FLOATS, BOOLEANS, DECIMALS, TEXT, BYTES, UUIDS, TUPLES, *TIMES}

# A subclass stands before its base: True is an int and a datetime is a date.
_PYTHON: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bool, np.bool_), BOOLEANS),
    ((int, np.integer), INTEGERS),
    ((float, np.floating), FLOATS),
    (str, TEXT),
    (bytes, BYTES),
    ((datetime, np.datetime64), DATETIMES),
    (date, DATES),
    (time, CLOCK),
    ((timedelta, np.timedelta64), DURATIONS),
    (UUID, UUIDS),
    (tuple, TUPLES),
)
_NUMPY = {
    "b": BOOLEANS, "i": INTEGERS, "u": INTEGERS, "f": FLOATS, "M": DATES, "m": DURATIONS,
    "c": "complex objects",
}  # fmt: skip


@cache
def python_kind(of: type) -> str:
    """Kind of the values of a Python or NumPy type; types without one are their own kind."""
    for types, kind in _PYTHON:
        if issubclass(of, types):
            return kind
    missing = of.__name__ in ("NoneType", "NAType", "NaTType")
    return NOTHING if missing else f"{of.__name__} objects"


def array_kind(values: pa.Array | np.ndarray) -> str:
    """Kind of the values of an Arrow array, or of a NumPy array that holds no Python objects."""
    if isinstance(values, np.ndarray):
        return _NUMPY[values.dtype.kind]
    kind = values.type
    return next((name for test, name in _ARROW if test(kind)), f"{kind} values")


def is_text(kind: pa.DataType) -> bool:
    """True for the string types of Arrow."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


_ARROW: tuple[tuple[Any, str], ...] = (
    (pa.types.is_integer, INTEGERS),
    (pa.types.is_floating, FLOATS),
    (pa.types.is_boolean, BOOLEANS),
    (pa.types.is_decimal, DECIMALS),
    (is_text, TEXT),
    (lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind), BYTES),
    (lambda kind: pa.types.is_date(kind) or pa.types.is_timestamp(kind), DATES),
    (pa.types.is_duration, DURATIONS),
    (pa.types.is_time, CLOCK),
    (pa.types.is_null, NOTHING),
)

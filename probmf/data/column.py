"""One column at the door: any sequence of values becomes a `Column`, whose readers check it.

Kinds of values (integers, text, dates, UUIDs and so on) are the same for Arrow, NumPy and Python.

Rows are counted from 0 in every message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import cache, cached_property
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

INTEGERS, FLOATS, BOOLEANS = "integers", "floating numbers", "booleans"
TEXT, BYTES, UUIDS, TUPLES = "text", "bytes", "UUIDs", "tuples"
DATES, DATETIMES, DURATIONS, CLOCK = "dates", "date-times", "durations", "times of day"
NOTHING, DECIMALS = "nothing", "Decimal objects"

NUMBERS = {INTEGERS, FLOATS, BOOLEANS, DECIMALS, "Fraction objects"}
TIMES = {DATES, DATETIMES, DURATIONS, CLOCK}
#: Only these are sure to have a total order (sets, for one, compare but do not).
SORTABLE = {INTEGERS, FLOATS, BOOLEANS, DECIMALS, TEXT, BYTES, UUIDS, TUPLES, *TIMES}

# A subclass stands before its base: True and a timedelta64 are ints, and a datetime is a date.
_PYTHON: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bool, np.bool_), BOOLEANS),
    ((timedelta, np.timedelta64), DURATIONS),
    ((int, np.integer), INTEGERS),
    ((float, np.floating), FLOATS),
    (str, TEXT),
    (bytes, BYTES),
    ((datetime, np.datetime64), DATETIMES),
    (date, DATES),
    (time, CLOCK),
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

#: The largest number of single precision, which fits compute in unless they are told otherwise.
LARGEST = float(np.finfo(np.float32).max)
DROP = "drop these rows or fill them in first."
ORDERED = "Times must all be of one kind, which has an order; convert the column first."
#: Units of time that Arrow has besides days.
_ARROW_UNITS = ("s", "ms", "us", "ns")
FINITE = f"; every value must be finite: {DROP}"


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table.

    Attributes:
        values: An Arrow array (types and nulls known; categories decoded, so that unused ones are
            gone), or a NumPy array of one dimension.
        what: What messages call it, such as "column 'user'".
        categories: Categories of a categorical column in their own order; None for any other.
        ordered: Whether the categories are declared to have an order.
        owners: Vocabulary whose ids the rows belong to, for messages; None for any other table.
    """

    values: pa.Array | np.ndarray
    what: str
    categories: list[Any] | None = None
    ordered: bool = False
    owners: Any = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    @cached_property
    def types(self) -> frozenset[type]:
        """Python types of the values of a column of objects; empty for any other."""
        return frozenset(map(type, self.values.tolist())) if _is_objects(self.values) else _NO_TYPES

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Kinds of the values that are not missing; see `probmf.data.column`."""
        objects = _is_objects(self.values)
        found = map(python_kind, self.types) if objects else [array_kind(self.values)]
        return frozenset(found) - {NOTHING}

    @property
    def is_numeric(self) -> bool:
        """True for numbers and booleans that are no categories."""
        return self.categories is None and self.kinds <= NUMBERS

    def row(self, row: int) -> str:
        """Name of a row in messages."""
        if self.owners is None:
            return f"row {row}"
        return f"row {row} of {self.owners.name} {plain(self.owners.ids[row])!r}"

    def missing(self) -> np.ndarray:
        """Marks of the values that are missing, booleans of shape (n,)."""
        values = self.values
        if isinstance(values, pa.Array):
            return np.asarray(pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)))
        if values.dtype.kind in "mM":
            return np.isnat(values)
        if values.dtype.kind in "fc":
            return np.isnan(values)
        if all(issubclass(of, str | bytes | int) for of in self.types):
            return np.zeros(len(values), dtype=bool)
        return np.fromiter(map(is_missing, values), bool, len(values))

    def known(self) -> "Column":
        """The values that are not missing."""
        return replace(self, values=self.values.take(np.flatnonzero(~self.missing())))

    def refuse_missing(self, advice: str = DROP) -> None:
        """Raise a ValueError that names the first missing value and says how many there are."""
        missing = self.missing()
        if missing.any():
            row = self.row(int(missing.argmax()))
            raise ValueError(missing_message(self.what, row, int(missing.sum()), advice))

    def refuse(self, broken: np.ndarray, problem: str) -> None:
        """Raise a ValueError about rows (booleans), if there are any; see `refuse`."""
        if broken.any():
            refuse(broken, self.to_list(), self.what, problem, self.row)

    def numbers(self, *, gaps: bool = False) -> np.ndarray:
        """The values as finite float64 numbers of shape (n,); booleans become 0 and 1.

        With `gaps` missing values may stand, as NaN; otherwise these are refused, and in any case
        what is infinite or too large for single precision.
        """
        self.refuse_others(NUMBERS, "numbers")
        if isinstance(self.values, pa.Array):
            # Unsafe only in that integers above 2**53 are rounded, as for every float64.
            found = np.array(pc.cast(self.values, pa.float64(), safe=False), dtype=np.float64)
        elif NOTHING in map(python_kind, self.types):
            found = np.array([np.nan if is_missing(v) else float(v) for v in self.values.tolist()])
        else:
            found = self.values.astype(np.float64)
        if not np.isfinite(found).all():
            if not gaps:
                self.refuse_missing()
            refuse(np.isinf(found), found, self.what, FINITE, self.row)
            found[np.isnan(found)] = np.nan  # Of one sign and payload.
        refuse_large(found, self.what, self.row)
        return found

    def times(self) -> np.ndarray:
        """The values as times that can be sorted: int64 exactly, float64, or datetime64 in UTC."""
        self.refuse_missing()
        self.refuse_others(NUMBERS | TIMES - {CLOCK}, "numbers or dates")
        values = self.values
        if _is_objects(values) and self.kinds <= TIMES | {INTEGERS}:
            common_kind(values.tolist(), self.what, ORDERED)
            try:
                values = exact_array(values.tolist())
            except (pa.ArrowException, OverflowError):
                return self.numbers()
        if self.kinds <= TIMES or self.kinds == {INTEGERS}:
            return np.array(values)
        return self.numbers()

    def refuse_others(self, kinds: set[str], noun: str) -> None:
        """Raise a TypeError that names the first value that is of none of the kinds."""
        if self.kinds <= kinds:
            return
        row, value = next(
            (
                (row, value)
                for row, value in enumerate(self.to_list())
                if not is_missing(value) and python_kind(value.__class__) not in kinds
            ),
            (0, None),
        )
        hint = ""
        if isinstance(value, str):
            # A single word turns all numbers of a file's column into text: name that one.
            words = ((row, text) for row, text in enumerate(self.to_list()) if _is_word(text))
            row, value = next(words, (row, value))
            hint = " Text has to be converted first."
            if _is_word(value) and kinds & NUMBERS:
                hint = " Correct or drop such rows, and convert the column to numbers."
        raise TypeError(
            f"{sentence(self.what)} must hold {noun}, but {self.row(row)} holds {value!r} of type "
            f"{type(value).__name__}.{hint}"
        )

    def to_list(self) -> list[Any]:
        """The values, unchecked, as Python or NumPy scalars."""
        return self.values.to_pylist() if isinstance(self.values, pa.Array) else list(self.values)

    def to_numpy(self) -> np.ndarray:
        """The values as a new NumPy array, unchecked: nulls are None, or NaN among numbers."""
        return np.array(self.values)

    def to_arrow(self) -> pa.Array:
        """The values as an Arrow array, of categories dictionary-encoded.

        Raises:
            TypeError: If they have no common Arrow type.
        """
        try:
            values = pa.array(self.values, from_pandas=True)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise TypeError(
                f"{sentence(self.what)} can't be stored as one type ({error}); convert it to "
                "numbers or text, or leave it out."
            ) from error
        return values if self.categories is None else values.dictionary_encode()


_NO_TYPES: frozenset[type] = frozenset()


def _is_objects(values: pa.Array | np.ndarray) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == object


def common_kind(values: list[Any], what: str, advice: str) -> str:
    """The kind that all values share, or a ValueError at the first change; see `python_kind`.

    Date-times with a time zone and without one are of two kinds. `advice` ends the message.
    """
    if not values:
        return NOTHING
    kinds = {of: python_kind(of) for of in set(map(type, values))}
    found = set(kinds.values())
    if len(found) > 1 or found == {DATETIMES}:
        names = [kinds[type(value)] + _zone_words(value) for value in values]
        row = next((row for row, name in enumerate(names) if name != names[0]), None)
        if row is not None:
            raise ValueError(mixed_message(what, values, row, (names[0], names[row]), advice))
    return found.pop()


def _zone_words(value: Any) -> str:
    if not isinstance(value, datetime):
        return ""
    return " without a time zone" if value.tzinfo is None else " with a time zone"


def mixed_message(
    what: str, values: list[Any], row: int, kinds: tuple[str, str], advice: str
) -> str:
    """Message about a row whose value is of another kind than the first one's."""
    return (
        f"{sentence(what)} mixes {kinds[0]} and {kinds[1]}: row 0 holds {values[0]!r}, but row "
        f"{row} holds {values[row]!r}. {advice}"
    )


def exact_array(values: list[Any]) -> pa.Array:
    """Values of one kind as an Arrow array; of date-times and durations nothing is cut off.

    Raises:
        pyarrow.ArrowException: If Arrow has no type for them.
    """
    if all(isinstance(value, np.datetime64 | np.timedelta64) for value in values):
        return pa.array(in_arrow_unit(np.array(values)))
    if isinstance(values[0], int) and min(values) >= 0 and max(values) >= 2**63:
        return pa.array(values, pa.uint64())
    # pandas has nanoseconds, which Arrow drops where it is not told.
    if isinstance(values[0], datetime | timedelta) and any(map(_nanoseconds, values)):
        if isinstance(values[0], timedelta):
            return pa.array(values, pa.duration("ns"))
        return pa.array(values, pa.timestamp("ns", "UTC" if values[0].tzinfo else None))
    return pa.array(values)


def _nanoseconds(value: Any) -> int:
    return getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)


def in_arrow_unit(values: np.ndarray) -> np.ndarray:
    """The same dates or durations in a unit that Arrow has: years to weeks, hours and minutes."""
    known = {"M": ("D", *_ARROW_UNITS), "m": _ARROW_UNITS}.get(values.dtype.kind)
    if known is None or np.datetime_data(values.dtype)[0] in known:
        return values
    return values.astype(f"{values.dtype.kind}8[s]")


def missing_message(what: str, row: str, count: int, advice: str) -> str:
    """Message about missing values: of what, in which row first, how many, and what to do."""
    return (
        f"{sentence(what)} has {count:,} missing value{'s'[: count > 1]} (None, NaN or null), the "
        f"first in {row}; {advice}"
    )


def refuse(
    broken: np.ndarray,
    values: Any,
    what: str,
    problem: str,
    row: Callable[[int], str] = "row {}".format,
) -> None:
    """Raise a ValueError that shows the first of some rows, how many there are, and the problem."""
    if broken.any():
        first = int(broken.argmax())
        value = plain(values[first])
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        raise ValueError(
            f"{sentence(what)} is {shown} in {row(first)} ({such_rows(broken)}){problem}"
        )


def such_rows(broken: np.ndarray) -> str:
    """The number of some rows, in words."""
    count = int(broken.sum())
    return f"{count:,} such row{'s' * (count != 1)}"


def refuse_large(
    numbers: np.ndarray,
    what: str,
    row: Callable[[int], str] = "row {}".format,
    largest: float = LARGEST,
) -> None:
    """Refuse numbers that calculations in single precision would take for infinite."""
    size = np.abs(numbers)
    if (size > largest).any():
        problem = (
            f", and calculations in single precision bear at most {largest:.2g}: divide it by a "
            f"constant, such as {np.nanmax(size):.0e}, in every row."
        )
        refuse(size > largest, numbers, what, problem, row)


def is_missing(value: Any) -> bool:
    """True for a value that stands for nothing: None, NaN, NaT, pandas.NA, a tuple with NaN."""
    if python_kind(value.__class__) == NOTHING:
        return True
    if isinstance(value, tuple):
        return any(is_missing(entry) for entry in value if entry is not None)
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return False


def sentence(phrase: str) -> str:
    """The phrase with its first letter large."""
    return phrase[:1].upper() + phrase[1:]


def _is_word(value: object) -> bool:
    """True for text that is no number."""
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python value that a message should show."""
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="auto"))
    if isinstance(value, np.timedelta64):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def python_values(values: np.ndarray) -> list[Any]:
    """Values as Python's own, but dates and durations as NumPy's: nanoseconds would be integers."""
    return list(values) if values.dtype.kind in "mM" else list(values.tolist())


def some_of(values: Sequence[Any], most: int = 5) -> str:
    """The first values, and dots if there are more."""
    return ", ".join(repr(plain(v)) for v in values[:most]) + ", ..." * (len(values) > most)


def objects(values: Sequence[Any]) -> np.ndarray:
    """A one-dimensional object array, whatever its entries are (tuples too stay one entry)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values if isinstance(values, list) else list(values)
    return array

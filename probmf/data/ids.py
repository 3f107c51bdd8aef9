"""Ids at the door: of one kind, none missing, kept exactly.

A column of ids becomes `Ids`: the name of their kind and the values, as an Arrow array where Arrow
can hash and sort them (integers, text, bytes, dates) and as Python objects otherwise (UUIDs,
tuples, anything that can be hashed). The kind is compared before the values are, because 1, 1.0,
True and "1" would otherwise be one id or four depending on where they come from.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from probmf.data.column import (
    BOOLEANS,
    BYTES,
    DATES,
    DATETIMES,
    DURATIONS,
    FLOATS,
    INTEGERS,
    SORTABLE,
    TEXT,
    TUPLES,
    UUIDS,
    array_kind,
    common_kind,
    exact_array,
    in_arrow_unit,
    mixed_message,
    objects,
    python_kind,
    sentence,
)
from probmf.data.tables import load

#: What to do about a row without an id.
MUST_BE_KNOWN = "an id must be known: drop these rows or give them an id of their own."
ONE_KIND = (
    "Ids must all be of one kind, since it could not be told whether 1, 1.0, True and '1' are one "
    "user; convert the column first, for example to text."
)
_PLAIN: dict[str, type] = {INTEGERS: int, TEXT: str, BYTES: bytes, BOOLEANS: bool}


class Ids(NamedTuple):
    """Checked ids; none is missing and all are of one kind."""

    kind: str
    values: pa.Array | np.ndarray

    def to_numpy(self) -> np.ndarray:
        """The ids as int64 (uint64 if need be), bool, datetime64, timedelta64 or objects."""
        if not isinstance(self.values, pa.Array):
            return self.values.copy()
        array = self.values.to_numpy(zero_copy_only=False)
        if self.kind == INTEGERS and array.dtype != np.uint64:
            array = array.astype(np.int64)
        return array.copy()


def read_ids(values: Any, what: str) -> Ids:
    """Check a column of ids; floating numbers that are whole become integers."""
    column = load(values, what)
    what = column.what
    column.refuse_missing(MUST_BE_KNOWN)
    found = column.values
    if isinstance(found, pa.Array):
        return _read_arrow(found, what)
    if found.dtype == object:
        return _read_objects(found, what)
    if found.dtype.kind == "f":
        return _read_floats(found, what)
    if found.dtype.kind == "c":
        return _hashed(found, what)
    return _read_arrow(pa.array(in_arrow_unit(found)), what)


def _read_arrow(column: pa.Array, what: str) -> Ids:
    kind = array_kind(column)
    if kind == INTEGERS:
        large = column.type == pa.uint64() and len(column) and pc.max(column).as_py() >= 2**63
        return Ids(INTEGERS, column if large else column.cast(pa.int64()))
    if kind == FLOATS:
        return _read_floats(column.to_numpy(zero_copy_only=False), what)
    if kind in (TEXT, BYTES):
        wide = pa.large_string() if kind == TEXT else pa.large_binary()
        return Ids(kind, column.cast(wide))
    if kind in (BOOLEANS, DATES, DURATIONS):
        return Ids(kind, column)
    return _read_objects(objects(column.to_pylist()), what)


def not_whole(column: np.ndarray) -> np.ndarray:
    """Marks of floating numbers that can't be ids: not whole, or so large that they are rounded."""
    largest = _largest(column.dtype)
    return ~np.isfinite(column) | (column != np.trunc(column)) | (np.abs(column) > largest)


def not_whole_message(value: np.floating, row: int, what: str) -> str:
    """Message about such a number."""
    reason = (
        f"an id beyond {_largest(value.dtype):.0f} may have been rounded"
        if np.isfinite(value) and value == np.trunc(value)
        else "a floating number is an id only if it is whole"
    )
    return (
        f"{sentence(what)} holds {float(value)!r} in row {row} (type {value.dtype}), but "
        f"{reason}; give the ids as integers or text."
    )


def _largest(dtype: np.dtype) -> float:
    # Above 2**(mantissa bits) neighbouring integers are one floating number.
    return float(2.0 ** (np.finfo(dtype).nmant + 1))


def _read_floats(column: np.ndarray, what: str) -> Ids:
    broken = not_whole(column)
    if broken.any():
        row = int(broken.argmax())
        raise ValueError(not_whole_message(column[row], row, what))
    return Ids(INTEGERS, pa.array(column.astype(np.int64)))


def _read_objects(column: np.ndarray, what: str) -> Ids:
    values = column.tolist()
    kind = _common_kind(values, what)
    if kind == FLOATS:
        return _read_floats(column.astype(np.float64), what)
    if kind in _PLAIN and set(map(type, values)) != {_PLAIN[kind]}:
        # NumPy scalars and subclasses (enumerations) as what they stand for.
        values = list(map(_PLAIN[kind], values))
        column = objects(values)
    if kind in (*_PLAIN, DATES, DATETIMES, DURATIONS):
        try:
            return _read_arrow(exact_array(values), what)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            pass  # Integers beyond 64 bits, broken text, dates out of range: as Python objects.
    return _hashed(column, what, kind)


def _hashed(column: np.ndarray, what: str, kind: str | None = None) -> Ids:
    for row, value in enumerate(column):
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{sentence(what)} holds {value!r} of type {type(value).__name__} in row {row}, "
                "which can't be hashed and so can't be an id; turn it into text or a tuple."
            ) from None
    return Ids(kind or _common_kind(column.tolist(), what), column.astype(object))


def _common_kind(values: list[Any], what: str) -> str:
    """The kind that all values share (tuples: entry by entry), or an error at the first change."""
    kind = common_kind(values, what, ONE_KIND)
    if kind == TUPLES:
        _refuse_mixed_tuples(values, what)
    return kind


def _refuse_mixed_tuples(values: list[tuple[Any, ...]], what: str) -> None:
    # (1, "a") and (True, "a") are equal and hash alike, so kinds are compared within tuples too.
    first_row: dict[tuple[type, ...], int] = {}
    for row, value in enumerate(values):
        first_row.setdefault(tuple(map(type, value)), row)
    seen: dict[int, str] = {}
    for types, row in first_row.items():
        for place, of in enumerate(types):
            if of is type(None):
                continue
            kind = seen.setdefault(place, python_kind(of))
            if kind != python_kind(of):
                kinds, entry = (kind, python_kind(of)), f" in entry {place} of its tuples"
                raise ValueError(mixed_message(what + entry, values, row, kinds, ONE_KIND))


def factorize(ids: Ids) -> tuple[Ids, np.ndarray]:
    """The different ids, sorted where they have an order, and for each row which of them it has."""
    if not isinstance(ids.values, pa.Array):
        return _factorize_objects(ids)
    values = ids.values
    if ids.kind == BOOLEANS:
        values = values.cast(pa.int8())  # Arrow does not sort booleans.
    encoded = values.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int32)
    rank[np.asarray(order)] = np.arange(len(order), dtype=np.int32)
    unique = encoded.dictionary.take(order)
    return Ids(ids.kind, unique.cast(ids.values.type)), rank[np.asarray(encoded.indices)]


def first_repeat(codes: np.ndarray) -> tuple[int, int]:
    """The first row whose code an earlier row has, that earlier row before it."""
    first = np.full(codes.max() + 1, -1)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    again = int(np.argmax(first[codes] != np.arange(len(codes))))
    return int(first[codes[again]]), again


def _factorize_objects(ids: Ids) -> tuple[Ids, np.ndarray]:
    index: dict[Any, int] = {}
    codes = np.fromiter(
        (index.setdefault(value, len(index)) for value in ids.values), np.int32, len(ids.values)
    )
    unique = list(index)
    if ids.kind in SORTABLE:
        try:
            keys = list(map(_sort_key, unique))
            order = sorted(range(len(unique)), key=keys.__getitem__)
        except TypeError:  # Tuples that hold sets, for one.
            order = list(range(len(unique)))
        rank = np.empty(len(unique), dtype=np.int32)
        rank[order] = np.arange(len(unique), dtype=np.int32)
        unique, codes = [unique[place] for place in order], rank[codes]
    return Ids(ids.kind, objects(unique)), codes


def _sort_key(value: Any) -> Any:
    """The value, or for a tuple one in which None stands before everything else."""
    if not isinstance(value, tuple):
        return value
    for entry in value:
        # mypy does not see that a type can be hashed.
        if entry is not None and python_kind(type(entry)) not in SORTABLE:  # type: ignore[arg-type]
            raise TypeError("An entry has no order.")
    return tuple((entry is not None, _sort_key(entry)) for entry in value)


def to_arrow(ids: Ids) -> pa.Array:
    """The ids as an Arrow array that reads back as the same ids; other kinds are refused."""
    if isinstance(ids.values, pa.Array):
        return ids.values
    if ids.kind == UUIDS:
        return pa.array([value.bytes for value in ids.values], pa.uuid())
    raise TypeError(
        f"The ids are {ids.kind}, for which there is no Arrow type that would read back the same; "
        "build the ratings with ids that are text or integers."
    )

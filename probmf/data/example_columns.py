"""Columns of a table of examples: features that are numbers, responses, classes."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from probmf.data.columns import Column, is_text, load, read_any, read_numbers, refuse_missing
from probmf.data.frames import collect
from probmf.data.vocabulary import Vocabulary

#: Spread of a column, as a share of its size, below which it is constant.
CONSTANT = 1e-12


class ExamplesWarning(UserWarning):
    """A feature that tells nothing of its own."""


def is_constant(x: Float[np.ndarray, "n columns"]) -> Bool[np.ndarray, " columns"]:
    """Which columns are the same in all rows, up to rounding."""
    return np.asarray(np.ptp(x, axis=0) <= CONSTANT * np.maximum(np.abs(x).max(axis=0), 1e-300))


def warn_of_idle_features(x: np.ndarray, names: Sequence[str]) -> None:
    """Warn of features that are constant or equal to another.

    Args:
        x: Features, shape (n, features).
        names: Their names.
    """
    if len(x) < 2:
        return
    constant = is_constant(x)
    if constant.any():
        idle = [name for name, is_idle in zip(names, constant, strict=True) if is_idle]
        warnings.warn(
            f"Feature{'s'[: len(idle) > 1]} {some_of(idle)} {'are' if len(idle) > 1 else 'is'} the "
            "same in all rows and can tell nothing: leave out what carries no information.",
            ExamplesWarning,
            stacklevel=3,
        )
    first: dict[bytes, str] = {}
    for place in np.flatnonzero(~constant):
        # Plus zero: -0.0 and 0.0 differ in their bytes.
        name = names[int(place)]
        other = first.setdefault(np.ascontiguousarray(x[:, place] + 0.0).tobytes(), name)
        if other != name:
            warnings.warn(
                f"Features {other!r} and {name!r} are equal in all rows: their weights "
                "can't be told apart. Leave one out.",
                ExamplesWarning,
                stacklevel=3,
            )


def all_columns(frame: Any) -> tuple[Any, list[str]]:
    """The table, read once, and the names of its columns."""
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        return frame, list(frame.dtype.names)
    if isinstance(frame, Mapping):
        return frame, list(frame)
    table = collect(frame, None, "the table of examples")
    return table, list(table.columns)


def check_names(names: tuple[str, ...], responses: tuple[str, ...]) -> None:
    """Refuse tables without features, and columns that are named twice."""
    if not names:
        raise ValueError("There are no features; name at least one column besides the response.")
    for name in (*names, *responses):
        if (*names, *responses).count(name) > 1:
            raise ValueError(
                f"Column {name!r} is named twice among features and responses; name it once."
            )


def read_features(
    columns: Mapping[str, Any], names: Sequence[str]
) -> Float[np.ndarray, "n features"]:
    """Columns of finite numbers, side by side; text is refused."""
    values = []
    for name in names:
        column = load(columns[name], f"column {name!r}")
        if isinstance(column, pa.Array) and is_text(column.type):
            raise TypeError(
                f"Column {name!r} holds text such as {column[0].as_py()!r}, but features are "
                "numbers: code its categories as columns of 0 and 1 first."
            )
        values.append(read_numbers(column, f"column {name!r}"))
    return np.stack(values, axis=1)


def read_responses(
    columns: Mapping[str, Column], classes: Sequence[Any] | None
) -> tuple[Float[np.ndarray, "n responses"], tuple[Any, ...]]:
    """The responses as numbers, and the classes if these are codes."""
    kinds = {name: _holds_classes(column) for name, column in columns.items()}
    if classes is None and not any(kinds.values()):
        values = [read_numbers(column, f"column {name!r}") for name, column in columns.items()]
        return np.stack(values, axis=1), ()
    if len(columns) > 1:
        name = next((name for name, has in kinds.items() if has), next(iter(columns)))
        raise ValueError(
            f"Response {name!r} has classes, and there are {len(columns)} responses; classes are "
            "read from one column only."
        )
    ((name, column),) = columns.items()
    refuse_missing(column, f"column {name!r}", "drop these rows or fill them in first.")
    if classes is None:
        levels, codes = Vocabulary.from_values(column, name, what=f"column {name!r}")
        order = np.argsort([str(value) for value in levels.ids.tolist()], kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank[codes][:, None].astype(np.float64), tuple(levels.ids[order].tolist())
    wanted = tuple(classes)
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise ValueError(f"classes is {list(wanted)!r}; expected two or more, all different.")
    return class_places(read_any(column), wanted, name)[:, None], wanted


def _holds_classes(column: Column) -> bool:
    if isinstance(column, pa.Array):
        return is_text(column.type) or pa.types.is_boolean(column.type)
    if column.dtype == object:
        return any(isinstance(value, str | bool) for value in column[:1])
    return column.dtype.kind == "b"


def class_places(
    labels: np.ndarray, classes: tuple[Any, ...], name: str
) -> Float[np.ndarray, " n"]:
    """Each label's place among the classes; others are refused."""
    place = {value: code for code, value in enumerate(classes)}
    codes = np.array([place.get(value, -1) for value in labels.tolist()], np.float64)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(
            f"Column {name!r} is {labels.tolist()[row]!r} in row {row}, which is none of the "
            f"classes {some_of(classes)}."
        )
    return codes


def some_of(names: Sequence[Any]) -> str:
    """The first five, and dots if there are more."""
    return ", ".join(repr(name) for name in names[:5]) + ", ..." * (len(names) > 5)

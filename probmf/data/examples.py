"""Tables of examples: features and a response, checked, and what codes new rows alike."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike
from jaxtyping import Float

from probmf.data.columns import Column, is_text, load, read_any, read_numbers, refuse_missing
from probmf.data.frames import collect, read_columns
from probmf.data.keys import as_generator
from probmf.data.vocabulary import Vocabulary

#: Spread of a column, as a share of its size, below which it is constant.
CONSTANT = 1e-12


class ExamplesWarning(UserWarning):
    """A feature that tells nothing of its own."""


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Features and responses of examples; standardization and class labels are remembered.

    Attributes:
        x: Features as they were given, float64.
        response: Responses as they were given; for classes their codes from 0.
        features: Names of the features.
        responses: Names of the responses.
        classes: What the codes stand for, in order; empty where the response is a number.
        feature_center: What is subtracted from each feature.
        feature_scale: What it is then divided by.
        response_center: The same for responses that are numbers; only a Gaussian likelihood uses
            it.
        response_scale: The same.
    """

    x: Float[np.ndarray, "n features"]
    response: Float[np.ndarray, "n responses"]
    features: tuple[str, ...]
    responses: tuple[str, ...]
    classes: tuple[Any, ...]
    feature_center: Float[np.ndarray, " features"]
    feature_scale: Float[np.ndarray, " features"]
    response_center: Float[np.ndarray, " responses"]
    response_scale: Float[np.ndarray, " responses"]

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        response: str | Sequence[str] = "y",
        features: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
        standardize: bool = True,
    ) -> "Examples":
        """Examples from a table.

        Args:
            frame: pandas, polars, pyarrow, DuckDB or other table known to narwhals, or a mapping of
                names to columns.
            response: Column of the response, or several of them, all numbers.
            features: Columns of the features, all numbers; None takes all other columns.
            classes: The classes of the response in their order, seen or not. By default text and
                booleans are classes, in sorted order.
            standardize: Whether features, and responses under a Gaussian likelihood, are brought to
                mean zero and standard deviation one.

        Returns:
            The examples.

        Raises:
            TypeError: If it is no table, or a feature holds no numbers.
            ValueError: If a column is missing, or a value is missing, infinite or none of the
                classes.

        Warns:
            ExamplesWarning: If a feature is constant, or equal to another.

        Example:
            >>> table = {"hours": [1, 4, 2, 6], "passed": ["no", "yes", "no", "yes"]}
            >>> examples = Examples.from_frame(table, response="passed")
            >>> examples.classes, examples.inputs().std()
            (('no', 'yes'), np.float64(1.0))
        """
        responses = (response,) if isinstance(response, str) else tuple(response)
        if not responses:
            raise ValueError("response is empty; name at least one column.")
        if features is None:
            frame, there = _all_columns(frame)
            features = [name for name in there if name not in responses]
        names = tuple(features)
        _check_names(names, responses)
        hints = dict.fromkeys(responses, " To use another column, name it: response=.")
        columns = read_columns(frame, [*names, *responses], "the table of examples", hints)
        x = _matrix(columns, names)
        if not len(x):
            raise ValueError("The table of examples has no rows; at least one is needed.")
        own, labels = _read_responses({name: columns[name] for name in responses}, classes)
        made = cls(
            x, own, names, responses, labels, np.zeros(len(names)), np.ones(len(names)),
            np.zeros(len(responses)), np.ones(len(responses)),
        )  # fmt: skip
        warn_of_idle_features(x, names)
        return made._standardized() if standardize else made

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        features: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
        standardize: bool = True,
    ) -> "Examples":
        """Examples from arrays.

        Args:
            x: Features, shape (n, features).
            y: Responses, shape (n,), or (n, responses) for several numbers.
            features: Names of the features, by default "x0", "x1" and so on.
            classes: As in `from_frame`.
            standardize: As in `from_frame`.

        Returns:
            The examples; the response is called "y", several "y0", "y1" and so on.

        Raises:
            ValueError: If the shapes do not match, or as for `from_frame`.

        Example:
            >>> len(Examples.from_arrays([[0.0], [1.0], [3.0]], [1.0, 2.0, 2.5]))
            3
        """
        matrix = np.asarray(x)
        if matrix.ndim != 2:
            raise ValueError(
                f"x has shape {matrix.shape}, expected (examples, features); for a single feature "
                "use x[:, None]."
            )
        names = [f"x{i}" for i in range(matrix.shape[1])] if features is None else list(features)
        if len(names) != matrix.shape[1]:
            raise ValueError(f"There are {len(names)} names for {matrix.shape[1]} features.")
        values = y if hasattr(y, "ndim") else np.asarray(y)
        several = values.ndim == 2
        parts = {f"y{i}": values[:, i] for i in range(values.shape[1])} if several else {"y": y}
        if len(values) != len(matrix):
            raise ValueError(
                f"x has {len(matrix):,} rows and y {len(values):,}; row i must be the same example."
            )
        frame = {name: matrix[:, i] for i, name in enumerate(names)} | parts
        return cls.from_frame(
            frame, response=list(parts), features=names, classes=classes, standardize=standardize
        )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.x)

    def __repr__(self) -> str:
        """How many there are, of what."""
        kinds = f", {len(self.classes)} classes" if self.classes else ""
        return (
            f"Examples({len(self):,} rows; {', '.join(self.responses)} by "
            f"{len(self.features)} feature{'s'[: len(self.features) != 1]}{kinds})"
        )

    def inputs(self) -> Float[np.ndarray, "n features"]:
        """The standardized features."""
        return (self.x - self.feature_center) / self.feature_scale

    def encode(self, table: Any) -> Float[np.ndarray, "n features"]:
        """Standardized features of other rows, coded as these are.

        Args:
            table: A table with the columns of the features, an array of shape (rows, features), or
                Examples.

        Returns:
            The features.

        Raises:
            TypeError: If it is none of these.
            ValueError: If a column is missing, or a value is missing or infinite.
        """
        if isinstance(table, Examples):
            if table.features != self.features:
                raise ValueError(
                    f"The examples have the features {_some(table.features)}; expected "
                    f"{_some(self.features)}."
                )
            x = table.x
        elif hasattr(table, "ndim") and hasattr(table, "dtype") and not table.dtype.names:
            matrix = np.asarray(table)
            if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
                raise ValueError(
                    f"The array has shape {matrix.shape}, expected (rows, {len(self.features)}), "
                    f"with the features {_some(self.features)} in this order."
                )
            x = _matrix({name: matrix[:, i] for i, name in enumerate(self.features)}, self.features)
        else:
            x = _matrix(read_columns(table, list(self.features), "the table"), self.features)
        return (x - self.feature_center) / self.feature_scale

    def matching(self, table: Any) -> "Examples":
        """Other examples, with responses, coded as these are: to test on, or to stop by.

        Args:
            table: A table with the columns of features and responses, or Examples.

        Returns:
            Examples with the standardization and the classes of these.

        Raises:
            TypeError: If it is neither.
            ValueError: If a column is missing, a value is missing or infinite, or a class is none
                of those known here.
        """
        x = self.encode(table) * self.feature_scale + self.feature_center
        if isinstance(table, Examples):
            if table.responses != self.responses or (table.classes and not self.classes):
                raise ValueError(
                    f"The examples have the response {_some(table.responses)} "
                    f"({'classes' if table.classes else 'numbers'}); expected "
                    f"{_some(self.responses)} ({'classes' if self.classes else 'numbers'})."
                )
            own = table.response
            if table.classes != self.classes:
                labels = own[:, 0]
                if table.classes:
                    labels = np.asarray(table.classes, object)[labels.astype(int)]
                own = _codes(labels, self.classes, self.responses[0])[:, None]
        else:
            columns = read_columns(table, list(self.responses), "the table")
            own, _ = _read_responses(columns, self.classes or None)
        return replace(self, x=x, response=own)

    def split(
        self, *, key: ArrayLike, test_fraction: float = 0.25
    ) -> tuple["Examples", "Examples"]:
        """Set aside examples at random.

        Args:
            key: JAX key or int; the same key gives the same split.
            test_fraction: Share that is set aside, rounded to whole examples.

        Returns:
            Training and test examples, both standardized by the training ones (if these are
            standardized at all).

        Raises:
            ValueError: If the fraction leaves one side empty.
        """
        count = round(len(self) * test_fraction)
        if not 0 < count < len(self):
            raise ValueError(
                f"test_fraction={test_fraction} of {len(self):,} examples is {count}; both sides "
                "need at least one."
            )
        order = as_generator(key).permutation(len(self))
        test, train = np.sort(order[:count]), np.sort(order[count:])
        first = replace(self, x=self.x[train], response=self.response[train])
        if np.any(self.feature_scale != 1) or np.any(self.feature_center != 0):
            first = first._standardized()
        return first, replace(first, x=self.x[test], response=self.response[test])

    def class_codes(self) -> tuple[tuple[Any, ...], np.ndarray]:
        """The classes, and each example's place among them.

        Returns:
            Classes and int32 codes. A response of numbers has the whole numbers from the least to
            the largest for classes.

        Raises:
            ValueError: If numbers are not whole, one in between never occurs, or there are several
                responses.
        """
        if self.classes:
            return self.classes, self.response[:, 0].astype(np.int32)
        if len(self.responses) > 1:
            raise ValueError(
                f"Classes are read from one column, but there are {len(self.responses)} responses."
            )
        values, name = self.response[:, 0], self.responses[0]
        broken = values != np.round(values)
        if broken.any():
            row = int(np.argmax(broken))
            raise ValueError(
                f"Column {name!r} is {values[row]:g} in row {row}, which is no class; classes are "
                "text, booleans or whole numbers. For a response that is a number use Gaussian()."
            )
        low, high = int(values.min()), int(values.max())
        seen = np.unique(values.astype(np.int64))
        if len(seen) != high - low + 1:
            lacking = next(value for value in range(low, high) if value not in seen)
            raise ValueError(
                f"The classes of column {name!r} run from {low} to {high}, but no row has "
                f"{lacking}. Give all of them, seen or not, as classes=[...], or number them "
                "without gaps."
            )
        return tuple(range(low, high + 1)), (values - low).astype(np.int32)

    def with_classes(self) -> "Examples":
        """The same, a response of whole numbers taken for classes; see `class_codes`."""
        if self.classes:
            return self
        classes, codes = self.class_codes()
        return replace(
            self, classes=classes, response=codes[:, None].astype(np.float64),
            response_center=np.zeros(1), response_scale=np.ones(1),
        )  # fmt: skip

    def _standardized(self) -> "Examples":
        """The same, brought to mean zero and standard deviation one; constants only to zero."""
        found: dict[str, Any] = {}
        parts = {"feature": self.x} | ({} if self.classes else {"response": self.response})
        for name, values in parts.items():
            center = values.mean(axis=0)
            scale = values.std(axis=0)
            flat = scale <= CONSTANT * np.maximum(np.abs(values).max(axis=0), 1e-300)
            found[f"{name}_center"] = center
            found[f"{name}_scale"] = np.where(flat, 1.0, scale)
        return replace(self, **found)


def warn_of_idle_features(x: np.ndarray, names: Sequence[str]) -> None:
    """Warn of features that are constant or equal to another.

    Args:
        x: Features, shape (n, features).
        names: Their names.
    """
    if len(x) < 2:
        return
    constant = np.ptp(x, axis=0) <= CONSTANT * np.maximum(np.abs(x).max(axis=0), 1e-300)
    if constant.any():
        idle = [name for name, is_idle in zip(names, constant, strict=True) if is_idle]
        warnings.warn(
            f"Feature{'s'[: len(idle) > 1]} {_some(idle)} {'are' if len(idle) > 1 else 'is'} the "
            "same in all rows and can tell nothing: leave out what carries no information.",
            ExamplesWarning,
            stacklevel=4,
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
                stacklevel=4,
            )


def _all_columns(frame: Any) -> tuple[Any, list[str]]:
    """The table, read once, and the names of its columns."""
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        return frame, list(frame.dtype.names)
    if isinstance(frame, Mapping):
        return frame, list(frame)
    table = collect(frame, None, "the table of examples")
    return table, list(table.columns)


def _check_names(names: tuple[str, ...], responses: tuple[str, ...]) -> None:
    if not names:
        raise ValueError("There are no features; name at least one column besides the response.")
    for name in (*names, *responses):
        if (*names, *responses).count(name) > 1:
            raise ValueError(
                f"Column {name!r} is named twice among features and responses; name it once."
            )


def _matrix(columns: Mapping[str, Any], names: Sequence[str]) -> Float[np.ndarray, "n features"]:
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


def _read_responses(
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
    return _codes(read_any(column), wanted, name)[:, None], wanted


def _holds_classes(column: Column) -> bool:
    if isinstance(column, pa.Array):
        return is_text(column.type) or pa.types.is_boolean(column.type)
    if column.dtype == object:
        return any(isinstance(value, str | bool) for value in column[:1])
    return column.dtype.kind == "b"


def _codes(labels: np.ndarray, classes: tuple[Any, ...], name: str) -> Float[np.ndarray, " n"]:
    place = {value: code for code, value in enumerate(classes)}
    codes = np.array([place.get(value, -1) for value in labels.tolist()], np.float64)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(
            f"Column {name!r} is {labels.tolist()[row]!r} in row {row}, which is none of the "
            f"classes {_some(classes)}."
        )
    return codes


def _some(names: Sequence[Any]) -> str:
    """The first five, and dots if there are more."""
    return ", ".join(repr(name) for name in names[:5]) + ", ..." * (len(names) > 5)

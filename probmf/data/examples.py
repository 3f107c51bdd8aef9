"""Tables of examples: features and a response, checked, and what codes new rows alike."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from probmf import html
from probmf.data.column import BOOLEANS, TEXT, Column, objects, refuse, some_of
from probmf.data.encoder import equal_columns, is_constant, standardization
from probmf.data.keys import as_generator
from probmf.data.tables import load, read_table
from probmf.data.vocabulary import Vocabulary


class ExamplesWarning(UserWarning):
    """Warning about a feature that is constant or equal to another."""


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
        classes_sorted: Whether the classes' order is that of sorting, for want of any other.
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
    classes_sorted: bool = False

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
                booleans are classes, in the order of an ordered categorical, else sorted.
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
        what = "the table of examples"
        if features is None:
            frame = read_table(frame, None, what)
            features = [name for name in frame if name not in responses]
        names = tuple(features)
        _check_names(names, responses)
        hints = dict.fromkeys(responses, " To use another column, name it: response=.")
        table = read_table(frame, [*names, *responses], what, hints=hints)
        if not table.num_rows:
            raise ValueError("The table of examples has no rows; at least one is needed.")
        x = _numbers(table, names)
        if classes is None and table[responses[0]].ordered:
            classes = table[responses[0]].categories
        own, labels = _responses(table, responses, classes)
        made = cls(
            x, own, names, responses, labels, np.zeros(len(names)), np.ones(len(names)),
            np.zeros(len(responses)), np.ones(len(responses)), bool(labels) and classes is None,
        )  # fmt: skip
        _warn_of_idle_features(x, names)
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

    def _repr_html_(self) -> str:
        """Features and responses, for notebooks."""
        told = {"rows": f"{len(self):,}", "response": ", ".join(self.responses)}
        if self.classes:
            told["classes"] = ", ".join(map(str, self.classes))
        return html.facts(told | {"features": ", ".join(self.features)})

    def __repr__(self) -> str:
        """Number of examples, features and responses."""
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
        return (self._raw(table) - self.feature_center) / self.feature_scale

    def _raw(self, table: Any) -> Float[np.ndarray, "n features"]:
        if isinstance(table, Examples):
            if table.features != self.features:
                raise ValueError(
                    f"The examples have the features {some_of(table.features)}; expected "
                    f"{some_of(self.features)}."
                )
            return table.x
        if hasattr(table, "ndim") and hasattr(table, "dtype") and not table.dtype.names:
            matrix = np.asarray(table)
            if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
                raise ValueError(
                    f"The array has shape {matrix.shape}, expected (rows, {len(self.features)}), "
                    f"with the features {some_of(self.features)} in this order."
                )
            table = dict(zip(self.features, matrix.T, strict=True))
        return _numbers(read_table(table, self.features, "the table"), self.features)

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
        x = self._raw(table)
        if not isinstance(table, Examples):
            columns = read_table(table, self.responses, "the table")
            return replace(self, x=x, response=_responses(columns, self.responses, self.classes)[0])
        if table.responses != self.responses or (table.classes and not self.classes):
            raise ValueError(
                f"The examples have the response {some_of(table.responses)} "
                f"({'classes' if table.classes else 'numbers'}); expected "
                f"{some_of(self.responses)} ({'classes' if self.classes else 'numbers'})."
            )
        own = table.response
        if table.classes != self.classes:
            labels = own[:, 0]
            if table.classes:
                labels = objects([table.classes[int(code)] for code in labels])
            column = load(labels, f"column {self.responses[0]!r}")
            own = _class_codes(column, self.classes)
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
        refuse(
            values != np.round(values), values, f"column {name!r}",
            ", which is no class; classes are text, booleans or whole numbers. For a response that "
            "is a number use Gaussian().",
        )  # fmt: skip
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
        """The same examples, a response of whole numbers taken for classes; see `class_codes`."""
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
            found[f"{name}_center"], found[f"{name}_scale"] = standardization(values)
        return replace(self, **found)


def _check_names(names: tuple[str, ...], responses: tuple[str, ...]) -> None:
    """Refuse tables without features, and columns that are named twice."""
    if not names:
        raise ValueError("There are no features; name at least one column besides the response.")
    for name in (*names, *responses):
        if (*names, *responses).count(name) > 1:
            raise ValueError(
                f"Column {name!r} is named twice among features and responses; name it once."
            )


def _numbers(table: Mapping[str, Column], names: Sequence[str]) -> Float[np.ndarray, "n columns"]:
    return np.stack([table[name].numbers() for name in names], axis=1)


def _responses(
    table: Mapping[str, Column], names: Sequence[str], classes: Sequence[Any] | None
) -> tuple[Float[np.ndarray, "n responses"], tuple[Any, ...]]:
    """The responses as numbers, and the classes, which are asked for by None and () for numbers."""
    kinds = {name: table[name].kinds for name in names}
    labelled = [name for name in names if TEXT in kinds[name] or kinds[name] == {BOOLEANS}]
    if not classes and (classes is not None or not labelled):
        return _numbers(table, names), ()
    if len(names) > 1:
        raise ValueError(
            f"Response {[*labelled, *names][0]!r} has classes, and there are {len(names)} "
            "responses; classes are read from one column only."
        )
    column = table[names[0]]
    column.refuse_missing()
    if classes is None:
        classes = Vocabulary.from_values(column, names[0])[0].ids.tolist()
    elif len(set(classes)) != len(classes) or len(classes) < 2:
        raise ValueError(f"classes is {list(classes)!r}; expected two or more, all different.")
    return _class_codes(column, classes), tuple(classes)


def _class_codes(column: Column, classes: Sequence[Any]) -> Float[np.ndarray, "n 1"]:
    """Each label's place among the classes; others are refused."""
    place = {value: code for code, value in enumerate(classes)}
    codes = np.array([place.get(value, -1) for value in column.to_list()])
    column.refuse(codes < 0, f", which is none of the classes {some_of(classes)}.")
    return codes[:, None].astype(np.float64)


def _warn_of_idle_features(x: np.ndarray, names: Sequence[str]) -> None:
    """Warn of features that are constant or equal to another."""
    if len(x) < 2:
        return
    idle = [name for name, is_idle in zip(names, is_constant(x), strict=True) if is_idle]
    if idle:
        warnings.warn(
            f"Feature{'s'[: len(idle) > 1]} {some_of(idle)} {'are' if len(idle) > 1 else 'is'} the "
            "same in all rows and can tell nothing: leave out what carries no information.",
            ExamplesWarning,
            stacklevel=3,
        )
    for before, after in equal_columns(list(x.T)):
        if names[after] not in idle:
            warnings.warn(
                f"Features {names[before]!r} and {names[after]!r} are equal in all rows: their "
                "weights can't be told apart. Leave one out.",
                ExamplesWarning,
                stacklevel=3,
            )

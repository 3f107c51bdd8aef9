"""The door for examples: what is checked, and what is remembered."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from probmf import Examples
from probmf.data import ExamplesWarning

TABLE: dict[str, Any] = {
    "age": [20.0, 30.0, 40.0, 50.0], "dose": [1, 2, 2, 1], "y": ["sick", "well", "well", "sick"],
}  # fmt: skip


@pytest.mark.parametrize(
    "make", [dict, pd.DataFrame, pl.DataFrame, lambda t: pl.DataFrame(t).lazy()]
)
def test_any_table(make: Any) -> None:
    examples = Examples.from_frame(make(TABLE))
    assert examples.features == ("age", "dose")
    assert examples.classes == ("sick", "well")
    np.testing.assert_array_equal(examples.response[:, 0], [0, 1, 1, 0])
    np.testing.assert_allclose(examples.inputs().mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(examples.inputs().std(axis=0), 1)
    assert repr(examples) == "Examples(4 rows; y by 2 features, 2 classes)"


def test_new_rows_are_coded_as_the_training_rows() -> None:
    examples = Examples.from_frame(TABLE)
    z = examples.encode({"dose": [1.0], "age": [35.0]})
    np.testing.assert_allclose(z, [[0.0, -1.0]], atol=1e-12)
    np.testing.assert_allclose(examples.encode(np.array([[35.0, 1.0]])), z)
    other = examples.matching({"age": [1], "dose": [2], "y": ["well"]})
    assert other.response.tolist() == [[1.0]]
    assert other.classes == examples.classes
    as_given = Examples.from_frame(TABLE, standardize=False)
    np.testing.assert_array_equal(as_given.inputs(), as_given.x)


def test_classes_in_a_given_order_seen_or_not() -> None:
    examples = Examples.from_frame(TABLE, classes=["well", "worse", "sick"])
    np.testing.assert_array_equal(examples.response[:, 0], [2, 0, 0, 2])
    fewer = Examples.from_frame({name: values[:1] for name, values in TABLE.items()})
    assert examples.matching(fewer).response.tolist() == [[2.0]]
    numbers = Examples.from_arrays(np.eye(3)[:, :2], [3, 1, 2]).with_classes()
    assert numbers.classes == (1, 2, 3)
    assert numbers.matching(Examples.from_arrays(np.eye(2), [3, 3])).response.tolist() == [[2], [2]]
    booleans = Examples.from_arrays(np.eye(3)[:, :2], [True, False, True])
    assert booleans.classes == (False, True)


def test_a_split_standardizes_by_the_training_part() -> None:
    rng = np.random.default_rng(0)
    whole = Examples.from_arrays(rng.normal(3, 2, size=(40, 2)), rng.normal(size=40))
    train, test = whole.split(key=0, test_fraction=0.3)
    assert (len(train), len(test)) == (28, 12)
    np.testing.assert_allclose(train.inputs().mean(axis=0), 0, atol=1e-12)
    np.testing.assert_array_equal(test.feature_center, train.x.mean(axis=0))
    both = np.concatenate([train.x, test.x])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole.x, axis=0))
    with pytest.raises(ValueError, match=r"test_fraction=0.001 of 40 examples is 0"):
        whole.split(key=0, test_fraction=0.001)


def test_idle_features_are_told() -> None:
    with pytest.warns(ExamplesWarning, match="Feature 'b' is the same in all rows"):
        constant = Examples.from_frame({"a": [1.0, 2.0], "b": [5, 5], "y": [0.0, 1.0]})
    np.testing.assert_array_equal(constant.inputs()[:, 1], 0.0)
    with pytest.warns(ExamplesWarning, match="Features 'a' and 'c' are equal in all rows"):
        Examples.from_frame({"a": [1.0, 2.0], "c": [1, 2], "y": [0.0, 1.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Examples.from_frame({"a": [1.0], "c": [1], "y": [0.0]})


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (TABLE | {"age": [1, None, 2, 3]}, {}, ValueError, "'age' has 1 missing value .*row 1"),
        (TABLE | {"age": [1, np.inf, 2, 3]}, {}, ValueError, "'age' is inf in row 1"),
        (TABLE | {"age": list("abcd")}, {}, TypeError, "'age'.* 'a'"),
        (TABLE | {"y": ["a", None, "b", "a"]}, {}, ValueError, "'y' has 1 missing value .*row 1"),
        (TABLE, {"response": "z"}, ValueError, "'z'.* name it: response="),
        (TABLE, {"features": ["age", "age"]}, ValueError, "'age' is named twice"),
        (TABLE, {"features": ["age", "y"]}, ValueError, "'y' is named twice"),
        (TABLE, {"features": []}, ValueError, "There are no features"),
        (TABLE, {"response": []}, ValueError, "response is empty"),
        (TABLE, {"response": ["age", "y"]}, ValueError, "Response 'y' has classes"),
        (TABLE, {"classes": ["sick", "cured"]}, ValueError, "'y' is 'well' in row 1 .2 such"),
        (TABLE, {"classes": ["sick", "sick"]}, ValueError, "two or more, all different"),
        ({"age": [], "y": []}, {}, ValueError, "no rows"),
    ],
)
def test_bad_tables(table: Any, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Examples.from_frame(table, **options)


def test_bad_arrays_and_bad_new_rows() -> None:
    examples = Examples.from_frame(TABLE)
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        Examples.from_arrays([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="x has 2 rows and y 3"):
        Examples.from_arrays(np.eye(2), [1, 2, 3])
    with pytest.raises(ValueError, match="1 names for 2 features"):
        Examples.from_arrays(np.eye(2), [1, 2], features=["a"])
    with pytest.raises(ValueError, match=r"shape \(1, 3\), expected \(rows, 2\)"):
        examples.encode(np.ones((1, 3)))
    with pytest.raises(ValueError, match="'dose'"):
        examples.encode({"age": [1.0]})
    with pytest.raises(ValueError, match=r"is 'dead' in row 0 .*, which is none of the classes"):
        examples.matching({"age": [1], "dose": [2], "y": ["dead"]})
    with pytest.raises(ValueError, match="have the features 'x0', 'x1'; expected 'age', 'dose'"):
        examples.encode(Examples.from_arrays(np.eye(2), [1, 2]))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_classes_of_an_ordered_categorical_keep_their_order(kind: str) -> None:
    levels, given = ["low", "mid", "high"], ["high", "low", "mid", "low"]
    ordered: Any = pd.Categorical(given, categories=levels, ordered=True)
    if kind == "polars":
        ordered = pl.Series(given).cast(pl.Enum(levels))
    frame = (pd.DataFrame if kind == "pandas" else pl.DataFrame)({"x": range(4), "y": ordered})
    examples = Examples.from_frame(frame)
    assert (examples.classes, examples.classes_sorted) == (("low", "mid", "high"), False)
    np.testing.assert_array_equal(examples.response[:, 0], [2, 0, 1, 0])
    assert Examples.from_frame({"x": range(4), "y": given}).classes_sorted

"""What is refused at the door, and what the user is told."""

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from probmf.data import Ratings, Vocabulary

GOOD: dict[str, Any] = {"user": ["a", "b", "b"], "item": [1, 1, 2], "rating": [5, 3, 4]}


def build(frame: Any = None, **options: Any) -> Ratings:
    return Ratings.from_frame(GOOD if frame is None else frame, **options)


# ---- tables and their columns


@pytest.mark.parametrize(
    "frame", [None, "ratings.csv", [("a", 1, 5.0)], pd.Series([1]), np.ones((3, 3)), 7, {1, 2}]
)
def test_no_table(frame: Any) -> None:
    with pytest.raises(TypeError, match="expected a table: a pandas, polars, pyarrow or DuckDB"):
        Ratings.from_frame(frame)


@pytest.mark.parametrize("table", [dict, pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.table])
def test_missing_column(table: Any) -> None:
    pattern = (
        "The frame has no column 'userid'; its columns are: 'user', 'item', 'rating'. "
        "Did you mean 'user'?"
    )
    with pytest.raises(ValueError, match=re.escape(pattern)):
        build(table(GOOD), user="userid")


def test_ids_in_another_column() -> None:
    with pytest.raises(ValueError, match=r"items are in another column, name it: item=\.$"):
        Ratings.from_frame({"user": [1], "sku": [2], "rating": [3.0]})


def test_missing_column_without_anything_close() -> None:
    with pytest.raises(ValueError, match=r"no column 'xyz'; its columns are: .*'rating'.$"):
        build(item="xyz")


def test_a_close_name_may_differ_in_case() -> None:
    with pytest.raises(ValueError, match="Did you mean 'UserId'"):
        build({"UserId": [1], "item": [1], "rating": [1]}, user="userid")


def test_missing_ratings() -> None:
    frame = {"user": [1], "item": [1]}
    with pytest.raises(ValueError, match=r"no column 'rating'.*only pairs, pass rating=None"):
        build(frame)


def test_a_long_list_of_columns_is_cut() -> None:
    frame = {f"c{i}": [1] for i in range(40)}
    with pytest.raises(ValueError, match=r"'c18', 'c19', \.\.\.\.$"):
        build(frame, user="zzzzz")


def test_an_index_is_no_column() -> None:
    with pytest.raises(ValueError, match=r"'user' is in the index: use frame.reset_index\(\)"):
        build(pd.DataFrame(GOOD).set_index("user"))


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame([[1, 2, 3, 4]], columns=["user", "item", "user", "rating"]),
        pa.table([[1], [2], [3], [4]], names=["user", "item", "user", "rating"]),
    ],
)
def test_doubled_column(frame: Any) -> None:
    with pytest.raises(
        ValueError, match="The frame has 2 columns called 'user'; column names must"
    ):
        build(frame)


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (pd.DataFrame(GOOD)[:0], "frame"),
        (pl.DataFrame(GOOD)[:0], "frame"),
        ({"user": [], "item": [], "rating": []}, "frame"),
        (pa.table(GOOD)[:0], "frame"),
    ],
)
def test_empty_table(frame: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"The {what} has no rows; at least one rating is needed"):
        build(frame)


def test_unequal_lengths() -> None:
    pattern = (
        "The columns of the frame differ in length: column 'user' has 3, column 'item' has 2, "
        "column 'rating' has 3."
    )
    with pytest.raises(ValueError, match=re.escape(pattern)):
        build(GOOD | {"item": [1, 1]})


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (1, 3)])
@pytest.mark.parametrize("name", ["user", "item", "rating"])
def test_two_dimensions(name: str, shape: tuple[int, int]) -> None:
    pattern = f"Column '{name}' has shape {shape}, expected one dimension"
    with pytest.raises(ValueError, match=re.escape(pattern) + rf".*use {name}\[:, 0\]"):
        build(GOOD | {name: np.ones(shape)})


def test_a_scalar_is_no_column() -> None:
    with pytest.raises(TypeError, match="Column 'rating' is of type float, expected a sequence"):
        build(GOOD | {"rating": 5.0})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"user": "item"}, ValueError, "user and item are both column 'item'"),
        ({"weight": "rating"}, ValueError, "rating and weight are both column 'rating'"),
        ({"user": None}, ValueError, "user is None; name the column that holds the user ids"),
        ({"keep": "fold"}, TypeError, r"keep is the text 'fold', expected .*keep=\['fold'\]"),
        ({"keep": ["rating"]}, ValueError, "keep names 'rating', which is kept as rating"),
        ({"keep": ["time"]}, ValueError, r"give it a role \(time='time'\)"),
        ({"keep": ["fold"]}, ValueError, "no column 'fold'"),
        ({"time": "when"}, ValueError, "no column 'when'"),
        (
            {"duplicates": "max"},
            ValueError,
            "duplicates is 'max'; expected one of 'error', 'first'",
        ),
        ({"users": Vocabulary("item", ["a", "b"])}, ValueError, "users= is a vocabulary of items"),
        (
            {"users": ["a"]},
            ValueError,
            "Column 'user' holds id 'b', which is not among the 1 known",
        ),
        ({"items": ["1", "2"]}, ValueError, "Column 'item' holds integers .* item ids are text"),
        ({"users": ["a", "a", "b"]}, ValueError, "user id 'a' occurs twice"),
    ],
)
def test_roles(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(**options)


# ---- ids, ratings, weights, times


@pytest.mark.parametrize("table", [dict, pd.DataFrame])
def test_ids_of_two_kinds(table: Any) -> None:
    frame = table(GOOD | {"user": [7, 7, "a"]})
    with pytest.raises(ValueError, match=r"Column 'user' mixes integers and text: row 0 .* row 2"):
        build(frame)


@pytest.mark.parametrize("table", [dict, pd.DataFrame, pl.DataFrame, pa.table])
@pytest.mark.parametrize("values", [["a", None, None], [1, None, None]])
def test_missing_ids(table: Any, values: list[Any]) -> None:
    pattern = "Column 'item' has 2 missing values .*, the first in row 1; an id must be known"
    with pytest.raises(ValueError, match=pattern):
        build(table(GOOD | {"item": values}))


@pytest.mark.parametrize("table", [dict, pd.DataFrame, pl.DataFrame, pa.table])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([5.0, None, 4.0], "has 1 missing value .*, the first in row 1; drop these rows"),
        ([5.0, float("nan"), float("nan")], "has 2 missing values .*, the first in row 1"),
        ([None, None, None], "has 3 missing values .*, the first in row 0"),
        (
            [5.0, 4.0, float("-inf")],
            r"is -inf in row 2 \(1 such row\); every value must be finite",
        ),
    ],
)
@pytest.mark.parametrize("role", ["rating", "weight"])
def test_numbers_that_are_none(role: str, values: list[Any], message: str, table: Any) -> None:
    frame = table(GOOD | {"x": values})
    with pytest.raises(ValueError, match=f"Column 'x' {message}"):
        build(frame, **{role: "x"})


@pytest.mark.parametrize("table", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_ratings_as_text(table: Any) -> None:
    pattern = "Column 'rating' must hold numbers, but row 0 holds '5' of type str. Text has to be"
    with pytest.raises(TypeError, match=pattern):
        build(table(GOOD | {"rating": ["5", "3", "4"]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([5, "bad", 4], "row 1 holds 'bad' of type str"),
        ([5, None, [4]], r"row 2 holds \[4\] of type list"),
        (np.array([1j, 2, 3]), "row 0 holds .*1j.* of type complex"),
        (pd.to_datetime(["2020-01-01"] * 3), "row 0 holds .*2020"),
        (pa.array([[1], [2], [3]]), r"row 0 holds \[1\] of type list"),
        (pd.Categorical(["x", "y", "x"]), "row 0 holds 'x' of type str"),
    ],
)
def test_ratings_that_are_no_numbers(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"Column 'rating' must hold numbers, but {message}"):
        build(GOOD | {"rating": values})


def test_negative_weights() -> None:
    pattern = r"Column 'w' is -2 in row 1 \(2 such rows\), but a weight can't be negative; zero"
    with pytest.raises(ValueError, match=pattern):
        build(GOOD | {"w": [1, -2, -1]}, weight="w")


def test_zero_weights_are_fine_unless_all_are() -> None:
    assert build(GOOD | {"w": [1, 0, 0]}, weight="w").mean == 5
    with pytest.raises(ValueError, match="Column 'w' is zero in every row"):
        build(GOOD | {"w": [0, 0, 0]}, weight="w")


def test_no_mean_without_weight() -> None:
    ratings = build(GOOD | {"w": [1, 0, 0]}, weight="w").select([1, 2])
    with pytest.raises(ValueError, match="All weights are zero, so there is no mean"):
        _ = ratings.mean


DAY, NOON = dt.date(2024, 1, 1), dt.datetime(2024, 1, 1, 12)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1, None, 2], ValueError, "Column 'at' has 1 missing value .* in row 1"),
        ([1.0, float("inf"), 2], ValueError, "Column 'at' is inf in row 1"),
        (["2020", "2021", "2022"], TypeError, "must hold numbers or dates, but row 0 holds '2020'"),
        (pd.to_datetime(["2020-01-01", None, None]), ValueError, "'at' has 2 missing values"),
        (pa.array([1, 2, 3], pa.time32("s")), TypeError, "must hold numbers or dates"),
        ([1, "a", 2], TypeError, "'at' must hold numbers or dates, but row 1 holds 'a'"),
        ([DAY, NOON, NOON], ValueError, "'at' mixes dates and date-times without a time zone: row"),
        ([NOON, NOON.replace(tzinfo=dt.UTC), NOON], ValueError, "one and date-times with a time"),
    ],
)
def test_times(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(GOOD | {"at": values}, time="at")


# ---- duplicates

TWICE: dict[str, Any] = {
    "user": ["a", "b", "b", "a", "b", "a"],
    "item": [1, 1, 2, 1, 2, 1],
    "rating": [5, 3, 4, 2, 1, 2],
    "w": [1.0, 1.0, 0.0, 3.0, 0.0, 0.0],
    "at": [10, 20, 30, 5, 20, 7],
    "tag": ["p", "q", "r", "s", "t", "u"],
}


def test_duplicates_are_an_error() -> None:
    pattern = (
        "User 'a' and item 1 occur together in rows 0 and 3; 2 pairs occur more than once. Choose "
        "what a repeated pair means: duplicates='first' or 'last' keeps one row, 'mean' averages "
        "the ratings, 'sum' adds them."
    )
    with pytest.raises(ValueError, match=re.escape(pattern)):
        build(TWICE)
    with pytest.raises(ValueError, match="rows 0 and 1; 1 pair occurs more than once"):
        build({"user": [1, 1, 2], "item": [1, 1, 2], "rating": [1, 2, 3]})


@pytest.mark.parametrize(
    ("policy", "rating", "weight", "time", "tag"),
    [
        ("first", [5, 3, 4], [1, 1, 0], [10, 20, 30], "pqr"),
        ("last", [3, 1, 2], [1, 0, 0], [20, 20, 7], "qtu"),
        ("mean", [11 / 4, 3, 2.5], [4, 1, 0], [10, 20, 30], "pqr"),
        ("sum", [9, 3, 5], [4, 1, 0], [10, 20, 30], "pqr"),
    ],
)
def test_policies(policy: Any, rating: Any, weight: Any, time: Any, tag: str) -> None:
    ratings = build(TWICE, weight="w", time="at", keep=["tag"], duplicates=policy)
    np.testing.assert_allclose(ratings.rating, rating)
    assert ratings.weight is not None
    np.testing.assert_allclose(ratings.weight, weight)
    np.testing.assert_array_equal(ratings.time, time)
    assert "".join(ratings.columns["tag"]) == tag
    ids = [ratings.users.decode(ratings.user).tolist(), ratings.items.decode(ratings.item).tolist()]
    expected = [["b", "b", "a"], [1, 2, 1]] if policy == "last" else [["a", "b", "b"], [1, 1, 2]]
    assert ids == expected


def test_plain_mean() -> None:
    np.testing.assert_allclose(build(TWICE, duplicates="mean").rating, [3, 3, 2.5])
    assert build(TWICE, duplicates="mean").weight is None


@pytest.mark.parametrize("policy", ["error", "first", "last", "mean", "sum"])
def test_policies_change_nothing_without_duplicates(policy: Any, assert_same: Any) -> None:
    assert_same(build(duplicates=policy), build())


def test_duplicate_dates() -> None:
    days = pd.to_datetime(["2020-01-01", "2020-01-03", "2020-01-02"])
    frame = {"user": [1, 1, 1], "item": [1, 1, 2], "at": days}
    ratings = build(frame, rating=None, time="at", duplicates="sum")
    assert ratings.time is not None
    assert ratings.time.astype("M8[D]").astype(str).tolist() == ["2020-01-03", "2020-01-02"]


# ---- files and matrices


def test_csv_errors(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    with pytest.raises(FileNotFoundError):
        Ratings.from_csv(path)
    path.write_text("")
    with pytest.raises(ValueError, match="could not be read as CSV with the delimiter ','"):
        Ratings.from_csv(path)
    path.write_text("user,item,rating\n")
    with pytest.raises(ValueError, match=r"The file .*ratings.csv has no rows"):
        Ratings.from_csv(path)
    path.write_text("user;item;rating\n1;2;3\n")
    with pytest.raises(ValueError, match="one column only, so the delimiter may not be ','"):
        Ratings.from_csv(path)
    path.write_text("user,item,rating\n1,2\n")
    with pytest.raises(ValueError, match="could not be read as CSV"):
        Ratings.from_csv(path)
    with pytest.raises(ValueError, match=r"could not be read as CSV .*is a directory"):
        Ratings.from_csv(tmp_path)
    path.write_text("user,item,user,rating\n1,2,3,4\n")
    with pytest.raises(ValueError, match="has 2 columns called 'user'"):
        Ratings.from_csv(path)
    path.write_text("user,item,rating\n1,2,3\n1,3,three\n")
    with pytest.raises(
        TypeError, match="'rating' must hold numbers, but row 1 holds 'three' of type"
    ):
        Ratings.from_csv(path)
    path.write_text("user,item,rating\n1,2,3\n1,3,\n")
    with pytest.raises(ValueError, match=r"'rating' has 1 missing value .* in row 1"):
        Ratings.from_csv(path)
    with pytest.raises(ValueError, match=r"ratings.csv has no column 'stars'; its columns are"):
        Ratings.from_csv(path, rating="stars")


HEADER = {"column_names": ["user", "item"], "rating": None}


@pytest.mark.parametrize("way", [Ratings.from_csv, Ratings.open])
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"user,item\n1,2\n", HEADER, "first line .* has the names of column_names"),
        (b"1,2,3\n2,3,4\n", {}, r"no header, name the columns: column_names=\["),
        (b"user,item,rating\nJos\xe9,2,3\n", {}, "invalid UTF8 .*; save it as UTF-8"),
        ("user,item,rating\n1,2,3\n".encode("utf-16"), {}, "in UTF-16; save it as UTF-8"),
    ],
)  # fmt: skip
def test_csv_of_another_form(
    way: Any, content: bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        way(path, **options)


def test_parquet_errors(tmp_path: Path) -> None:
    path = tmp_path / "ratings.parquet"
    with pytest.raises(FileNotFoundError):
        Ratings.from_parquet(path)
    with pytest.raises(FileNotFoundError, match="holds no Parquet file"):
        Ratings.from_parquet(tmp_path)
    path.write_text("user,item,rating\n")
    with pytest.raises(ValueError, match="could not be read as Parquet"):
        Ratings.from_parquet(path)
    pl.DataFrame(GOOD).write_parquet(path)
    with pytest.raises(ValueError, match=r"no column 'raiting'.* Did you mean 'rating'"):
        Ratings.from_parquet(path, rating="raiting")


@pytest.mark.parametrize(
    ("matrix", "options", "error", "message"),
    [
        (np.eye(2), {}, TypeError, "matrix is a ndarray, expected a SciPy sparse matrix"),
        (sparse.coo_array(np.ones(3)), {}, ValueError, r"has shape \(3,\), expected \(num_users"),
        (sparse.csr_array((3, 4)), {}, ValueError, "stores nothing; nothing is rated"),
        (
            sparse.eye_array(2), {"users": ["a"]}, ValueError,
            r"users has 1 ids, but the matrix has shape \(2, 2\), which needs 2: one for each row",
        ),
        (sparse.eye_array(2), {"items": "abc"}, TypeError, "is of type str"),
        (sparse.eye_array(2), {"items": ["a", "b", "c"]}, ValueError, "one for each column"),
        (sparse.eye_array(2) * np.nan, {}, ValueError, "The matrix has 2 missing values"),
        (sparse.eye_array(2) * 1j, {}, TypeError, "The matrix must hold numbers"),
        (
            sparse.coo_array(([1.0, 2.0], ([0, 0], [1, 1]))), {}, ValueError,
            "User 0 and item 1 occur together in rows 0 and 1",
        ),
    ],
)  # fmt: skip
def test_matrices(
    matrix: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Ratings.from_scipy(matrix, **options)


def test_repeated_coordinates_can_be_summed() -> None:
    matrix = sparse.coo_array(([1.0, 2.0], ([0, 0], [1, 1])))
    assert Ratings.from_scipy(matrix, duplicates="sum").rating.tolist() == [3.0]


# ---- the fields themselves


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"user": []}, ValueError, "There are no ratings"),
        ({"user": [0.0, 1.0]}, TypeError, "user is of type float64, expected codes"),
        ({"user": [0, 2]}, ValueError, "User is 2 in row 1 .1 such row., but codes are 0 to 1"),
        ({"item": [0, -1]}, ValueError, "Item is -1 in row 1 .1 such row., but codes are 0 to 1"),
        ({"rating": [1.0]}, ValueError, r"rating has shape \(1,\), but user has shape \(2,\)"),
        ({"rating": [[1.0], [2.0]]}, ValueError, r"rating has shape \(2, 1\)"),
        ({"rating": [1.0, np.nan]}, ValueError, "Rating is nan in row 1"),
        ({"weight": [1.0, -1.0]}, ValueError, "Weight is -1 in row 1 .*weight can't be neg"),
        ({"columns": {"fold": [1]}}, ValueError, r"fold has shape \(1,\)"),
        (
            {"item_features": pa.table({"item": [1, 2, 3]})}, ValueError,
            "item_features has 3 rows, expected one for each of the 2 items, in code order",
        ),
    ],
)  # fmt: skip
def test_fields(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    fields: dict[str, Any] = {
        "users": Vocabulary("user", ["a", "b"]), "items": Vocabulary("item", [1, 2]),
        "user": [0, 1], "item": [1, 0], "rating": [1.0, 2.0],
    }  # fmt: skip
    assert len(Ratings(**fields)) == 2
    with pytest.raises(error, match=message):
        Ratings(**{**fields, **changes})

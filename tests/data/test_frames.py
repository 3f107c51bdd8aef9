"""The same ratings, whatever they come in."""

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from probmf.data import Ratings, Vocabulary

ROLES: dict[str, Any] = {
    "user": "who", "item": "what", "rating": "stars", "weight": "w", "time": "at", "keep": ["fold"],
}  # fmt: skip
COLUMNS: dict[str, list[Any]] = {
    "who": ["bob", "ann", "bob", "eve", "007"],
    "what": [2**40 + 1, 7, 7, 2**40 + 1, 2**53 + 1],
    "stars": [4.5, 3.0, 0.0, -1.25, 3.0],
    "w": [1.0, 0.0, 2.5, 1.0, 1.0],
    "at": [978300760, 978300760, 2**54 + 1, 5, -3],
    "fold": [1, 2, 1, 3, 1],
    "unused": ["a", "b", "c", "d", "e"],
}


def write_csv(folder: Path, columns: dict[str, list[Any]], delimiter: str = ",") -> Path:
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path = folder / "ratings.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


CATEGORIES = {"who": "category", "what": "category"}
TABLES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "dict of lists": dict,
    "dict of arrays": lambda c: {name: np.array(values) for name, values in c.items()},
    "dict of series": lambda c: {name: pd.Series(values) for name, values in c.items()},
    "structured array": lambda c: pd.DataFrame(c).to_records(index=False),
    "pandas": pd.DataFrame,
    "pandas, index out of order": lambda c: pd.DataFrame(c, index=[4, 4, 0, 1, 2]),
    "pandas, objects": lambda c: pd.DataFrame(c, dtype=object),
    "pandas, nullable": lambda c: pd.DataFrame(c).convert_dtypes(),
    "pandas, pyarrow": lambda c: pd.DataFrame(c).convert_dtypes(dtype_backend="pyarrow"),
    "pandas, categorical": lambda c: pd.DataFrame(c).astype(CATEGORIES),
    "pandas, unused levels": lambda c: pd.DataFrame(c).assign(
        who=pd.Categorical(c["who"], categories=["zed", "eve", "bob", "ann", "007"], ordered=True)
    ),
    "polars": pl.DataFrame,
    "polars, lazy": pl.LazyFrame,
    "polars, categorical": lambda c: pl.DataFrame(c, schema_overrides={"who": pl.Categorical}),
    "polars, enum": lambda c: pl.DataFrame(c).with_columns(
        pl.col("who").cast(pl.Enum(["zed", "eve", "bob", "ann", "007"]))
    ),
    "polars, several chunks": lambda c: pl.concat(
        [pl.DataFrame(c)[:2], pl.DataFrame(c)[2:]], rechunk=False
    ),
    "pyarrow": pa.table,
    "pyarrow, several chunks": lambda c: pa.concat_tables([pa.table(c)[:2], pa.table(c)[2:]]),
    "pyarrow, dictionary": lambda c: pa.table(
        c | {"who": pa.chunked_array([pa.array([name]).dictionary_encode() for name in c["who"]])}
    ),
    "record batch": lambda c: pa.RecordBatch.from_pydict(c),
    "duckdb": lambda c: duckdb.from_arrow(pa.table(c)),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> Ratings:
    return Ratings(
        users=Vocabulary("user", ["007", "ann", "bob", "eve"]),
        items=Vocabulary("item", [7, 2**40 + 1, 2**53 + 1]),
        user=np.array([2, 1, 2, 3, 0]),
        item=np.array([1, 0, 0, 1, 2]),
        rating=np.array(COLUMNS["stars"]),
        weight=np.array(COLUMNS["w"]),
        time=np.array(COLUMNS["at"]),
        columns={"fold": np.array(COLUMNS["fold"])},
    )


@pytest.mark.parametrize("name", TABLES)
def test_any_table(name: str, expected: Ratings, assert_same: Any) -> None:
    ratings = Ratings.from_frame(TABLES[name](COLUMNS), **ROLES)
    assert_same(ratings, expected)
    assert ratings.user.dtype == ratings.item.dtype == np.int32
    assert ratings.rating.dtype == np.float64
    assert ratings.time is not None
    assert ratings.time.tolist() == COLUMNS["at"]  # 2**54 + 1 is no float64


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv(delimiter: str, tmp_path: Path, expected: Ratings, assert_same: Any) -> None:
    path = write_csv(tmp_path, COLUMNS, delimiter)
    assert_same(Ratings.from_csv(path, delimiter=delimiter, **ROLES), expected)
    assert_same(Ratings.from_csv(str(path), delimiter=delimiter, **ROLES), expected)


def test_csv_without_header_and_compressed(
    tmp_path: Path, expected: Ratings, assert_same: Any
) -> None:
    lines = write_csv(tmp_path, COLUMNS).read_bytes().split(b"\n", 1)[1]
    with pa.CompressedOutputStream(str(tmp_path / "ratings.csv.gz"), "gzip") as stream:
        stream.write(lines)
    path = tmp_path / "ratings.csv.gz"
    assert_same(Ratings.from_csv(path, column_names=list(COLUMNS), **ROLES), expected)


def test_parquet(tmp_path: Path, expected: Ratings, assert_same: Any) -> None:
    path = tmp_path / "ratings.parquet"
    pl.DataFrame(COLUMNS).write_parquet(path)
    assert_same(Ratings.from_parquet(path, **ROLES), expected)
    pd.DataFrame(COLUMNS).to_parquet(path)
    assert_same(Ratings.from_parquet(str(path), **ROLES), expected)


def test_a_folder_of_parquet_files(tmp_path: Path, expected: Ratings, assert_same: Any) -> None:
    (tmp_path / "ratings").mkdir()
    pl.DataFrame(COLUMNS)[:2].write_parquet(tmp_path / "ratings" / "a.parquet")
    pl.DataFrame(COLUMNS)[2:].write_parquet(tmp_path / "ratings" / "b.parquet")
    assert_same(Ratings.from_parquet(tmp_path / "ratings", **ROLES), expected)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "lil", "dok", "bsr"])
@pytest.mark.parametrize("array", [sparse.coo_array, sparse.coo_matrix])
def test_scipy(layout: str, array: Any, expected: Ratings) -> None:
    matrix = array((expected.rating, (expected.user, expected.item)), shape=(4, 3)).asformat(layout)
    stored = {(u, i): r for u, i, r in zip(*_triplets(matrix), strict=True)}
    ratings = Ratings.from_scipy(matrix, users=expected.users, items=expected.items.ids)
    assert ratings.users is expected.users
    assert ratings.items == expected.items
    found = {(u, i): r for u, i, r in zip(ratings.user, ratings.item, ratings.rating, strict=True)}
    assert found == stored
    assert_equal_sparse(ratings.to_scipy(), matrix)


def _triplets(matrix: Any) -> tuple[Any, Any, Any]:
    coo = matrix.tocoo()
    return coo.row, coo.col, coo.data


def assert_equal_sparse(left: Any, right: Any) -> None:
    assert left.shape == right.shape
    np.testing.assert_array_equal(left.toarray(), right.toarray())


def test_scipy_keeps_stored_zeros_and_empty_rows() -> None:
    matrix = sparse.csr_array(([0.0, 2.0], ([1, 1], [0, 2])), shape=(3, 4))
    ratings = Ratings.from_scipy(matrix)
    assert ratings.rating.tolist() == [0.0, 2.0]
    assert (ratings.num_users, ratings.num_items) == (3, 4)
    assert ratings.users.ids.tolist() == [0, 1, 2]
    assert ratings.user_degree.tolist() == [0, 2, 0]
    assert ratings.to_scipy().nnz == 2


def test_scipy_is_copied() -> None:
    matrix = sparse.coo_array(([1.0, 2.0], ([0, 1], [0, 1])))
    ratings = Ratings.from_scipy(matrix)
    matrix.data[0], matrix.row[0] = 9.0, 1
    assert (ratings.rating[0], ratings.user[0]) == (1.0, 0)


def test_arrow_round_trip(films: Ratings, assert_same: Any) -> None:
    table = films.to_arrow()
    assert table.column_names == ["user", "item", "rating", "weight", "time", "fold"]
    again = Ratings.from_frame(
        table, weight="weight", time="time", keep=["fold"],
        user_features=films.user_features, item_features=films.item_features,
    )  # fmt: skip
    assert_same(again, films)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (dict, list),
        (pd.DataFrame, pd.Series),
        (pl.DataFrame, lambda ids: pl.Series(ids, dtype=pl.Object)),
        (pa.table, lambda ids: pa.array([value.bytes for value in ids], pa.uuid())),
    ],
)
def test_uuids_and_dates_in_every_table(table: Any, column: Any) -> None:
    ids = [uuid.UUID(int=value) for value in (3, 1, 3)]
    days = [dt.date(2020, 1, 2), dt.date(2020, 1, 1), dt.date(2020, 1, 1)]
    ratings = Ratings.from_frame(table({"user": column(ids), "item": days}), rating=None)
    assert ratings.users.ids.tolist() == [ids[1], ids[0]]
    assert ratings.items.ids.tolist() == [days[1], days[0]]
    assert ratings.rating.tolist() == [1, 1, 1]


def test_source_arrays_are_copied() -> None:
    frame = {"user": np.array([1, 2]), "item": np.array([1, 2]), "rating": np.array([1.0, 2.0])}
    ratings = Ratings.from_frame(frame | {"at": np.array([5, 6])}, time="at")
    frame["rating"][0] = 9.0
    assert ratings.rating[0] == 1.0
    assert frame["rating"].flags.writeable
    for name in ("user", "item", "rating", "time", "user_degree"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(ratings, name)[0] = 0


# ---- roles and types


@pytest.mark.parametrize(
    "values",
    [
        [True, False], np.array([True, False]), pd.Series([True, False], dtype="boolean"),
        pl.Series([True, False]), [1, False], pa.array([1, 0], pa.uint8()),
        pa.array([Decimal(1), Decimal(0)]), [Decimal(1), Decimal(0)], jnp.array([1.0, 0.0]),
        jnp.array([1, 0], jnp.bfloat16), np.array([1, 0], np.float16), pd.Categorical([1, 0]),
    ],
)  # fmt: skip
def test_ratings_of_any_numeric_type(values: Any) -> None:
    ratings = Ratings.from_frame({"user": [1, 2], "item": [1, 1], "rating": values})
    assert ratings.rating.dtype == np.float64
    assert ratings.rating.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1], np.array([3, 1])),
        ([3.5, 1], np.array([3.5, 1])),
        (np.array([3, 1], np.uint8), np.array([3, 1])),
        ([dt.date(2020, 1, day) for day in (2, 1)], np.array(["2020-01-02", "2020-01-01"], "M8")),
        (
            pd.to_datetime(["2020-01-02T01:00+01:00", "2020-01-01T01:00+01:00"]),
            np.array(["2020-01-02", "2020-01-01"], "M8[D]"),
        ),
        (pl.Series([dt.datetime(2020, 1, 2)] * 2), np.array(["2020-01-02"] * 2, "M8[D]")),
        (pl.Series([dt.timedelta(days=1)] * 2), np.array([1, 1], "m8[D]")),
        # Objects: nothing is cut off.
        ([np.timedelta64(2, "h"), np.timedelta64(1, "D")], np.array([2, 24], "m8[h]")),
        ([pd.Timestamp(2), pd.Timestamp(1)], np.array([2, 1], "M8[ns]")),
        ([pd.Timedelta(2), pd.Timedelta(1)], np.array([2, 1], "m8[ns]")),
        ([np.datetime64(1, "D"), np.datetime64(1, "h")], np.array([24, 1], "M8[h]")),
    ],
)  # fmt: skip
def test_times(values: Any, expected: np.ndarray) -> None:
    ratings = Ratings.from_frame(
        {"user": [1, 2], "item": [1, 1], "at": values}, rating=None, time="at"
    )
    assert ratings.time is not None
    np.testing.assert_array_equal(ratings.time, expected)


def test_only_the_named_columns_matter() -> None:
    frame = {"user": [1], "item": [2], "rating": [3], "junk": [object(), object()]}
    assert len(Ratings.from_frame(frame)) == 1


def test_kept_columns_may_be_anything() -> None:
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 1], "a": ["x", None], "b": [1, None]})
    ratings = Ratings.from_frame(frame, rating=None, keep=("a", "b"))
    assert ratings.columns["a"].tolist() == ["x", None]
    np.testing.assert_array_equal(ratings.columns["b"], [1.0, np.nan])


def test_given_vocabularies_are_used() -> None:
    users = Vocabulary("user", ["zed", "bob", "ann"])
    frame = {"user": ["ann", "zed"], "item": [5, 5]}
    ratings = Ratings.from_frame(frame, rating=None, users=users, items=[6, 5])
    assert ratings.users is users
    assert ratings.user.tolist() == [2, 0]
    assert ratings.item.tolist() == [1, 1]
    assert ratings.user_degree.tolist() == [1, 0, 1]
    assert ratings.density == 2 / 6


def test_sums(films: Ratings) -> None:
    assert (films.num_users, films.num_items, films.num_ratings, len(films)) == (3, 3, 6, 6)
    assert films.user_degree.tolist() == [3, 2, 1]
    assert films.item_degree.tolist() == [2, 1, 3]
    assert films.user_degree.dtype == np.int64
    assert films.density == 6 / 9
    weight, rating = np.array([1, 0, 2, 1, 1, 0.5]), np.array([5, 3, 4, 1, 2, 5])
    assert films.mean == pytest.approx((weight * rating).sum() / weight.sum())


# ---- csv


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["7", "10", "-3"], [7, 10, -3]),
        (["7", "007", "7.0"], ["7", "007", "7.0"]),
        (["1", "+1", "2"], ["1", "+1", "2"]),
        (["0", "-0", "2"], ["0", "-0", "2"]),
        (["9223372036854775807", "1", "2"], [2**63 - 1, 1, 2]),
        (["9223372036854775808", "1", "2"], ["9223372036854775808", "1", "2"]),
        (["NA", "null", "x"], ["NA", "null", "x"]),
        (['"a,b"', '"say ""hi"""', " c "], ["a,b", 'say "hi"', " c "]),
        (["2020-01-01", "true", "1e5"], ["2020-01-01", "true", "1e5"]),
    ],
)
def test_csv_ids_are_read_as_written(written: list[str], read: list[Any], tmp_path: Path) -> None:
    path = write_csv(tmp_path, {"user": written, "item": ["a"] * 3})
    ratings = Ratings.from_csv(path, rating=None)
    assert ratings.users.decode(ratings.user).tolist() == read


@pytest.mark.parametrize("written", [["7", "", "8"], ["7", "NA", "8"], ["x", "", "NA"]])
def test_csv_missing_ids(written: list[str], tmp_path: Path) -> None:
    path = write_csv(tmp_path, {"user": written, "item": ["a"] * 3})
    with pytest.raises(ValueError, match=r"Column 'user' has 1 missing value .* in row 1"):
        Ratings.from_csv(path, rating=None)


def test_csv_ratings_change_type_late(tmp_path: Path) -> None:
    count = 200_000  # More than one block of Arrow's reader.
    path = write_csv(
        tmp_path,
        {"user": list(range(count)), "item": [1] * count, "rating": [3] * (count - 1) + [3.5]},
    )
    assert Ratings.from_csv(path).rating[-2:].tolist() == [3.0, 3.5]


# ---- properties

PAIRS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=24, unique=True
)


@given(PAIRS, st.data())
def test_permuting_rows_changes_nothing_in_the_set(
    pairs: list[tuple[str, int]], data: st.DataObject
) -> None:
    numbers = st.floats(-10, 10)
    values = data.draw(st.lists(numbers, min_size=len(pairs), max_size=len(pairs)))
    order = data.draw(st.permutations(range(len(pairs))))
    rows = [(user, item, value) for (user, item), value in zip(pairs, values, strict=True)]

    def build(rows: list[tuple[str, int, float]]) -> Ratings:
        user, item, rating = zip(*rows, strict=True)
        return Ratings.from_frame({"user": user, "item": item, "rating": rating})

    ratings, permuted = build(rows), build([rows[place] for place in order])
    assert permuted.users == ratings.users
    assert permuted.items == ratings.items
    for name in ("user", "item", "rating"):
        np.testing.assert_array_equal(getattr(permuted, name), getattr(ratings, name)[list(order)])
    np.testing.assert_array_equal(permuted.user_degree, ratings.user_degree)
    assert (permuted.to_scipy() != ratings.to_scipy()).nnz == 0


@given(PAIRS)
def test_exchanging_users_and_items_transposes(pairs: list[tuple[str, int]]) -> None:
    frame = {"a": [pair[0] for pair in pairs], "b": [pair[1] for pair in pairs]}
    ratings = Ratings.from_frame(frame, user="a", item="b", rating=None)
    turned = Ratings.from_frame(frame, user="b", item="a", rating=None)
    assert (ratings.to_scipy() != turned.to_scipy().T).nnz == 0
    np.testing.assert_array_equal(turned.users.ids, ratings.items.ids)

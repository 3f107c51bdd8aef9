"""Side tables stand in the order of the codes, with nulls where nothing is known."""

import uuid
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from probmf.data import Ratings, Vocabulary

FRAME: dict[str, Any] = {"who": ["cho", "ann", "bob"], "item": [30, 10, 20]}
KNOWN: dict[str, Any] = {
    "name": ["Bob", "Zed", "Ann"],
    "who": ["bob", "zed", "ann"],
    "age": [44, 99, 33],
}


def build(features: Any, **options: Any) -> Ratings:
    return Ratings.from_frame(FRAME, user="who", rating=None, user_features=features, **options)


@pytest.mark.parametrize(
    "table",
    [
        dict, pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.table,
        lambda c: pd.DataFrame(c, index=[3, 3, 1]),
        lambda c: pd.DataFrame(c).astype({"who": "category", "name": "category"}),
        lambda c: {name: np.array(values) for name, values in c.items()},
        lambda c: duckdb.from_arrow(pa.table(c)),
        lambda c: {"user" if name == "who" else name: values for name, values in c.items()},
    ],
)  # fmt: skip
def test_any_table(table: Any) -> None:
    features = build(table(KNOWN)).user_features
    assert features is not None
    assert features.column_names[0] in ("who", "user")
    assert features.column_names[1:] == ["name", "age"]
    assert features.column(0).to_pylist() == ["ann", "bob", "cho"]
    assert features["name"].to_pylist() == ["Ann", "Bob", None]
    assert features["age"].to_pylist() == [33, 44, None]


def test_ids_without_a_rating_come_in_with_a_vocabulary() -> None:
    ratings = build(KNOWN, users=["zed", "cho", "ann", "bob"])
    assert ratings.user_features is not None
    assert ratings.user_features["name"].to_pylist() == ["Zed", None, "Ann", "Bob"]
    assert ratings.user_degree.tolist() == [0, 1, 1, 1]


def test_nothing_but_ids() -> None:
    features = build({"who": ["ann"]}).user_features
    assert features is not None
    assert features.to_pydict() == {"who": ["ann", "bob", "cho"]}


def test_matrix_with_side_tables() -> None:
    ratings = Ratings.from_scipy(
        sparse.eye_array(2), item_features={"item": [1], "title": ["Brazil"]}
    )
    assert ratings.item_labels([[0], [1]]).tolist() == [["0"], ["Brazil"]]


def test_ids_without_an_arrow_type() -> None:
    ids = [(1, "a"), (2, "b")]
    ratings = Ratings.from_frame(
        {"user": ids, "item": [uuid.UUID(int=1), uuid.UUID(int=2)]},
        rating=None,
        user_features={"user": ids[::-1], "age": [2, 1]},
        item_features={"item": [uuid.UUID(int=2)], "title": ["b"]},
    )
    assert ratings.user_features is not None
    assert ratings.user_features.to_pydict() == {"user": ["(1, 'a')", "(2, 'b')"], "age": [1, 2]}
    assert ratings.item_labels([0, 1]).tolist() == [str(uuid.UUID(int=1)), "b"]


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (KNOWN | {"who": ["bob", "ann", "bob"]}, ValueError,
         "Column 'who' of user_features holds 'bob' in rows 0 and 2; a side table has one row"),
        ({"id": ["ann"]}, ValueError, "User_features has no column 'who'; its columns are: 'id'"),
        ({"who": ["x", "y"]}, ValueError,
         "None of the 2 ids in column 'who' of user_features occurs in the ratings: the side table"
         " has 'x', the ratings have 'ann'"),
        ({"who": [1, 2]}, ValueError, "list of user ids holds text .* known user ids are integers"),
        ({"who": ["ann", None]}, ValueError, "'who' of user_features has 1 missing value"),
        (KNOWN | {"age": np.ones((3, 2))}, ValueError, r"of user_features has shape \(3, 2\)"),
        (KNOWN | {"age": [1, "a", 2]}, TypeError,
         "Column 'age' of user_features can't be stored as one type"),
        (pd.DataFrame(KNOWN | {"age": [1, "a", 2]}), TypeError, "can't be stored as one type"),
    ],
)  # fmt: skip
def test_bad_side_tables(features: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(features)


# ---- labels


def test_labels(films: Ratings) -> None:
    assert films.item_labels([2, 0, 1]).tolist() == ["Clue", "Alien", "20"]
    assert films.item_labels(films.item[:2], column="title").tolist() == ["Clue", "Alien"]
    assert films.item_labels(1).tolist() == "20"
    assert films.item_labels([]).tolist() == []
    # No column called "name": ids. Any other column by its name, as text.
    assert films.user_labels([0, 2]).tolist() == ["ann", "cho"]
    assert films.user_labels([0, 2], column="age").tolist() == ["33", "cho"]
    assert build(KNOWN).user_labels([0, 2]).tolist() == ["Ann", "cho"]


def test_bad_labels(films: Ratings) -> None:
    with pytest.raises(ValueError, match=r"Item_features has no column 'year'; .* 'item', 'title'"):
        films.item_labels([0], column="year")
    with pytest.raises(ValueError, match="3 is no item code"):
        films.item_labels([3])
    plain = Ratings.from_frame({"user": [1], "item": [1]}, rating=None)
    with pytest.raises(ValueError, match="no column 'title'; its columns are: none"):
        plain.item_labels([0], column="title")


# ---- recode and append


def test_recode(films: Ratings) -> None:
    users = Vocabulary("user", ["bob", "zed", "ann", "cho"])
    recoded = films.recode(users=users, items=[30, 20, 10])
    assert recoded.users is users
    assert recoded.users.decode(recoded.user).tolist() == films.users.decode(films.user).tolist()
    assert recoded.items.decode(recoded.item).tolist() == films.items.decode(films.item).tolist()
    assert recoded.user_features is not None
    assert recoded.item_features is not None
    assert recoded.user_features["age"].to_pylist() == [44, None, 33, None]
    assert recoded.item_features["title"].to_pylist() == ["Clue", None, "Alien"]
    assert recoded.item_labels(recoded.item).tolist() == films.item_labels(films.item).tolist()
    np.testing.assert_array_equal(recoded.weight, films.weight)
    np.testing.assert_array_equal(recoded.columns["fold"], films.columns["fold"])


def test_recode_to_the_same_changes_nothing(films: Ratings, assert_same: Any) -> None:
    assert_same(films.recode(users=list(films.users.ids), items=films.items), films)
    assert_same(films.recode(), films)


def test_recode_drops_or_refuses_unknown_ids(films: Ratings) -> None:
    dropped = films.recode(users=["ann", "zed"], items=[10, 30], unknown="drop")
    assert dropped.rating.tolist() == [3, 5]
    assert dropped.columns["fold"].tolist() == [2, 3]
    assert dropped.time is not None
    assert dropped.time.tolist() == [9, 1]
    pattern = r"column of users holds 2 ids .* known users: 'cho', 'bob' \(first in row 0; 3 in all"
    with pytest.raises(ValueError, match=pattern):
        films.recode(users=["ann", "zed"])
    with pytest.raises(ValueError, match="None of the 6 ratings is of a known user and a known"):
        films.recode(users=["zed"], unknown="drop")
    with pytest.raises(ValueError, match=r"holds text .* known user ids are integers"):
        films.recode(users=[1, 2], unknown="drop")
    with pytest.raises(ValueError, match="unknown is 'flag'; expected 'raise' or 'drop'"):
        films.recode(unknown="flag")  # type: ignore[arg-type]


def test_ids_without_ratings_need_not_be_known(films: Ratings) -> None:
    anns = films.select(films.user == 0)
    assert anns.recode(users=["ann"]).num_users == 1


def test_append(films: Ratings) -> None:
    new = Ratings.from_frame(
        {"user": ["zed", "bob", "abe"], "item": [10, 20, 10], "rating": [1, 2, 3],
         "time": [1, 2, 3]},
        time="time",
        user_features={"user": ["abe", "bob"], "age": [7, 8], "more": [1, 2]},
    )  # fmt: skip
    merged = films.append(new)
    assert merged.users.ids.tolist() == ["ann", "bob", "cho", "abe", "zed"]
    assert merged.items is films.items
    assert merged.user.tolist() == [*films.user, 4, 1, 3]
    assert merged.rating.tolist() == [*films.rating, 1, 2, 3]
    assert merged.weight is not None
    assert merged.time is not None
    assert merged.weight.tolist() == [*films.weight, 1, 1, 1]  # type: ignore[misc]
    assert merged.time.tolist() == [*films.time, 1, 2, 3]  # type: ignore[misc]
    assert merged.columns == {}
    assert merged.user_features is not None
    assert merged.user_features.to_pydict() == {
        "user": ["ann", "bob", "cho", "abe", "zed"],
        "age": [33, 44, None, 7, None],
    }
    assert merged.item_features is films.item_features


def test_append_of_known_users_keeps_the_vocabulary(films: Ratings) -> None:
    new = Ratings.from_frame({"user": ["cho"], "item": [10], "rating": [1]})
    merged = films.append(new)
    assert merged.users is films.users
    assert merged.user_features is films.user_features
    assert merged.time is None


def test_side_tables_have_the_names_of_the_ratings() -> None:
    own = Ratings.from_frame({"who": ["b"], "item": [1]}, user="who", rating=None)
    grown = own.extend(user_features={"who": ["a", "b"]})
    assert (grown.users.ids.tolist(), grown.users.column) == (["b", "a"], "who")


@pytest.mark.parametrize("ids", [[2**40, 5], [uuid.UUID(int=2), uuid.UUID(int=1)], [(2,), (1,)]])
def test_append_keeps_ids_exactly(ids: list[Any]) -> None:
    old = Ratings.from_frame({"user": ids[:1], "item": [1]}, rating=None)
    new = Ratings.from_frame({"user": ids[1:], "item": [1]}, rating=None)
    merged = old.append(new)
    assert merged.users.ids.tolist() == ids
    large = Ratings.from_frame({"user": [2**63 + 1], "item": [1]}, rating=None)
    if isinstance(ids[0], int):
        assert old.append(large).users.ids.tolist() == [ids[0], 2**63 + 1]
    assert merged.users.kind == old.users.kind
    assert merged.users.ids.dtype == old.users.ids.dtype


def test_what_cannot_be_appended(films: Ratings) -> None:
    def new(**columns: Any) -> Ratings:
        return Ratings.from_frame({"user": ["zed"], "item": [10], "rating": [1]} | columns)

    with pytest.raises(ValueError, match="column of items holds id 99, which is not among the 3"):
        films.append(new(item=[99]))
    with pytest.raises(ValueError, match="User 'ann' and item 10 occur together in rows 1 and 6"):
        films.append(new(user=["ann"]))
    assert films.append(new(user=["ann"]), duplicates="last").rating[-1] == 1
    with pytest.raises(ValueError, match=r"holds integers .* known user ids are text"):
        films.append(new(user=[3]))
    days = Ratings.from_frame(
        {"user": ["zed"], "item": [10], "at": np.array(["2020-01-01"], "M8[D]")},
        rating=None, time="at",
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"times are of types int64 and datetime64.*no common order"
    ):
        films.append(days)
    ages = Ratings.from_frame(
        {"user": ["zed"], "item": [10]}, rating=None,
        user_features={"user": ["zed"], "age": ["old"]},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"user_features .* age has incompatible types: int64"):
        films.append(ages)


def test_binarize(films: Ratings) -> None:
    liked = films.binarize(4)
    assert liked.rating.tolist() == [1, 0, 1, 0, 0, 1]
    assert liked.weight is films.weight or np.array_equal(liked.weight, films.weight)  # type: ignore[arg-type]
    assert liked.users is films.users
    with pytest.raises(ValueError, match="threshold is nan, expected a finite number"):
        films.binarize(float("nan"))
    with pytest.raises(TypeError, match="threshold is '4', expected a number"):
        films.binarize("4")  # type: ignore[arg-type]

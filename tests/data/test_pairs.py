"""Pairs to predict, however they are given."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probmf.data import Ratings, Vocabulary, encode_pairs

USERS = Vocabulary("user", ["bob", "ann"])
ITEMS = Vocabulary("item", [20, 10])
OWN, OTHER = ["ann", "zed", "bob"], [10, 20, 30]


@pytest.mark.parametrize(
    "pairs",
    [
        list(zip(OWN, OTHER, strict=True)),
        [list(pair) for pair in zip(OWN, OTHER, strict=True)],
        (OWN, OTHER),
        (np.array(OWN), np.array(OTHER)),
        (pd.Series(OWN), pl.Series(OTHER)),
        {"user": OWN, "item": OTHER},
        {"item": OTHER, "user": OWN, "rating": [1, 2, 3]},
        pd.DataFrame({"user": OWN, "item": OTHER}),
        pl.DataFrame({"user": OWN, "item": OTHER}),
        pl.LazyFrame({"user": OWN, "item": OTHER}),
        pa.table({"user": OWN, "item": OTHER}),
        np.array(list(zip(OWN, OTHER, strict=True)), dtype=object),
        np.array(list(zip(OWN, OTHER, strict=True)), dtype=[("user", "U3"), ("item", "i8")]),
        Ratings.from_frame({"user": OWN, "item": OTHER}, rating=None),
    ],
)
def test_any_form(pairs: Any) -> None:
    user, item = encode_pairs(pairs, users=USERS, items=ITEMS)
    assert user.tolist() == [1, -1, 0]
    assert item.tolist() == [1, 0, -1]
    assert user.dtype == item.dtype == np.int32


def test_names_of_columns() -> None:
    frame = {"who": OWN, "what": OTHER}
    user, item = encode_pairs(frame, users=USERS, items=ITEMS, user="who", item="what")
    assert (user.tolist(), item.tolist()) == ([1, -1, 0], [1, 0, -1])


def test_an_array_of_integers() -> None:
    users = Vocabulary("user", [7, 8])
    user, item = encode_pairs(np.array([[8, 10], [9, 30]]), users=users, items=ITEMS)
    assert (user.tolist(), item.tolist()) == ([1, -1], [1, -1])


def test_own_ratings_have_their_own_codes(films: Ratings) -> None:
    user, item = encode_pairs(films, users=films.users, items=films.items)
    np.testing.assert_array_equal(user, films.user)
    np.testing.assert_array_equal(item, films.item)


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "x", "y"]), st.integers(0, 40))))
def test_all_forms_agree(pairs: list[tuple[str, int]]) -> None:
    if not pairs:
        with pytest.raises(ValueError, match="There are no pairs"):
            encode_pairs(pairs, users=USERS, items=ITEMS)
        return
    own, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    forms: list[Any] = [pairs, (own, other), pl.DataFrame({"user": own, "item": other})]
    for form in forms:
        user, item = encode_pairs(form, users=USERS, items=ITEMS)
        assert user.tolist() == [{"bob": 0, "ann": 1}.get(name, -1) for name in own]
        assert item.tolist() == [{20: 0, 10: 1}.get(name, -1) for name in other]


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (
            (OWN, OTHER[:2]),
            ValueError,
            "pairs differ in length: the column of users has 3, the column of items has 2",
        ),
        ({"user": OWN, "item": [1]}, ValueError, "'user' has 3, column 'item' has 1"),
        (("ann", 10), ValueError, r"put a single pair in a list, as in \[\('ann', 7\)\]"),
        ((OWN, OTHER, OTHER), ValueError, "pairs is a tuple of 3 values"),
        ([("ann", 10), ("bob",)], ValueError, r"Pair 1 is \('bob',\), expected a user and an item"),
        (["ann", "bob"], ValueError, "Pair 0 is 'ann', expected a user and an item"),
        (np.ones((2, 3)), ValueError, "Pair 0 is array"),
        ([], ValueError, "There are no pairs; give at least one"),
        ({"user": OWN}, ValueError, "The table of pairs has no column 'item'"),
        ([("ann", "10")], ValueError, "column of items holds text .* known item ids are integers"),
        ([("ann", 10), (None, 10)], ValueError, "column of users has 1 missing value .* in row 1"),
        ([("ann", 10), (3, 10)], ValueError, "column of users mixes text and integers"),
        (None, TypeError, "The table of pairs is a NoneType, expected a table"),
        ("ann", TypeError, "The table of pairs is a str"),
    ],
)
def test_bad_pairs(pairs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encode_pairs(pairs, users=USERS, items=ITEMS)

"""Encodings of side tables against NumPy, and what they refuse."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from probmf.data import Encoder, Features, Vocabulary
from probmf.data.encoder import ColumnEncoding
from probmf.results.storage import Parts, decode, encode

USERS = Vocabulary.from_values(["ann", "bob", "cho", "dee"], "user")[0]
TABLE: dict[str, Any] = {
    "user": ["ann", "bob", "cho", "dee"],
    "age": [20, 30, 40, 70],
    "vip": [True, False, False, True],
    "job": ["cook", "poet", "cook", "smith"],
    "likes": ["a|b", "b", "", "c|a"],
    "bio": ["sea and sun", "the sea", "sun sun", "rain"],
}
ALL = Features(numeric=["age"], categorical=["vip", "job"], multi_hot=["likes"], text=["bio"])


def table(**changes: Any) -> pa.Table:
    return pa.table({**TABLE, **changes})


def test_each_kind_against_numpy() -> None:
    encoder = ALL.fit(table(), USERS)
    age = np.array([20.0, 30.0, 40.0, 70.0])
    expected = {
        "age": (age - 40) / age.std(),
        "vip[True]": np.array([1, 0, 0, 1]),
        "job[cook]": np.array([1, 0, 1, 0]),
        "job[poet]": np.array([0, 1, 0, 0]),
        "job[smith]": np.array([0, 0, 0, 1]),
        "likes[a]": np.array([1, 0, 0, 1]),
        "likes[b]": np.array([1, 1, 0, 0]),
        "likes[c]": np.array([0, 0, 0, 1]),
        "bio[and]": np.array([1, 0, 0, 0]),
        "bio[rain]": np.array([0, 0, 0, 1]),
        "bio[sea]": np.array([1, 1, 0, 0]),
        "bio[sun]": np.array([1, 0, 1, 0]),
        "bio[the]": np.array([0, 1, 0, 0]),
    }
    assert encoder.names == tuple(expected)
    columns = np.stack([column - column.mean() for column in expected.values()], axis=1)
    np.testing.assert_allclose(encoder.encode(table(), USERS), columns, atol=1e-12)


def test_words_are_those_of_scikit_learn() -> None:
    texts = ["The SEA, the sun; a sea-side!", "Übergröße größer", "x1 y 22 don't", "", "sea été"]
    counter = CountVectorizer(binary=True)
    expected = counter.fit_transform(texts).toarray()
    ids = Vocabulary.from_values(range(5), "user")[0]
    told = pa.table({"user": range(5), "bio": texts})
    encoder = Features(text=["bio"]).fit(told, ids)
    assert encoder.names == tuple(f"bio[{word}]" for word in counter.get_feature_names_out())
    np.testing.assert_allclose(encoder.encode(told, ids), expected - expected.mean(axis=0))
    few = Features(text=["bio"], max_words=1).fit(told, ids)
    assert few.names == ("bio[sea]",)


def test_new_rows_get_the_same_encoding_after_json() -> None:
    parts, kinds = Parts(), {"Encoder": Encoder, "ColumnEncoding": ColumnEncoding}
    written = encode(ALL.fit(table(), USERS), "features", parts)
    encoder = decode(json.loads(json.dumps(written)), kinds, parts)
    assert encoder == ALL.fit(table(), USERS)
    new = Vocabulary.from_values(["eve"], "user")[0]
    row = {name: [values[0]] for name, values in TABLE.items()}
    encoded = encoder.encode(pa.table({**row, "bio": ["sea and snow and sun"]}), new)
    np.testing.assert_array_equal(encoded[0], encoder.encode(table(), USERS)[0])


def test_columns_are_chosen_by_type() -> None:
    encoder = Features().fit(table().drop_columns(["likes", "bio"]), USERS)
    kinds = [(block.column, block.kind) for block in encoder.blocks]
    assert kinds == [("age", "numeric"), ("vip", "categorical"), ("job", "categorical")]
    many = pa.table({"user": range(200), "title": [f"film {n}" for n in range(200)]})
    with pytest.raises(ValueError, match=r"'title' of user_features has 200 different values"):
        Features().fit(many, Vocabulary.from_values(range(200), "user")[0])
    dates = table(since=pa.array([0, 1, 2, 3], pa.date32())).drop_columns(["bio", "likes"])
    with pytest.raises(ValueError, match=r"'since' of user_features holds dates"):
        Features().fit(dates, USERS)


def test_a_flag_is_centred_only_and_lists_are_labels() -> None:
    rare = table(flag=[0, 0, 0, 1], tags=[["x"], ["x", "y"], [], ["y"]])
    encoder = Features(numeric=["flag"], multi_hot=["tags"]).fit(rare, USERS)
    expected = [[-0.25, 0.5, -0.5], [-0.25, 0.5, 0.5], [-0.25, -0.5, -0.5], [0.75, -0.5, 0.5]]
    np.testing.assert_allclose(encoder.encode(rare, USERS), expected)


def test_missing_values_are_refused_or_average() -> None:
    holes = table(age=[20.0, float("nan"), 40.0, None], job=["cook", None, "cook", "smith"])
    with pytest.raises(
        ValueError, match=r"Column 'age' .* 2 missing .* first in row 1 of user 'bob'"
    ):
        Features(numeric=["age"], categorical=["vip"]).fit(holes, USERS)
    with pytest.raises(ValueError, match=r"nothing for user 'bob' \(1 of 4 users lack a row"):
        Features(numeric=["age"], categorical=["job"]).fit(holes, USERS)
    encoder = Features(numeric=["age"], categorical=["job"], missing="average").fit(holes, USERS)
    encoded = encoder.encode(holes, USERS)
    # Of the two known ages the mean is 30; bob's row is the average row, all zeros.
    np.testing.assert_allclose(encoded[:, 0], [-1, 0, 1, 0])
    np.testing.assert_array_equal(encoded[1], np.zeros(encoded.shape[1]))


@pytest.mark.parametrize("column", ["job", "likes"])
def test_an_unknown_level_is_named_or_average(column: str) -> None:
    kind = {"job": "categorical", "likes": "multi_hot"}[column]
    new = table(**{column: [TABLE[column][0], "nun", *TABLE[column][2:]]})
    strict = Features(**{kind: [column]}).fit(table(), USERS)
    message = rf"Column '{column}' .* is 'nun' in row 1 of user 'bob'.*it had '"
    with pytest.raises(ValueError, match=message):
        strict.encode(new, USERS)
    lenient = Features(**{kind: [column]}, unknown="average").fit(table(), USERS)
    encoded = lenient.encode(new, USERS)
    if column == "job":
        np.testing.assert_array_equal(encoded[1], np.zeros(3))
    else:
        np.testing.assert_allclose(encoded[1], encoded[2])


def test_levels_are_of_one_kind_and_whole_numbers_are_integers() -> None:
    gaps = table(job=pa.array([1.0, None, 3.0, 1.0]), user=TABLE["user"])
    encoder = Features(categorical=["job"], missing="average", unknown="average").fit(gaps, USERS)
    assert encoder.names == ("job[3]",)
    again = encoder.encode(table(job=[1, 7, 3, 1]), USERS)
    np.testing.assert_array_equal(again, encoder.encode(gaps, USERS))
    with pytest.raises(ValueError, match=r"holds booleans .* are integers"):
        encoder.encode(table(job=TABLE["vip"]), USERS)


@pytest.mark.parametrize(
    ("features", "changes", "message"),
    [
        (Features(numeric=["age"]), {"age": [3, 3, 3, 3]}, r"'age' .* is the same in every row"),
        (Features(categorical=["job"]), {"job": ["x"] * 4}, r"'job' .* is the same in every row"),
        (
            Features(numeric=["age", "old"]),
            {"old": TABLE["age"]},
            r"Columns 'age' and 'old' of user_features say the same",
        ),
        (
            Features(numeric=["job"]),
            {},
            r"'job' .* must hold numbers, but row 0 of user 'ann' holds 'cook'",
        ),
        (Features(text=["age"]), {}, r"'age' .* must hold text, but row 0 of user 'ann' holds 20"),
        (Features(numeric=["agee"]), {}, r"no column 'agee'.*Did you mean 'age'"),
        (Features(numeric=["age"]), {"age": [1.0, 2.0, np.inf, 3.0]}, r"'age' .* is inf in row 2"),
        (Features(text=["bio"]), {"bio": ["!", "?", "", "."]}, r"'bio' .* holds no words"),
    ],
)
def test_bad_columns(features: Features, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        features.fit(table(**changes), USERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numeric": "age"}, r"numeric is 'age'; expected a list"),
        ({"numeric": ["a"], "text": ["a"]}, r"'a' is named twice, in numeric and in text"),
        ({"missing": "zero"}, r"missing is 'zero'; expected 'error' or 'average'"),
        ({"separator": ""}, r"separator is ''"),
        ({"max_words": 0}, r"max_words is 0"),
    ],
)
def test_bad_configuration(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Features(**options)


def test_no_table() -> None:
    with pytest.raises(ValueError, match=r"the ratings have no user_features"):
        Features().fit(None, USERS)
    with pytest.raises(ValueError, match=r"no column besides the ids"):
        Features().fit(table().select(["user"]), USERS)

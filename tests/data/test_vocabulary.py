import datetime as dt
import enum
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probmf.data import Vocabulary

ZONE = dt.timezone(dt.timedelta(hours=5))


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


def build(values: Any) -> tuple[Vocabulary, np.ndarray]:
    return Vocabulary.from_values(values, "user")


def plain(values: Any) -> list[Any]:
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)


# ---- which ids are kept, and as what


BIG = 2**62 + 1
UUIDS = [uuid.UUID(int=5), uuid.UUID(int=2), uuid.UUID(int=5)]


@pytest.mark.parametrize(
    ("values", "kind", "ids"),
    [
        (["b", "a", "b"], "text", ["a", "b"]),
        (["é", "z", "😀", "é"], "text", ["z", "é", "😀"]),
        (np.array(["b", "a"]), "text", ["a", "b"]),
        (np.array(["b", "a"], dtype=np.dtypes.StringDType()), "text", ["a", "b"]),
        ([np.str_("b"), "a"], "text", ["a", "b"]),
        ([Colour.RED, Colour.BLUE], "text", ["blue", "red"]),
        (["", " a", "a"], "text", ["", " a", "a"]),
        (["\ud800", "a"], "text", ["a", "\ud800"]),
        ([BIG, BIG - 1, -BIG], "integers", [-BIG, BIG - 1, BIG]),
        ([2**63 - 1, -(2**63)], "integers", [-(2**63), 2**63 - 1]),
        ([2**64 - 1, 2**63, 1], "integers", [1, 2**63, 2**64 - 1]),
        ([2**63], "integers", [2**63]),
        ([2**100, 1, -3], "integers", [-3, 1, 2**100]),
        ([np.int8(3), 1, np.uint64(2)], "integers", [1, 2, 3]),
        (range(3, 0, -1), "integers", [1, 2, 3]),
        ((9, 8), "integers", [8, 9]),
        (np.array([3.0, 1.0]), "integers", [1, 3]),
        (np.array([-(2.0**53), 2.0**53]), "integers", [-(2**53), 2**53]),
        ([3.0, 1.0], "integers", [1, 3]),
        (pd.Series([3, 1], dtype="Int64"), "integers", [1, 3]),
        (pl.Series([3, 1], dtype=pl.UInt16), "integers", [1, 3]),
        (pl.Series([2**100, 1], dtype=pl.Int128), "integers", [1, 2**100]),
        (pa.array([3, 1]), "integers", [1, 3]),
        (pa.chunked_array([["b"], ["a"]]), "text", ["a", "b"]),
        (pa.array(["b", "a"], pa.string_view()), "text", ["a", "b"]),
        (np.ma.array([3, 1], mask=[False, False]), "integers", [1, 3]),
        (pd.Index(["b", "a"]), "text", ["a", "b"]),
        (pd.Categorical(["b", "a"], categories=["c", "b", "a"]), "text", ["a", "b"]),
        (pd.Series(["b", "a"], dtype="category"), "text", ["a", "b"]),
        (pd.Series([7, 5], dtype="category"), "integers", [5, 7]),
        (pl.Series(["b", "a"], dtype=pl.Categorical), "text", ["a", "b"]),
        (pl.Series(["b", "a"], dtype=pl.Enum(["c", "b", "a"])), "text", ["a", "b"]),
        (pa.DictionaryArray.from_arrays([1, 0, 1], ["a", "b", "c"]), "text", ["a", "b"]),
        (
            pa.chunked_array([pa.array([name]).dictionary_encode() for name in "ba"]),
            "text",
            ["a", "b"],
        ),
        ([True, False, True], "booleans", [False, True]),
        (np.array([True]), "booleans", [True]),
        ([b"b", b"a\x00"], "bytes", [b"a\x00", b"b"]),
        (UUIDS, "UUIDs", UUIDS[1:]),
        (pd.Series(UUIDS), "UUIDs", UUIDS[1:]),
        (pl.Series(UUIDS, dtype=pl.Object), "UUIDs", UUIDS[1:]),
        (pa.array([u.bytes for u in UUIDS], pa.uuid()), "UUIDs", UUIDS[1:]),
        ([("b", 1), ("a", 2), ("b", 1)], "tuples", [("a", 2), ("b", 1)]),
        ([("b", 1), ("b", None)], "tuples", [("b", None), ("b", 1)]),
        ([("b", frozenset()), ("a", None)], "tuples", [("b", frozenset()), ("a", None)]),
        ([("b",), ("a", 2)], "tuples", [("a", 2), ("b",)]),
        (np.array([("b", 1), ("a", 2)], dtype="U1,i4"), "tuples", [("a", 2), ("b", 1)]),
        ([Decimal("1.5"), Decimal("1.2")], "Decimal objects", [Decimal("1.2"), Decimal("1.5")]),
        ([frozenset({1}), frozenset()], "frozenset objects", [frozenset({1}), frozenset()]),
        ([dt.time(5), dt.time(3)], "times of day", [dt.time(3), dt.time(5)]),
        ([1j, 0j], "complex objects", [1j, 0j]),
        (np.array([1j, 0j]), "complex objects", [1j, 0j]),
    ],
)  # fmt: skip
def test_ids_are_kept(values: Any, kind: str, ids: list[Any]) -> None:
    vocabulary, codes = build(values)
    assert vocabulary.kind == kind
    assert vocabulary.ids.tolist() == ids
    assert [type(value) for value in vocabulary.ids.tolist()] == [type(value) for value in ids]
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(vocabulary.encode(values), codes)
    assert vocabulary.decode(codes).tolist() == plain(values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([dt.date(2020, 5, 1), dt.date(1969, 1, 1)], "M8[D]"),
        (pl.Series([dt.date(2020, 5, 1), dt.date(1969, 1, 1)]), "M8[D]"),
        (np.array(["2020-05", "1969-01"], "M8[M]"), "M8[s]"),
        (np.array(["2020-05-01", "1969-01-01"], "M8[ns]"), "M8[ns]"),
        ([dt.datetime(2020, 5, 1), dt.datetime(1969, 1, 1)], "M8[us]"),
        ([pd.Timestamp("2020-05-01", tz="UTC"), pd.Timestamp("1969", tz="UTC")], "M8[us]"),
        (
            [dt.datetime(2020, 5, 1, 5, tzinfo=ZONE), dt.datetime(1969, 1, 1, 5, tzinfo=ZONE)],
            "M8[us]",
        ),
    ],
)
def test_dates(values: Any, dtype: str) -> None:
    vocabulary, codes = build(values)
    expected = np.array(["1969-01-01", "2020-05-01"], "M8[D]")
    assert vocabulary.kind == "dates"
    assert vocabulary.ids.dtype == dtype
    np.testing.assert_array_equal(vocabulary.ids, expected)
    assert codes.tolist() == [1, 0]
    # Found again in any unit.
    assert vocabulary.encode([dt.date(2020, 5, 1)]).tolist() == [1]
    assert vocabulary.encode(expected.astype("M8[ns]")).tolist() == [0, 1]
    assert dt.date(1969, 1, 2) not in vocabulary


def test_int64_beyond_float_precision_is_exact() -> None:
    ids = 2**53 + np.arange(5)
    vocabulary, codes = build(ids[::-1])
    assert vocabulary.ids.dtype == np.int64
    assert vocabulary.ids.tolist() == ids.tolist()
    assert codes.tolist() == [4, 3, 2, 1, 0]
    assert vocabulary.encode([2**53 + 1, 2**53 + 5], unknown="flag").tolist() == [1, -1]


# ---- what is no id


@pytest.mark.parametrize(
    ("values", "count", "row"),
    [
        (["a", None, "b", None], 2, 1),
        ([1, None], 1, 1),
        ([1, float("nan")], 1, 1),
        ([None, None], 2, 0),
        (["a", pd.NA], 1, 1),
        ([pd.Timestamp(0), pd.NaT], 1, 1),
        ([(1, "a"), (float("nan"), "a")], 1, 1),
        (np.array([1.0, np.nan, np.nan]), 2, 1),
        (np.array([1, np.nan], np.float16), 1, 1),
        (np.array(["2020-01-01", "NaT"], "M8[D]"), 1, 1),
        (np.ma.array([3, 1], mask=[False, True]), 1, 1),
        (pd.Series([1, None, 3]), 1, 1),
        (pd.Series([1, None], dtype="Int64"), 1, 1),
        (pd.Series(["a", None]), 1, 1),
        (pd.Categorical(["a", None]), 1, 1),
        (pd.Series(["a", None], dtype="category"), 1, 1),
        (pl.Series(["a", None]), 1, 1),
        (pl.Series([1.0, float("nan")]), 1, 1),
        (pa.array([None], pa.null()), 1, 0),
        (pa.array([uuid.UUID(int=1).bytes, None], pa.uuid()), 1, 1),
    ],
)  # fmt: skip
def test_missing_ids(values: Any, count: int, row: int) -> None:
    plural = "s" if count > 1 else ""
    pattern = rf"user ids has {count} missing value{plural} .*, the first in row {row}; an id must"
    with pytest.raises(ValueError, match=pattern):
        build(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, "a"], "mixes integers and text: row 0 holds 1, but row 2 holds 'a'"),
        ([1, True], "mixes integers and booleans: row 0 holds 1, but row 1 holds True"),
        ([1, 1.0], "mixes integers and floating numbers: row 0 holds 1, but row 1 holds 1.0"),
        (["a", b"a"], "mixes text and bytes"),
        ([uuid.UUID(int=1), "a"], "mixes UUIDs and text"),
        ([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)], "mixes dates and date-times"),
        (
            [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)],
            "mixes date-times without a time zone and date-times with a time zone",
        ),
        ([(1, "a"), (True, "a")], "in entry 0 of its tuples mixes integers and booleans"),
        (pd.Series([1, "a"]), "mixes integers and text: row 0 holds 1, but row 1 holds 'a'"),
    ],
)
def test_mixed_kinds(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.5], r"holds 2.5 in row 1 \(type float64\), but a floating number is an id only"),
        (np.array([1.0, np.inf]), "holds inf in row 1"),
        (np.array([2.0**53 + 2]), "an id beyond 9007199254740992 may have been rounded"),
        (np.array([1, 2**24 + 2], np.float32), "row 1 .*an id beyond 16777216 may have been"),
        (pl.Series([0.5]), "holds 0.5 in row 0"),
    ],
)
def test_floating_ids(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{}, {}], "holds {} of type dict in row 0, which can't be hashed"),
        ([[1]], r"holds \[1\] of type list in row 0"),
        (pl.Series([{"a": 1}]), "of type dict in row 0"),
        (pa.array([[1]]), "of type list in row 0"),
        ("abc", "is of type str, expected a sequence of values"),
        (3, "is of type int, expected a sequence"),
        ({1, 2}, "is of type set, expected a sequence"),
        ((value for value in [1]), "is of type generator, expected a sequence"),
    ],
)
def test_no_ids_at_all(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build(values)


@pytest.mark.parametrize(
    ("shape", "hint"), [((3, 1), r"\(3,\)"), ((3, 2), r"\(3,\)"), ((), r"\(n,\)")]
)
def test_shape(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(ValueError, match=rf"has shape .* expected one dimension, {hint}.*\[:, 0\]"):
        build(np.ones(shape))


# ---- the vocabulary as an object


def test_ids_given_in_order_keep_it() -> None:
    vocabulary = Vocabulary("item", [30, 10, 20])
    assert vocabulary.encode([10, 20, 30]).tolist() == [1, 2, 0]
    assert vocabulary.decode([[0, 1]]).tolist() == [[30, 10]]
    assert list(vocabulary) == [30, 10, 20]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], "user id 'a' occurs twice, in places 0 and 2"),
        ([4, 5, 6, 5, 4], "user id 5 occurs twice, in places 1 and 3"),
        ([], "no user ids; a vocabulary needs at least one"),
        ([None], "list of user ids has 1 missing value"),
    ],
)
def test_unfit_vocabulary(ids: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary("user", ids)


def test_equality_is_by_content() -> None:
    ann = Vocabulary("user", ["ann"])
    same = Vocabulary("user", np.array(["ann"]))
    assert ann == same
    assert hash(ann) == hash(same)
    assert ann != Vocabulary("item", ["ann"])
    assert ann != Vocabulary("user", ["bob"])
    assert ann != Vocabulary("user", ["ann", "bob"])
    assert Vocabulary("user", [1]) != Vocabulary("user", [True])
    assert Vocabulary("user", [1, 2]) != Vocabulary("user", [2, 1])
    assert ann != "ann"


def test_membership_respects_kinds() -> None:
    assert 1 in Vocabulary("user", [1])
    assert np.int8(1) in Vocabulary("user", [1])
    strangers: list[Any] = [2, True, "1", None, [], float("nan")]
    for stranger in strangers:
        assert stranger not in Vocabulary("user", [1])


def test_it_is_immutable(films: Any) -> None:
    with pytest.raises(ValueError, match="read-only"):
        films.users.ids[0] = "zed"
    source = np.array([2, 1])
    vocabulary = Vocabulary("user", source)
    source[0] = 9
    assert vocabulary.ids.tolist() == [2, 1]


def test_repr() -> None:
    assert repr(Vocabulary("user", [5, 6])) == "Vocabulary('user', [5, 6]; 2 ids, integers)"
    long = Vocabulary("item", [f"i{i}" for i in range(2000)])
    assert repr(long) == "Vocabulary('item', ['i0', 'i1', 'i2', ...]; 2,000 ids, text)"


# ---- encode and decode


def test_unknown_ids() -> None:
    users = Vocabulary("user", ["ann", "bob"])
    assert users.encode(["bob", "zed"], unknown="flag").tolist() == [1, -1]
    with pytest.raises(ValueError, match=r"holds id 'zed', which is not among the 2 known users"):
        users.encode(["bob", "zed"])
    pattern = (
        r"column of user ids holds 4 ids that are not among the 2 known users: 'z', 'y', 'x', ... "
        r"\(first in row 1; 5 in all\). Drop these rows \(Ratings.recode.*'drop'\)\), flag them"
    )
    with pytest.raises(ValueError, match=pattern):
        users.encode(["ann", "z", "y", "z", "x", "w"])
    with pytest.raises(ValueError, match="unknown is 'drop'; expected 'raise' or 'flag'"):
        users.encode(["ann"], unknown="drop")  # type: ignore[arg-type]


def test_unknown_integers_are_found_between_and_beyond() -> None:
    items = Vocabulary("item", [30, 10, 20])
    assert items.encode([5, 10, 15, 35], unknown="flag").tolist() == [-1, 1, -1, -1]
    unsigned = np.array([10, 2**64 - 20], np.uint64)
    assert items.encode(unsigned, unknown="flag").tolist() == [1, -1]
    large = Vocabulary("item", np.array([2**64 - 1], np.uint64))
    assert large.encode([-1], unknown="flag").tolist() == [-1]


@pytest.mark.parametrize("unknown", ["raise", "flag"])
def test_other_kinds_are_refused_not_flagged(unknown: Any) -> None:
    pattern = r"holds text \(such as '1'\), but the known user ids are integers \(such as 1\)"
    with pytest.raises(ValueError, match=pattern):
        Vocabulary("user", [1]).encode(["1"], unknown=unknown)


def test_nothing_is_encoded_as_nothing() -> None:
    codes = Vocabulary("user", [1]).encode([])
    assert codes.shape == (0,)
    assert codes.dtype == np.int32
    assert Vocabulary("user", [1]).decode([]).shape == (0,)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        ([0, 3], ValueError, "3 is no user code: the codes of these 2 users are 0 to 1"),
        ([-1], ValueError, "-1 is no user code"),
        ([0.0], TypeError, "Codes are of type float64, expected whole numbers"),
        (["ann"], TypeError, "To look ids up, use encode"),
        ([True], TypeError, "Codes are of type bool"),
    ],
)
def test_bad_codes(codes: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Vocabulary("user", ["ann", "bob"]).decode(codes)


@pytest.mark.parametrize("values", [["b", "a"], [2, 1], UUIDS[:2], [b"x", b"a"], [True, False]])
def test_arrow_ids_read_back(values: list[Any]) -> None:
    vocabulary = Vocabulary("user", values)
    assert Vocabulary("user", vocabulary.to_arrow()) == vocabulary


def test_tuples_have_no_arrow_type() -> None:
    with pytest.raises(TypeError, match="ids are tuples, for which there is no Arrow type"):
        Vocabulary("user", [(1, 2)]).to_arrow()


# ---- properties

TEXT = st.text("aZé😀 \0", max_size=3)
KINDS: list[Callable[[], st.SearchStrategy[Any]]] = [
    lambda: st.integers(-(2**63), 2**63 - 1),
    lambda: st.integers(),
    lambda: TEXT,
    st.binary,
    st.uuids,
    lambda: st.tuples(TEXT, st.integers()),
    lambda: st.tuples(TEXT, TEXT, st.tuples(st.uuids())),
    st.booleans,
]


@given(st.data())
def test_encode_and_decode_are_inverse(data: st.DataObject) -> None:
    values = data.draw(st.sampled_from(KINDS).flatmap(lambda kind: st.lists(kind(), min_size=1)))
    vocabulary, codes = build(values)
    assert vocabulary.decode(codes).tolist() == values
    np.testing.assert_array_equal(vocabulary.encode(values), codes)
    np.testing.assert_array_equal(vocabulary.encode(vocabulary.ids), np.arange(len(vocabulary)))
    assert vocabulary.ids.tolist() == sorted(set(values))


@given(st.data())
def test_permuting_rows_changes_nothing(data: st.DataObject) -> None:
    values = data.draw(st.sampled_from(KINDS).flatmap(lambda kind: st.lists(kind(), min_size=1)))
    order = data.draw(st.permutations(range(len(values))))
    vocabulary, codes = build(values)
    permuted, permuted_codes = build([values[place] for place in order])
    assert permuted == vocabulary
    np.testing.assert_array_equal(permuted_codes, codes[list(order)])


@given(st.lists(st.integers(-3, 12)), st.lists(st.integers(-3, 12), min_size=1, unique=True))
def test_lookup_agrees_with_a_dict(asked: list[int], ids: list[int]) -> None:
    expected = [ids.index(value) if value in ids else -1 for value in asked]
    for shift in (0, 2**70):  # The second goes by Python objects.
        vocabulary = Vocabulary("user", [value + shift for value in ids])
        values = [value + shift for value in asked]
        assert vocabulary.encode(values, unknown="flag").tolist() == expected

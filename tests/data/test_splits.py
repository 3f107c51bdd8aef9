"""Every split is a partition, keeps order and codes, and never gives an empty side."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probmf.data import Ratings


def build(pairs: list[tuple[int, int]], times: list[int]) -> Ratings:
    count = len(pairs)
    frame = {
        "user": [user for user, _ in pairs],
        "item": [item for _, item in pairs],
        "rating": list(range(count)),
        "weight": [1.0 + row for row in range(count)],
        "at": times[:count],
        "fold": [row % 3 for row in range(count)],
    }
    return Ratings.from_frame(frame, weight="weight", time="at", keep=["fold"])


@st.composite
def ratings_strategy(draw: st.DrawFn) -> Ratings:
    pair = st.tuples(st.integers(0, 4), st.integers(0, 6))
    pairs = draw(st.lists(pair, min_size=1, max_size=30, unique=True))
    times = draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)))
    return build(pairs, times)


SPLITS: dict[str, Callable[[Ratings, int], tuple[Ratings, Ratings]]] = {
    "split": lambda r, key: r.split(key=key, test_fraction=0.3),
    "split_within_users": lambda r, key: r.split_within_users(key=key, test_fraction=0.4),
    "hold_out_users": lambda r, key: r.hold_out_users(key=key, user_fraction=0.4),
    "split_last": lambda r, key: r.split_last(num_last=2),
    "split_on": lambda r, key: r.split_on("fold", test=1),
}


def assert_partition(whole: Ratings, train: Ratings, test: Ratings) -> None:
    # The rating of a row is its number, so rows can be told apart.
    assert len(train) > 0
    assert len(test) > 0
    together = np.sort(np.concatenate([train.rating, test.rating]))
    np.testing.assert_array_equal(together, whole.rating)
    for part in (train, test):
        rows = part.rating.astype(int)
        assert (np.diff(rows) > 0).all()
        assert part.users is whole.users
        assert part.items is whole.items
        assert part.user_features is whole.user_features
        assert part.item_features is whole.item_features
        for name in ("user", "item", "weight", "time"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
        np.testing.assert_array_equal(part.columns["fold"], whole.columns["fold"][rows])


@pytest.mark.parametrize("name", SPLITS)
@given(ratings=ratings_strategy(), key=st.integers(0, 9))
def test_a_split_is_a_partition(name: str, ratings: Ratings, key: int) -> None:
    try:
        train, test = SPLITS[name](ratings, key)
    except ValueError as error:
        assert "set would be empty" in str(error)  # noqa: PT017  (either outcome is right)
        return
    assert_partition(ratings, train, test)


@given(ratings_strategy(), st.integers(0, 9), st.integers(2, 6))
def test_folds_partition_exactly(ratings: Ratings, key: int, num_folds: int) -> None:
    if num_folds > len(ratings):
        with pytest.raises(ValueError, match="a fold needs one"):
            ratings.folds(key=key, num_folds=num_folds)
        return
    parts = list(ratings.folds(key=key, num_folds=num_folds))
    assert len(parts) == num_folds
    for train, test in parts:
        assert_partition(ratings, train, test)
    together = np.sort(np.concatenate([test.rating for _, test in parts]))
    np.testing.assert_array_equal(together, ratings.rating)
    sizes = [len(test) for _, test in parts]
    assert max(sizes) - min(sizes) <= 1


def test_side_tables_are_shared(films: Ratings) -> None:
    train, test = films.split(key=0, test_fraction=0.5)
    assert train.item_features is test.item_features is films.item_features
    assert films.item_features is not None


# ---- randomness


def many() -> Ratings:
    pairs = [(user, item) for user in range(20) for item in range(user + 1)]
    return build(pairs, [0] * len(pairs))


RANDOM: dict[str, Callable[[Ratings, Any], Ratings]] = {
    "split": lambda r, key: r.split(key=key)[1],
    "split_within_users": lambda r, key: r.split_within_users(key=key)[1],
    "hold_out_users": lambda r, key: r.hold_out_users(key=key)[1],
    "folds": lambda r, key: next(iter(r.folds(key=key)))[1],
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_key_decides(name: str) -> None:
    ratings, split = many(), RANDOM[name]
    typed = jax.random.key(5)
    raw = jax.random.PRNGKey(5)
    rows = [split(ratings, key).rating.tolist() for key in (1, 1, 2, typed, raw, typed)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert rows[3] == rows[4] == rows[5]


def test_a_seed_is_numpys() -> None:
    ratings = many()
    rows = np.sort(np.random.default_rng(3).permutation(len(ratings))[: len(ratings) // 10])
    _, test = ratings.split(key=3, test_fraction=0.1)
    np.testing.assert_array_equal(test.rating, rows)


@pytest.mark.parametrize("name", RANDOM)
def test_the_key_is_required(name: str) -> None:
    with pytest.raises(TypeError, match="key"):
        getattr(many(), name)()
    with pytest.raises(TypeError, match=r"key is None .* give an int"):
        getattr(many(), name)(key=None)


def test_every_rating_is_set_aside_equally_often() -> None:
    ratings = build([(user, item) for user in range(4) for item in range(5)], [0] * 20)
    times = 2000
    for split in (ratings.split, ratings.split_within_users):
        counts = np.zeros(20)
        for key in range(times):
            counts[split(key=key, test_fraction=0.2)[1].rating.astype(int)] += 1
        # Four standard deviations of a binomial count, and 40 counts.
        assert abs(counts - times * 0.2).max() < 4.5 * np.sqrt(times * 0.2 * 0.8)


# ---- each split by itself


def test_split_rounds_to_whole_ratings() -> None:
    ratings = many()
    assert [len(part) for part in ratings.split(key=0, test_fraction=0.1)] == [189, 21]


def test_within_users_every_user_gives_its_share() -> None:
    ratings = many()
    train, test = ratings.split_within_users(key=0, test_fraction=0.2)
    degree = np.arange(1, 21)
    np.testing.assert_array_equal(ratings.user_degree, degree)
    expected = np.array([0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4])
    np.testing.assert_array_equal(test.user_degree, expected)
    _, test = ratings.split_within_users(key=0, test_fraction=0.99)
    np.testing.assert_array_equal(test.user_degree, degree - 1)
    assert train.user_degree.min() == 1


def test_held_out_users_have_nothing_in_training() -> None:
    ratings = many()
    train, held = ratings.hold_out_users(key=0, user_fraction=0.25)
    assert (held.user_degree > 0).sum() == 5
    np.testing.assert_array_equal(
        held.user_degree, np.where(held.user_degree > 0, ratings.user_degree, 0)
    )
    assert not (train.user_degree * held.user_degree).any()


def test_users_without_ratings_are_not_held_out() -> None:
    ratings = Ratings.from_frame(
        {"user": [1, 2], "item": [1, 1]}, rating=None, users=[5, 1, 6, 2, 7, 8]
    )
    for key in range(5):
        _, held = ratings.hold_out_users(key=key, user_fraction=0.5)
        assert len(held) == 1


def test_the_last_rating_of_each_user(films: Ratings) -> None:
    train, test = films.split_last()
    # ann rated at 9, 9 and 1: of equal times the later row is later. cho has one rating only.
    assert test.users.decode(test.user).tolist() == ["ann", "bob"]
    assert test.items.decode(test.item).tolist() == [20, 30]
    assert train.rating.tolist() == [5, 3, 1, 5]
    _, test = films.split_last(num_last=2)
    assert test.users.decode(test.user).tolist() == ["ann", "ann"]
    assert test.items.decode(test.item).tolist() == [10, 20]


def test_the_last_by_date() -> None:
    days = [dt.date(2020, 1, day) for day in (3, 1, 2)]
    frame = {"user": [1, 1, 1], "item": [1, 2, 3], "day": days}
    _, test = Ratings.from_frame(frame, rating=None, time="day").split_last(num_last=2)
    assert test.items.decode(test.item).tolist() == [1, 3]


@given(ratings_strategy(), st.integers(1, 4))
def test_the_last_agree_with_a_sort(ratings: Ratings, num_last: int) -> None:
    expected = []
    assert ratings.time is not None
    for code in range(ratings.num_users):
        rows = [row for row in range(len(ratings)) if ratings.user[row] == code]
        if len(rows) > num_last:
            expected += sorted(rows, key=lambda row: (ratings.time[row], row))[-num_last:]  # type: ignore[index]
    if not expected:
        with pytest.raises(ValueError, match="test set would be empty: num_last"):
            ratings.split_last(num_last=num_last)
        return
    _, test = ratings.split_last(num_last=num_last)
    np.testing.assert_array_equal(test.rating, sorted(expected))


@pytest.mark.parametrize(
    ("column", "test", "rows"),
    [
        ("fold", 3, [2, 5]),
        ("fold", [1, 3], [0, 2, 3, 5]),
        ("fold", {1}, [0, 3]),
        ("fold", range(2, 4), [1, 2, 4, 5]),
        ("fold", np.array([2, 9]), [1, 4]),
        ("fold", [3, "3"], [2, 5]),
        ("text", "q", [1, 3]),
        ("text", ["q", "r"], [1, 2, 3]),
        ("flag", True, [0, 4]),
        ("day", dt.date(2020, 1, 2), [1, 3]),
        ("day", [np.datetime64("2020-01-02")], [1, 3]),
        ("rating", 5.0, [5]),
        ("time", 9, [1, 2]),
    ],
)
def test_split_on(column: str, test: Any, rows: list[int]) -> None:
    frame = {
        "user": [1, 2, 3, 4, 5, 6],
        "item": [1] * 6,
        "rating": [0, 1, 2, 3, 4, 5],
        "time": [4, 9, 9, 7, 7, 1],
        "fold": [1, 2, 3, 1, 2, 3],
        "text": ["p", "q", "r", "q", None, "p"],
        "flag": [True, False, False, False, True, False],
        "day": [dt.date(2020, 1, day) for day in (1, 2, 3, 2, 1, 4)],
    }
    ratings = Ratings.from_frame(frame, time="time", keep=["fold", "text", "flag", "day"])
    train, held = ratings.split_on(column, test=test)
    assert held.rating.tolist() == rows
    assert sorted([*train.rating, *held.rating]) == list(range(6))


# ---- what is refused


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), 10])
def test_fractions(fraction: float) -> None:
    ratings = many()
    message = rf"is {fraction}, expected a number between 0 and 1, such as 0.1"
    with pytest.raises(ValueError, match=f"test_fraction {message}"):
        ratings.split(key=0, test_fraction=fraction)
    with pytest.raises(ValueError, match=f"test_fraction {message}"):
        ratings.split_within_users(key=0, test_fraction=fraction)
    with pytest.raises(ValueError, match=f"user_fraction {message}"):
        ratings.hold_out_users(key=0, user_fraction=fraction)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda r: r.split(key=0, test_fraction=0.1), "test set .* test_fraction=0.1 of 3 ratings"),
        (lambda r: r.split(key=0, test_fraction=0.9), "training set would be empty"),
        (
            lambda r: r.split_within_users(key=0, test_fraction=0.1),
            "test set would be empty: test_fraction=0.1 of at most 2 ratings a user leaves no",
        ),
        (
            lambda r: r.hold_out_users(key=0),
            "test set .* user_fraction=0.1 of 2 users with ratings",
        ),
        (lambda r: r.hold_out_users(key=0, user_fraction=0.9), "training set would be empty"),
        (lambda r: r.split_last(num_last=2), "test set .* num_last=2 of at most 2 ratings a user"),
        (lambda r: r.split_on("fold", test=7), "test=7 in column 'fold' .which holds 0, 1, 2"),
        (lambda r: r.split_on("fold", test="1"), "test set would be empty: test='1'"),
        (lambda r: r.split_on("fold", test=[]), "test set would be empty"),
        (lambda r: r.split_on("fold", test=range(5)), "training set would be empty"),
        (lambda r: r.split_on("flod", test=1), r"no column 'flod'.* Did you mean 'fold'\? Keep it"),
        (lambda r: r.split_last(num_last=0), "num_last is 0, expected at least 1"),
        (lambda r: r.folds(key=0, num_folds=1), "num_folds is 1, expected at least 2"),
        (lambda r: r.folds(key=0, num_folds=4), "num_folds is 4, but there are 3 ratings"),
    ],
)
def test_empty_sides(split: Callable[[Ratings], Any], message: str) -> None:
    ratings = build([(1, 1), (1, 2), (2, 1)], [0, 1, 2])
    with pytest.raises(ValueError, match=message):
        split(ratings)


@pytest.mark.parametrize("value", [1.0, "2", None])
def test_counts_are_whole(value: Any) -> None:
    ratings = build([(1, 1), (1, 2), (2, 1)], [0, 1, 2])
    with pytest.raises(TypeError, match=r"num_last is .*, expected a whole number"):
        ratings.split_last(num_last=value)
    with pytest.raises(TypeError, match=r"num_folds is .*, expected a whole number"):
        ratings.folds(key=0, num_folds=value)


def test_the_last_needs_times() -> None:
    ratings = Ratings.from_frame({"user": [1, 1], "item": [1, 2], "rating": [1, 2]})
    with pytest.raises(ValueError, match=r"split_last needs .*from_frame\(frame, time='timestamp'"):
        ratings.split_last()


# ---- select


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([True, False, True, False, False, False], [0, 2]),
        ([5, 0], [5, 0]),
        (slice(1, None, 2), [1, 3, 5]),
        (np.array([2], np.uint8), [2]),
    ],
)
def test_select(rows: Any, expected: list[int], films: Ratings) -> None:
    chosen = films.select(rows)
    for name in ("user", "item", "rating", "weight", "time"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(films, name)[expected])
    np.testing.assert_array_equal(chosen.columns["fold"], films.columns["fold"][expected])
    assert chosen.users is films.users
    assert type(chosen) is Ratings


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([True, False], ValueError, "rows has 2 booleans, but there are 6 ratings"),
        ([False] * 6, ValueError, "chooses no rating at all"),
        ([], ValueError, "chooses no rating at all"),
        (slice(9, 10), ValueError, "chooses no rating at all"),
        ([0, 6], ValueError, "Row 6 is out of range: rows are 0 to 5"),
        ([-1], ValueError, "Row -1 is out of range"),
        ([1, 1], ValueError, "rows holds a row twice"),
        ([0.0], TypeError, r"rows has shape \(1,\) and type float64, expected booleans of shape"),
        ([[1]], TypeError, r"rows has shape \(1, 1\)"),
        (3, TypeError, r"rows has shape \(\)"),
        (["a"], TypeError, "expected booleans"),
    ],
)
def test_bad_rows(rows: Any, error: type[Exception], message: str, films: Ratings) -> None:
    with pytest.raises(error, match=message):
        films.select(rows)


class TestSplitAt:
    def test_ratings_from_a_moment_on_are_set_aside(self) -> None:
        at = np.array([5, 1, 9, 7])
        frame = {"user": [1, 2, 3, 4], "item": [1, 1, 1, 1], "at": at}
        train, test = Ratings.from_frame(frame, rating=None, time="at").split_at(7)
        assert (train.time.tolist(), test.time.tolist()) == ([5, 1], [9, 7])

    def test_dates_are_read_from_text(self) -> None:
        at = np.array(["2024-01-31", "2024-02-01"], "datetime64[s]")
        frame = {"user": [1, 2], "item": [1, 1], "at": at}
        train, test = Ratings.from_frame(frame, rating=None, time="at").split_at("2024-02")
        assert (len(train), test.time[0]) == (1, at[1])

    def test_moments_are_exact_and_in_utc(self) -> None:
        at = 1_700_000_000_000_000_000 + np.array([1, 2, 3])
        frame = {"user": [1, 2, 3], "item": [1, 1, 1]}
        whole = Ratings.from_frame(frame | {"at": at}, rating=None, time="at")
        dated = Ratings.from_frame(frame | {"at": at.astype("M8[ns]")}, rating=None, time="at")
        moment = pd.Timestamp(at[1], tz="Asia/Tokyo")
        for ratings, time in (
            (whole, int(at[1])),
            (dated, moment),
            (dated, at[1].astype("M8[ns]")),
        ):
            assert ratings.split_at(time)[1].user.tolist() == [1, 2]
        assert dated.split_on("time", moment)[1].user.tolist() == [1]
        hours = Ratings.from_frame(
            frame | {"at": np.array([9, 10, 11], "M8[h]")}, rating=None, time="at"
        )
        assert hours.split_at("1970-01-01T12:00+02:00")[1].user.tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("time", "message"),
        [
            ("soon", "time is 'soon', but"), (np.nan, "time is nan, but"),
            ([1, 2], r"time is \[1, 2\], but"), (99, "test set would be"),
        ],
    )  # fmt: skip
    def test_mistakes(self, time: object, message: str) -> None:
        frame = {"user": [1, 2], "item": [1, 1], "at": [1, 2]}
        with pytest.raises(ValueError, match=message):
            Ratings.from_frame(frame, rating=None, time="at").split_at(time)
        dated = frame | {"at": np.array(["2024-01-31", "2024-02-01"], "datetime64[s]")}
        for moment in ("soon", 7, np.datetime64("NaT", "s")):
            with pytest.raises(ValueError, match="but the ratings were given from"):
                Ratings.from_frame(dated, rating=None, time="at").split_at(moment)
        with pytest.raises(ValueError, match="split_at needs to know when"):
            Ratings.from_frame(frame, rating=None).split_at(1)

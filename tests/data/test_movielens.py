"""The real MovieLens tables, where they are at hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probmf.data import Ratings


def load(shared_data: Path, name: str, file: str) -> pa.Table:
    path = shared_data / name / file
    if not path.is_file():
        pytest.skip(f"../shared/data has no {name}/{file}.")
    return pq.read_table(path)


@pytest.fixture(scope="module")
def small(shared_data: Path) -> Ratings:
    return Ratings.from_frame(
        load(shared_data, "movielens-100k", "ratings.parquet"),
        time="timestamp",
        keep=["u_fold", "ua_test", "ub_test"],
        user_features=load(shared_data, "movielens-100k", "users.parquet"),
        item_features=load(shared_data, "movielens-100k", "items.parquet"),
    )


def test_small_counts(small: Ratings) -> None:
    assert (small.num_users, small.num_items, len(small)) == (943, 1682, 100_000)
    assert (small.user_degree.min(), small.item_degree.min(), small.item_degree.max()) == (
        20,
        1,
        583,
    )
    assert small.users.ids.tolist() == list(range(1, 944))
    titles = small.item_labels(small.items.encode([1, 267])).tolist()
    assert titles == ["Toy Story (1995)", "unknown"]
    assert small.item_features is not None
    assert small.item_features["year"].null_count == 1


def test_official_splits(small: Ratings) -> None:
    together = []
    for fold in range(1, 6):
        train, test = small.split_on("u_fold", test=fold)
        assert (len(train), len(test)) == (80_000, 20_000)
        together.append(test.to_scipy())
    assert (sum(together[1:], together[0]) != small.to_scipy()).nnz == 0
    _, ua = small.split_on("ua_test", test=True)
    _, ub = small.split_on("ub_test", test=True)
    assert ua.user_degree.tolist() == ub.user_degree.tolist() == [10] * 943
    assert not ua.columns["ub_test"].any()


def test_last_of_each_user(small: Ratings) -> None:
    train, test = small.split_last(num_last=2)
    assert test.user_degree.tolist() == [2] * 943
    assert train.time is not None
    assert test.time is not None
    latest_before = np.zeros(943, dtype=np.int64)
    np.maximum.at(latest_before, train.user, train.time)
    assert (latest_before[test.user] <= test.time).all()


def test_files_and_frames_agree(shared_data: Path, tmp_path: Path, assert_same: object) -> None:
    table = load(shared_data, "movielens-100k", "ratings.parquet").select(
        ["user", "item", "rating"]
    )
    expected = Ratings.from_frame(table)
    table.to_pandas().to_csv(tmp_path / "ratings.csv", index=False)
    assert_same(Ratings.from_csv(tmp_path / "ratings.csv"), expected)  # type: ignore[operator]
    path = shared_data / "movielens-100k" / "ratings.parquet"
    assert_same(Ratings.from_parquet(path), expected)  # type: ignore[operator]


def test_a_million_ratings(shared_data: Path) -> None:
    table = load(shared_data, "movielens-1m", "ratings.parquet")
    items = load(shared_data, "movielens-1m", "items.parquet")
    ratings = Ratings.from_frame(table, item_features=items)
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (6040, 3706, 1_000_209)
    assert np.bincount(ratings.rating.astype(int)).tolist() == [
        0, 56174, 107557, 261197, 348971, 226310,
    ]  # fmt: skip
    assert ratings.item_features is not None
    assert ratings.item_features["title"].null_count == 0
    np.testing.assert_array_equal(ratings.items.decode(ratings.item), table["item"].to_numpy())

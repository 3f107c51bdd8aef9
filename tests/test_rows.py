"""Every rating has its place, once for each side, and few places are empty."""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from probmf.rows import blocks as row_blocks
from probmf.rows import store as row_store
from probmf.rows.blocks import Bucket, RowBlocks, SideBlocks, build_blocks, choose_widths
from probmf.rows.store import OTHER, SIDES, RowStore


class Data(NamedTuple):
    """Rated pairs, all different."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    weight: np.ndarray
    num_users: int
    num_items: int

    def layout(self, *, weighted: bool = True, workers: int = 2, slots: int = 64) -> RowBlocks:
        return build_blocks(self.store(weighted=weighted), workers=workers, slots=slots)

    def store(self, *, weighted: bool = True) -> RowStore:
        return RowStore.of(
            self.user, self.item, self.rating, self.weight if weighted else None,
            num_users=self.num_users, num_items=self.num_items,
        )  # fmt: skip


def draw(seed: int, num_users: int, num_items: int, share: float) -> Data:
    """Pairs of skewed popularity; the last user and the last item have none where there are two."""
    rng = np.random.default_rng(seed)
    chance = np.outer(rng.random(num_users) ** 2, rng.random(num_items) ** 2) ** share
    seen = rng.random((num_users, num_items)) < chance
    seen[:1, 0] = True
    if num_users > 1:
        seen[-1] = False
    if num_items > 1:
        seen[:, -1] = False
    user, item = (code.astype(np.int32) for code in np.nonzero(seen))
    order = rng.permutation(len(user))
    return Data(
        user[order], item[order], rng.normal(size=len(user)), rng.uniform(0.5, 2, len(user)),
        num_users, num_items,
    )  # fmt: skip


CASES = {
    "square": draw(0, 40, 30, 0.3),
    "wide": draw(1, 5, 90, 0.1),
    "one user": draw(2, 1, 20, 0.2),
    "one item": draw(3, 20, 1, 0.2),
    "one pair": draw(4, 1, 1, 0.0),
    "sparse": draw(5, 60, 70, 1.0),
}


def padding(blocks: RowBlocks, store: RowStore) -> float:
    """Slots that are computed on, divided by the ratings of both sides; 1 is no padding."""
    slots = 0
    for bucket in (bucket for side in SIDES for bucket in blocks.sides[side].buckets):
        width, lengths = bucket.partner.shape[2], np.asarray(bucket.length)
        piece = min(width, row_blocks.MAX_WIDTH)
        whole = width <= row_blocks.MAX_WIDTH
        slots += lengths.size * piece if whole else int(np.sum(-(-lengths // piece) * piece))
    return slots / (2 * store.num_ratings)


def filled_slots(bucket: Bucket) -> np.ndarray:
    return np.arange(bucket.partner.shape[2]) < np.asarray(bucket.length)[..., None]


def ratings_of(blocks: SideBlocks) -> list[tuple[int, int, float, float]]:
    """(own row, partner's row, rating, weight) of the side's filled slots."""
    found = []
    for bucket in blocks.buckets:
        own = np.broadcast_to(np.asarray(bucket.row)[..., None], bucket.partner.shape)
        weight = bucket.weights(bucket.rating.dtype)
        fields = (own, bucket.partner, bucket.rating, weight)
        filled = filled_slots(bucket)
        found += list(zip(*(np.asarray(x)[filled].tolist() for x in fields), strict=True))
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_rating_appears_once_on_each_side(name: str, weighted: bool, workers: int) -> None:
    data = CASES[name]
    layout = data.layout(weighted=weighted, workers=workers)
    weight = data.weight if weighted else np.ones_like(data.weight)
    values = [data.rating.astype(np.float32).tolist(), weight.astype(np.float32).tolist()]
    codes = {"user": data.user.tolist(), "item": data.item.tolist()}
    for side in SIDES:
        wanted = zip(codes[side], codes[OTHER[side]], *values, strict=True)
        assert sorted(ratings_of(layout.sides[side])) == sorted(wanted)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("name", CASES)
def test_workers_share_all_chunks_and_results_are_found_again(name: str, workers: int) -> None:
    """`source` is checked by playing the workers: each writes its rows' own numbers."""
    data = CASES[name]
    layout = data.layout(workers=workers, slots=16)
    for side in SIDES:
        blocks, output = layout.sides[side], []
        claimed: list[tuple[int, int]] = []
        assert len(blocks.spans) == workers
        for spans in blocks.spans:
            assert [span.bucket for span in spans] == list(range(len(blocks.buckets)))
            for span in spans:
                row = np.asarray(blocks.buckets[span.bucket].row)
                block = np.full((blocks.capacity[span.bucket], row.shape[1]), -1)
                block[: span.num_chunks] = row[span.first : span.first + span.num_chunks]
                output.append(block.ravel())
                claimed += [(span.bucket, span.first + i) for i in range(span.num_chunks)]
        count = data.store().num_rows(side)
        assert (np.concatenate(output)[np.asarray(blocks.source)] == np.arange(count)).all()
        chunks = [(b, c) for b, bucket in enumerate(blocks.buckets) for c in range(len(bucket.row))]
        assert sorted(claimed) == chunks


@pytest.mark.parametrize("weighted", [False, True])
def test_empty_slots_have_no_weight(weighted: bool) -> None:
    data = CASES["square"]
    assert data.num_users - 1 not in data.user
    for blocks in data.layout(weighted=weighted).sides.values():
        for bucket in blocks.buckets:
            filled, weight = filled_slots(bucket), np.asarray(bucket.weights(np.float32))
            assert not np.asarray(bucket.rating)[~filled].any()
            assert not np.asarray(bucket.partner)[~filled].any()
            assert not weight[~filled].any()
            assert weight[filled].all()


def test_ratings_keep_their_order_within_a_row() -> None:
    """Within a row the slots are in the order of the table: reproducible sums."""
    data = CASES["one user"]
    (bucket,) = data.layout(workers=1).sides["user"].buckets
    assert np.asarray(bucket.partner)[0, 0, : len(data.item)].tolist() == data.item.tolist()


def test_rating_dtype_follows_jax(x64: bool) -> None:
    bucket = CASES["square"].layout().sides["user"].buckets[0]
    assert bucket.weight is not None
    assert bucket.rating.dtype == bucket.weight.dtype == ("float64" if x64 else "float32")
    assert bucket.partner.dtype == bucket.row.dtype == bucket.length.dtype == "int32"


def test_padding_counts_the_slots() -> None:
    data = CASES["square"]
    layout = data.layout()
    slots = sum(b.partner.size for blocks in layout.sides.values() for b in blocks.buckets)
    assert padding(layout, data.store()) == pytest.approx(slots / (2 * len(data.rating)))
    assert padding(layout, data.store()) >= 1


def test_padding_of_long_rows_counts_whole_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user with 20 ratings in pieces of 8: 3 pieces, and 20 items of one rating each."""
    monkeypatch.setattr(row_blocks, "MAX_WIDTH", 8)
    ones = np.ones(20)
    store = RowStore.of(np.zeros(20, int), np.arange(20), ones, num_users=1, num_items=20)
    assert padding(build_blocks(store, workers=1, slots=8), store) == pytest.approx(
        (3 * 8 + 20 * 8) / 40
    )


def test_padding_of_movielens_1m(shared_data: Path) -> None:
    path = shared_data / "movielens-1m" / "ratings.parquet"
    if not path.is_file():
        pytest.skip("../shared/data has no movielens-1m/ratings.parquet.")
    table = pq.read_table(path, columns=["user", "item"])
    user, item = (
        np.unique(table.column(name).to_numpy(), return_inverse=True)[1]
        for name in ("user", "item")
    )
    store = RowStore.of(
        user, item, np.ones(len(user)), num_users=user.max() + 1, num_items=item.max() + 1
    )
    layout = build_blocks(store, workers=2, slots=row_blocks.CPU_SLOTS)
    assert padding(layout, store) <= 1.25
    assert sum(len(blocks.buckets) for blocks in layout.sides.values()) <= 22


def widths_cost(widths: tuple[int, ...], degrees: np.ndarray, penalty: float) -> float:
    """Slots of the rows, each in the narrowest width that holds it, plus the used widths' price."""
    place = np.searchsorted(widths, degrees)
    return float(np.asarray(widths)[place].sum() + penalty * len(set(place.tolist())))


@pytest.mark.parametrize("bucket_cost", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_widths_are_the_best_subset_of_the_ladder(seed: int, bucket_cost: float) -> None:
    rng = np.random.default_rng(seed)
    degrees = np.minimum(rng.geometric(rng.uniform(0.01, 0.2), size=25) - 1, 119)
    ladder = [8, 16, 24, 32, 40, 48, 64, 80, 96, 120]
    assert choose_widths(np.arange(1, 121), bucket_cost=0.0).tolist() == ladder
    penalty = bucket_cost * degrees.sum()
    best = min(
        widths_cost(widths, degrees, penalty)
        for size in range(1, len(ladder) + 1)
        for widths in combinations(ladder, size)
        if widths[-1] >= degrees.max()
    )
    chosen = tuple(choose_widths(degrees, bucket_cost=bucket_cost).tolist())
    assert widths_cost(chosen, degrees, penalty) == pytest.approx(best)


def test_a_dear_bucket_leaves_one_width_and_a_free_one_many() -> None:
    degrees = np.arange(100)
    assert choose_widths(degrees, bucket_cost=10.0).tolist() == [120]
    assert len(choose_widths(degrees, bucket_cost=0.0)) == 10


@pytest.mark.parametrize("longest", [0, 1, 8, 9, 4096, 4097, 4300, 4560, 8192, 8193, 100_000])
def test_widths_hold_the_longest_row_in_whole_pieces(longest: int) -> None:
    """A width between one and two pieces would be read twice where the pieces overlap."""
    widths = choose_widths(np.array([longest, 3]))
    assert widths[-1] >= longest
    assert all(
        width <= row_blocks.MAX_WIDTH or width % row_blocks.MAX_WIDTH == 0 for width in widths
    )


@pytest.mark.parametrize("limit", [8, 16, 48, 56, 100])
def test_widths_are_whole_pieces_for_any_limit(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "MAX_WIDTH", limit)
    widths = choose_widths(np.arange(1, 400), bucket_cost=0.0)
    assert limit in widths
    assert all(width <= limit or width % limit == 0 for width in widths)
    assert (np.diff(widths) > 0).all()


def test_rows_of_one_bucket_fit_its_width() -> None:
    data = CASES["square"]
    for side, blocks in data.layout().sides.items():
        before, degree = -1, data.store()[side].degree
        widths = [bucket.partner.shape[2] for bucket in blocks.buckets]
        assert widths == sorted(set(widths))
        for bucket, width in zip(blocks.buckets, widths, strict=True):
            length, row = np.asarray(bucket.length).ravel(), np.asarray(bucket.row).ravel()
            members = row[length > 0]
            assert (degree[members] == length[length > 0]).all()
            assert ((length[length > 0] > before) & (length[length > 0] <= width)).all()
            before = width
    assert len(widths) > 1


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_number_of_workers(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_store, "platform", lambda: backend)
    monkeypatch.setattr(row_store.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert row_store.num_workers() == (16 if backend == "cpu" else 1)
    monkeypatch.setattr(row_store.os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert row_store.num_workers() == (2 if backend == "cpu" else 1)
    monkeypatch.delattr(row_store.os, "sched_getaffinity")
    monkeypatch.setattr(row_store.os, "cpu_count", lambda: None)
    assert row_store.num_workers() == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_store_is_the_table_sorted_by_row(name: str, weighted: bool) -> None:
    data = CASES[name]
    store = data.store(weighted=weighted)
    sides = {"user": (data.user, data.item), "item": (data.item, data.user)}
    for side in SIDES:
        own, partner = sides[side]
        order = np.argsort(own, kind="stable")
        rows = store[side]
        assert (np.repeat(np.arange(store.num_rows(side)), rows.degree) == own[order]).all()
        assert (rows.partner == partner[order]).all()
        assert (rows.rating == data.rating[order].astype(np.float32)).all()
        assert (rows.weight is not None) == weighted
        if rows.weight is not None:
            assert (rows.weight == data.weight[order].astype(np.float32)).all()


def test_padded_rows_hold_the_ratings_of_those_asked_for() -> None:
    rows = CASES["square"].store()["user"]
    codes = np.array([3, 39, 0])
    assert rows.degree[39] == 0
    padded = rows.pad(codes, 4, int(rows.degree.max()) + 2, empty=-7)
    assert padded.filled.sum(axis=1).tolist() == [*rows.degree[codes], 0]
    assert (padded.partner[~padded.filled] == -7).all()
    assert not padded.rating[~padded.filled].any()
    for line, code in enumerate(codes):
        part = slice(rows.start[code], rows.start[code + 1])
        assert (padded.rating[line][padded.filled[line]] == rows.rating[part]).all()
        assert (padded.partner[line][padded.filled[line]] == rows.partner[part]).all()

"""Ranking metrics against scikit-learn, a slow reference, and numbers worked out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csc_array, csr_array, csr_matrix

from probmf import metrics

RANKINGS = {
    "recall": metrics.recall_at_k,
    "precision": metrics.precision_at_k,
    "hit_rate": metrics.hit_rate_at_k,
    "mrr": metrics.mrr_at_k,
    "ndcg": metrics.ndcg_at_k,
}
ranking = pytest.mark.parametrize("metric", RANKINGS.values(), ids=RANKINGS.keys())


@pytest.fixture
def rng():
    return np.random.default_rng(20_240_229)


def reference(ranked, relevant, k, *, graded=False):
    """Every ranking metric of every user from dictionaries and loops, straight from the text."""
    found = {name: [] for name in [*RANKINGS, "truncated"]}
    for row, likes in zip(ranked, relevant, strict=True):
        gains = {item: value for item, value in enumerate(likes) if value != 0}
        if not gains:
            for values in found.values():
                values.append(math.nan)
            continue
        hits = [place for place, item in enumerate(row[:k], 1) if item in gains]
        if not graded:
            gains = dict.fromkeys(gains, 1)
        dcg = sum(
            gains.get(item, 0) / math.log2(place + 1) for place, item in enumerate(row[:k], 1)
        )
        best = sorted(gains.values(), reverse=True)[:k]
        ideal = sum(gain / math.log2(place + 1) for place, gain in enumerate(best, 1))
        found["recall"].append(len(hits) / len(gains))
        found["truncated"].append(len(hits) / min(k, len(gains)))
        found["precision"].append(len(hits) / k)
        found["hit_rate"].append(float(bool(hits)))
        found["mrr"].append(1 / hits[0] if hits else 0.0)
        found["ndcg"].append(dcg / ideal)
    return found


def random_lists(rng, num_users, num_items, num_places, *, density=0.3, gaps=0.2):
    """Ranked lists with gaps, and relevance with some users who like nothing."""
    ranked = rng.permuted(np.tile(np.arange(num_items), (num_users, 1)), axis=1)[:, :num_places]
    ranked = np.where(rng.random(ranked.shape) < gaps, -1, ranked)
    likes = rng.integers(1, 6, (num_users, num_items)) * (
        rng.random((num_users, num_items)) < density
    )
    likes[rng.random(num_users) < 0.2] = 0
    return ranked, likes


def test_ranking_by_hand():
    relevant = csr_array([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]])
    ranked = np.array([[1, 2, -1, 0], [0, 1, 2, 3], [4, 0, 1, 2]])
    nan = np.nan
    expected = {
        ("recall", 2): [1 / 3, nan, 1.0],
        ("recall", 4): [2 / 3, nan, 1.0],
        ("precision", 2): [1 / 2, nan, 1 / 2],
        ("precision", 4): [2 / 4, nan, 1 / 4],
        ("hit_rate", 1): [0.0, nan, 1.0],
        ("mrr", 1): [0.0, nan, 1.0],
        ("mrr", 3): [1 / 2, nan, 1.0],
        ("ndcg", 2): [(1 / np.log2(3)) / (1 + 1 / np.log2(3)), nan, 1.0],
        ("ndcg", 4): [
            (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / np.log2(4)),
            nan,
            1.0,
        ],
    }
    for (name, k), values in expected.items():
        per_user = RANKINGS[name](ranked, relevant, k, per_user=True)
        np.testing.assert_allclose(per_user, values, rtol=1e-14)
        mean = RANKINGS[name](ranked, relevant, k)
        assert type(mean) is float
        assert mean == pytest.approx(np.nanmean(values))
    truncated = metrics.recall_at_k(ranked, relevant, 2, truncated=True, per_user=True)
    np.testing.assert_allclose(truncated, [1 / 2, nan, 1.0])


@pytest.mark.parametrize("k", [1, 3, 7])
def test_ranking_agrees_with_the_reference(rng, monkeypatch, k):
    # A few users per block, so that the blocks' edges are looked at too.
    monkeypatch.setattr("probmf.metrics.relevance._BLOCK_ENTRIES", 30)
    ranked, likes = random_lists(rng, 53, 11, 7)
    relevant = csr_array(likes)
    expected = reference(ranked.tolist(), likes.tolist(), k)
    for name, metric in RANKINGS.items():
        values = metric(ranked, relevant, k, per_user=True)
        np.testing.assert_allclose(values, expected[name], rtol=1e-12, err_msg=name)
        assert metric(ranked, relevant, k) == pytest.approx(np.nanmean(expected[name]))
    values = metrics.recall_at_k(ranked, relevant, k, truncated=True, per_user=True)
    np.testing.assert_allclose(values, expected["truncated"], rtol=1e-12)
    values = metrics.ndcg_at_k(ranked, relevant, k, graded=True, per_user=True)
    graded = reference(ranked.tolist(), likes.tolist(), k, graded=True)
    np.testing.assert_allclose(values, graded["ndcg"], rtol=1e-12)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_ndcg_agrees_with_scikit_learn(rng, k, graded):
    likes = rng.integers(0, 6, (40, 9))
    likes[:, 0] = 1  # scikit-learn gives users who like nothing a zero; here there are none
    scores = rng.permuted(np.tile(np.arange(9.0), (40, 1)), axis=1)
    ranked = np.argsort(-scores, axis=1)
    gains = likes if graded else (likes > 0).astype(int)
    expected = sklearn.metrics.ndcg_score(gains, scores, k=k)
    found = metrics.ndcg_at_k(ranked, csr_array(likes), k, graded=graded)
    assert found == pytest.approx(expected)


@ranking
def test_form_of_the_sparse_matrix_is_immaterial(rng, metric):
    ranked, likes = random_lists(rng, 20, 8, 5)
    expected = metric(ranked, csr_array(likes), 4)
    # Every value as two halves, columns out of order, and a stored zero in every row.
    pieces = [np.flatnonzero(row) for row in likes]
    columns = [rng.permutation(np.concatenate([piece, piece, [3]])) for piece in pieces]
    values = [
        row[column] / 2 * ((column != 3) | (np.cumsum(column == 3) > 1))
        for row, column in zip(likes, columns, strict=True)
    ]
    indptr = np.cumsum([0, *map(len, columns)])
    stored = csr_matrix((np.concatenate(values), np.concatenate(columns), indptr), likes.shape)
    assert np.array_equal(stored.toarray(), likes)
    before = stored.copy()
    for matrix in (
        csr_matrix(likes),
        csc_array(likes),
        stored,
        stored.tocoo(),
        csr_array(likes > 0),
    ):
        assert metric(ranked, matrix, 4) == expected
    assert stored.nnz == before.nnz  # the caller's matrix is left as it was


@ranking
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16])
def test_any_integer_type_will_do(rng, metric, dtype):
    ranked, likes = random_lists(rng, 20, 8, 5, gaps=0.0)
    relevant = csr_array(likes)
    expected = metric(ranked, relevant, 4)
    assert metric(ranked.astype(dtype), relevant, 4) == expected
    assert metric(jnp.asarray(ranked), relevant, 4) == expected


@ranking
def test_many_items_do_not_overflow(metric):
    num_items = 2**31 - 1
    users = np.arange(5)
    items = num_items - 1 - users
    relevant = csr_array((np.ones(5), (users, items)), shape=(5, num_items))
    assert metric(items[:, None], relevant, 1) == 1.0
    assert metric(items[::-1, None], relevant, 1) == pytest.approx(0.2)


@given(st.data())
@settings(deadline=None)
def test_rankings_are_bounded_and_a_perfect_one_gives_one(data):
    num_users, num_items = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    likes = data.draw(arrays(np.int64, (num_users, num_items), elements=st.integers(0, 3)))
    likes[0, 0] = 1
    relevant = csr_array(likes)
    k = data.draw(st.integers(1, num_items))
    orders = [data.draw(st.permutations(range(num_items))) for _ in range(num_users)]
    some = np.array(orders)
    some[data.draw(arrays(np.bool_, some.shape))] = -1
    best = np.argsort(-likes, axis=1, kind="stable")
    for name, metric in RANKINGS.items():
        values = metric(some, relevant, k, per_user=True)
        assert np.array_equal(np.isnan(values), ~likes.any(axis=1)), name
        assert np.all((values[~np.isnan(values)] >= 0) & (values[~np.isnan(values)] <= 1 + 1e-12))
        assert np.nanmax(values - metric(best, relevant, k, per_user=True)) <= 1e-12, name
    for perfect in (
        metrics.recall_at_k(best, relevant, k, truncated=True),
        metrics.recall_at_k(best, relevant, num_items),
        metrics.hit_rate_at_k(best, relevant, k),
        metrics.mrr_at_k(best, relevant, k),
        metrics.ndcg_at_k(best, relevant, k),
        metrics.ndcg_at_k(best, relevant, k, graded=True),
    ):
        assert perfect == pytest.approx(1.0)


@ranking
def test_bad_rankings_are_refused(metric):
    relevant = csr_array([[1, 0, 0], [0, 1, 0]])
    good = np.array([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"ranked has shape \(2,\).*one row"):
        metric([0, 1], relevant, 1)
    with pytest.raises(ValueError, match=r"ranked has shape \(0, 3\) and so is empty"):
        metric(np.empty((0, 3), int), relevant, 1)
    with pytest.raises(TypeError, match="ranked has dtype float64; give integer item codes"):
        metric(good.astype(float), relevant, 1)
    with pytest.raises(TypeError, match="ranked has dtype bool"):
        metric(good > 0, relevant, 1)
    with pytest.raises(ValueError, match=r"ranked\[1, 0\] is 3, but relevant has 3 items"):
        metric([[0, 1], [3, 9]], relevant, 1)
    with pytest.raises(ValueError, match=r"ranked\[0, 1\] is -2.*-1 means"):
        metric([[0, -2], [0, 1]], relevant, 1)
    with pytest.raises(ValueError, match="ranked row 1 holds item 2 more than once"):
        metric([[-1, -1], [2, 2]], relevant, 1)
    with pytest.raises(ValueError, match="k is 3, but ranked has 2 places per user"):
        metric(good, relevant, 3)
    with pytest.raises(ValueError, match="k is 0"):
        metric(good, relevant, 0)
    for k in (1.0, True, "1", None):
        with pytest.raises(TypeError, match=r"k is .* give a positive whole number"):
            metric(good, relevant, k)


def test_bad_rows_are_numbered_across_blocks(monkeypatch):
    monkeypatch.setattr("probmf.metrics.relevance._BLOCK_ENTRIES", 4)
    relevant = csr_array(np.eye(9))
    ranked = np.tile([0, 1], (9, 1))
    ranked[7, 1] = 0
    with pytest.raises(ValueError, match="ranked row 7 holds item 0 more than once"):
        metrics.recall_at_k(ranked, relevant, 1)
    ranked[7, 1] = 9
    with pytest.raises(ValueError, match=r"ranked\[7, 1\] is 9"):
        metrics.recall_at_k(ranked, relevant, 1)


@ranking
def test_bad_relevance_is_refused(metric):
    ranked = np.array([[0, 1], [1, 2]])
    with pytest.raises(TypeError, match=r"relevant is a ndarray; give a .* scipy\.sparse matrix"):
        metric(ranked, np.eye(2), 1)
    with pytest.raises(ValueError, match="relevant has 3 rows and ranked has 2"):
        metric(ranked, csr_array(np.eye(3)), 1)
    with pytest.raises(ValueError, match="relevant holds nan in row 1, column 2"):
        metric(ranked, csr_array([[1.0, 0.0, 0.0], [0.0, 1.0, np.nan]]), 1)
    nothing = csr_array((2, 3))
    with pytest.raises(ValueError, match="marks no item for any of the 2 users"):
        metric(ranked, nothing, 1)
    assert np.isnan(metric(ranked, nothing, 1, per_user=True)).all()


def test_negative_gains_are_refused_only_when_they_are_gains():
    relevant = csr_array([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]])
    with pytest.raises(ValueError, match=r"relevant holds -1\.0 in row 1, column 2.*negative"):
        metrics.ndcg_at_k([[0], [1]], relevant, 1, graded=True)
    assert metrics.ndcg_at_k([[0], [2]], relevant, 1) == 1.0

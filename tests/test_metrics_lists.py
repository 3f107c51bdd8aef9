"""Mean average precision, coverage of the catalogue, novelty, and the bootstrap."""

import jax
import numpy as np
import pytest
from scipy.sparse import csr_array

from probmf import metrics


def lists(num_users: int = 30, num_items: int = 12) -> tuple[np.ndarray, csr_array]:
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(num_items)[:6] for _ in range(num_users)])
    ranked[3, 4:] = -1
    return ranked, csr_array(rng.random((num_users, num_items)) < 0.2)


def test_average_precision_is_that_of_its_definition() -> None:
    ranked, relevant = lists()
    dense = relevant.toarray()
    expected = []
    for row, own in zip(ranked, dense, strict=True):
        hits, total = 0, 0.0
        for place, item in enumerate(row[:5], start=1):
            if item >= 0 and own[item]:
                hits += 1
                total += hits / place
        expected.append(total / min(5, own.sum()) if own.any() else np.nan)
    np.testing.assert_allclose(metrics.map_at_k(ranked, relevant, 5, per_user=True), expected)
    assert metrics.map_at_k(ranked, relevant, 5) == pytest.approx(np.nanmean(expected))


def test_coverage_and_novelty_are_those_of_their_definitions() -> None:
    ranked, _ = lists()
    shown = ranked[:, :2]
    assert metrics.catalog_coverage(ranked, 20, 2) == len({*shown.ravel()} - {-1}) / 20
    degree = np.arange(12.0)
    rated = shown[shown > 0]
    expected = np.mean(-np.log2(degree[rated] / degree.sum()))
    assert metrics.novelty(ranked, degree, 2) == pytest.approx(expected)
    assert np.isnan(metrics.novelty([[0]], degree, 1))


def test_mistakes_in_lists() -> None:
    with pytest.raises(ValueError, match="is 5, but relevant has 3 items"):
        metrics.catalog_coverage([[5]], 3, 1)
    with pytest.raises(ValueError, match="more than once"):
        metrics.novelty([[1, 1]], [1, 1], 1)
    with pytest.raises(ValueError, match=r"degree has shape \(2,\) and a total of 0"):
        metrics.novelty([[1, 0]], [0, 0], 1)


def test_bootstrap_has_the_interval_of_the_central_limit() -> None:
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, size=4_000)
    found = metrics.bootstrap(np.append(values, np.nan), key=0)
    half = 1.645 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    np.testing.assert_allclose(
        [found.lower, found.upper], [values.mean() - half, values.mean() + half], atol=0.1 * half
    )
    assert found.positive == 1.0
    assert metrics.bootstrap(values, key=0) == metrics.bootstrap(values, key=jax.random.key(0))


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(2)
    users = rng.normal(0, 10, 200)
    better = users + 0.1 + 0.1 * rng.normal(size=200)
    found = metrics.bootstrap(better, users, key=0)
    assert 0.0 < found.lower < found.mean < found.upper < 0.2
    with pytest.raises(ValueError, match="expected one value per user"):
        metrics.bootstrap(users, users[1:], key=0)
    with pytest.raises(ValueError, match="values holds 1 users"):
        metrics.bootstrap([1.0, np.nan], key=0)
    with pytest.raises(ValueError, match="interval is 2"):
        metrics.bootstrap(users, key=0, interval=2)

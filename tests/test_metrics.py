"""Errors and scores of single predictions against scikit-learn, scipy and by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from probmf import metrics

FINITE = st.floats(-1e6, 1e6)


@pytest.fixture
def rng():
    return np.random.default_rng(20_240_229)


def test_errors_agree_with_scikit_learn(rng):
    observed, mean, weight = rng.normal(size=(3, 200))
    weight = np.abs(weight)
    for sample_weight in (None, weight):
        expected = sklearn.metrics.root_mean_squared_error(
            observed, mean, sample_weight=sample_weight
        )
        assert metrics.rmse(observed, mean, weight=sample_weight) == pytest.approx(expected)
        expected = sklearn.metrics.mean_absolute_error(observed, mean, sample_weight=sample_weight)
        assert metrics.mae(observed, mean, weight=sample_weight) == pytest.approx(expected)


def test_integer_weights_count_repetitions(rng):
    observed, mean = rng.normal(size=(2, 20))
    times = rng.integers(0, 4, 20)
    for metric in (metrics.rmse, metrics.mae):
        repeated = metric(observed.repeat(times), mean.repeat(times))
        assert metric(observed, mean, weight=times) == pytest.approx(repeated)
    repeated = metrics.log_score(observed.repeat(times), mean.repeat(times), 2.0)
    assert metrics.log_score(observed, mean, 2.0, weight=times) == pytest.approx(repeated)


def test_gaussian_log_score_agrees_with_scipy(rng):
    observed, mean = rng.normal(size=(2, 50))
    sd = rng.uniform(0.1, 3.0, 50)
    expected = norm.logpdf(observed, mean, sd)
    assert metrics.log_score(observed, mean, sd) == pytest.approx(expected.mean())
    assert metrics.log_score(observed, mean, sd, weight=sd) == pytest.approx(
        np.average(expected, weights=sd)
    )
    expected = norm.logpdf(observed, mean, 1.5).mean()
    assert metrics.log_score(observed, mean, 1.5) == pytest.approx(expected)


def test_scores_of_probabilities_agree_with_scikit_learn(rng):
    probability = rng.uniform(0.01, 0.99, 300)
    observed = (rng.random(300) < probability).astype(int)
    expected = sklearn.metrics.log_loss(observed, probability)
    assert metrics.log_loss(observed, probability) == pytest.approx(expected)
    assert metrics.log_score(observed, probability) == pytest.approx(-expected)
    expected = sklearn.metrics.brier_score_loss(observed, probability)
    assert metrics.brier(observed, probability) == pytest.approx(expected)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_auc_agrees_with_scikit_learn_with_and_without_ties(rng, levels):
    observed = rng.integers(0, 2, 400)
    score = rng.integers(0, levels, 400) + 0.5 * observed
    score = np.floor(score)
    expected = sklearn.metrics.roc_auc_score(observed, score)
    assert metrics.auc(observed, score) == pytest.approx(expected)


def test_certain_predictions():
    assert metrics.log_loss([1, 0], [1.0, 0.0]) == 0.0
    assert math.copysign(1.0, metrics.log_loss([1, 0], [1.0, 0.0])) == 1.0
    assert metrics.log_loss([1, 0], [0.0, 0.0]) == math.inf
    assert metrics.log_score([1, 0], [0.5, 1.0]) == -math.inf
    assert metrics.log_score([1, 0], [0.5, 1.0], weight=[1.0, 0.0]) == pytest.approx(math.log(0.5))


def test_coverage_counts_the_ends():
    assert metrics.coverage([0.0, 1.0, 2.0, 3.0], [0.0] * 4, [2.0] * 4) == 0.75


def test_coverage_of_true_intervals(rng):
    draws = rng.normal(size=20_000)
    end = norm.ppf(0.95)
    share = metrics.coverage(draws, np.full(draws.size, -end), np.full(draws.size, end))
    assert share == pytest.approx(0.9, abs=0.01)


def test_every_result_is_a_python_float():
    y, p = jnp.array([0.0, 1.0], jnp.bfloat16), np.array([0.25, 0.5], np.float32)
    results = [
        metrics.rmse(y, p),
        metrics.mae(y, p),
        metrics.log_score(y, p),
        metrics.log_score(y, p, np.float32(1.0)),
        metrics.log_loss(y, p),
        metrics.brier(y, p),
        metrics.auc(y, p),
        metrics.coverage(y, p - 1, p + 1),
    ]
    assert [type(result) for result in results] == [float] * len(results)


def test_float32_input_is_summed_in_float64():
    observed = np.full(10_000, 0.1, np.float32)
    assert metrics.mae(observed, np.zeros(10_000)) == pytest.approx(float(observed[0]), rel=1e-14)


@pytest.mark.parametrize("metric", [metrics.rmse, metrics.mae, metrics.log_score, metrics.log_loss])
def test_bad_vectors_are_refused_by_name(metric):
    second = "probability" if metric is metrics.log_loss else "mean"
    good = np.array([0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=rf"{second} has 2 entries and observed has 3"):
        metric(good, good[:2])
    with pytest.raises(ValueError, match=r"observed has shape \(3, 1\).*observed\.reshape\(-1\)"):
        metric(good[:, None], good)
    with pytest.raises(ValueError, match=rf"{second} has shape \(2, 2\).*one number per"):
        metric(good, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"observed has shape \(\)"):
        metric(1.0, good)
    with pytest.raises(ValueError, match="observed is empty"):
        metric([], [])
    with pytest.raises(ValueError, match=r"observed\[1\] is nan; every entry must be finite"):
        metric([0.0, np.nan, np.inf], good)
    with pytest.raises(ValueError, match=rf"{second}\[2\] is -inf"):
        metric(good, [0.0, 1.0, -np.inf])
    with pytest.raises(ValueError, match=r"observed\[2\] is nan"):
        metric(np.ma.masked_array(good, [False, False, True]), good)
    for text in (["a", "b", "c"], np.array([1, 2, None]), [[1.0], [1.0, 2.0]]):
        with pytest.raises(TypeError, match=r"observed is a .* not an array of real numbers"):
            metric(text, good)


def test_bad_weights_and_scales_are_refused():
    good = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="weight has 3 entries, but there are 2 predictions"):
        metrics.rmse(good, good, weight=[1, 1, 1])
    with pytest.raises(ValueError, match=r"weight\[1\] is -1; a weight must not be negative"):
        metrics.mae(good, good, weight=[1, -1])
    with pytest.raises(ValueError, match="weight is zero everywhere"):
        metrics.log_score(good, good, weight=[0, 0])
    with pytest.raises(ValueError, match=r"sd\[1\] is 0; a standard deviation must be positive"):
        metrics.log_score(good, good, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"sd\[0\] is -1"):
        metrics.log_score(good, good, -1.0)
    with pytest.raises(ValueError, match="sd has 3 entries and observed has 2"):
        metrics.log_score(good, good, [1.0, 1.0, 1.0])


def test_bad_outcomes_and_probabilities_are_refused():
    for metric in (metrics.log_loss, metrics.brier, metrics.log_score, metrics.auc):
        with pytest.raises(
            ValueError, match=r"observed\[1\] is 5; a yes/no outcome must be 0 or 1"
        ):
            metric([0, 5], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"probability\[0\] is 1\.5; a probability must lie in"):
        metrics.brier([0, 1], [1.5, 0.5])
    with pytest.raises(ValueError, match=r"mean\[1\] is -2; .*not scores"):
        metrics.log_score([0, 1], [0.5, -2.0])
    with pytest.raises(ValueError, match=r"0 zeros and 2 ones; .* at least one of each"):
        metrics.auc([1, 1], [0.2, 0.3])
    with pytest.raises(ValueError, match=r"upper\[1\] is 0, below lower\[1\] = 1"):
        metrics.coverage([0.0, 0.0], [0.0, 1.0], [1.0, 0.0])


@given(st.data())
def test_errors_are_bounded_and_ordered(data):
    n = data.draw(st.integers(1, 20))
    observed, mean = (data.draw(arrays(np.float64, n, elements=FINITE)) for _ in range(2))
    error = np.abs(observed - mean)
    mae, rmse = metrics.mae(observed, mean), metrics.rmse(observed, mean)
    slack = 1e-9 * (1.0 + error.max())
    assert error.min() - slack <= mae <= rmse + slack <= error.max() + 2 * slack
    assert metrics.rmse(mean, observed) == rmse
    assert metrics.rmse(observed, observed) == 0.0


@given(st.data())
def test_auc_is_bounded_monotone_invariant_and_antisymmetric(data):
    n = data.draw(st.integers(2, 30))
    # Whole numbers, so that the increasing function below can't merge two scores by rounding.
    score = data.draw(arrays(np.int64, n, elements=st.integers(-10, 10)))
    observed = data.draw(arrays(np.int64, n, elements=st.integers(0, 1)))
    observed[:2] = 0, 1
    area = metrics.auc(observed, score)
    assert 0.0 <= area <= 1.0
    assert metrics.auc(observed, np.exp(score / 3.0)) == area
    assert metrics.auc(observed, -score) == pytest.approx(1.0 - area)
    assert metrics.auc(1 - observed, score) == pytest.approx(1.0 - area)
    order = data.draw(st.permutations(range(n)))
    assert metrics.auc(observed[order], score[order]) == area


@given(arrays(np.float64, 8, elements=st.floats(0, 1)), arrays(np.bool_, 8))
def test_probability_scores_are_bounded(probability, observed):
    assert 0.0 <= metrics.brier(observed, probability) <= 1.0
    loss = metrics.log_loss(observed, probability)
    assert loss >= 0.0
    assert metrics.log_score(observed, probability) == -loss

"""Probabilities of ratings that are high enough, against sums and integrals one by one."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
from random_draws import all_scores, flat, many
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ordinal


def test_draws_are_averaged(draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2, Gaussian(dist.HalfNormal(1.0))), draw_ratings())
    noise = flat(fit, "noise_scale")
    found = fit.predict([(3, 4), (5, 1), (99, 4)], at_least=1.5)
    scores = all_scores(fit)
    expected = [norm.sf(1.5, scores[:, m, n], noise).mean() for m, n in ((3, 4), (5, 1))]
    mean = flat(fit, "intercept") + flat(fit, "item_bias")[:, 4]
    sd = np.sqrt(1 + np.sum(flat(fit, "item_factors")[:, 4] ** 2, axis=1) + noise**2)
    expected.append(norm.sf(1.5, mean, sd).mean())
    np.testing.assert_allclose(found.probability, expected, rtol=2e-5)
    assert found.to_arrow()["probability"].to_pylist() == found.probability.tolist()
    assert fit.predict([(3, 4)]).probability is None


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_binary_events(link: Any, draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2, Bernoulli(link)), draw_ratings(binary=True))
    pairs = [(3, 4), (5, 1)]
    mean = fit.predict(pairs).mean
    for at_least, expected in ((0.0, [1, 1]), (0.5, mean), (1.0, mean)):
        found = fit.predict(pairs, at_least=at_least).probability
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"at_least is 1.5, and no rating reaches it"):
        fit.predict(pairs, at_least=1.5)


def test_ordinal_events_are_sums_of_levels(draw_ratings: Any, random_fit: Any) -> None:
    likelihood = Ordinal((1, 2, 4), cutpoints=(-0.3, 0.8))
    rated = draw_ratings(binary=True)
    data = replace(rated, rating=rated.rating + 1)
    model = MatrixFactorization(2, likelihood, intercept=None)
    pairs = [*((3, item) for item in range(11)), (99, 4)]
    for fit in (many(model, data), random_fit(model, data)):
        levels, found = fit.predict(pairs).probabilities, {}
        for at_least, first in ((1.0, 0), (1.5, 1), (2.0, 1), (4.0, 2)):
            found[at_least] = fit.predict(pairs, at_least=at_least).probability
            np.testing.assert_allclose(found[at_least], levels[:, first:].sum(axis=1), atol=1e-4)
        best = fit.recommend([3], k=11, rank_by="probability", at_least=2, exclude=None)
        np.testing.assert_allclose(best.probability[0], -np.sort(-found[2.0][:11]), atol=1e-5)


def test_a_point_plugs_in_the_scores_sd(
    draw_ratings: Any, random_fit: Any, dense_moments: Any
) -> None:
    fit = random_fit(MatrixFactorization(2, Gaussian(0.5)), draw_ratings())
    dense = dense_moments(fit)
    user, item = np.indices((14, 11)).reshape(2, -1)
    found = fit.predict((user, item), at_least=2.0, interval=None)
    mean, sd = dense.mean[:14, :11].ravel(), np.sqrt(dense.variance[:14, :11].ravel() + 0.25)
    np.testing.assert_allclose(found.probability, norm.sf(2.0, mean, sd), rtol=1e-4)
    assert found.sd is None
    fit = random_fit(MatrixFactorization(2, Bernoulli()), draw_ratings(binary=True))
    dense = dense_moments(fit)
    found = fit.predict([(3, 4)], at_least=1)
    m, s = dense.mean[3, 4], np.sqrt(dense.variance[3, 4])
    whole, _ = quad(lambda x: expit(m + s * x) * norm.pdf(x), -10, 10)
    assert found.probability[0] == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "draws"),
    [
        (Gaussian(0.5), False), (Gaussian(0.5), True), (Bernoulli(), True),
        pytest.param(Bernoulli(), False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_ranking_by_probability(
    likelihood: Any, draws: bool, draw_ratings: Any, random_fit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model, data = MatrixFactorization(2, likelihood), draw_ratings(binary=likelihood.binary)
    fit = many(model, data) if draws else random_fit(model, data)
    level = 1.0 if likelihood.binary else 2.0
    users = [*range(14), 99]
    found = fit.recommend(users, k=4, rank_by="probability", at_least=level, exclude=None)
    pairs = (np.repeat(users, 11), np.tile(np.arange(11), 15))
    every = fit.predict(pairs, at_least=level, interval=None).probability.reshape(15, 11)
    np.testing.assert_allclose(
        found.probability, -np.sort(-every, axis=1)[:, :4], rtol=1e-5, atol=1e-6
    )
    if not draws or likelihood.binary is False:
        np.testing.assert_array_equal(found.code, np.argsort(-every, axis=1)[:, :4])
    assert found.to_arrow()["probability"].to_pylist() == found.probability.ravel().tolist()
    monkeypatch.setattr("probmf.results.ranking.BLOCK_SCORES", 64)
    monkeypatch.setattr("probmf.results.draw_scores.ROW_NUMBERS", 100)
    again = fit.recommend(users, k=4, rank_by="probability", at_least=level, exclude=None)
    np.testing.assert_array_equal(again.code, found.code)
    some = fit.recommend([3], k=2, rank_by="probability", at_least=level, candidates=[1, 5, 7],
                         exclude=None)  # fmt: skip
    np.testing.assert_array_equal(
        some.code[0], np.asarray([1, 5, 7])[np.argsort(-every[3, [1, 5, 7]])[:2]]
    )
    seen = fit.recommend(k=3, rank_by="probability", at_least=level)
    left = every[:14].copy()
    left[data.user, data.item] = -1
    np.testing.assert_allclose(seen.probability, -np.sort(-left, axis=1)[:, :3], atol=1e-6)


def test_certain_items_of_a_point_are_still_in_order(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(2, Gaussian(0.01), user_scale=0.01), draw_ratings())
    found = fit.recommend([3], k=11, rank_by="probability", at_least=-50.0, exclude=None)
    assert (found.probability == 1.0).all()
    told = fit.predict(([3] * 11, found.item[0].tolist()))
    assert (np.diff((told.mean + 50) / told.sd) < 1e-3 * 50 / 0.01).all()


def test_errors(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(2), draw_ratings())
    for bad in (np.nan, np.inf, "4", True):
        with pytest.raises(ValueError, match=r"at_least is .*; expected a finite number"):
            fit.predict([(1, 2)], at_least=bad)
        with pytest.raises(ValueError, match=r"at_least is .*; expected a finite number"):
            fit.recommend([1], k=1, at_least=bad)
    with pytest.raises(ValueError, match=r"rank_by='probability' ranks by .*; give at_least="):
        fit.recommend([1], k=1, rank_by="probability")

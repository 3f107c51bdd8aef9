"""Questions by expected information, and the posterior of ranks, against their definitions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_draws import all_scores, many
from scipy.integrate import quad
from scipy.special import entr, expit
from scipy.stats import norm

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ordinal, Ratings
from probmf.results import RatingsFit


def posterior_covariance(fit: RatingsFit, user: int) -> np.ndarray:
    """Of the user's row given the items, by its definition."""
    rated = fit.data.item[fit.data.user == user]
    design = np.column_stack([np.ones(11), fit.point()["item_factors"]]).astype(np.float64)[rated]
    return np.linalg.inv(np.eye(3) + design.T @ design / 0.25)


@pytest.mark.parametrize("user", [3, 99])
def test_gaussian_information_of_a_point(user: int, draw_ratings: Any, random_fit: Any) -> None:
    """Greedy information is that of conditioning the row on one question after another."""
    fit = random_fit(MatrixFactorization(2, Gaussian(0.5)), draw_ratings())
    found = fit.choose_next(user, k=4, exclude=None)
    covariance = posterior_covariance(fit, user) if user < 14 else np.eye(3)
    design = np.column_stack([np.ones(11), fit.point()["item_factors"]]).astype(np.float64)
    for place in range(4):
        variance = np.einsum("nd,de,ne->n", design, covariance, design)
        variance[found.code[:place]] = -1.0
        best = int(np.argmax(variance))
        assert found.code[place] == best
        assert found.information[place] == pytest.approx(
            0.5 * np.log1p(variance[best] / 0.25), rel=1e-4
        )
        precision = np.linalg.inv(covariance) + np.outer(design[best], design[best]) / 0.25
        covariance = np.linalg.inv(precision)
    assert found.known_user == (user < 14)
    assert found.to_arrow()["information"].to_pylist() == found.information.tolist()
    assert len(found) == 4
    assert "nats" in repr(found)


def test_information_is_what_the_row_loses_in_entropy(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(2, Gaussian(0.5)), draw_ratings())
    found = fit.choose_next(3, k=3)
    before = posterior_covariance(fit, 3)
    answers = Ratings.from_frame({"user": [3] * 3, "item": found.item, "rating": [2.0] * 3})
    after = posterior_covariance(fit.fold_in(answers), 3)
    lost = 0.5 * (np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1])
    assert found.information.sum() == pytest.approx(lost, rel=1e-4)
    assert not {*found.code.tolist()} & {*fit.data.item[fit.data.user == 3].tolist()}


def test_gaussian_information_of_draws(draw_ratings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = many(MatrixFactorization(2, Gaussian(0.5)), draw_ratings())
    scores = all_scores(fit)[:, 3]
    found = fit.choose_next(3, k=3, exclude=None)
    covariance = np.cov(scores.T, bias=True)
    for place in range(3):
        variance = np.diag(covariance).copy()
        variance[found.code[:place]] = -1.0
        best = int(np.argmax(variance))
        assert found.code[place] == best
        assert found.information[place] == pytest.approx(
            0.5 * np.log1p(variance[best] / 0.25), rel=1e-4
        )
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / (column[best] + 0.25)
    monkeypatch.setattr("probmf.results.draw_scores.BLOCK", 1)
    monkeypatch.setattr("probmf.results.draw_scores.ROW_NUMBERS", 100)
    again = fit.choose_next(3, k=3, exclude=None)
    np.testing.assert_allclose(again.information, found.information, rtol=1e-6)
    np.testing.assert_array_equal(fit.choose_next(99, k=3).code, fit.choose_next(99, k=3).code)


def binary_entropy(p: np.ndarray) -> np.ndarray:
    return entr(p) + entr(1 - p)


def test_disagreement_about_binary_answers(draw_ratings: Any, random_fit: Any) -> None:
    data = draw_ratings(binary=True)
    fit = many(MatrixFactorization(2, Bernoulli()), data)
    p = expit(all_scores(fit)[:, 3])
    expected = binary_entropy(p.mean(axis=0)) - binary_entropy(p).mean(axis=0)
    found = fit.choose_next(3, k=11, exclude=None)
    np.testing.assert_array_equal(found.code, np.argsort(-expected))
    np.testing.assert_allclose(found.information, -np.sort(-expected), atol=1e-7)

    point = random_fit(MatrixFactorization(2, Bernoulli("probit")), data)
    found = point.choose_next(99, k=1, exclude=None)
    row = np.r_[1.0, point.point()["item_factors"][found.code[0]]]
    mean = 0.7 + point.point()["item_bias"][found.code[0]]
    sd = np.sqrt(row @ row)
    chance = norm.cdf(mean / np.sqrt(1 + sd**2))
    noise, _ = quad(
        lambda x: binary_entropy(norm.cdf(mean + sd * x)) * norm.pdf(x), -8, 8, limit=200
    )
    assert found.information[0] == pytest.approx(binary_entropy(chance) - noise, abs=1e-3)


def test_disagreement_about_levels(draw_ratings: Any) -> None:
    rated = draw_ratings(binary=True)
    data = replace(rated, rating=rated.rating + 1)
    model = MatrixFactorization(2, Ordinal(3, (-0.3, 0.8), link="probit"), intercept=None)
    fit = many(model, data)
    below = norm.cdf(np.array([-0.3, 0.8])[:, None, None] - all_scores(fit)[:, 3])
    p = np.diff(below, axis=0, prepend=0, append=1)
    expected = entr(p.mean(axis=1)).sum(axis=0) - entr(p).sum(axis=0).mean(axis=0)
    found = fit.choose_next(3, k=11, exclude=None)
    np.testing.assert_allclose(found.information, -np.sort(-expected), atol=1e-7)


def test_errors(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(2), draw_ratings())
    with pytest.raises(ValueError, match="user holds 2 ids; give one"):
        fit.choose_next([1, 2])
    with pytest.raises(ValueError, match="k is 3; expected a whole number from 1 to 2, the number"):
        fit.choose_next(99, k=3, candidates=[1, 2])
    with pytest.raises(ValueError, match="candidates is 77, and the fit has no such item"):
        fit.choose_next(99, candidates=[77])
    rated = fit.data.item[fit.data.user == 3].tolist()
    with pytest.raises(ValueError, match="All candidates are excluded for user 3"):
        fit.choose_next(3, candidates=rated)
    with pytest.raises(ValueError, match="rank_posterior draws the scores of a point fit at rand"):
        fit.rank_posterior(3, k=1)
    with pytest.raises(ValueError, match=f"items holds {rated[0]}, which is not among the candi"):
        fit.rank_posterior(3, rated[:1], k=1, key=0)
    with pytest.raises(ValueError, match="num_draws is 0"):
        fit.rank_posterior(3, k=1, key=0, num_draws=0)


def test_ranks_over_draws(draw_ratings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = many(MatrixFactorization(2), draw_ratings())
    scores = all_scores(fit)[:, 3]
    ranks = (scores[:, None, :] > scores[:, :, None]).sum(axis=2) + 1
    found = fit.rank_posterior(3, [4, 2, 10], k=3, exclude=None, interval=0.8)
    chosen = ranks[:, [4, 2, 10]]
    np.testing.assert_allclose(found.top, (chosen <= 3).mean(axis=0))
    np.testing.assert_allclose(found.mean, chosen.mean(axis=0))
    ends = np.quantile(chosen, [0.1, 0.9], axis=0, method="inverted_cdf")
    np.testing.assert_array_equal([found.lower, found.upper], ends)
    best = fit.rank_posterior(3, k=3)
    unseen = np.setdiff1d(np.arange(11), fit.data.item[fit.data.user == 3])
    assert best.num_candidates == len(unseen)
    order = (scores[:, None, unseen] > scores[:, unseen][:, :, None]).sum(axis=2) + 1
    np.testing.assert_allclose(best.top, -np.sort(-(order <= 3).mean(axis=0))[:3])
    monkeypatch.setattr("probmf.results.draw_scores.ROW_NUMBERS", 100)
    np.testing.assert_array_equal(fit.rank_posterior(3, k=3).top, best.top)
    assert best.to_arrow().num_rows == 3
    assert "in the top 3 with probability" in repr(best)


def test_ranks_of_a_point_follow_its_conditionals(draw_ratings: Any, random_fit: Any) -> None:
    """Of two items the chance of the first is a Normal probability, if the items are certain."""
    data = draw_ratings(400, 11, share=0.95)
    fit = random_fit(MatrixFactorization(2, Gaussian(0.3)), data)
    found = fit.rank_posterior(
        999, [1, 5], k=1, candidates=[1, 5], exclude=None, key=0, num_draws=4000
    )
    factors, bias = fit.point()["item_factors"], fit.point()["item_bias"]
    gap = np.linalg.norm(factors[1] - factors[5])
    assert found.top[0] == pytest.approx(norm.cdf((bias[1] - bias[5]) / gap), abs=0.04)
    assert found.top.sum() == pytest.approx(1.0)

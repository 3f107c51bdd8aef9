"""New users of fits of many draws: their rows follow the conditionals of each draw."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import log_expit, log_ndtr
from scipy.stats import norm

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ordinal, Ratings
from probmf.results import RatingsFit, Sampling, new_rows

SHAPE = (2, 1000)
RATED = [0, 1, 2, 3, 4, 5]


def many(model: MatrixFactorization, data: Ratings, *, equal: bool = True) -> RatingsFit:
    """Draws of everything, all equal or not, in double precision."""
    rng = np.random.default_rng(3)
    samples: dict[str, Any] = {"intercept": np.full(SHAPE, 0.3)}
    for site, shape in model.site_shapes(data.num_users, data.num_items).items():
        samples[site] = np.tile(rng.normal(0, 0.8, shape), (*SHAPE, *[1] * len(shape)))
        if not equal:
            samples[site] = samples[site] + rng.normal(0, 0.2, samples[site].shape)
    for name in model.random_scales():
        samples[name] = np.full(SHAPE, 0.6) if equal else rng.uniform(0.3, 0.9, SHAPE)
    return RatingsFit(model, data, samples, "test", sampling=Sampling({}, 0, 0.0))


def new_ratings(*, binary: bool = False, weights: bool = False) -> Ratings:
    rating = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0] if binary else [3.0, 1.0, 2.5, 4.0, 1.0, 2.0]
    table = {"user": [99] * 6, "item": RATED, "rating": rating, "weight": [2.0, 1, 0.5, 1, 1, 0]}
    return Ratings.from_frame(table, weight="weight" if weights else None)


def rows_of(fit: RatingsFit, user: Any) -> np.ndarray:
    """Rows (bias, factors) at all draws."""
    code = fit.data.users.encode([user])[0]
    parts = [fit.samples["user_factors"][:, :, code]]
    if "user_bias" in fit.samples:
        parts.insert(0, fit.samples["user_bias"][:, :, code, None])
    joined = np.concatenate(parts, axis=2)
    return joined.reshape(-1, joined.shape[2])


def check_moments(drawn: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Whether draws agree with a mean and a covariance, within four standard errors."""
    sd = np.sqrt(np.diag(covariance))
    n = len(drawn)
    np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - mean) / sd, 4 / np.sqrt(n))
    found = np.cov(drawn.T)
    error = np.sqrt((np.outer(sd, sd) ** 2 + covariance**2) / n)
    np.testing.assert_array_less(np.abs(found - covariance) / error, 4.5)


@pytest.mark.parametrize("case", ["plain", "weights", "no bias", "weak zeros", "sampled scales"])
def test_gaussian_rows_follow_the_closed_form(case: str, draw_ratings: Any) -> None:
    scales: dict[str, Any] = {"user_scale": 0.7, "user_bias_scale": 0.4}
    noise: Any = 0.5
    if case == "sampled scales":
        scales = {"user_scale": dist.HalfNormal(1.0), "user_bias_scale": dist.HalfNormal(1.0)}
        noise = dist.HalfNormal(1.0)
    zero = 0.2 if case == "weak zeros" else 0.0
    model = MatrixFactorization(
        2, Gaussian(noise), user_bias=case != "no bias", unobserved_weight=zero, **scales
    )
    fit = many(model, draw_ratings())
    new = new_ratings(weights=case == "weights")
    drawn = rows_of(fit.fold_in(new, key=0), 99)

    sampled = case == "sampled scales"
    prior = [0.6**2] * 3 if sampled else [0.4**2, 0.7**2, 0.7**2]
    sigma = 0.6 if sampled else 0.5
    design = np.column_stack([np.ones(11), fit.samples["item_factors"][0, 0]])
    offset = 0.3 + fit.samples["item_bias"][0, 0]
    weight, target = np.full(11, zero), np.zeros(11)
    weight[RATED] = 1.0 if new.weight is None else new.weight
    target[RATED] = new.rating
    keep = slice(1, None) if case == "no bias" else slice(None)
    design, prior = design[:, keep], prior[keep]
    precision = np.diag(1 / np.asarray(prior)) + (design.T * weight) @ design / sigma**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (design.T @ (weight * (target - offset))) / sigma**2
    check_moments(drawn, mean, covariance)


def test_scales_of_each_factor(draw_ratings: Any) -> None:
    """Scales of shape (1, k), as a prior for automatic relevance determination has them."""
    law = dist.HalfNormal(np.ones((1, 2))).to_event(2)
    plain = many(MatrixFactorization(2, Gaussian(0.5)), draw_ratings())
    scale = np.array([0.2, 3.0])
    samples = dict(plain.samples) | {"user_scale": np.tile(scale, (*SHAPE, 1, 1))}
    model = MatrixFactorization(2, Gaussian(0.5), user_scale=law)
    fit = RatingsFit(model, plain.data, samples, "test", sampling=plain.sampling)
    prior = np.diag(np.r_[1.0, 1 / scale**2])
    check_moments(rows_of(fit.fold_in(new_ratings(), key=0), 99), *posterior(plain, prior))


@pytest.mark.parametrize("zero", [0.0, 0.2])
def test_learned_mean_and_covariance(zero: float, draw_ratings: Any) -> None:
    """The sites of a Normal-Wishart prior: each draw has a mean and a precision of the factors."""
    model = MatrixFactorization(2, Gaussian(0.5), unobserved_weight=zero)
    plain = many(model, draw_ratings())
    mean, precision = np.array([0.5, -1.0]), np.array([[4.0, 1.5], [1.5, 2.0]])
    own = {"user_mean": np.tile(mean, (*SHAPE, 1))}
    own["user_precision"] = np.tile(precision, (*SHAPE, 1, 1))
    samples = dict(plain.samples) | own
    fit = RatingsFit(model, plain.data, samples, "test", sampling=plain.sampling)
    prior = np.eye(3)
    prior[1:, 1:] = precision
    expected = posterior(plain, prior, np.r_[0.0, mean], zero)
    check_moments(rows_of(fit.fold_in(new_ratings(), key=0), 99), *expected)


def posterior(
    fit: RatingsFit, prior: np.ndarray, center: np.ndarray | None = None, zero: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the new user's row by dense algebra."""
    center = np.zeros(3) if center is None else center
    design = np.column_stack([np.ones(11), fit.samples["item_factors"][0, 0]])
    weight, target = np.full(11, zero), np.zeros(11)
    weight[RATED], target[RATED] = 1.0, new_ratings().rating
    offset = 0.3 + fit.samples["item_bias"][0, 0]
    covariance = np.linalg.inv(prior + (design.T * weight) @ design / 0.25)
    rest = design.T @ (weight * (target - offset)) / 0.25
    return covariance @ (prior @ center + rest), covariance


@pytest.mark.parametrize("link", ["logit", pytest.param("probit", marks=pytest.mark.slow)])
def test_binary_rows_follow_their_posterior(link: Any, draw_ratings: Any) -> None:
    model = MatrixFactorization(2, Bernoulli(link), user_bias=False, user_scale=2.0)
    fit = many(model, draw_ratings(binary=True))
    new = new_ratings(binary=True)
    drawn = rows_of(fit.fold_in(new, key=1), 99)

    axis = np.linspace(-12, 12, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    score = grid @ fit.samples["item_factors"][0, 0, RATED].T
    score = (score + 0.3 + fit.samples["item_bias"][0, 0, RATED]) * (2 * new.rating - 1)
    log_density = (log_expit if link == "logit" else log_ndtr)(score).sum(axis=1)
    log_density -= np.square(grid).sum(axis=1) / 8
    mass = np.exp(log_density - log_density.max())
    mass /= mass.sum()
    mean = mass @ grid
    check_moments(drawn, mean, ((grid - mean).T * mass) @ (grid - mean))
    below = mass @ (grid[:, 0] < mean[0] - 1)
    assert np.mean(drawn[:, 0] < mean[0] - 1) == pytest.approx(below, abs=0.02)


def test_ordinal_rows_follow_their_posterior(draw_ratings: Any) -> None:
    rated = draw_ratings(binary=True)
    model = MatrixFactorization(
        1, Ordinal(3, (-0.3, 0.8), link="probit"), user_bias=False, intercept=0.3, user_scale=2.0
    )
    fit = many(model, replace(rated, rating=rated.rating + 1))
    rating = np.array([3, 1, 2, 3, 3, 1])
    new = Ratings.from_frame({"user": [99] * 6, "item": RATED, "rating": rating.astype(float)})
    drawn = rows_of(fit.fold_in(new, key=1), 99)
    grid = np.linspace(-12, 12, 4001)[:, None]
    score = grid @ fit.samples["item_factors"][0, 0, RATED].T
    score = score + 0.3 + fit.samples["item_bias"][0, 0, RATED]
    edges = np.array([-np.inf, -0.3, 0.8, np.inf])
    chance = norm.cdf(edges[rating] - score) - norm.cdf(edges[rating - 1] - score)
    mass = chance.prod(axis=1) * np.exp(-np.square(grid[:, 0]) / 8)
    mass /= mass.sum()
    mean = mass @ grid
    variance = mass @ np.square(grid[:, 0] - mean)
    assert abs(drawn.mean() - mean[0]) < 4 * np.sqrt(variance / len(drawn))
    assert drawn.var() == pytest.approx(variance, rel=0.1)


def test_each_draw_has_its_own_items_and_scales(draw_ratings: Any) -> None:
    """With next to no noise a row is determined by its ratings, at each draw by other items."""
    model = MatrixFactorization(2, Gaussian(dist.HalfNormal(1.0)), user_scale=dist.HalfNormal(1.0))
    fit = many(model, draw_ratings(), equal=False)
    samples = dict(fit.samples) | {"noise_scale": np.full(SHAPE, 1e-4)}
    exact = RatingsFit(model, fit.data, samples, "test", sampling=fit.sampling)
    three = Ratings.from_frame({"user": ["x"] * 3, "item": [1, 4, 6], "rating": [3.0, 1.0, 2.0]},
                               items=list(range(11)))  # fmt: skip
    with pytest.raises(ValueError, match="holds text"):
        exact.fold_in(three, key=0)
    three = Ratings.from_frame({"user": [99] * 3, "item": [1, 4, 6], "rating": [3.0, 1.0, 2.0]})
    grown = exact.fold_in(three, key=0)
    row = rows_of(grown, 99)
    items = fit.samples["item_factors"].reshape(-1, 11, 2)[:, [1, 4, 6]]
    score = 0.3 + row[:, :1] + fit.samples["item_bias"].reshape(-1, 11)[:, [1, 4, 6]]
    score = score + np.einsum("sd,snd->sn", row[:, 1:], items)
    assert np.median(np.abs(score - [3.0, 1.0, 2.0])) < 1e-3
    assert grown.sampling is fit.sampling
    for site in ("item_factors", "item_bias", "noise_scale"):
        np.testing.assert_array_equal(grown.samples[site], exact.samples[site])
    np.testing.assert_array_equal(grown.samples["user_bias"][:, :, :14], fit.samples["user_bias"])


def test_intervals_shrink_with_each_rating(draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2, Gaussian(0.5)), draw_ratings())
    width = []
    for count in range(1, 9):
        table = {"user": [99] * count, "item": range(1, count + 1), "rating": [3.0] * count}
        grown = fit.fold_in(Ratings.from_frame(table), key=0)
        score = rows_of(grown, 99) @ np.r_[1.0, fit.samples["item_factors"][0, 0, 0]]
        width.append(score.std())
        assert grown.predict([(99, 0)]).known_user.tolist() == [True]
    assert (np.diff(width) < 0).all()


def test_known_users_are_drawn_given_all_their_ratings(draw_ratings: Any) -> None:
    model = MatrixFactorization(2, Gaussian(0.5), intercept="mean")
    fit = many(model, draw_ratings(50, 11, share=0.6))
    bare = {name: value for name, value in fit.samples.items() if name != "intercept"}
    fit = RatingsFit(model, fit.data, bare, "test", sampling=fit.sampling)
    user = 3
    lacking = sorted({*range(10)} - {*fit.data.item[fit.data.user == user].tolist()})[:1]
    again = Ratings.from_frame({"user": [user], "item": lacking, "rating": [2.0]})
    grown = fit.fold_in(again, key=0)
    rated = grown.data.user == user
    design = np.column_stack([np.ones(11), fit.samples["item_factors"][0, 0]])
    design = design[grown.data.item[rated]]
    offset = fit.data.rating.mean() + fit.samples["item_bias"][0, 0][grown.data.item[rated]]
    covariance = np.linalg.inv(np.eye(3) + 4 * design.T @ design)
    mean = covariance @ design.T @ (grown.data.rating[rated] - offset) * 4
    check_moments(rows_of(grown, user), mean, covariance)
    # A fixed intercept is that of the fit, not the mean of all ratings by now.
    np.testing.assert_allclose(grown.samples["intercept"], fit.data.rating.mean(), rtol=1e-6)
    others = np.setdiff1d(np.arange(50), [user])
    np.testing.assert_array_equal(
        grown.samples["user_factors"][:, :, others], fit.samples["user_factors"][:, :, others]
    )


def test_blocks_of_draws_change_nothing(draw_ratings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_ratings(binary=True)
    fit = many(MatrixFactorization(2, Bernoulli()), data, equal=False)
    few = {name: value[:, :40] for name, value in fit.samples.items()}
    fit = RatingsFit(fit.model, data, few, "test", sampling=fit.sampling)
    new = new_ratings(binary=True)
    whole = fit.fold_in(new, key=5)
    monkeypatch.setattr(
        new_rows, "_blocks",
        lambda n, *_: [(slice(s, min(s + 7, n)), 7) for s in range(0, n, 7)],
    )  # fmt: skip
    parts = fit.fold_in(new, key=5)
    np.testing.assert_allclose(rows_of(parts, 99), rows_of(whole, 99), atol=1e-9)
    assert not np.array_equal(rows_of(fit.fold_in(new, key=6), 99), rows_of(whole, 99))


def test_scales_of_each_user(draw_ratings: Any) -> None:
    model = MatrixFactorization(2, Gaussian(0.5), user_scale=np.linspace(0.5, 2, 14))
    fit = many(model, draw_ratings())
    with pytest.raises(ValueError, match=r"user_scale has one number per user, 14 in all"):
        fit.fold_in(new_ratings(), key=0)
    narrow = rows_of(fit.fold_in(new_ratings(), key=0, user_scale=1e-3), 99)
    assert np.abs(narrow[:, 1:]).max() < 1e-2
    laws = MatrixFactorization(2, Gaussian(0.5), user_scale=dist.HalfNormal(np.ones(14)))
    samples = dict(fit.samples) | {"user_scale": np.ones((*SHAPE, 14))}
    own = RatingsFit(laws, fit.data, samples, "test", sampling=fit.sampling)
    with pytest.raises(ValueError, match="user_scale has a prior for each user of its own, and a"):
        own.fold_in(new_ratings(), key=0)


def test_rows_that_ratings_do_not_bound_are_warned_about(draw_ratings: Any) -> None:
    """All ones and a vast prior: the posterior is a cone, far from its Laplace approximation."""
    model = MatrixFactorization(2, Bernoulli("probit"), user_scale=1e5, user_bias_scale=1e5)
    fit = many(model, draw_ratings(binary=True))
    ones = Ratings.from_frame({"user": [99] * 6, "item": RATED, "rating": [1.0] * 6})
    with pytest.warns(RuntimeWarning, match=r"of the Metropolis proposals for the row of user 99"):
        fit.fold_in(ones, key=0)

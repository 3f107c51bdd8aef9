"""Predictions and rankings over many draws, against sums over the draws one by one."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from probmf import Bernoulli, Gaussian, MatrixFactorization
from probmf.models.normal_wishart import NormalWishart
from probmf.results import RatingsFit, Sampling, mixtures
from probmf.results.mixtures import mixture_quantiles

DRAWS = (2, 15)


def many(model: MatrixFactorization, data: Any, *, seed: int = 0, **extra: Any) -> RatingsFit:
    """Independent random draws of everything."""
    rng = np.random.default_rng(seed)
    samples: dict[str, Any] = {"intercept": rng.normal(0.7, 0.2, DRAWS)}
    for site, shape in model.site_shapes(data.num_users, data.num_items).items():
        center = rng.normal(0, 0.6, shape)
        samples[site] = (center + rng.normal(0, 0.3, (*DRAWS, *shape))).astype(np.float32)
    for name in model.random_scales():
        samples[name] = rng.uniform(0.3, 0.9, DRAWS)
    return RatingsFit(model, data, samples | extra, "test", sampling=Sampling({}, 10, 0.1))


def flat(fit: RatingsFit, site: str) -> np.ndarray:
    value = np.asarray(fit.samples[site], np.float64)
    return value.reshape(-1, *value.shape[2:])


def all_scores(fit: RatingsFit) -> np.ndarray:
    """Scores of all pairs at all draws."""
    products = np.einsum("smk,snk->smn", flat(fit, "user_factors"), flat(fit, "item_factors"))
    biases = flat(fit, "user_bias")[:, :, None] + flat(fit, "item_bias")[:, None, :]
    return flat(fit, "intercept")[:, None, None] + biases + products


def quantile(mean: np.ndarray, sd: np.ndarray, p: float) -> float:
    return brentq(lambda x: norm.cdf(x, mean, sd).mean() - p, -60, 60, xtol=1e-10)


def test_gaussian_ratings_are_mixtures(draw_ratings: Any) -> None:
    data = draw_ratings()
    model = MatrixFactorization(2, Gaussian(dist.HalfNormal(1.0)), user_scale=dist.HalfNormal(1.0))
    fit = many(model, data)
    found = fit.predict([(3, 4), (5, 1), (13, 10)], interval=0.8)
    scores, noise = all_scores(fit), flat(fit, "noise_scale")
    for place, (m, n) in enumerate([(3, 4), (5, 1), (13, 10)]):
        score = scores[:, m, n]
        assert found.mean[place] == pytest.approx(score.mean(), rel=1e-5)
        sd = np.sqrt(score.var() + np.mean(noise**2))
        assert found.sd is not None
        assert found.sd[place] == pytest.approx(sd, rel=1e-5)
        assert found.lower is not None
        assert found.upper is not None
        assert found.lower[place] == pytest.approx(quantile(score, noise, 0.1), abs=1e-4)
        assert found.upper[place] == pytest.approx(quantile(score, noise, 0.9), abs=1e-4)
    assert found.known_user.tolist() == [True, True, False]
    np.testing.assert_allclose(fit.predict([(3, 4)], interval=None).mean, found.mean[:1], rtol=1e-6)


def test_strangers_have_the_prior_of_each_draw(draw_ratings: Any) -> None:
    model = MatrixFactorization(2, user_scale=dist.HalfNormal(1.0), item_bias_scale=0.4)
    fit = many(model, draw_ratings())
    found = fit.predict([(99, 3), (2, 77), (99, 77)])
    mu, scale = flat(fit, "intercept"), flat(fit, "user_scale")
    v, c = flat(fit, "item_factors")[:, 3], flat(fit, "item_bias")[:, 3]
    u, b = flat(fit, "user_factors")[:, 2], flat(fit, "user_bias")[:, 2]
    cases = [
        (mu + c, 1.0 + scale**2 * np.sum(v**2, 1)),
        (mu + b, 0.4**2 + np.sum(u**2, 1)),
        (mu, 1.0 + 0.4**2 + 2 * scale**2),
    ]
    assert found.sd is not None
    assert found.upper is not None
    for place, (mean, variance) in enumerate(cases):
        sd = np.sqrt(variance + 1.0)
        assert found.mean[place] == pytest.approx(mean.mean(), rel=1e-5)
        assert found.sd[place] == pytest.approx(np.sqrt(mean.var() + np.mean(sd**2)), rel=1e-5)
        assert found.upper[place] == pytest.approx(quantile(mean, sd, 0.95), abs=1e-3)
    assert not found.known_user[0]
    assert not found.known_item[1]


def test_probabilities_are_averaged(draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2, Bernoulli()), draw_ratings(binary=True))
    found = fit.predict([(3, 4), (99, 4)], interval=0.6)
    p = expit(all_scores(fit)[:, 3, 4])
    assert found.mean[0] == pytest.approx(p.mean(), rel=1e-5)
    assert found.sd is not None
    assert found.sd[0] == pytest.approx(np.sqrt(p.mean() * (1 - p.mean())), rel=1e-5)
    assert found.lower is not None
    assert found.upper is not None
    score = np.quantile(all_scores(fit)[:, 3, 4], [0.2, 0.8])
    assert [found.lower[0], found.upper[0]] == pytest.approx(expit(score), rel=1e-5)
    mean = flat(fit, "intercept") + flat(fit, "item_bias")[:, 4]
    sd = np.sqrt(1 + np.sum(flat(fit, "item_factors")[:, 4] ** 2, axis=1))
    assert found.lower[1] == pytest.approx(expit(quantile(mean, sd, 0.2)), abs=1e-4)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    integral = expit(mean[:, None] + sd[:, None] * nodes) @ weights / np.sqrt(2 * np.pi)
    assert found.mean[1] == pytest.approx(integral.mean(), rel=1e-5)


def test_blocks_change_nothing(draw_ratings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = many(MatrixFactorization(2), draw_ratings())
    whole = fit.predict(fit.data)
    ranked = [fit.recommend(k=3, rank_by=by) for by in ("mean", "lower", "upper")]
    monkeypatch.setattr(mixtures, "BLOCK", 70)
    monkeypatch.setattr("probmf.results.draw_scores.BLOCK", 70)
    monkeypatch.setattr("probmf.results.draw_scores.ROW_NUMBERS", 100)
    monkeypatch.setattr("probmf.results.ranking.BLOCK_SCORES", 64)
    again = fit.predict(fit.data)
    np.testing.assert_allclose(again.mean, whole.mean, rtol=1e-6)
    assert whole.lower is not None
    assert again.lower is not None
    np.testing.assert_allclose(again.lower, whole.lower, atol=1e-4)
    for before, by in zip(ranked, ("mean", "lower", "upper"), strict=True):
        np.testing.assert_array_equal(fit.recommend(k=3, rank_by=by).code, before.code)


@pytest.mark.parametrize("likelihood", [Gaussian(0.5), Bernoulli(), Bernoulli("probit")])
def test_recommendations_by_mean(likelihood: Any, draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2, likelihood), draw_ratings(binary=likelihood.binary))
    found = fit.recommend(k=4, interval=0.9)
    mean = np.asarray(likelihood.mean(all_scores(fit), {})).mean(axis=0)
    mean[fit.data.user, fit.data.item] = -np.inf
    np.testing.assert_array_equal(found.code, np.argsort(-mean, axis=1)[:, :4])
    user = np.repeat(np.arange(14), 4)
    told = fit.predict((user, found.code.ravel()))
    np.testing.assert_allclose(found.score.ravel(), told.mean, rtol=1e-6)
    np.testing.assert_allclose(found.lower.ravel(), told.lower, atol=1e-4)
    stranger = fit.recommend([99], k=11, exclude=None)
    told = fit.predict(([99] * 11, list(range(11))))
    np.testing.assert_array_equal(stranger.code[0], np.argsort(-told.mean))


@pytest.mark.parametrize(("rank_by", "level"), [("lower", 0.05), ("upper", 0.95)])
def test_recommendations_by_bound(rank_by: Any, level: float, draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2), draw_ratings())
    bound = np.quantile(all_scores(fit), level, axis=0)
    found = fit.recommend([4, 7], k=5, exclude=None, rank_by=rank_by)
    np.testing.assert_array_equal(found.code, np.argsort(-bound[[4, 7]], axis=1)[:, :5])
    again = [fit.recommend([99], k=5, rank_by=rank_by).code for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_thompson_ranks_by_one_draw_for_each_user(draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(2), draw_ratings())
    found = fit.recommend(k=3, exclude=None, rank_by="thompson", key=0)
    orders = np.argsort(-all_scores(fit), axis=2)[:, :, :3]
    used = [{s for s in range(30) if (orders[s, m] == found.code[m]).all()} for m in range(14)]
    assert all(used)
    assert not set.intersection(*used)
    np.testing.assert_array_equal(
        fit.recommend(k=3, exclude=None, rank_by="thompson", key=0).code, found.code
    )
    tops = [fit.recommend([99], k=1, rank_by="thompson", key=key).code[0, 0] for key in range(9)]
    assert len(set(tops)) > 1


def test_similar_items_by_the_mean_cosine(draw_ratings: Any) -> None:
    fit = many(MatrixFactorization(3), draw_ratings())
    v = flat(fit, "item_factors")
    unit = v / np.linalg.norm(v, axis=2, keepdims=True)
    cosine = np.einsum("sik,sjk->sij", unit, unit).mean(axis=0)
    np.fill_diagonal(cosine, -np.inf)
    found = fit.similar_items([2, 6], k=4)
    np.testing.assert_array_equal(found.code, np.argsort(-cosine[[2, 6]], axis=1)[:, :4])
    np.testing.assert_allclose(found.score, -np.sort(-cosine[[2, 6]], axis=1)[:, :4], rtol=1e-5)


def test_equal_draws_are_the_point(draw_ratings: Any, random_fit: Any) -> None:
    point = random_fit(MatrixFactorization(2), draw_ratings())
    samples = {name: np.tile(value, (2, 3) + (1,) * (value.ndim - 2))
               for name, value in point.samples.items()}  # fmt: skip
    fit = RatingsFit(point.model, point.data, samples, "test")
    assert (fit.num_chains, fit.num_draws, fit.is_point) == (2, 3, False)
    told = fit.predict(point.data)
    np.testing.assert_allclose(
        told.mean, point.predict(point.data, interval=None).mean, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(told.sd, 1.0, rtol=1e-5)
    np.testing.assert_array_equal(fit.recommend(k=3).code, point.recommend(k=3).code)


def test_a_point_never_takes_the_path_of_draws(
    draw_ratings: Any, random_fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = random_fit(MatrixFactorization(2), draw_ratings())
    monkeypatch.setattr(
        "probmf.results.ratings_fit.DrawScores", lambda *_: pytest.fail("draws were used")
    )
    fit.predict([(1, 2)])
    fit.recommend(k=1)
    fit.similar_items([1], k=1)


def test_a_point_is_folded_into_by_modes(
    draw_ratings: Any, random_fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "probmf.results.new_rows.draw_users", lambda *_: pytest.fail("rows were drawn")
    )
    fit = random_fit(MatrixFactorization(2), draw_ratings())
    fit.fold_in(fit.data)


def test_what_is_fixed_may_be_missing(draw_ratings: Any) -> None:
    data = draw_ratings()
    fit = many(MatrixFactorization(1), data)
    rest = {name: value for name, value in fit.samples.items() if name != "intercept"}
    same = RatingsFit(fit.model, data, rest, "test", sampling=fit.sampling)
    base = data.rating.mean() - flat(fit, "intercept").mean()
    difference = same.predict(data).mean - fit.predict(data).mean
    np.testing.assert_allclose(difference, base, rtol=1e-4)


def test_rows_that_were_not_recovered(draw_ratings: Any) -> None:
    data = draw_ratings()
    model = MatrixFactorization(2, user_scale=dist.HalfNormal(1.0))
    rest = {"item_factors": np.ones((*DRAWS, 11, 2)), "user_scale": np.ones(DRAWS)}
    fit = RatingsFit(model, data, rest, "test", sampling=Sampling({}, 0, 0.0))
    with pytest.raises(ValueError, match="no draws of user_bias and item_bias and user_factors"):
        fit.predict([(1, 1)])
    unscaled = {k: v for k, v in many(model, data).samples.items() if k != "user_scale"}
    fit = RatingsFit(model, data, unscaled, "test", sampling=Sampling({}, 0, 0.0))
    with pytest.raises(ValueError, match="user_scale has a prior distribution in the model, but"):
        fit.predict([(99, 1)])


def test_errors(draw_ratings: Any) -> None:
    data = draw_ratings()
    model = MatrixFactorization(2, user_scale=dist.HalfNormal(1.0))
    fit = many(model, data)
    with pytest.raises(ValueError, match="at each draw of the fit; give key=, a JAX key or an int"):
        fit.fold_in(data)
    with pytest.raises(ValueError, match=r"user_scale has shape \(2, 15, 4\), expected"):
        many(model, data, user_scale=np.ones((*DRAWS, 4)))
    with pytest.raises(ValueError, match="user_scale is not finite"):
        many(model, data, user_scale=np.full(DRAWS, np.nan))
    stats = {"energy": np.zeros((2, 14))}
    with pytest.raises(ValueError, match=r"'energy' of sampling has shape \(2, 14\), but the samp"):
        RatingsFit(model, data, fit.samples, "test", sampling=Sampling(stats, 0, 0.0))
    with pytest.raises(ValueError, match=r"'lp' has shape \(2, 3\), expected \(chains, draws\) = "):
        Sampling({"energy": np.zeros((2, 14)), "lp": np.zeros((2, 3))}, 0, 0.0)
    with pytest.raises(ValueError, match="read-only"):
        Sampling({"lp": np.zeros((2, 3))}, 0, 0.0).stats["lp"][0, 0] = 1


def test_quantiles_of_mixtures() -> None:
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(0, 1, 40), 1e4 + rng.normal(0, 0.01, 40),
                     np.where(np.arange(40) < 10, -8.0, 8.0)], axis=1)  # fmt: skip
    sd = rng.uniform(0.1, 0.5, (40, 3))
    found = mixture_quantiles(mean, sd, [0.05, 0.25, 0.9])
    for got, p in zip(found, [0.05, 0.25, 0.9], strict=True):
        for column in range(3):
            center = mean[:, column].mean()
            expected = quantile(mean[:, column] - center, sd[:, column], p)
            # A quarter of the last mixture lies left of a wide gap: any point there is right.
            if (column, p) != (2, 0.25):
                assert got[column] - center == pytest.approx(expected, abs=2e-4)
    # Of components that have next to no weight none has a say, however wide or far.
    rare = np.append(np.full(40, 1.0 / 40), [1e-30, 1e-30])
    far, wide = (
        np.append(x[:, 0], more)[:, None] for x, more in ((mean, [0, 1e250]), (sd, [np.inf, 1.0]))
    )
    (with_rare,) = mixture_quantiles(far, wide, [0.9], rare)
    assert with_rare[0] == pytest.approx(found[2][0], abs=1e-6)
    (same,) = mixture_quantiles(mean, np.zeros((1, 1)), [0.3])
    np.testing.assert_allclose(same, np.quantile(mean, 0.3, axis=0))


def test_strangers_under_a_learned_mean_and_covariance(draw_ratings: Any) -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 1, (*DRAWS, 2, 2))
    precision = root @ np.swapaxes(root, 2, 3) + np.eye(2)
    mean = rng.normal(0, 0.5, (*DRAWS, 2))
    model = MatrixFactorization(
        2, user_scale=NormalWishart(), item_scale=dist.HalfNormal(np.ones((1, 2)))
    )
    item_scale = rng.uniform(0.3, 1.5, (*DRAWS, 1, 2))
    sites = {"user_mean": mean, "user_precision": precision, "item_scale": item_scale}
    plain = many(MatrixFactorization(2), draw_ratings())
    fit = RatingsFit(
        model, plain.data, dict(plain.samples) | sites, "test", sampling=plain.sampling
    )
    found = fit.predict([(99, 3), (99, 77)])
    m, s = mean.reshape(-1, 2), np.linalg.inv(precision.reshape(-1, 2, 2))
    mu, v = flat(fit, "intercept"), flat(fit, "item_factors")[:, 3]
    first = mu + flat(fit, "item_bias")[:, 3] + np.sum(m * v, axis=1)
    variance = 1 + np.einsum("sk,skl,sl->s", v, s, v)
    own = np.square(item_scale.reshape(-1, 2))
    both = 2 + np.sum(np.square(m) * own, axis=1) + np.einsum("skk,sk->s", s, own)
    assert found.sd is not None
    for place, (center, spread) in enumerate([(first, variance), (mu, both)]):
        assert found.mean[place] == pytest.approx(center.mean(), rel=1e-5)
        sd = np.sqrt(center.var() + np.mean(spread) + 1)
        assert found.sd[place] == pytest.approx(sd, rel=1e-5)
    every = fit.predict(([99] * 11, list(range(11)))).mean
    np.testing.assert_allclose(fit.recommend([99], k=11).score[0], -np.sort(-every), rtol=1e-5)
    tops = [fit.recommend([99], k=1, rank_by="thompson", key=key).code[0, 0] for key in range(9)]
    assert len(set(tops)) > 1


@pytest.mark.parametrize("point", [False, True])
def test_lists_far_from_zero_are_those_near_it(point: bool, draw_ratings: Any) -> None:
    """A fit in double precision is ranked in single precision."""
    near = many(MatrixFactorization(2, Gaussian(0.5), intercept="learned"), draw_ratings())
    if point:
        first = {site: value[0, 0].astype(np.float64) for site, value in near.samples.items()}
        near = RatingsFit.from_point(near.model, near.data, first, method="by hand")
    data = replace(near.data, rating=near.data.rating + 1e8)
    samples = dict(near.samples) | {"intercept": near.samples["intercept"] + 1e8}
    far = replace(near, data=data, samples=samples)
    users = [3, 5, 99]
    for order, key in (("mean", None), ("probability", None), ("lower", None), ("thompson", 1)):
        lists = [
            fit.recommend(users, k=11, rank_by=order, key=key, exclude=None,  # type: ignore[arg-type]
                          at_least=level if order == "probability" else None)
            for fit, level in ((near, 1.0), (far, 1e8 + 1.0))
        ]  # fmt: skip
        np.testing.assert_array_equal(lists[0].code, lists[1].code)
    pairs = [(3, item) for item in range(11)]
    told, further = (fit.predict(pairs, interval=None).mean for fit in (near, far))
    np.testing.assert_allclose(further - 1e8, told, atol=1e-6)

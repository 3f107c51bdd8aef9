"""Fits as ArviZ trees."""

import uuid
from typing import Any

import arviz_base
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr
from scipy.stats import bernoulli, norm

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings
from probmf.results import RatingsFit, Sampling


def test_groups_dims_and_coordinates(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(3), draw_ratings())
    tree = fit.to_arviz()
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {"point", "observed_data"}
    point = tree["point"].dataset
    assert point["user_factors"].dims == ("chain", "draw", "user", "factor")
    assert point["item_bias"].dims == ("chain", "draw", "item")
    assert point["intercept"].dims == ("chain", "draw")
    assert point.sizes["chain"] == point.sizes["draw"] == 1
    for name, value in fit.point().items():
        np.testing.assert_array_equal(point[name].values[0, 0], value)
    assert float(point["user_bias"].sel(user=5).squeeze()) == fit.point()["user_bias"][5]
    assert tree.attrs["method"] == "random"


def test_observed_data_says_whose_rating_it_is(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(3), draw_ratings())
    observed = fit.to_arviz()["observed_data"].dataset
    np.testing.assert_array_equal(observed["rating"], fit.data.rating)
    assert observed["rating"].dims == ("rating_row",)
    np.testing.assert_array_equal(observed["rated_user"], fit.data.users.decode(fit.data.user))
    np.testing.assert_array_equal(observed["rated_item"], fit.data.items.decode(fit.data.item))
    own = observed["rating"].where(observed["rated_user"] == 3, drop=True)
    assert len(own) == fit.data.user_degree[3]


@pytest.mark.parametrize(
    ("ids", "label"),
    [
        (["ann", "bob"], "bob"),
        ([uuid.UUID(int=1), uuid.UUID(int=2)], str(uuid.UUID(int=2))),
        ([(1, "a"), (2, "b")], "(2, 'b')"),
        (np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"), "2021-01-01"),
    ],
)
def test_ids_become_labels(ids: Any, label: str, random_fit: Any) -> None:
    data = Ratings.from_frame({"user": ids, "item": [1, 2], "rating": [1.0, 2.0]})
    fit = random_fit(MatrixFactorization(1), data)
    point = fit.to_arviz()["point"].dataset
    assert float(point["user_bias"].sel(user=label).squeeze()) == fit.point()["user_bias"][1]


def test_terms_that_are_left_out(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(0, user_bias=False), draw_ratings())
    assert set(fit.to_arviz()["point"].data_vars) == {"intercept", "item_bias"}


def test_arviz_can_use_it(draw_ratings: Any, random_fit: Any) -> None:
    tree = random_fit(MatrixFactorization(2), draw_ratings()).to_arviz()
    flat = arviz_base.extract(tree, group="point", var_names=["item_factors"])
    assert flat.sizes["sample"] == 1
    table = arviz_base.convert_to_dataset(tree, group="point")
    assert "user_bias" in table


def posterior(model: MatrixFactorization, data: Ratings) -> RatingsFit:
    rng = np.random.default_rng(0)
    samples: dict[str, Any] = {"intercept": rng.normal(0, 1, (2, 20))}
    for site, shape in model.site_shapes(data.num_users, data.num_items).items():
        samples[site] = rng.normal(0, 0.5, (2, 20, *shape))
    samples |= {name: rng.uniform(0.4, 1.0, (2, 20)) for name in model.random_scales()}
    stats = {"energy": rng.normal(0, 1, (2, 20))}
    return RatingsFit(model, data, samples, "nuts", sampling=Sampling(stats, 5, 0.1))


def test_groups_of_many_draws(draw_ratings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_ratings(weights=True)
    fit = posterior(MatrixFactorization(2, Gaussian(dist.HalfNormal(1.0))), data)
    assert set(fit.to_arviz().children) == {"posterior", "sample_stats", "observed_data"}
    monkeypatch.setattr("probmf.results.mixtures.BLOCK", 200)
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    assert tree["posterior"]["noise_scale"].dims == ("chain", "draw")
    assert tree["sample_stats"]["energy"].shape == (2, 20)
    s = fit.samples
    u, v = s["user_factors"][:, :, data.user], s["item_factors"][:, :, data.item]
    score = s["intercept"][:, :, None] + np.sum(u * v, axis=-1)
    score = score + s["user_bias"][:, :, data.user] + s["item_bias"][:, :, data.item]
    assert data.weight is not None
    counts = data.weight > 0
    noise = s["noise_scale"][:, :, None] / np.sqrt(np.where(counts, data.weight, 1.0))
    expected = np.where(counts, norm.logpdf(data.rating, score, noise), 0.0)
    np.testing.assert_allclose(tree["log_likelihood"]["rating"], expected, rtol=1e-4, atol=1e-4)
    z = (tree["posterior_predictive"]["rating"].to_numpy() - score) / noise
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.std() == pytest.approx(1.0, abs=0.08)
    with pytest.raises(ValueError, match="posterior_predictive=True draws at random; give key="):
        fit.to_arviz(posterior_predictive=True)


def test_log_likelihood_of_yes_and_no(draw_ratings: Any) -> None:
    data = draw_ratings(binary=True)
    fit = posterior(MatrixFactorization(1, Bernoulli(), item_bias=False), data)
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    p = np.array([
        np.asarray(fit.model.likelihood.mean(score, {}))
        for score in fit._draws.scores(data.user, data.item)[0]
    ])  # fmt: skip
    expected = bernoulli.logpmf(data.rating.astype(int), p)
    found = tree["log_likelihood"]["rating"].to_numpy().reshape(40, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    drawn = tree["posterior_predictive"]["rating"].to_numpy()
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert drawn.mean() == pytest.approx(p.mean(), abs=0.05)

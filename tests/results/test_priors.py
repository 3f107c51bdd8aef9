"""Groups of prior draws and of log densities of the prior, against their definitions."""

from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probmf import Gaussian, MatrixFactorization, MixedEffects, Network, Ratings, plots
from probmf.data import Examples
from probmf.results import MixedFit, NetworkFit, RatingsFit, Sampling

SHAPE = (2, 6)
FORMULA = "y ~ x + (1 + x | g)"


def mixed(**options: Any) -> MixedFit:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 30)
    table = {"y": 2 + x + rng.normal(0, 1, 30), "x": x, "g": np.arange(30) % 5}
    model = MixedEffects(FORMULA, **options)
    design = model.design(table)
    blank = MixedFit(model, design, {"coefficients": np.zeros((1, 1, 2))}, "x")
    samples = {n: rng.uniform(0.4, 0.9, (*SHAPE, *s)) for n, s in blank.site_shapes.items()}
    samples["g_correlation"] = np.broadcast_to([[1.0, 0.0], [0.6, 0.8]], (*SHAPE, 2, 2))
    return MixedFit(model, design, samples, "nuts", Sampling({}, 5, 0.1), data=table)


def ratings(intercept: Any = None) -> RatingsFit:
    rng = np.random.default_rng(0)
    half = dist.HalfNormal(0.7)
    model = MatrixFactorization(
        2, Gaussian(half), user_scale=half, item_scale=0.5, intercept=intercept or dist.Normal(3, 2)
    )
    user, item = np.nonzero(rng.random((6, 5)) < 0.8)
    data = Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(3, 1, len(user))})
    shapes = {"intercept": (), "user_scale": (), "noise_scale": ()} | model.site_shapes(6, 5)
    samples = {name: rng.uniform(0.4, 0.9, (*SHAPE, *shape)) for name, shape in shapes.items()}
    return RatingsFit(model, data, samples, "nuts", sampling=Sampling({}, 5, 0.1))


def network() -> NetworkFit:
    rng = np.random.default_rng(0)
    data = Examples.from_arrays(rng.normal(0, 1, (20, 2)), 100 + 5 * rng.normal(0, 1, 20))
    model = Network((3,), likelihood=Gaussian(0.5))
    (arrays,) = model.arguments(data)
    shapes = model.site_shapes(arrays)
    samples = {name: rng.normal(0, 1, (*SHAPE, *shape)) for name, shape in shapes.items()}
    return NetworkFit(model, data, samples, "nuts", sampling=Sampling({}, 5, 0.1))


def normal(fit: Any, site: str, scale: Any, mean: Any = 0.0) -> np.ndarray:
    values = fit.samples[site]
    axes = tuple(range(2, values.ndim))
    return stats.norm.logpdf(values, mean, scale).sum(axis=axes)


def test_log_densities_of_mixed_priors() -> None:
    fit = mixed(priors={"noise_scale": dist.HalfNormal(2.0), "g_correlation": 1.0})
    found = fit.to_arviz(log_prior=True)["log_prior"].dataset
    assert set(found) == set(fit.samples)
    assert found["g_effects"].dims == ("chain", "draw")
    law = fit.design.data.priors["coefficients"]
    expected = normal(fit, "coefficients", np.asarray(law.scale), law.loc)
    np.testing.assert_allclose(found["coefficients"], expected, rtol=1e-5)
    noise = stats.halfnorm.logpdf(fit.samples["noise_scale"], scale=2.0)
    np.testing.assert_allclose(found["noise_scale"], noise, rtol=1e-5)
    root = fit.samples["g_scale"][..., None] * fit.samples["g_correlation"]
    for chain, draw in np.ndindex(*SHAPE):
        own = root[chain, draw] @ root[chain, draw].T
        each = stats.multivariate_normal.logpdf(fit.samples["g_effects"][chain, draw], cov=own)
        assert found["g_effects"].values[chain, draw] == pytest.approx(each.sum(), rel=1e-4)
    rest = {name: value for name, value in fit.samples.items() if name != "g_effects"}
    cut = MixedFit(fit.model, fit.design, rest, "nuts", fit.sampling)
    with pytest.raises(
        ValueError, match="no draws of g_effects, which have no log density of thei"
    ):
        cut.to_arviz(log_prior=True)


def test_log_densities_of_other_priors() -> None:
    fit = ratings()
    found = fit.to_arviz(log_prior=True)["log_prior"].dataset
    assert set(found) == set(fit.samples)
    np.testing.assert_allclose(found["intercept"], normal(fit, "intercept", 2.0, 3.0), rtol=1e-5)
    np.testing.assert_allclose(found["item_factors"], normal(fit, "item_factors", 0.5), rtol=1e-5)
    scale = fit.samples["user_scale"][..., None, None]
    np.testing.assert_allclose(found["user_factors"], normal(fit, "user_factors", scale), rtol=1e-5)
    assert set(network().to_arviz(log_prior=True)["log_prior"].data_vars) == set(network().samples)


@pytest.mark.parametrize("centered", [True, False])
def test_draws_of_mixed_priors(centered: bool) -> None:
    fit = mixed(centered=centered, priors={"noise_scale": 0.5, "g_scale": 2.0})
    tree = fit.to_arviz(prior=3000, key=0)
    prior, seen = tree["prior"].dataset, tree["prior_predictive"]["y"]
    assert prior["g_effects"].dims == ("chain", "draw", "g", "g_coefficient")
    assert seen.shape == (1, 3000, 30)
    assert float(prior["g_effects"].std()) == pytest.approx(2.0, rel=0.05)
    # Their sum: rows of the design, effects of correlated intercepts and slopes, and noise.
    x = np.asarray(fit.design.data.population)[:, 1]
    law = fit.design.data.priors["coefficients"]
    mean = np.asarray(law.loc)[0] + np.asarray(law.loc)[1] * x
    scale = np.asarray(law.scale)
    variance = scale[0] ** 2 + (scale[1] * x) ** 2 + 4 * (1 + x**2) + 0.25
    error = np.sqrt(variance / 3000)
    assert np.all(np.abs(seen.values[0].mean(axis=0) - mean) < 4.5 * error)
    np.testing.assert_allclose(seen.values[0].var(axis=0), variance, rtol=0.15)


def test_priors_of_a_response_far_from_zero() -> None:
    """A million, give or take a hundredth: single precision has 16 numbers a unit there."""
    rng = np.random.default_rng(0)
    table = {"y": 1e6 + 0.01 * rng.normal(size=30), "g": np.arange(30) % 5}
    model = MixedEffects("y ~ 1 + (1 | g)", priors={"noise_scale": 0.01})
    sites = {"coefficients": (1,), "g_scale": (1,), "g_effects": (5, 1)}
    samples = {site: rng.uniform(0.01, 0.02, (*SHAPE, *shape)) for site, shape in sites.items()}
    samples["coefficients"] += 1e6
    fit = MixedFit(model, model.design(table), samples, "nuts", Sampling({}, 5, 0.1))
    tree = fit.to_arviz(prior=500, log_prior=True, key=0)
    apart = tree["prior_predictive"]["y"].values[0] - tree["prior"]["coefficients"].values[0]
    apart -= tree["prior"]["g_effects"].values[0, :, np.arange(30) % 5, 0].T
    assert apart.std() == pytest.approx(0.01, rel=0.03)
    law = fit.design.data.priors["coefficients"]
    wanted = normal(fit, "coefficients", float(law.scale[0]), float(law.loc[0]))
    np.testing.assert_allclose(tree["log_prior"]["coefficients"], wanted, rtol=1e-5)


def test_draws_of_other_priors() -> None:
    fit = ratings()
    tree = fit.to_arviz(prior=2000, key=0)
    assert tree["prior"]["user_factors"].dims == ("chain", "draw", "user", "factor")
    assert float(tree["prior_predictive"]["rating"].mean()) == pytest.approx(3.0, abs=0.2)
    assert "rated_user" in tree["observed_data"].coords
    assert "prior" not in fit.to_arviz()
    # A network's responses are in their own units.
    tree = network().to_arviz(prior=2000, key=0)
    made, seen = (tree[group]["response"] for group in ("prior_predictive", "observed_data"))
    assert float(made.mean()) == pytest.approx(float(seen.mean()), abs=1.0)
    figure = plots.predictive_check(fit, key=0, group="prior", num_samples=200)
    low, high = figure.axes[0].get_xlim()
    assert low < 3 - 2 * 1.6 < 3 + 2 * 1.6 < high
    with pytest.raises(ValueError, match="The prior of intercept is flat, so that nothing can be"):
        ratings("learned").to_arviz(prior=10, key=0)
    with pytest.raises(ValueError, match="prior=10 draws at random; give key="):
        fit.to_arviz(prior=10)
    with pytest.raises(ValueError, match="prior is True; expected a number of draws, such as 500"):
        fit.to_arviz(prior=True, key=0)

"""Student-t and Laplace priors of coefficients, against quadrature in one dimension."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy.special import log_expit, logsumexp

from probmf import MixedEffects, fit_marginal, sample_gibbs, sample_marginal, sample_nuts
from probmf.inference.mixed.leave_one_out import leave_one_out
from probmf.report.mixed import model_section
from probmf.results import MixedFit

GROUP, X = np.repeat(np.arange(4), 3), np.random.default_rng(0).normal(size=12)
TAU, NOISE = 0.7, 0.9
LAWS = {
    "studentt": (dist.StudentT(2.5, 0.2, 0.3), st.t(2.5, 0.2, 0.3)),
    "laplace": (dist.Laplace(-0.1, 0.3), st.laplace(-0.1, 0.3)),
}
GRID = np.linspace(-100.0, 100.0, 20001)


def response(kind: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    score = 1.2 * X + TAU * rng.normal(size=4)[GROUP]
    return score + NOISE * rng.normal(size=12) if kind == "gaussian" else (score > 0) * 1


def log_likelihood(kind: str, y: np.ndarray) -> np.ndarray:
    """At each point of the grid, effects integrated out."""
    if kind == "gaussian":
        cover = TAU**2 * (GROUP[:, None] == GROUP) + NOISE**2 * np.eye(12)
        return np.asarray(st.multivariate_normal(np.zeros(12), cover).logpdf(y - GRID[:, None] * X))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    score = GRID[:, None, None] * X[:, None] + TAU * nodes
    each = log_expit(np.where(y[:, None] > 0, score, -score))
    by_group = np.stack([each[:, g == GROUP].sum(axis=1) for g in range(4)], axis=1)
    return np.asarray(logsumexp(by_group + np.log(weights), axis=2).sum(axis=1))


@pytest.mark.parametrize(
    ("kind", "law", "sample"),
    [
        ("gaussian", "studentt", sample_marginal), ("gaussian", "laplace", sample_marginal),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("gaussian", "laplace", sample_nuts), ("bernoulli", "studentt", sample_marginal)
        )),
    ],
)  # fmt: skip
def test_draws_are_of_the_posterior(kind: str, law: str, sample: Callable[..., MixedFit]) -> None:
    prior, density = LAWS[law]
    priors: dict[str, Any] = {"coefficients": {"x": prior}, "g_scale": TAU}
    if kind == "gaussian":
        priors["noise_scale"] = NOISE
    model = MixedEffects("y ~ 0 + x + (1 | g)", likelihood=kind, priors=priors)
    y = response(kind)
    fit = sample(model, {"y": y, "x": X, "g": GROUP}, key=0, num_samples=2000)
    draws = fit.samples["coefficients"].reshape(-1)
    log_mass = log_likelihood(kind, y) + density.logpdf(GRID)
    mass = np.exp(log_mass - logsumexp(log_mass))
    mean = mass @ GRID
    sd = np.sqrt(mass @ GRID**2 - mean**2)
    assert draws.mean() == pytest.approx(mean, abs=0.15 * sd)
    # Of yes and no the posterior's tails are as heavy as the prior's.
    assert draws.std() == pytest.approx(sd, rel=0.1 if kind == "gaussian" else 0.2)
    # The distribution function at quantiles, and so the tails' weight.
    places = np.searchsorted(np.cumsum(mass), [0.05, 0.25, 0.5, 0.75, 0.95])
    below = [np.mean(draws < GRID[place]) for place in places]
    np.testing.assert_allclose(below, [0.05, 0.25, 0.5, 0.75, 0.95], atol=0.04)
    if sample is sample_marginal:
        assert leave_one_out(fit).shape[-1] == 12
    assert "coefficient_mixing" in fit.to_arviz()["posterior"].coords


def test_any_prior_of_coefficients_of_the_noise() -> None:
    """Against a grid of both, the coefficient of the mean integrated out."""
    priors: dict[str, Any] = {
        "coefficients": {"x": dist.Normal(0.0, 1.0)},
        "noise_coefficients": {"x": dist.Cauchy(0.3, 0.2), "Intercept": dist.Laplace(0.0, 0.5)},
    }
    model = MixedEffects("y ~ 0 + x", scale_formula="~ x", priors=priors)
    y = response("gaussian")
    fit = sample_marginal(model, {"y": y, "x": X}, key=0, num_samples=3000)
    places = [np.linspace(-2.5, 2.5, 101), np.linspace(-3.0, 3.0, 121)]
    first, second = np.meshgrid(*places, indexing="ij")
    covers = np.exp(2 * (first[..., None] + second[..., None] * X))[..., None] * np.eye(12)
    covers += np.outer(X, X)
    half = np.linalg.solve(covers, np.broadcast_to(y, (*first.shape, 12))[..., None])[..., 0] @ y
    log_mass = -0.5 * (np.linalg.slogdet(covers)[1] + half)
    log_mass += st.laplace(0.0, 0.5).logpdf(first) + st.cauchy(0.3, 0.2).logpdf(second)
    mass = np.exp(log_mass - logsumexp(log_mass))
    draws = fit.samples["noise_coefficients"].reshape(-1, 2)
    for place, at in enumerate((first, second)):
        mean = np.sum(mass * at)
        sd = np.sqrt(np.sum(mass * at**2) - mean**2)
        assert draws[:, place].mean() == pytest.approx(mean, abs=0.15 * sd)
        assert draws[:, place].std() == pytest.approx(sd, rel=0.1)
    told = " ".join(map(str, model_section(fit).parts))
    assert "noise_coefficients[x]" in told
    assert "Cauchy(loc 0.3, scale 0.2)" in told
    for wrong, error, words in (
        (dist.HalfNormal(1.0), ValueError, "does not allow all real numbers"),
        (dist.Normal(np.zeros(2), 1.0), TypeError, "expected a scalar numpyro"),
    ):
        with pytest.raises(error, match=words):
            MixedEffects(
                "y ~ x", scale_formula="~ x", priors={"noise_coefficients": {"x": wrong}}
            ).design({"y": y, "x": X})
    # A Normal prior of the noise's logarithm would forbid that it vanishes.
    with pytest.raises(ValueError, match="Nothing is left for the noise"):
        sample_marginal(model, {"y": 2.0 * X, "x": X}, key=0)


def test_prior_draws_and_what_has_no_form_for_them() -> None:
    table = {"y": response("gaussian"), "x": X, "z": X**2, "g": GROUP}
    heavy: dict[str, Any] = {"x": dist.StudentT(4.0, 1.0, 0.5), "z": dist.Laplace(0.0, 2.0)}
    model = MixedEffects("y ~ x + z + (1 | g)", priors={"coefficients": heavy})
    normal = MixedEffects(model.formula)
    best, other = fit_marginal(model, table), fit_marginal(normal, table)
    np.testing.assert_allclose(
        best.samples["coefficients"], other.samples["coefficients"], rtol=1e-6
    )
    np.testing.assert_allclose(best.predictions().sd, other.predictions().sd, rtol=1e-4)
    tree = best.to_arviz(prior=4000, key=0)
    drawn = np.asarray(tree["prior"]["coefficients"])[0]
    for place, law in ((1, st.t(4.0, 1.0, 0.5)), (2, st.laplace(0.0, 2.0))):
        assert st.kstest(drawn[:, place], law.cdf).pvalue > 1e-3
    # Of a best fit the laws themselves, as it has no mixing.
    beta = best.samples["coefficients"][0, 0].astype(np.float64)
    default = best.design.data.priors["coefficients"]
    first = st.norm(float(default.loc[0]), float(default.scale[0])).logpdf(beta[0])  # type: ignore[union-attr, index]
    exact = first + st.t(4.0, 1.0, 0.5).logpdf(beta[1]) + st.laplace(0.0, 2.0).logpdf(beta[2])
    density = best.to_arviz(log_prior=True)["log_prior"]
    assert float(density["coefficients"][0, 0]) == pytest.approx(exact, rel=1e-5)
    assert {"g_scale", "noise_scale"} <= set(density.data_vars)
    told = " ".join(map(str, model_section(best).parts))
    assert "coefficients[x]" in told
    assert "StudentT(df 4, loc 1, scale 0.5)" in told
    assert "Laplace(loc 0, scale 2)" in told
    assert "mixing" not in told
    with pytest.raises(ValueError, match="objective is 'map', which integrates the coefficients"):
        fit_marginal(model, table, objective="map")
    with pytest.raises(ValueError, match=r"priors\['coefficients'\] is a StudentT, and sample_gib"):
        sample_gibbs(model, table, key=0)
    with pytest.raises(
        TypeError, match=r"is a Cauchy .* numpyro\.distributions\.Normal, StudentT or"
    ):
        MixedEffects("y ~ x", priors={"coefficients": {"x": dist.Cauchy()}}).design(table)

"""Draws of mixed models of any response: against brute force, simulated truth, refusals."""

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats

from probmf import MixedEffects, sample_marginal
from probmf.diagnostics import FallbackWarning
from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.inference import importance_rounds
from probmf.inference.importance import Mode
from probmf.inference.mixed import quadrature_sampler
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.inference.mixed.quadrature_importance import _Proposals
from probmf.inference.nuts import pooled_warmup
from probmf.run.threads import workers

G = np.repeat(np.arange(8), 5)
ANSWERS = {"y": (np.arange(40) * 7 % 11 > G % 5).astype(int), "g": G}


@pytest.mark.parametrize(
    ("gate", "many_rows"),
    [pytest.param(0.7, 20_000, marks=pytest.mark.slow), (0.7, 1), (-5.0, 1)],
)
def test_draws_are_of_the_posterior(
    gate: float, many_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two numbers are left, whose density is summed over a grid: by weights, else by NUTS.

    Of many rows both are proposed together, else the coefficient given the scale.
    """
    monkeypatch.setattr(importance_rounds, "K_HAT_GATE", gate)
    monkeypatch.setattr(quadrature_sampler, "MANY_ROWS", many_rows)
    model = MixedEffects("y ~ 1 + (1 | g)", likelihood="bernoulli")
    most, method = (None, "importance") if gate > 0 else (600, "quadrature")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = sample_marginal(model, ANSWERS, key=1, num_samples=2000, max_densities=most)
    fell_back = [w for w in caught if issubclass(w.category, FallbackWarning)]
    assert len(fell_back) == (gate < 0)
    assert fit.method == f"marginal/{method}"
    assert fit.sampling.info["integrated"] == "g_effects"
    assert (fit.num_chains, fit.num_draws) == ((1, 2000) if gate > 0 else (4, 500))
    with jax.enable_x64(True):
        design = model.design(ANSWERS)
        (data,) = model.arguments(design)
        integral = Integral.of(model.program, data, ["g"], num_nodes=25)
        density = IntegralDensity.of_integral(integral)
        places = np.linspace(-6.0, 6.0, 121)
        scale = np.linspace(-9.0, 4.0, 131)
        order = [density.places[site].item() for site in ("coefficients", "g_scale")]
        grid = np.zeros((len(places) * len(scale), 2))
        grid[:, order] = np.stack(np.meshgrid(places, scale, indexing="ij"), -1).reshape(-1, 2)
        # Point after point in small batches: all at once take half a gigabyte.
        run = jax.jit(lambda at: jax.lax.map(density.log_density, at, batch_size=256))
        weight = np.asarray(run(jnp.asarray(grid)))
        values = jax.jit(jax.vmap(density.latents))(jnp.asarray(grid))
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    for site in ("coefficients", "g_scale"):
        exact, draws = np.asarray(values[site])[:, 0], fit.samples[site][..., 0]
        row = fit.summary()[f"{site}[Intercept]"]
        mean = weight @ exact
        sd = np.sqrt(weight @ np.square(exact - mean))
        assert abs(draws.mean() - mean) < 4 * row["mcse_mean"], site
        np.testing.assert_allclose(draws.std(), sd, rtol=0.1)


CROSSED = {
    "y": np.minimum(np.arange(60) * 13 % 17 // 4, 3), "x": np.sin(np.arange(60.0)),
    "g": np.repeat(np.arange(12), 5), "h": np.tile(np.arange(5), 12),
}  # fmt: skip


@pytest.mark.slow
def test_slopes_of_the_largest_grouping_are_integrated_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two effects a group; the other grouping is sampled standardized."""
    monkeypatch.setattr(quadrature_sampler, "MAX_DIMS", 0)
    monkeypatch.setattr(pooled_warmup, "STAGES", (10, 10))
    monkeypatch.setattr(pooled_warmup, "LEAST_STAGES", 1)
    model = MixedEffects("y ~ x + (1 + x | g) + (1 | h)", likelihood="poisson")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = sample_marginal(model, CROSSED, key=0, num_samples=40)
    told = [str(one.message) for one in caught if one.category is FallbackWarning]
    assert "4 scales and other numbers are left, more than the 0" in told[0]
    assert fit.sampling.info["integrated"] == "g_effects"
    assert fit.samples["g_effects"].shape == (4, 10, 12, 2)
    assert fit.samples.keys() == {
        "coefficients", "g_scale", "g_correlation", "g_effects", "h_scale", "h_effects",
    }  # fmt: skip
    assert np.all(np.std(fit.samples["h_effects"], axis=(0, 1)) > 0)
    assert np.all(fit.predict(CROSSED).mean > 0)


def test_weights_are_exact() -> None:
    """Their mean over proposals is the evidence, summed over nodes for all effects together."""
    model = MixedEffects(
        "y ~ 1 + (1 | g) + (1 | h)", likelihood="poisson",
        priors={
            "g_scale": 0.8, "h_scale": 1.2, "coefficients": {"Intercept": dist.Normal(0.5, 1.5)},
        },
    )  # fmt: skip
    table = {"y": np.array([0, 9, 1, 4, 0, 2, 7]), "g": [0, 0, 1, 1, 2, 2, 2],
             "h": [0, 1, 0, 1, 0, 0, 1]}  # fmt: skip
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    # The intercept and both effects of h on a grid, those of g summed out at each of its points.
    intercept, first, second = np.meshgrid(0.5 + 1.5 * nodes, 1.2 * nodes, 1.2 * nodes)
    joint = np.ones(intercept.shape)
    for group in range(3):
        own = [n for n in range(7) if table["g"][n] == group]
        inner = np.zeros(intercept.shape)
        for effect, share in zip(0.8 * nodes, weight, strict=True):
            rows = np.zeros(intercept.shape)
            for n in own:
                predictor = intercept + effect + (second if table["h"][n] else first)
                rows += table["y"][n] * predictor - np.exp(predictor)
                rows -= scipy.special.gammaln(table["y"][n] + 1)
            inner += share * np.exp(rows)
        joint *= inner
    exact = np.log(np.einsum("jik,i,j,k->", joint, weight, weight, weight))
    with jax.enable_x64(True):
        (data,) = model.arguments(model.design(table))
        whole = Integral.of(model.program, data, ["g", "h"], coefficients=True)
        conditional = quadrature_sampler._conditional(IntegralDensity.of_integral(whole), ["g"])
        conditional = replace(conditional, num_nodes=15)
        with workers(2) as pool:
            proposals = _Proposals(conditional, pool, np.random.default_rng(0))
            found = np.concatenate([logs for logs, _ in proposals(np.zeros((4096, 0)))])
    found -= 1.5 * np.log(2 * np.pi)  # Of the three standard Normals, which the weights leave out.
    error = np.std(np.exp(found - exact)) / 64
    assert error < 0.01
    assert abs(np.mean(np.exp(found - exact)) - 1) < 4 * error


def test_nodes_are_enough_wherever_the_scale_goes() -> None:
    """Of groups of one row it goes far, where the error of seven nodes is some nats."""
    model = MixedEffects("y ~ 1 + (1 | g)", likelihood="bernoulli")
    table = {"y": np.arange(400) % 3 == 0, "g": np.arange(400)}
    with jax.enable_x64(True):
        (data,) = model.arguments(model.design(table))
        whole = Integral.of(model.program, data, ["g"], coefficients=True)
        density = IntegralDensity.of_integral(whole)
        scales = np.log(np.geomspace(0.3, 5.0, 51))[:, None]
        with workers(2) as pool:
            for many, number in ((7, 15), (31, None)):
                conditional = replace(
                    quadrature_sampler._conditional(density, ["g"]), num_nodes=many
                )
                judge = partial(quadrature_sampler._judge, conditional, pool, scales)
                if number is None:
                    judge(np.zeros((51, 1)), complete=True)
                    continue
                with pytest.raises(quadrature_sampler.TooFewNodesError, match=f"takes {number} "):
                    judge(np.zeros((51, 1)), complete=True)
                with pytest.raises(KeyboardInterrupt, match=f"by {many} nodes, which are too few"):
                    judge(np.zeros((51, 1)), complete=False)


@pytest.mark.slow
def test_scales_that_are_numbers() -> None:
    """Nothing but a coefficient is left."""
    model = MixedEffects("y ~ 1 + (1 | g)", likelihood="bernoulli", priors={"g_scale": 0.7})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)
        fit = sample_marginal(model, ANSWERS, key=0, num_samples=40)
    assert fit.samples.keys() == {"coefficients", "g_effects"}


def test_what_has_no_quadrature_is_refused() -> None:
    model = MixedEffects(
        "y ~ x + (1 | g)", likelihood="negativebinomial", scale_formula="~ 1 + (1 | h)"
    )
    with pytest.raises(
        ValueError, match=r"effects in scale_formula have no quadrature\. Use sample"
    ):
        sample_marginal(model, CROSSED, key=0)
    model = MixedEffects("y ~ x + (1 + x + I(x**2) | g)", likelihood="poisson")
    told = r"likelihood is Poisson\(\).* this model has g_effects \(3 for each group\)"
    with pytest.raises(ValueError, match=told):
        sample_marginal(model, CROSSED, key=0)
    with pytest.raises(ValueError, match="leave nothing to sample"):
        sample_marginal(MixedEffects("y ~ 0 + offset(x)", likelihood="poisson"), CROSSED, key=0)


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_without_groups_all_is_sampled(unit: float) -> None:
    table = {**CROSSED, "x": unit * CROSSED["x"]}
    fit = sample_marginal(MixedEffects("y ~ x", likelihood="poisson"), table, key=0)
    assert fit.method == "importance"
    grid = np.stack(np.meshgrid(np.linspace(-1, 2, 301), np.linspace(-1.5, 1.5, 301)), -1)
    prior: Any = fit.design.data.priors["coefficients"]
    scale = np.asarray(prior.scale) * [1.0, unit]
    log_mass = scipy.stats.norm(np.asarray(prior.loc), scale).logpdf(grid).sum(axis=-1)
    for y, x in zip(CROSSED["y"], CROSSED["x"], strict=True):
        log_mass += scipy.stats.poisson(np.exp(grid @ [1.0, x])).logpmf(y)
    mass = np.exp(log_mass - log_mass.max())
    mass = mass[..., None] / mass.sum()
    mean = np.sum(mass * grid, axis=(0, 1))
    sd = np.sqrt(np.sum(mass * np.square(grid - mean), axis=(0, 1)))
    draws = fit.samples["coefficients"].reshape(-1, 2) * [1.0, unit]
    np.testing.assert_allclose((draws.mean(axis=0) - mean) / sd, 0.0, atol=0.15)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.1)


RANKS, BINS, REPLICATIONS = 60, 12, 300
CALIBRATED = ["bernoulli", "poisson", "negativebinomial", "binomial", "ordinal"]
ROWS_BY_G, ROWS_BY_H = np.repeat(np.arange(10), 6), np.tile(np.arange(6), 10)


def simulated(
    likelihood: str, score: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, Any]]:
    """Responses, and own parameters from their priors."""
    chance, rate = 1 / (1 + np.exp(-score)), np.exp(np.minimum(score, 12.0))
    if likelihood == "bernoulli":
        return (rng.random(60) < chance).astype(int), {}
    if likelihood == "binomial":
        return rng.binomial(np.arange(60) % 5 + 1, chance), {}
    if likelihood == "poisson":
        return rng.poisson(rate), {}
    if likelihood == "negativebinomial":
        own = rng.lognormal(1.0, 1.0)
        return rng.poisson(rate * rng.gamma(own, 1.0 / own, 60)), {"concentration": own}
    cuts = np.sort(rng.normal(0, 5, 2))
    return np.searchsorted(cuts, score + rng.logistic(size=60)), {"cutpoints": cuts[0]}


@pytest.mark.calibration
@pytest.mark.parametrize("groupings", [1, 2])
@pytest.mark.parametrize("likelihood", CALIBRATED)
def test_ranks_are_uniform(likelihood: str, groupings: int) -> None:
    """Ranks of the truth among the draws; of responses at all levels where these have to occur."""
    rng, ordinal = np.random.default_rng(0), likelihood == "ordinal"
    priors: dict[str, Any] = {
        "coefficients": {"x": dist.Normal(0.0, 1.0)}, "g_scale": dist.HalfNormal(1.0),
    }  # fmt: skip
    if not ordinal:
        priors["coefficients"]["Intercept"] = dist.Normal(0.0, 1.0)
    if groupings == 2:
        priors["h_scale"] = dist.HalfNormal(0.5)
    if likelihood == "negativebinomial":
        priors["concentration"] = dist.LogNormal(1.0, 1.0)
    response = "y | trials(n)" if likelihood == "binomial" else "y"
    formula = f"{response} ~ x + (1 | g)" + " + (1 | h)" * (groupings == 2)
    model = MixedEffects(formula, likelihood=likelihood, priors=priors)
    ranks: dict[str, list[int]] = {}
    for key in range(REPLICATIONS):
        scale, other, slope = abs(rng.normal()), abs(rng.normal(0, 0.5)), rng.normal()
        u, v, x = rng.normal(0, scale, 10), rng.normal(0, other, 6), rng.normal(size=60)
        score = slope * x + u[ROWS_BY_G] + (groupings == 2) * v[ROWS_BY_H]
        y, own = simulated(likelihood, score + (not ordinal) * rng.normal(), rng)
        if ordinal and len(np.unique(y)) < 3:
            continue
        table = {"y": y, "x": x, "g": ROWS_BY_G, "h": ROWS_BY_H, "n": np.arange(60) % 5 + 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = sample_marginal(model, table, key=key, num_samples=4 * (RANKS - 1))
        found = fit.samples
        truth = {
            "g_scale": (found["g_scale"][..., 0], scale),
            "x": (found["coefficients"][..., -1], slope),
            "g_effects": (found["g_effects"][..., 0, 0], u[0]),
        }
        if groupings == 2:
            truth["h_scale"] = found["h_scale"][..., 0], other
            truth["h_effects"] = found["h_effects"][..., 0, 0], v[0]
        if "concentration" in own:
            truth["concentration"] = found["concentration"], own["concentration"]
        if ordinal:
            truth["cutpoints"] = found["cutpoints"][..., 0], own["cutpoints"]
        for name, (draws, value) in truth.items():
            thinned = draws.reshape(-1)[:: draws.size // (RANKS - 1)][: RANKS - 1]
            ranks.setdefault(name, []).append(int(np.sum(thinned < value)))
    for name, places in ranks.items():
        counts = np.bincount(np.asarray(places) * BINS // RANKS, minlength=BINS)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3, (name, counts)


@dataclass(frozen=True)
class Nothing:
    """No columns, whose search would begin somewhere."""

    start: Any = None
    num_columns: int = 0


def test_modes_are_moved_by_the_values_found() -> None:
    """To the mean of a Normal density whose axes are those of the curvature that was given."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    given = Mode(np.array([1.0, -2.0, 0.5]), 0.0, (axes * [4.0, 1.0, 0.01]) @ axes.T, 0)
    covariance = (axes * [2.0, 1.5, 0.03]) @ axes.T
    mean = given.vector + axes @ np.array([1.5, -0.4, 0.05])

    def values(piece: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        away = piece[0] - mean
        logs = -0.5 * np.sum(away * np.linalg.solve(covariance, away.T).T, axis=1)
        return logs, np.zeros((len(away), 0))

    proposals = object.__new__(_Proposals)
    proposals.conditional, proposals.size, proposals.dtype = Nothing(), 4, np.dtype(float)
    proposals._one = values
    with workers(2) as proposals.pool:
        found = proposals.improve(given)
        np.testing.assert_allclose(found.vector, mean, rtol=1e-10)
        np.testing.assert_allclose(found.covariance, covariance, atol=1e-10)
        # Far away it is not believed.
        mean = mean + 100.0 * axes[:, 1]
        moved = axes.T @ (proposals.improve(given).vector - given.vector)
        np.testing.assert_allclose(moved[1], 2.0, rtol=1e-10)
        mean = mean * np.nan
        assert proposals.improve(given) is given

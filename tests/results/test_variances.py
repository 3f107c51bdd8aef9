"""R squared and intraclass correlations, against published values and their definitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from probmf import MixedEffects, fit_marginal
from probmf.results import MixedFit, Sampling


def fit_of(formula: str, kind: str, response: np.ndarray, **options: Any) -> MixedFit:
    rng = np.random.default_rng(1)
    n = len(response)
    table = {"y": response, "x": rng.normal(1, 2, n), "z": rng.normal(0, 1, n)}
    table |= {"g": np.arange(n) % 5, "h": rng.permutation(np.arange(n) % 3)}
    table["row"] = np.arange(n)
    model = MixedEffects(formula, likelihood=kind, **options)
    design = model.design(table)
    blank = MixedFit(model, design, {"coefficients": np.zeros((1, 1, len(design.mean.names)))}, "x")
    samples = {}
    for site, shape in blank.site_shapes.items():
        value = rng.uniform(0.3, 0.9, (1, 30, *shape))
        if site.endswith("_correlation"):
            value = np.broadcast_to([[1.0, 0.0], [0.6, 0.8]], value.shape)
        samples[site] = np.sort(value, axis=-1) if site == "cutpoints" else value
    return MixedFit(model, design, samples, "x", Sampling({}, 5, 0.1), data=table)


def test_sleepstudy_as_published(shared_data: Path) -> None:
    """The values that the R package performance has in its manual."""
    table = pd.read_parquet(shared_data / "lme4" / "sleepstudy.parquet")
    table.columns = table.columns.str.lower()
    model = MixedEffects("reaction ~ days + (1 + days | subj)".replace("subj", table.columns[-1]))
    fit = fit_marginal(model, table, objective="restricted")
    assert fit.r2()["conditional"]["mean"] == pytest.approx(0.799, abs=6e-4)
    assert fit.r2()["marginal"]["mean"] == pytest.approx(0.279, abs=6e-4)
    assert next(iter(fit.icc()))["mean"] == pytest.approx(0.722, abs=6e-4)


@pytest.mark.parametrize("kind", [
    "gaussian", "bernoulli", "ordinal", "poisson", "negativebinomial", "gamma", "beta",
    "zeroinflatedpoisson", "zeroinflatednegativebinomial",
])  # fmt: skip
def test_shares_by_definition(kind: str) -> None:
    rng = np.random.default_rng(0)
    few = kind == "bernoulli" or kind.startswith("zero")
    response = rng.integers(0, 2, 60) if few else rng.integers(1, 4, 60)
    if kind == "beta":
        response = response / 4
    formula = "y ~ x + z + (1 + x | g) + (1 | h)" + " + offset(z)" * (kind == "poisson")
    fit = fit_of(formula, kind, response * (1.0 if kind in ("gaussian", "gamma") else 1))
    of = {site: value[0] for site, value in fit.samples.items()}
    x = np.asarray(fit.design.data.population)
    z = np.stack([np.ones(60), fit.data["x"]], axis=1)
    eta = of["coefficients"] @ x.T
    root = of["g_scale"][:, :, None] * of["g_correlation"]
    by_g = np.mean(np.square(np.einsum("ni,sij->snj", z, root)).sum(axis=2), axis=1)
    by_h = of["h_scale"][:, 0] ** 2
    offset = fit.data["z"] * (kind == "poisson")
    own = np.square(np.einsum("ni,sij->snj", z, root)).sum(axis=2) + by_h[:, None]
    rate = np.exp(eta + offset + own / 2).mean(axis=1)
    phi, zero = of.get("concentration", 1.0), of.get("zero_probability", 0.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    shares = expit((eta + offset)[..., None] + np.sqrt(own)[..., None] * nodes) @ weights
    m = shares.mean(axis=1) / np.sqrt(2 * np.pi)
    # Var / m^2 of counts of which a share is zero, of mean (1 - zero) rate.
    inflated = {
        "zeroinflated" + name: np.log1p((1 / rate + more + zero) / (1 - zero))
        for name, more in (("poisson", 0.0), ("negativebinomial", 1 / phi))
    }
    left = {
        "gaussian": of.get("noise_scale", 0.0) ** 2, "bernoulli": np.pi**2 / 3,
        "ordinal": np.pi**2 / 3, "poisson": np.log1p(1 / rate),
        "negativebinomial": np.log1p(1 / rate + 1 / phi), "gamma": np.log1p(1 / phi),
        "beta": 1 / ((1 + phi) * m * (1 - m)), **inflated,
    }[kind]  # fmt: skip
    fixed = eta.var(axis=1, ddof=1)
    whole = fixed + by_g + by_h + left
    r2, icc = fit.r2(interval=0.8), fit.icc(interval=0.8)
    for row, share in (
        (r2["marginal"], fixed / whole), (r2["conditional"], 1 - left / whole),
        (icc["g"], by_g / (whole - fixed)), (icc["all"], (by_g + by_h) / (whole - fixed)),
    ):  # fmt: skip
        found = [row["mean"], row["sd"], row["0.1"], row["0.9"]]
        expected = [share.mean(), share.std(), *np.quantile(share, [0.1, 0.9])]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_counts_by_simulation_of_their_mean() -> None:
    """Nakagawa, Johnson and Schielzeth's (2017) E y, and effects of single rows in the noise."""
    rng = np.random.default_rng(0)
    fit = fit_of("y ~ x + (1 + z | g) + (1 | row)", "poisson", rng.integers(0, 9, 60))
    of = {site: value[0, :1] for site, value in fit.samples.items()}
    one = MixedFit(fit.model, fit.design, {k: v[None] for k, v in of.items()}, "x", data=fit.data)
    of = {site: value[0] for site, value in of.items()}
    draws, z = 20_000, np.stack([np.ones(60), fit.data["z"]], axis=1)
    u = rng.normal(size=(draws, 5, 2)) @ (of["g_scale"][:, None] * of["g_correlation"]).T
    e = of["row_scale"] * rng.normal(size=(draws, 60))
    by_g = (z * u[:, fit.data["g"]]).sum(axis=2)
    eta = np.asarray(fit.design.data.population) @ of["coefficients"]
    m = np.exp(eta + by_g + e).mean()
    fixed, grouped = eta.var(ddof=1), np.square(by_g).mean()
    left = np.log1p(1 / m) + of["row_scale"].item() ** 2
    found = [row["mean"] for row in (*one.r2(), *one.icc())]
    whole = fixed + grouped + left
    expected = [fixed / whole, 1 - left / whole, grouped / (grouped + left)]
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_formula_of_the_noise_and_errors() -> None:
    y = np.random.default_rng(0).normal(size=60)
    fit = fit_of("y ~ x + (1 | g)", "gaussian", y, scale_formula="~ z")
    noise = np.exp(
        2 * fit.samples["noise_coefficients"][0] @ np.stack([np.ones(60), fit.data["z"]])
    )
    by_g = fit.samples["g_scale"][0, :, 0] ** 2
    expected = np.mean(by_g / (by_g + noise.mean(axis=1)))
    assert fit.icc()["g"]["mean"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="has no group term but"):
        fit_of("y ~ x", "gaussian", y).icc()
    counts = np.arange(60) % 3
    with pytest.raises(ValueError, match="about counts before their zeros are taken out"):
        fit_of("y ~ x", "hurdlepoisson", counts).r2()

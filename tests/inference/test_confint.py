"""Confidence intervals of best fits, against lme4's and against fits with a parameter held."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import nbinom, norm, poisson

from probmf import MixedEffects, fit_marginal, sample_marginal
from probmf.inference.mixed.confint import confint
from probmf.run.driver import FitWarning


def test_profiles_as_lme4_prints_them(shared_data: Path) -> None:
    """`confint(lmer(Reaction ~ Days + (Days | Subject), sleepstudy))`, from lme4's manual."""
    table = pd.read_parquet(shared_data / "lme4" / "sleepstudy.parquet")
    table.columns = table.columns.str.lower()
    found = confint(fit_marginal(MixedEffects("reaction ~ days + (days | subject)"), table))
    published = {
        "subject_scale[Intercept]": (14.3815, 37.7160),
        "subject_correlation[Intercept, days]": (-0.4815, 0.6850),
        "subject_scale[days]": (3.8012, 8.7534),
        "noise_scale": (22.8983, 28.8580),
        "coefficients[Intercept]": (237.6807, 265.1295),
        "coefficients[days]": (7.3587, 13.5759),
    }
    for name, ends in published.items():
        row = found[name]
        assert (row["lower"], row["upper"]) == pytest.approx(ends, rel=2e-4), name
    assert len(found) == len(published)


@pytest.mark.slow
def test_a_profile_that_runs_into_a_corner_has_an_end() -> None:
    """Far from the top the correlation is one, where no search comes back from by itself."""
    rng = np.random.default_rng(0)
    subject, days = np.repeat(np.arange(18), 10), np.tile(np.arange(10.0), 18)
    start, slope = rng.normal(250, 25, 18), rng.normal(10, 6, 18)
    y = start[subject] + slope[subject] * days + rng.normal(0, 25, 180)
    model, table = MixedEffects("y ~ days + (1 + days | g)"), {"y": y, "days": days, "g": subject}
    fit = fit_marginal(model, table)
    end = confint(fit)["g_scale[days]"]["lower"]
    assert fit.maximum is not None

    def drop(scale: float) -> float:
        held = replace(model, priors={"g_scale": np.array([scale, end])})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # of a correlation of one
            top = fit_marginal(held, table).maximum
        assert top is not None
        return fit.maximum.log_likelihood - top.log_likelihood  # type: ignore[union-attr,operator]

    best = scipy.optimize.minimize_scalar(drop, bounds=(15, 50), options={"xatol": 0.05})
    assert best.fun == pytest.approx(1.959964**2 / 2, abs=5e-3)


def answers() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(12), 8), rng.normal(0, 1, 96)
    chance = expit(0.5 + x + rng.normal(0, 2, 12)[g])
    return {"y": (rng.random(96) < chance) * 1, "x": x, "g": g}


def test_profiles_of_a_logistic_model_against_fits_with_a_number_held() -> None:
    table = answers()
    model = MixedEffects("y ~ x + (1 | g)", likelihood="bernoulli")
    fit = fit_marginal(model, table, num_nodes=5)
    assert fit.maximum is not None
    found = confint(fit, interval=0.9, num_nodes=5)
    drop = 1.6448536**2 / 2
    held = table | {"held": found["coefficients[x]"]["lower"] * table["x"]}
    without = MixedEffects("y ~ 1 + offset(held) + (1 | g)", likelihood="bernoulli")
    fixed = MixedEffects(
        model.formula, likelihood="bernoulli",
        priors={"g_scale": found["g_scale[Intercept]"]["upper"]},
    )  # fmt: skip
    for other, data in ((without, held), (fixed, table)):
        top = fit_marginal(other, data, num_nodes=5).maximum
        assert top is not None
        assert fit.maximum.log_likelihood - top.log_likelihood == pytest.approx(drop, abs=2e-3)
    with pytest.raises(ValueError, match="give the num_nodes that it was fitted with"):
        confint(fit)


def test_a_scale_that_may_be_zero_begins_at_zero() -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(6), 4)
    table = {"y": rng.normal(0, 1, 24) + rng.normal(0, 0.5, 6)[g], "g": g}
    row = confint(fit_marginal(MixedEffects("y ~ 1 + (1 | g)"), table))["g_scale[Intercept]"]
    assert row["estimate"] > 0.1
    assert row["lower"] == 0.0 < row["estimate"] < row["upper"]


def test_ends_where_the_likelihood_becomes_flat() -> None:
    """Counts that vary no more than Poisson's: the concentration may be infinite."""
    y = np.random.default_rng(0).poisson(3.0, 60)
    model = MixedEffects("y ~ 1", likelihood="negativebinomial", scale_formula="~ 1")
    with pytest.warns(FitWarning, match="the likelihood is flat along concentration_coefficients"):
        fit = fit_marginal(model, {"y": y})
    found = confint(fit)
    row = found["concentration_coefficients[Intercept]"]
    assert row["upper"] == np.inf
    # The best mean is that of the counts, whatever the concentration.
    size = np.exp(row["lower"])
    drop = poisson(y.mean()).logpmf(y) - nbinom(size, size / (size + y.mean())).logpmf(y)
    assert 2 * drop.sum() == pytest.approx(1.959964**2, rel=1e-3)
    # A profile needs no standard error, and there is none here.
    mean = found["coefficients[Intercept]"]
    width = 1.959964 / np.sqrt(y.sum())
    assert mean["upper"] - mean["lower"] == pytest.approx(2 * width, rel=0.05)
    with pytest.warns(FitWarning):
        fit = fit_marginal(MixedEffects("y ~ 1", likelihood="zeroinflatedpoisson"), {"y": y})
    row = confint(fit)["zero_probability"]
    assert row["lower"] == 0.0 < row["upper"] < 0.2


def test_wald_and_bootstrap_of_a_linear_model() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 60)
    fit = fit_marginal(MixedEffects("y ~ x"), {"y": 1 + 2 * x + rng.normal(0, 0.5, 60), "x": x})
    wald = confint(fit, method="wald")
    drawn = confint(fit, method="bootstrap", num_samples=150, key=0)
    assert fit.maximum is not None
    error = fit.maximum.errors["coefficients"][1]
    row, other = wald["coefficients[x]"], drawn["coefficients[x]"]
    assert row["upper"] - row["estimate"] == pytest.approx(1.959964 * error, rel=1e-5)
    for end in ("lower", "upper"):
        assert other[end] == pytest.approx(row[end], abs=0.6 * error)
    # Of maximum likelihood the noise scale is too small by 1 / 60 on average.
    middle = (drawn["noise_scale"]["lower"] + drawn["noise_scale"]["upper"]) / 2
    assert 0.95 < middle / fit.samples["noise_scale"].item() < 1.01
    few = [confint(fit, method="bootstrap", num_samples=5, key=0).rows for _ in range(2)]
    assert few[0] == few[1]


def test_errors() -> None:
    table = answers()
    fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table, objective="restricted")
    with pytest.raises(
        ValueError, match=r"The fit is by 'marginal/restricted', expected one of fi"
    ):
        confint(fit)
    best = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
    with pytest.raises(ValueError, match="The bootstrap draws at random; give key="):
        confint(best, method="bootstrap")
    # Data sets that a model does not make.
    y = {"y": np.array([1.0, 2.5, 2.0, 0.5, 1.5, 2.5]), "c": [0, 1, 0, 0, 0, 1]}
    for model, data, why in (
        (MixedEffects("y | cens(c) ~ 1"), y, r"cens\(...\) tells which responses are censored"),
        (
            MixedEffects("y ~ 1", likelihood="poisson", weights="w"),
            {"y": [1, 2, 0, 3], "w": [1, 2, 1, 3]}, "weights='w' counts rows",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"method is 'bootstrap', which .*: {why}.*'profile'"):
            confint(fit_marginal(model, data), method="bootstrap", key=0)
    with pytest.raises(ValueError, match="method is 'exact'; expected 'wald' or 'profile'"):
        confint(best, method="exact")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fit is a str, expected a MixedFit"):
        confint("fit")  # type: ignore[arg-type]


def test_cutpoints_go_along_with_a_column_far_from_zero() -> None:
    """They lie about 600 beside a year, which the search, its profiles and draws have to reach."""
    rng = np.random.default_rng(0)
    year = np.round(rng.uniform(2000, 2020, 80), 2)
    table = {"o": np.digitize(0.3 * (year - 2010) + rng.logistic(size=80), [-1.0, 1.0])}
    fit, near = (
        fit_marginal(MixedEffects("o ~ x", likelihood="ordinal"), table | {"x": year - zero})
        for zero in (0.0, 2010.0)
    )
    assert fit.maximum is not None
    assert near.maximum is not None
    assert fit.maximum.log_likelihood == pytest.approx(near.maximum.log_likelihood, abs=1e-6)
    slope, cut = fit.samples["coefficients"][0, 0, 0], fit.samples["cutpoints"][0, 0]
    np.testing.assert_allclose(cut, near.samples["cutpoints"][0, 0] + 2010 * slope, rtol=1e-5)

    def minus(at: np.ndarray, first: float) -> float:
        """Minus log likelihood, the first cutpoint held; cutpoints are seen from the year 2010."""
        ends = np.array([-np.inf, at[0], at[0] + np.exp(at[1]), np.inf])
        score = (first - at[0]) / 2010 * (year - 2010)
        low, high = (ends[table["o"] + up] - score for up in (0, 1))
        return -float(np.sum(np.log(np.maximum(expit(high) - expit(low), 1e-300))))

    found = confint(fit)["cutpoints[0|1]"]
    start = np.array([cut[0] - 2010 * slope, np.log(np.diff(cut)[0])])
    for end in (found["lower"], found["upper"]):
        top = minimize(minus, start, (end,), method="Nelder-Mead", options={"fatol": 1e-9})
        drop = fit.maximum.log_likelihood + top.fun
        assert 2 * drop == pytest.approx(norm.ppf(0.975) ** 2, abs=2e-3)
    model = MixedEffects("o ~ x", likelihood="ordinal")
    draws = sample_marginal(model, table | {"x": year}, key=0, num_samples=400)
    assert draws.method == "importance"
    middle = draws.samples["coefficients"].mean()
    assert middle == pytest.approx(slope, abs=0.5 * fit.maximum.errors["coefficients"][0])

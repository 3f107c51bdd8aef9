"""Best fits of mixed models that are not Gaussian: published ones, separation, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import published_models as published
import pytest

from probmf import MixedEffects, fit_marginal
from probmf.inference.mixed.separation import separated_coefficients
from probmf.run.driver import FitWarning

#: Fits that the quick tests do, by model and method; the others are slow.
QUICK = {("cbpp-laplace", "Laplace"), ("culcita-agq", "AGHQ 7")}


def cases() -> list[Any]:
    """Every model and method of the file that can be said here."""
    found = []
    for name, methods in published.METHODS.items():
        for method in methods:
            marks = () if (name, method) in QUICK else pytest.mark.slow
            found.append(pytest.param(name, method, marks=marks, id=f"{name}-{method}"))
    return found


@pytest.mark.parametrize(("name", "method"), cases())
def test_best_fits_are_those_published(name: str, method: str, shared_data: Path) -> None:
    """-2 log L to 1e-5, and estimates, of lme4's and MixedModels.jl's tests."""
    one = published.values(shared_data)[name]
    wanted = next(own for own in one["optimum"] if own["method"].startswith(method))
    made = published.MODELS[name](shared_data, one)
    fit = fit_marginal(made.model, made.table, num_nodes=published.num_nodes(method))
    got = 2 * fit.history.objective[-1] + made.constant
    np.testing.assert_allclose(got, wanted["minus2loglik"], atol=1e-5, rtol=0)
    point = fit.point()
    fixed = np.array(list(wanted.get("fixed", {}).values()))
    if name not in published.RECODED and len(fixed) == len(point["coefficients"]):
        np.testing.assert_allclose(np.sort(point["coefficients"]), np.sort(fixed), atol=1e-3)
    if "se_fixed" in wanted:
        errors = fit.maximum.errors["coefficients"]
        # They are printed with six decimals.
        np.testing.assert_allclose(
            np.sort(errors), np.sort([*wanted["se_fixed"].values()]), rtol=2e-4, atol=5e-7
        )
    for site, sd in wanted.get("random_sd", {}).items():
        if f"{site}_scale" in point:
            np.testing.assert_allclose(point[f"{site}_scale"], [sd], atol=1e-3)


def yes_no() -> dict[str, Any]:
    """Answers that a number and a factor separate."""
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=60), np.repeat(np.arange(10), 6)
    own = np.where(x > 0.1, "above", "below")
    return {"y": (x > 0.1).astype(int), "own": own, "z": rng.normal(size=60), "g": g}


def test_complete_separation_is_told_with_the_coefficient() -> None:
    table = yes_no()
    model = MixedEffects("y ~ own + z + (1 | g)", likelihood="bernoulli")
    told = r"Complete separation: along the coefficient 'own\[T.below\]' the likelihood of \d+ of"
    with pytest.warns(FitWarning, match=told) as caught:
        fit = fit_marginal(model, table)
    assert len(caught) == 1
    assert "Complete separation" in fit.notes[0]
    assert "flat along coefficients" not in " ".join(fit.notes)


def test_a_search_that_leaves_its_reach_ends_at_the_best_point() -> None:
    x = np.random.default_rng(0).normal(size=40)
    with pytest.warns(FitWarning, match="Complete separation: along the coefficient 'x'"):
        fit = fit_marginal(
            MixedEffects("y ~ x", likelihood="bernoulli"), {"y": 1 * (x > 0), "x": x}
        )
    assert fit.maximum.log_likelihood > -5.0


def test_counts_of_zero_separate() -> None:
    table = yes_no()
    counts = np.where(table["own"] == "above", np.random.default_rng(1).poisson(3.0, 60), 0)
    model = MixedEffects("y ~ own + (1 | g)", likelihood="poisson")
    with pytest.warns(FitWarning, match=r"coefficient 'own\[T.below\]'.* of no row falls"):
        fit_marginal(model, table | {"y": counts})


@pytest.mark.parametrize(
    "unit", [1e-6, *(pytest.param(unit, marks=pytest.mark.slow) for unit in (1.0, 1e6))]
)
def test_units_do_not_decide_what_is_separated(unit: float) -> None:
    """Of weights and of responses: numbers are separated by bounds alone."""
    table = yes_no()
    numbers = unit * (10.0 + table["z"] + np.random.default_rng(2).normal(size=60))
    table |= {"w": np.full(60, unit**1.5), "t": numbers, "c": 1 * (table["own"] == "above")}
    wide = table | {"c": 2 * table["c"], "top": numbers + 1e3 * unit}
    own: dict[str, Any] = {"noise_scale": np.asarray(unit), "df": np.asarray(4.0)}
    for formula, kind, data, names in (
        ("y ~ z", "bernoulli", table, None), ("y ~ own", "bernoulli", table, "own[T.below]"),
        ("t ~ own", "studentt", table, None), ("t | cens(c) ~ own", "gaussian", table, "own"),
        ("t | cens(c, top) ~ own", "gaussian", wide, None),
    ):  # fmt: skip
        model = MixedEffects(formula, likelihood=kind, weights="w" if kind == "bernoulli" else None)
        found = separated_coefficients(model, model.design(data), own)
        assert len(found) == (names is not None)
        assert all(str(names) in one.text for one in found)


def test_a_scale_at_zero_is_told() -> None:
    """As many answers in every group: the effects vary less than chance has it."""
    table = {"y": np.tile([0, 1, 1], 8), "g": np.repeat(np.arange(8), 3)}
    with pytest.warns(FitWarning, match=r"The fit is singular, as g_scale\[Intercept\] is zero"):
        fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)", likelihood="bernoulli"), table)
    np.testing.assert_allclose(fit.point()["coefficients"], [np.log(2.0)], atol=1e-4)
    least = -8 * (np.log(1 / 3) + 2 * np.log(2 / 3))
    np.testing.assert_allclose(fit.history.objective[-1], least, rtol=1e-6)


@pytest.mark.parametrize(
    ("formula", "likelihood", "options", "told"),
    [
        ("y ~ z + (1 | g) + (1 | h)", "bernoulli", {"num_nodes": 5}, "g_effects, h_effects"),
        ("y ~ z + (own + z | g)", "bernoulli", {"num_nodes": 5}, r"3 effects .* 5\^3 nodes"),
        ("y ~ z + (1 | g)", "bernoulli", {"num_nodes": 5, "objective": "map"}, "objective='map'"),
        ("y ~ z + (1 | g)", "gaussian", {"num_nodes": 5}, "out exactly"),
        ("y ~ z + (1 | g)", "bernoulli", {"num_nodes": 0}, "num_nodes is 0"),
    ],
)  # fmt: skip
def test_bad_arguments(formula: str, likelihood: str, options: dict[str, Any], told: str) -> None:
    table = yes_no() | {"h": np.tile(np.arange(6), 10)}
    with pytest.raises(ValueError, match=told):
        fit_marginal(MixedEffects(formula, likelihood=likelihood), table, **options)

"""Another unit or another zero of a column changes nothing but what is measured in it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from rings import slow_but

from probmf import (
    MixedEffects,
    fit_laplace,
    fit_marginal,
    sample_gibbs,
    sample_marginal,
    sample_nuts,
)
from probmf.inference.mixed.exact_problem import Objective
from probmf.results import MixedFit

FORMULA = "y ~ x + w + (x | g) + (1 | h)"
SHORT: dict[str, Any] = {"num_warmup": 10, "num_samples": 6, "num_chains": 1, "progress": False}
Method = Callable[..., MixedFit]


def table() -> dict[str, np.ndarray]:
    """Numbers of few digits, that a level of a billion leaves exact."""
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(8), 6), np.tile(np.arange(4), 12)
    x, w = (np.round(64 * rng.normal(size=48)) / 64 for _ in range(2))
    mean = 2 - x + 0.5 * w + (rng.normal(size=8) + rng.normal(size=8) * x[:6].mean())[g]
    y = mean + rng.normal(size=8)[g] * x + 0.5 * rng.normal(size=4)[h] + 0.4 * rng.normal(size=48)
    return {"y": y, "x": x, "w": w, "g": g, "h": h}


METHODS: dict[str, Method] = {
    **{
        objective: lambda model, data, o=objective: fit_marginal(model, data, objective=o)
        for objective in ("restricted", "map")
    },
    "importance": lambda model, data: sample_marginal(model, data, key=0, num_samples=20),
    "laplace": lambda model, data: fit_laplace(
        model, data, key=0, num_samples=20, marginalize=("g_effects", "h_effects")
    ),
    "gibbs": lambda model, data: sample_gibbs(model, data, key=0, **SHORT),
    "joint": lambda model, data: sample_nuts(model, data, key=0, max_tree_depth=4, **SHORT),
    "marginal": lambda model, data: sample_nuts(
        model, data, key=0, max_tree_depth=4, marginalize="all", **SHORT
    ),
}  # fmt: skip


@cache
def plain(name: str) -> MixedFit:
    return METHODS[name](MixedEffects(FORMULA), table())


@pytest.mark.filterwarnings("ignore:::probmf.inference")
@pytest.mark.parametrize(
    "name",
    slow_but(METHODS, "restricted", "map", "importance"),
)
def test_units(name: str) -> None:
    """The same key gives the same draws in other units."""
    x_unit, w_unit, y_unit = 1e-9, 7e8, 1e5
    data = table()
    scaled = {**data, "x": x_unit * data["x"], "w": w_unit * data["w"], "y": y_unit * data["y"]}
    fit = METHODS[name](MixedEffects(FORMULA), scaled)
    units = {
        "coefficients": y_unit / np.array([1.0, x_unit, w_unit]),
        "g_effects": y_unit / np.array([1.0, x_unit]),
        "g_scale": y_unit / np.array([1.0, x_unit]),
        "h_effects": y_unit, "h_scale": y_unit, "noise_scale": y_unit, "g_correlation": 1.0,
    }  # fmt: skip
    # The mode that proposals are made around is found up to the search's tolerance, so that now and
    # then another of them is chosen.
    least = 0.9 if name == "importance" else 1.0
    for site, unit in units.items():
        wanted = plain(name).samples[site]
        tolerance = 1e-4 * np.max(np.abs(wanted))
        close = np.isclose(fit.samples[site] / unit, wanted, rtol=1e-4, atol=tolerance)
        assert np.mean(close) >= least, site
    if name == "laplace":
        evidence = [one.sampling.info["log_evidence"] for one in (plain(name), fit)]
        assert evidence[1] + len(data["y"]) * np.log(y_unit) == pytest.approx(evidence[0], abs=1e-5)


LEVELS = "y ~ x + w + (1 | g) + (1 | h)"
#: What does not change with the level of a column.
SITES: dict[str, Any] = {
    "coefficients": np.s_[..., 1:], "g_scale": ..., "h_scale": ..., "noise_scale": ...,
    "g_effects": ..., "h_effects": ...,
}  # fmt: skip


def moved(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**table, "x": table["x"] + 1e9, "w": 1e3 * (table["w"] - 1e8)}


@pytest.mark.parametrize("objective", ["likelihood", "restricted"])
def test_levels_of_fits(objective: Objective) -> None:
    one, other = (
        fit_marginal(MixedEffects(LEVELS), data, objective=objective)
        for data in (table(), moved(table()))
    )
    # The integral over coefficients is in their units.
    volume = np.log(1e3) if objective == "restricted" else 0.0
    got = other.history.objective[-1] - volume
    assert got == pytest.approx(one.history.objective[-1], rel=1e-9)
    for site, part in SITES.items():
        unit = np.array([1.0, 1e3]) if site == "coefficients" else 1.0
        np.testing.assert_allclose(
            other.samples[site][part] * unit, one.samples[site][part], rtol=1e-4, atol=1e-6
        )


LONG: dict[str, Any] = {"num_warmup": 300, "num_samples": 500, "num_chains": 1, "progress": False}
SAMPLERS: dict[str, Method] = {
    "importance": lambda model, data: sample_marginal(model, data, key=0, num_samples=500),
    "gibbs": lambda model, data: sample_gibbs(model, data, key=0, **LONG),
    "joint": lambda model, data: sample_nuts(model, data, key=0, **LONG),
    "marginal": lambda model, data: sample_nuts(model, data, key=0, marginalize="all", **LONG),
    "coefficients": lambda model, data: sample_nuts(
        model, data, key=0, marginalize="coefficients", **LONG
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    SAMPLERS,
)
@pytest.mark.filterwarnings("ignore:::probmf.inference")
@pytest.mark.slow
def test_levels_of_draws(name: str) -> None:
    """Medians agree within half a quartile range, and those ranges within 40 %.

    Four groups' effects have tails too heavy for standard deviations of so few draws.
    """
    one, other = (SAMPLERS[name](MixedEffects(LEVELS), data) for data in (table(), moved(table())))
    for site, part in SITES.items():
        unit = np.array([1.0, 1e3]) if site == "coefficients" else 1.0
        low, middle, high = np.quantile(one.samples[site][part], [0.25, 0.5, 0.75], axis=(0, 1))
        got = np.quantile(other.samples[site][part] * unit, [0.25, 0.5, 0.75], axis=(0, 1))
        assert np.all(np.abs(got[1] - middle) < 0.5 * (high - low)), site
        assert np.all(np.abs(np.log((got[2] - got[0]) / (high - low))) < 0.4), site


def test_a_year_is_no_constant_and_a_combination_of_years_is_refused() -> None:
    data = moved(table())
    design = MixedEffects(LEVELS).design(data)
    assert design.data.mean.names == ("Intercept", "x", "w")
    doubled = {**data, "w": 2 * data["x"] + 3}
    with pytest.raises(ValueError, match=r"collinear: 'w' is a combination"):
        MixedEffects(LEVELS).design(doubled)

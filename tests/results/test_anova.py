"""Likelihood-ratio tests between best fits."""

from typing import Any

import numpy as np
import pytest
import scipy.stats

from probmf import Gaussian, MixedEffects
from probmf.results import MixedFit, anova
from probmf.results.records import Maximum


def made(
    formula: str, count: int, height: float | None, *, method: str = "marginal/likelihood",
    shift: float = 0.0, likelihood: Any = "gaussian", weights: str | None = None,
) -> MixedFit:  # fmt: skip
    """A best fit by no search, of a given height."""
    rng = np.random.default_rng(0)
    g = np.arange(12) % 3
    table = {"y": rng.normal(size=12) + shift, "x": rng.normal(size=12), "g": g}
    table["w"] = np.full(12, 2.0)
    model = MixedEffects(formula, likelihood=likelihood, weights=weights)
    design = model.design(table)
    draws = {"noise_scale": np.ones((1, 1))}
    return MixedFit(model, design, draws, method, maximum=Maximum({}, count, 12, height))


def test_the_ratio_has_a_chi_squared_distribution() -> None:
    large, small = made("y ~ x + (1 | g)", 4, -20.0), made("y ~ 1 + (1 | g)", 3, -22.5)
    found = anova(large, small)
    assert [row["model"] for row in found] == ["y ~ 1 + (1 | g)", "y ~ x + (1 | g)"]
    first, second = found
    assert (first["chi2"], first["p"], second["df"]) == (None, None, 1)
    assert second["chi2"] == pytest.approx(5.0)
    assert second["p"] == pytest.approx(scipy.stats.chi2.sf(5.0, 1))
    assert (second["AIC"], second["BIC"]) == pytest.approx((48.0, 40.0 + 4 * np.log(12)))
    assert not found.notes


def test_a_scale_on_the_boundary_is_told() -> None:
    found = anova(made("y ~ x + (1 | g)", 4, -20.0), made("y ~ x + (1 + x | g)", 6, -19.0))
    assert "on the boundary" in found.notes[0]
    assert found["y ~ x + (1 + x | g)"]["df"] == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made("y ~ 1 + (1 | g)", 3, None), "Fit 1 .* has no maximized likelihood"),
        (made("y ~ 1 + (1 | g)", 3, -1.0, shift=1.0), "Fit 1 is of other responses"),
        (made("y ~ 1 + (1 | g)", 3, -1.0, method="marginal/restricted"), "has the objective"),
        (made("y ~ 1 + (1 | g)", 3, -1.0, weights="w"), "Fit 1 is of other weights"),
        (made("y ~ 1 + (1 | g)", 3, -1.0, likelihood="studentt"), "has the likelihood StudentT"),
    ],
    ids=["map", "rows", "objective", "weights", "likelihood"],
)
def test_fits_that_are_not_compared(other: MixedFit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anova(made("y ~ x + (1 | g)", 4, -20.0), other)


def test_restricted_likelihoods_need_the_same_coefficients() -> None:
    one, other = (
        made(f"y ~ {left} + (1 | g)", 3, -1.0, method="marginal/restricted") for left in "1x"
    )
    with pytest.raises(ValueError, match="restricted likelihoods of different coefficients"):
        anova(one, other)
    with pytest.raises(ValueError, match="anova got 1 fit"):
        anova(one)
    with pytest.raises(TypeError, match="anova got a Gaussian"):
        anova(one, Gaussian())  # type: ignore[arg-type]

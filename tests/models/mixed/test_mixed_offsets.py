"""Offsets, and weights of rows: against dense densities."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import pytest
import toys
from numpyro.infer.util import log_density
from scipy import stats

from probmf import MixedEffects, fit_marginal, load

RNG = np.random.default_rng(3)
TABLE = toys.mixed() | {"o": RNG.normal(size=40), "w": RNG.uniform(0.3, 3.0, 40)}
TABLE["y"] = TABLE["y"] + 3 * TABLE["o"]
MODEL = MixedEffects("y ~ x + offset(2 * o) + offset(o) + (1 | g)", weights="w")


def test_a_weighted_fit_with_offsets_is_the_dense_one(tmp_path: Path) -> None:
    """The noise of a row of weight w has the variance s^2 / w, as in lme4."""
    fit = fit_marginal(MODEL, TABLE)
    noise, between = fit.samples["noise_scale"].item(), fit.samples["g_scale"].item()
    beta, group = fit.samples["coefficients"].ravel(), TABLE["g"]
    covariance = np.diag(noise**2 / TABLE["w"]) + between**2 * (group[:, None] == group)
    mean = beta[0] + beta[1] * TABLE["x"] + 3 * TABLE["o"]
    wanted = stats.multivariate_normal(mean, covariance).logpdf(TABLE["y"])
    assert fit.history is not None
    assert -fit.history.objective[-1] == pytest.approx(wanted, rel=1e-9)
    moved = TABLE | {"z": TABLE["y"] - 3 * TABLE["o"]}
    plain = fit_marginal(MixedEffects("z ~ x + (1 | g)", weights="w"), moved)
    np.testing.assert_allclose(plain.samples["coefficients"].ravel(), beta, rtol=1e-5)
    new = {"x": [1.0], "o": [2.0], "g": [3]}
    effect = fit.samples["g_effects"].ravel()[3]
    assert fit.predict(new).mean[0] == pytest.approx(beta.sum() + 6.0 + effect)
    del new["g"]
    assert fit.predict(new, level="population").mean[0] == pytest.approx(beta.sum() + 6.0)
    np.testing.assert_allclose(fit.predict().mean, fit.predict(TABLE).mean)
    with pytest.raises(ValueError, match="no column 'o'"):
        fit.predict({"x": [1.0], "g": [3]})
    fit.save(tmp_path / "fit")
    np.testing.assert_array_equal(load(tmp_path / "fit").predict(TABLE).mean, fit.predict().mean)


def test_a_count_counts_by_its_weight() -> None:
    table = toys.mixed("counts") | {"w": TABLE["w"], "n": np.exp(TABLE["o"])}
    model = MixedEffects("y ~ offset(np.log(n)) + (1 | g)", likelihood="poisson", weights="w")
    (data,) = model.arguments(table)
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(data)
    latent = {name: site["value"] for name, site in trace.items() if name != "y"}
    effects = np.asarray(latent["g_effects"], float)[table["g"], 0]
    score = float(latent["coefficients"][0]) + effects + np.log(table["n"])
    wanted = np.sum(table["w"] * stats.poisson.logpmf(table["y"], np.exp(score)))
    rest = sum(
        float(np.sum(site["fn"].log_prob(site["value"])))
        for name, site in trace.items() if site["type"] == "sample" and name != "y"
    )  # fmt: skip
    found = jax.jit(lambda values: log_density(model, (data,), {}, values)[0])(latent)
    assert float(found) - rest == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("formula", "columns", "message"),
    [
        ("y ~ x + offset(o)", {"o": [np.inf, *[0.0] * 39]}, "Column 'o' is inf in row 0"),
        ("y ~ x + offset(np.log(o))", {"o": [1.0, 0.0] * 20}, "is -inf in row 1"),
        ("y ~ x + offset(o)", {"o": ["a", "b"] * 20}, "Column 'o' must hold numbers"),
        ("y ~ x - offset(o)", {}, r"an offset is added; .* offset\(-x\)"),
        ("y ~ x + offset()", {}, "an offset is a column, or code"),
        ("y ~ x:offset(o)", {}, "An offset is a term by itself"),
        ("y ~ (offset(o) | g)", {}, "outside of group terms"),
        ("y ~ offset(o ^ 2)", {}, "exclusive or"),
        ("y ~ offset(y)", {}, "would explain itself"),
    ],
)
def test_bad_offsets(formula: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MixedEffects(formula).design(TABLE | columns)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1.0, "is -1 in row 4"),
        (0.0, "weight zero out"),
        (np.nan, "missing value"),
        ("a", "numbers"),
    ],
)
def test_bad_weights(weight: Any, message: str) -> None:
    column = [*[1.0] * 4, weight, *[1.0] * 35]
    with pytest.raises((TypeError, ValueError), match=f"Column 'w' .*{message}"):
        MODEL.design(TABLE | {"w": column})
    with pytest.raises(
        TypeError, match="weights is of type ndarray; expected the name of a column"
    ):
        MixedEffects("y ~ x", weights=TABLE["w"])  # type: ignore[arg-type]

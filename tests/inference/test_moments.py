"""Variances by moments, against least squares on every product of two residuals."""

from typing import Any

import numpy as np
import pytest
from lapack_designs import table

from probmf import MixedEffects
from probmf.inference.mixed.identifiability import covariance_terms
from probmf.inference.mixed.moments import moment_estimates


@pytest.mark.parametrize("term", ["(1 + x | h)", "(1 + x || h)"])
def test_are_least_squares(term: str) -> None:
    data = table() | {"far": np.linspace(-1.0, 1.0, 150)}
    model = MixedEffects(f"y ~ 1 + x + offset(far) + (1 | g) + {term}")
    design = model.design(data)
    found = moment_estimates(model, design, covariance_terms(design))
    assert found is not None
    columns = np.stack([np.ones(150), data["x"]], axis=1)
    response = data["y"] - data["far"]
    residual = response - columns @ np.linalg.lstsq(columns, response, rcond=None)[0]
    g, h = (np.eye(data[name].max() + 1)[data[name]] for name in "gh")
    slopes = h * data["x"][:, None]
    parts = [np.eye(150), g @ g.T, h @ h.T, slopes @ slopes.T]
    if "||" not in term:
        parts.append(h @ slopes.T + slopes @ h.T)
    matrix = np.stack([part.ravel() for part in parts], axis=1)
    wanted = np.linalg.lstsq(matrix, np.outer(residual, residual).ravel(), rcond=None)[0]
    assert found["noise_scale"] == pytest.approx(np.sqrt(wanted[0]))
    got: dict[str, Any] = {name: np.asarray(value) for name, value in found.items()}
    np.testing.assert_allclose(got["g_scale"], np.sqrt(wanted[1]), rtol=1e-8)
    scales = [value for name, value in got.items() if name.endswith("_scale")]
    np.testing.assert_allclose(np.concatenate(scales[2:]), np.sqrt(wanted[2:4]), rtol=1e-8)
    if "||" not in term:
        own = got["h_correlation"] @ got["h_correlation"].T
        assert own[0, 1] == pytest.approx(wanted[4] / np.sqrt(wanted[2] * wanted[3]))


def test_are_of_some_size() -> None:
    """Where a variance would be negative, or the noise nothing; none where rows can't tell."""
    data = table()
    means = np.array([data["y"][data["h"] == group].mean() for group in range(6)])
    model = MixedEffects("y ~ 1 + (1 | h)")
    same = model.design(data | {"y": data["y"] - means[data["h"]]})
    found = moment_estimates(model, same, covariance_terms(same))
    assert found is not None
    wanted = float(found["noise_scale"]) * np.sqrt(6 / 150)
    np.testing.assert_allclose(found["h_scale"], [wanted], rtol=1e-12)
    exact = model.design(data | {"y": means[data["h"]]})
    found = moment_estimates(model, exact, covariance_terms(exact))
    assert found is not None
    spread = np.var(means[data["h"]])
    assert found["noise_scale"] == pytest.approx(np.sqrt(0.05 * spread))
    model = MixedEffects("y ~ 1 + (1 | row)")
    each = model.design(data | {"row": np.arange(150)})
    assert moment_estimates(model, each, covariance_terms(each)) is None

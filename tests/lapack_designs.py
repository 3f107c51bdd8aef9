"""Small crossed designs, made to go by LAPACK as only large ones do."""

import numpy as np
import pytest

from probmf import MixedEffects, marginalize
from probmf.effects import pattern as pattern_module
from probmf.inference.marginal import host_density as host_module
from probmf.inference.marginal.density import MarginalDensity

FORMULA = "y ~ 1 + x + (1 | g) + (1 + x | h)"


def table(seed: int = 1) -> dict[str, np.ndarray]:
    """150 rows of two crossed groups, one of them with a slope."""
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, 30, 150), rng.integers(0, 6, 150), rng.normal(0.5, 1.0, 150)
    mean = 2 - x + rng.normal(0, 0.8, 30)[g] + rng.normal(0, 0.7, 6)[h] + 0.4 * x * (h - 2)
    return {"y": mean + rng.normal(0, 0.5, 150), "x": x, "g": g, "h": h}


def use_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small designs go by LAPACK as large ones do."""
    monkeypatch.setattr(pattern_module, "PAIR_COST", 0)
    monkeypatch.setattr(host_module, "LEAST_COLUMNS", 1)


def density_of(model: MixedEffects, data: dict[str, np.ndarray]) -> MarginalDensity:
    """The marginal density with every effect integrated out."""
    design = model.design(data)
    marginal = marginalize(model, model.effect_sites(design))
    return MarginalDensity(marginal, model.arguments(design), {})

"""Traced densities are kept by what they were made of, and by nothing less."""

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from lapack_designs import table

from probmf import MixedEffects, fit_marginal, sample_marginal
from probmf.inference.marginal import model_cache
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.model_cache import MOST_KEPT, kept_density

FORMULA = "y ~ 1 + x + (1 | g)"


def density_of(model: MixedEffects, data: dict[str, np.ndarray]) -> MarginalDensity:
    design = model.design(data)
    return kept_density(model.program, model.arguments(design), model.effect_sites(design))


def test_second_calls_give_the_same_and_trace_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    init = MarginalDensity.__init__

    def counted(self: MarginalDensity, *args: Any) -> None:
        made.append(self)
        init(self, *args)

    monkeypatch.setattr(MarginalDensity, "__init__", counted)
    data = table(11)
    fits = [sample_marginal(MixedEffects(FORMULA), data, key=0, num_samples=50) for _ in "ab"]
    assert len(made) == 1
    for name, value in fits[0].samples.items():
        np.testing.assert_array_equal(value, fits[1].samples[name])
    points = [fit_marginal(MixedEffects(FORMULA), data) for _ in "ab"]
    assert len(made) == 1
    np.testing.assert_array_equal(*[point.samples["g_effects"] for point in points])


def test_whatever_differs_is_made_anew() -> None:
    narrow = MixedEffects(FORMULA, priors={"g_scale": dist.HalfNormal(0.01)})
    changed = table()
    changed["x"][7] += 1e-4
    first = density_of(MixedEffects(FORMULA), table())
    others = [
        density_of(narrow, table()),
        density_of(MixedEffects(FORMULA, likelihood="lognormal"), table() | {"y": np.ones(150)}),
        density_of(MixedEffects(FORMULA), changed),
    ]
    with jax.enable_x64(True):
        others.append(density_of(MixedEffects(FORMULA), table()))
    found = [first, *others]
    assert len({id(density) for density in found}) == len(found)


def test_priors_of_the_same_contents_are_the_same() -> None:
    models = [MixedEffects(FORMULA, priors={"g_scale": dist.HalfNormal(0.01)}) for _ in "ab"]
    assert density_of(models[0], table()) is density_of(models[1], table())


def test_only_a_few_and_small_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MixedEffects(FORMULA)
    found = [density_of(model, table(1 + place)) for place in range(MOST_KEPT)]
    assert density_of(model, table(1)) is found[0]
    density_of(model, table(1 + MOST_KEPT))  # The second was used longest ago.
    assert density_of(model, table(1)) is found[0]
    assert density_of(model, table(2)) is not found[1]
    monkeypatch.setattr(model_cache, "MOST_NUMBERS", 100)
    assert density_of(model, table(1)) is not found[0]

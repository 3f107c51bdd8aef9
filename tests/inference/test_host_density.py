"""Marginal densities by LAPACK in place of XLA: the same fits, scores and draws."""

from typing import Any

import jax
import numpy as np
import pytest
from lapack_designs import FORMULA, density_of, table, use_lapack

from probmf import MixedEffects, fit_marginal, sample_marginal
from probmf.inference.marginal import host_density as host_module
from probmf.inference.mixed.exact_problem import Objective

SIMPLE = "y ~ 1 + x + (1 | g) + (1 | h)"


@pytest.fixture
def by_lapack(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches the ways: all of it by LAPACK, or none."""
    use_lapack(monkeypatch)
    serves = host_module.HostDensity.serves

    def switch(on: bool) -> None:
        monkeypatch.setattr(host_module.HostDensity, "serves", serves if on else lambda _: False)

    return switch


def test_score_is_that_of_the_program(by_lapack: Any) -> None:
    by_lapack(True)
    with jax.enable_x64(True):
        density = density_of(MixedEffects(FORMULA), table())
        assert density.host is not None
        vector = np.random.default_rng(0).normal(-0.5, 0.3, density.num_dims)
        got, slopes = density.score(vector)
        want, gradient = density.value_and_grad(jax.numpy.asarray(vector))
    assert got == pytest.approx(float(want), abs=1e-9)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("formula", [SIMPLE, FORMULA])
def test_the_average_information_is_near_the_curvature(formula: str, by_lapack: Any) -> None:
    by_lapack(True)
    fit = fit_marginal(MixedEffects(formula), table(), objective="map")
    with jax.enable_x64(True):
        density = density_of(MixedEffects(formula), table())
        assert density.host is not None
        sites = {name: value[0, 0] for name, value in fit.samples.items()}
        top = np.asarray(density.unconstrain({k: sites[k] for k in density.places}))
        moves = 1e-4 * np.eye(len(top))
        slopes = [density.score(top + m)[1] - density.score(top - m)[1] for m in moves]
        value, gradient, found = density.host.informed(top)
        assert value == density.score(top)[0]
        np.testing.assert_array_equal(gradient, density.score(top)[1])
    curvature = -np.array(slopes) / 2e-4
    # Along each direction: a search needs no more.
    ratios = np.linalg.eigvals(np.linalg.solve(curvature, found)).real
    assert np.all((ratios > 0.5) & (ratios < 2.0))


@pytest.mark.parametrize("objective", ["restricted", pytest.param("map", marks=pytest.mark.slow)])
def test_the_same_fit(objective: Objective, by_lapack: Any) -> None:
    fits = []
    for on in (True, False):
        by_lapack(on)
        fits.append(fit_marginal(MixedEffects(SIMPLE), table(), objective=objective))
    one, other = fits
    assert one.history.objective[-1] == pytest.approx(other.history.objective[-1], abs=1e-8)
    for name, value in other.samples.items():
        np.testing.assert_allclose(one.samples[name], value, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_draws_agree_and_are_repeatable(by_lapack: Any) -> None:
    by_lapack(True)
    model = MixedEffects(SIMPLE)
    fit = sample_marginal(model, table(), key=0, num_samples=2000)
    again = sample_marginal(model, table(), key=0, num_samples=2000)
    assert fit.method == "marginal/importance"
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(value, again.samples[name])
    by_lapack(False)
    other = sample_marginal(model, table(), key=1, num_samples=2000)
    assert set(fit.samples) == set(other.samples)
    for name, value in other.samples.items():
        assert fit.samples[name].shape == value.shape
        assert fit.samples[name].dtype == value.dtype
        spread = value.std(axis=(0, 1)) + 1e-12
        difference = fit.samples[name].mean(axis=(0, 1)) - value.mean(axis=(0, 1))
        # Two sets of 2,000 draws from 2,000 effective ones: five standard errors.
        assert np.max(np.abs(difference) / spread) < 5 * np.sqrt(4 / 2000)


def test_single_precision_elsewhere_changes_nothing_here(by_lapack: Any) -> None:
    by_lapack(True)
    density = density_of(MixedEffects(SIMPLE), table())
    vector = np.full(density.num_dims, -0.3)
    value, gradient = density.score(vector)
    with jax.enable_x64(True):
        want, slopes = density_of(MixedEffects(SIMPLE), table()).score(vector)
    assert value == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-3, atol=1e-3)

"""`sample_marginal` of NumPyro models of one's own: against sums over a grid, and refusals."""

import warnings
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import halfnorm, norm

from probmf import marginalize, sample_marginal
from probmf.diagnostics import FallbackWarning
from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.inference import importance_rounds
from probmf.run.driver import FitWarning

GROUP, Y = np.array([0, 0, 1, 2, 2, 2, 3]), np.array([1.2, 2.1, -0.4, 0.3, 0.9, 0.1, -1.5])


def model(group: np.ndarray, y: np.ndarray, sizes: tuple[int, ...] = (4,)) -> None:
    """Means of four groups; their number may be among the arguments."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    numpyro.deterministic("variance", scale**2)
    with numpyro.plate("school", sizes[0]):
        effect = numpyro.sample("effect", dist.Normal(0.0, scale))
    with numpyro.plate("row", len(group)):
        numpyro.sample("y", dist.Normal(effect[group], 0.5), obs=y)


@pytest.mark.parametrize("gate", [0.7, pytest.param(-5.0, marks=pytest.mark.slow)])
def test_draws_are_of_the_posterior(gate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By weights, else by NUTS; the scale on a grid, effects by their conditional given it."""
    monkeypatch.setattr(importance_rounds, "K_HAT_GATE", gate)
    jax.jit(lambda group: group[GROUP])(np.arange(4.0))  # JAX now knows it in single precision.
    most = None if gate > 0 else 300
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree: Any = sample_marginal(
            marginalize(model), {"group": GROUP, "y": Y, "sizes": (4,)}, key=0, num_samples=2000,
            max_densities=most,
        )  # fmt: skip
    told = [str(one.message) for one in caught if one.category is FallbackWarning]
    assert (tree.attrs["method"], len(told)) == (
        ("marginal/importance", 0) if gate > 0 else ("nuts/marginal", 1)
    )
    scale = np.linspace(1e-3, 12.0, 4000)
    log_mass = halfnorm(0.0, 2.0).logpdf(scale)
    means = []
    for group in range(4):
        y = Y[group == GROUP]
        # Of a group's mean and the rows about it only the former depends on the scale.
        log_mass += norm(0.0, np.sqrt(scale**2 + 0.25 / len(y))).logpdf(y.mean())
        means.append(y.mean() * scale**2 / (scale**2 + 0.25 / len(y)))
    mass = np.exp(log_mass - log_mass.max())
    mass /= mass.sum()
    posterior = tree.posterior
    assert posterior["effect"].dims == ("chain", "draw", "school")
    error = 4 / np.sqrt(1000)
    center = mass @ scale
    spread = np.sqrt(mass @ np.square(scale - center))
    draws = posterior["scale"].values
    assert abs(draws.mean() - center) < error * spread
    np.testing.assert_allclose(draws.std(), spread, rtol=0.15)
    np.testing.assert_allclose(posterior["variance"].values, draws**2, rtol=1e-10)
    within = np.std(posterior["effect"].values, axis=(0, 1))
    found = posterior["effect"].values.mean(axis=(0, 1))
    np.testing.assert_array_less(np.abs(found - np.stack(means) @ mass), error * within)


def test_what_is_left_is_too_much() -> None:
    """More numbers than importance sampling serves are said, and drawn by NUTS."""

    def wide(y: np.ndarray) -> None:
        with numpyro.plate("group", 21):
            scale = numpyro.sample("scale", dist.HalfNormal(1.0))
            effect = numpyro.sample("effect", dist.Normal(0.0, scale))
            numpyro.sample("y", dist.Normal(effect, 1.0), obs=y)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree: Any = sample_marginal(
            marginalize(wide), (np.linspace(-1, 1, 21),), key=0, num_samples=40
        )
    told = {one.category: str(one.message) for one in caught}
    assert "21 parameters are left, more than the 20" in told[FallbackWarning]
    assert "Draw" in told[DiagnosticWarning]
    assert tree.posterior["effect"].shape == (4, 10, 21)


def test_an_interruption_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while more proposals are made."""
    extend, calls = importance_rounds.Rounds.extend, []

    def stopped(self: Any, num: int) -> None:
        calls.append(num)
        if len(calls) == 2:
            raise KeyboardInterrupt
        extend(self, num)

    monkeypatch.setattr(importance_rounds.Rounds, "extend", stopped)
    with pytest.warns(FitWarning, match=r"Interrupted: there are [1-5]\d\d of 2,000 draws"):
        tree: Any = sample_marginal(
            marginalize(model), {"group": GROUP, "y": Y}, key=0, num_samples=2000
        )
    assert 100 < tree.posterior["scale"].size < 600


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="data is of type int; with a marginalized model give"):
        sample_marginal(marginalize(model), 3, key=0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="use marginalize\\(model\\), with sample_marginal"):
        sample_marginal(model, {"group": GROUP, "y": Y}, key=0)  # type: ignore[call-overload]

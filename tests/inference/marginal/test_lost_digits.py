"""Slopes far from zero by two factors: sums of double precision lose the density, which is told."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from exact_normal import exact, exact_log_density
from numpyro.infer.util import log_density
from rings import slow

from probmf import (
    MixedEffects,
    fit_laplace,
    fit_marginal,
    fit_svi,
    marginalize,
    sample_marginal,
    sample_nuts,
)
from probmf.effects import Grouping, collect_statistics, make_pattern, sum_on_host
from probmf.effects.host import HostEvidence
from probmf.inference.marginal.injection import MarginalizeError
from probmf.run.driver import FitWarning

ROWS = 60
rng = np.random.default_rng(5)
GROUP = {"g": rng.permutation(np.arange(ROWS) % 6), "h": rng.permutation(np.arange(ROWS) % 4)}
NEAR = rng.normal(size=ROWS)
EFFECT = rng.normal(size=6)[GROUP["g"]] + rng.normal(size=4)[GROUP["h"]]
NOISE = rng.normal(size=ROWS)
TOLD = r"rounding .*effects of '[gh]_effects' .*Centre"
FORMULA = "y ~ 0 + (0 + x | g) + (0 + x | h)"


def table(level: float) -> dict[str, np.ndarray]:
    x = level + NEAR
    return {"y": EFFECT * x + NOISE, "x": x, **GROUP}


def rounding_and_error(level: float, *, flat: bool = False) -> tuple[Any, float]:
    """Of intercepts and slopes, and slopes alone, against sixty digits."""
    data = table(level)
    design = [np.stack([np.ones(ROWS), NEAR], axis=1), data["x"][:, None]]
    trils = [np.array([[level, 0.0], [0.5, 0.3]]), np.array([[0.8]])]
    blocks = [
        Grouping(name, GROUP[name].astype(np.int32), int(GROUP[name].max() + 1), z.shape[1])
        for name, z in zip("gh", design, strict=True)
    ]
    precision, pattern = 2.0, make_pattern(blocks)
    assert pattern.order == (0, 1)
    sums = sum_on_host(pattern, design, data["y"])
    if flat:
        # Without a density to compare with: only whether it is told.
        trils[1] = np.array([[1.0]])
        return HostEvidence(pattern, sums, (1,)).rounding(trils, precision), np.nan
    halves = []
    for z, name, tril in zip(design, "gh", trils, strict=True):
        own = exact(np.eye(GROUP[name].max() + 1)[GROUP[name]])
        rows = exact(z) @ exact(tril)
        halves.append((own[:, :, None] * rows[:, None]).reshape(ROWS, -1))
    noise = np.array([1 / exact(precision).item().sqrt()] * ROWS, object)
    wanted = exact_log_density(exact(data["y"]), exact(np.zeros(ROWS)), noise, halves)
    found = HostEvidence(pattern, sums).rounding(trils, precision)
    return found, abs(found.value - wanted)


@pytest.mark.parametrize("level", [1e1, 1e3, 1e4, 3e6])
def test_the_error_is_no_larger_than_estimated(level: float) -> None:
    found, error = rounding_and_error(level)
    assert error <= 3.0 * found.error + 1e-12 * abs(found.value)
    assert found.is_small == (level <= 1e4)


def test_flat_columns_are_counted_with_the_rest() -> None:
    assert rounding_and_error(1e1, flat=True)[0].is_small
    assert not rounding_and_error(3e7, flat=True)[0].is_small


def test_a_single_factor_has_an_estimate() -> None:
    data = table(1e3)
    pattern = make_pattern([Grouping("g", GROUP["g"].astype(np.int32), 6, 1)])
    with jax.enable_x64(True):
        sums = collect_statistics(
            pattern, [jnp.asarray(data["x"])[:, None]], jnp.asarray(data["y"])
        )
    found = HostEvidence(pattern, sums).rounding([np.array([[1.0]])], 1.0)
    own = exact(np.eye(6)[GROUP["g"]]) * exact(data["x"][:, None])
    wanted = exact_log_density(exact(data["y"]), exact(np.zeros(ROWS)), exact(np.ones(ROWS)), [own])
    assert found.is_small
    assert abs(found.value - wanted) <= 3.0 * found.error


def test_a_point_that_is_no_number_is_no_loss() -> None:
    data = table(1e1)
    blocks = [Grouping(n, GROUP[n].astype(np.int32), int(GROUP[n].max() + 1), 1) for n in "gh"]
    pattern = make_pattern(blocks)
    host = HostEvidence(pattern, sum_on_host(pattern, [data["x"][:, None]] * 2, data["y"]))
    assert host.rounding([np.array([[np.nan]]), np.array([[1.0]])], 1.0).is_small
    assert not host.rounding([np.array([[1e9]]), np.array([[1e9]])], 1e9).is_small


FIXED = {"g_scale": 1.0, "h_scale": 1.0, "noise_scale": dist.LogNormal(0.0, 0.1)}


@pytest.mark.filterwarnings("ignore::probmf.diagnostics.DiagnosticWarning")
@pytest.mark.parametrize("way", slow(["marginal", "nuts", "laplace", "svi"], "laplace", "svi"))
def test_every_way_to_a_posterior_tells_it(way: str) -> None:
    data = table(1e6)
    model = MixedEffects(FORMULA, priors=FIXED)
    few = {"num_samples": 4, "progress": False}

    ways = {
        "marginal": lambda: sample_marginal(model, data, key=0, num_samples=200),
        "nuts": lambda: sample_nuts(
            model, data, key=0, num_warmup=4, num_chains=1, marginalize="all", **few
        ),
        "laplace": lambda: fit_laplace(model, data, key=0, num_samples=4, marginalize="all"),
        "svi": lambda: fit_svi(model, data, key=0, num_steps=4, marginalize="all", **few),
    }

    with pytest.warns(FitWarning, match=TOLD):
        fit = ways[way]()
    notes = fit.sampling.info.get("note", "") if fit.history is None else fit.history.notes
    assert "rounding" in str(notes)


def test_a_best_fit_tells_it() -> None:
    with pytest.warns(FitWarning, match=TOLD):
        fit = fit_marginal(MixedEffects(FORMULA), table(1e6))
    assert "rounding" in fit.history.notes[0]
    assert not fit_marginal(MixedEffects(FORMULA), table(1e1)).history.notes


def model(data: dict[str, Any], y: Any) -> None:
    mean = 0.0
    for name, groups in (("g", 6), ("h", 4)):
        with numpyro.plate(name, groups):
            slopes = numpyro.sample(f"{name}_effects", dist.Normal(0.0, 1.0))
        mean = mean + slopes[data[name]] * data["x"]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def test_a_model_of_ones_own_tells_it() -> None:
    marginal = marginalize(model, ("g_effects", "h_effects"))
    with jax.enable_x64(True):
        for level, told in ((1e1, False), (1e6, True)):
            data = {name: jnp.asarray(values) for name, values in table(level).items()}
            noise = {"noise": jnp.asarray(1.0)}
            arguments = (data, data["y"])
            if told:
                with pytest.raises(MarginalizeError, match=TOLD):
                    log_density(marginal, arguments, {}, noise)
                with pytest.warns(FitWarning, match=TOLD):
                    marginal.recover(0, {"noise": jnp.ones(3)}, *arguments)
            else:
                log_density(marginal, arguments, {}, noise)
                marginal.recover(0, {"noise": jnp.ones(3)}, *arguments)
            # A compiled program has no way to tell.
            found = jax.jit(lambda n, a=arguments: marginal.recover(0, {"noise": n}, *a))(
                jnp.ones(3)
            )
            assert found["g_effects"].shape == (3, 6)


def test_single_precision_is_left_alone() -> None:
    marginal = marginalize(model, ("g_effects", "h_effects"))
    data = {name: jnp.asarray(values) for name, values in table(1e6).items()}
    marginal.recover(0, {"noise": jnp.ones(3)}, data, data["y"])

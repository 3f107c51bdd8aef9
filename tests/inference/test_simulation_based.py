"""Simulation-based calibration: ranks of the truth among the draws are uniform.

Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms with
simulation-based calibration.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from probmf import MixedEffects, sample_marginal, sample_nuts
from probmf.diagnostics import FallbackWarning
from probmf.results import MixedFit

GROUPS, EACH, REPLICATIONS, RANKS, BINS = 5, 4, 120, 60, 12
MODEL = MixedEffects(
    "y ~ 1 + (1 | g)",
    priors={
        "coefficients": {"Intercept": dist.Normal(0.0, 2.0)},
        "g_scale": dist.HalfNormal(1.0),
        "noise_scale": dist.HalfNormal(1.0),
    },
)


def by_importance(table: Any, key: int) -> MixedFit:
    with warnings.catch_warnings():
        # Now and then a tail is too heavy, and NUTS is what a user gets.
        warnings.simplefilter("ignore", FallbackWarning)
        return sample_marginal(MODEL, table, key=key, num_samples=RANKS - 1)


def by_nuts(table: Any, key: int) -> MixedFit:
    return sample_nuts(
        MODEL, table, key=key, num_warmup=300, num_samples=5 * (RANKS - 1), num_chains=1,
        marginalize="all", target_accept=0.95,
    )  # fmt: skip


@pytest.mark.calibration
@pytest.mark.parametrize("sample", [by_importance, by_nuts])
def test_ranks_are_uniform(sample: Callable[[Any, int], MixedFit]) -> None:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(GROUPS), EACH)
    ranks: dict[str, list[int]] = {}
    for key in range(REPLICATIONS):
        tau, sigma = np.abs(rng.normal(size=2))
        intercept, effects = rng.normal(0, 2), rng.normal(0, tau, GROUPS)
        y = intercept + effects[g] + rng.normal(0, sigma, len(g))
        fit = sample({"y": y, "g": g}, key)
        truth = {
            "g_scale": tau, "noise_scale": sigma, "coefficients": intercept,
            "g_effects": effects[0],
        }  # fmt: skip
        note_ranks(ranks, fit, truth)
    check_ranks(ranks)


def note_ranks(ranks: dict[str, list[int]], fit: MixedFit, truth: dict[str, float]) -> None:
    """Add the rank of each truth among draws of the first number of its site."""
    for name, value in truth.items():
        draws = fit.samples[name].reshape(fit.num_chains * fit.num_draws, -1)[:, 0]
        thinned = draws[:: len(draws) // (RANKS - 1)][: RANKS - 1]
        ranks.setdefault(name, []).append(int(np.sum(thinned < value)))


def check_ranks(ranks: dict[str, list[int]]) -> None:
    """Refuse ranks that are not uniform."""
    for name, found in ranks.items():
        counts = np.bincount(np.asarray(found) * BINS // RANKS, minlength=BINS)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3, (name, counts)
        # Ranks that lean to one side show a bias long before bins do.
        lean = (np.mean(found) - (RANKS - 1) / 2) / np.sqrt((RANKS**2 - 1) / 12 / REPLICATIONS)
        assert abs(lean) < 3.5, (name, lean)


@pytest.mark.calibration
def test_ranks_with_effects_in_the_noise() -> None:
    rng = np.random.default_rng(1)
    model = MixedEffects(
        "y ~ 1 + (1 | g)", scale_formula="~ 1 + (1 | g)",
        priors={
            "coefficients": dist.Normal(0.0, 2.0), "noise_coefficients": dist.Normal(0.0, 0.7),
            "g_scale": dist.HalfNormal(1.0), "noise_g_scale": dist.HalfNormal(0.7),
        },
    )  # fmt: skip
    g = np.repeat(np.arange(GROUPS), EACH)
    ranks: dict[str, list[int]] = {}
    for key in range(REPLICATIONS):
        scale, noise_scale = np.abs(rng.normal(size=2)) * [1.0, 0.7]
        center, log_noise = rng.normal(0, 2), rng.normal(0, 0.7)
        effects, noise = rng.normal(0, scale, GROUPS), rng.normal(0, noise_scale, GROUPS)
        y = center + effects[g] + np.exp(log_noise + noise[g]) * rng.normal(size=len(g))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            fit = sample_marginal(model, {"y": y, "g": g}, key=key, num_samples=RANKS - 1)
        truth = {
            "g_scale": scale, "noise_g_scale": noise_scale, "coefficients": center,
            "noise_coefficients": log_noise, "g_effects": effects[0], "noise_g_effects": noise[0],
        }  # fmt: skip
        note_ranks(ranks, fit, truth)
    check_ranks(ranks)

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
from probmf.inference.mixed.sampling import FallbackWarning
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
        for name, value in truth.items():
            draws = fit.samples[name].reshape(fit.num_chains * fit.num_draws, -1)[:, 0]
            thinned = draws[:: len(draws) // (RANKS - 1)][: RANKS - 1]
            ranks.setdefault(name, []).append(int(np.sum(thinned < value)))
    for name, found in ranks.items():
        counts = np.bincount(np.asarray(found) * BINS // RANKS, minlength=BINS)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3, (name, counts)
        # Ranks that lean to one side show a bias long before bins do.
        lean = (np.mean(found) - (RANKS - 1) / 2) / np.sqrt((RANKS**2 - 1) / 12 / REPLICATIONS)
        assert abs(lean) < 3.5, (name, lean)

"""Small models whose posterior is known, or that a sampler takes no time for."""

from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from jax.scipy.stats import multivariate_normal

from probmf import Gaussian, MatrixFactorization, MixedEffects, Ratings
from probmf.datasets import simulate_ratings

GROUPS, NOISE, SPREAD = 3, 0.7, 1.2


class Linear(NamedTuple):
    """A mixed model with known scales, its data, and its exact posterior."""

    model: MixedEffects
    table: dict[str, np.ndarray]
    mean: np.ndarray
    covariance: np.ndarray
    evidence: float


def linear(**options: Any) -> Linear:
    rng = np.random.default_rng(0)
    group, x = np.arange(24) % GROUPS, rng.normal(size=24)
    y = 1.0 + 0.5 * x + rng.normal(0, SPREAD, GROUPS)[group] + rng.normal(0, NOISE, 24)
    priors = {
        "g_scale": SPREAD, "noise_scale": NOISE,
        "coefficients": {"Intercept": dist.Normal(0.5, 2.0), "x": dist.Normal(0.0, 1.0)},
    }  # fmt: skip
    model = MixedEffects("y ~ 1 + x + (1 | g)", priors=priors, **options)
    design = np.column_stack([np.ones(24), x, np.eye(GROUPS)[group]])
    center = np.asarray([0.5, 0, 0, 0, 0])
    prior = np.diag([4.0, 1.0] + [SPREAD**2] * GROUPS)
    total = design @ prior @ design.T + NOISE**2 * np.eye(24)
    gain = prior @ design.T @ np.linalg.inv(total)
    return Linear(
        model, {"y": y, "x": x, "g": group}, center + gain @ (y - design @ center),
        prior - gain @ design @ prior,
        float(multivariate_normal.logpdf(y, design @ center, total)),
    )  # fmt: skip


def unknowns(fit: Any) -> np.ndarray:
    return np.concatenate([fit.samples["coefficients"][0], fit.samples["g_effects"][0, :, :, 0]], 1)


def hours() -> tuple[MixedEffects, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    school, hours = np.repeat(np.arange(8), 12), rng.uniform(0, 5, 96)
    score = 50 + 3 * hours + rng.normal(0, 4, 8)[school] + rng.normal(0, 2, 96)
    table = {"score": score, "hours": hours, "school": school}
    return MixedEffects("score ~ 1 + hours + (1 | school)"), table


def small(**options: Any) -> tuple[MatrixFactorization, Ratings]:
    simulated = simulate_ratings(key=0, num_users=25, num_items=20, num_ratings=300, num_factors=1)
    half = dist.HalfNormal(1.0)
    settings: dict[str, Any] = {"user_scale": half, "item_scale": half, **options}
    return MatrixFactorization(1, settings.pop("likelihood", Gaussian(half)), **settings), (
        simulated.ratings
    )

"""The factorization as a NumPyro model, and its objective, over all its options."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers, optim
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from numpyro.infer.util import log_density
from scipy import stats

from probmf.data import Ratings
from probmf.models import Bernoulli, Gaussian, MatrixFactorization
from probmf.models.factorization import linear_predictor
from probmf.models.observations import Observations

USERS, ITEMS = 5, 4
PAIRS = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 3), (3, 3), (3, 0)]  # user 4 has none
WEIGHTS = [1.0, 2.0, 0.5, 1.5, 0.0, 1.0, 3.0, 0.7]
INTERCEPTS = ["mean", "learned", 1.5, None, dist.Normal(3.0, 2.0)]


def table(*, binary: bool = False, weighted: bool = False) -> Ratings:
    rng = np.random.default_rng(0)
    rating = rng.normal(3, 1, len(PAIRS))
    frame = {
        "user": [f"u{user}" for user, _ in PAIRS],
        "item": [item for _, item in PAIRS],
        "rating": (rating > 3).astype(float) if binary else rating,
        "weight": WEIGHTS,
    }
    return Ratings.from_frame(
        frame, weight="weight" if weighted else None, users=[f"u{i}" for i in range(USERS)],
        items=list(range(ITEMS)),
    )  # fmt: skip


def draw_parameters(model: MatrixFactorization, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = dict(model.site_shapes(USERS, ITEMS))
    if model.learns_intercept:
        shapes["intercept"] = ()
    return {site: np.asarray(rng.normal(size=shape)) for site, shape in shapes.items()}


def combinations(likelihood: Gaussian | Bernoulli) -> Iterator[tuple[MatrixFactorization, bool]]:
    """Every combination of biases, intercept, array scales, factors, zeros; and of weights."""
    arrays = {
        "user_scale": np.linspace(0.5, 2, USERS),
        "item_scale": jnp.linspace(0.3, 1, ITEMS),
        "user_bias_scale": [0.4, 0.5, 0.6, 0.7, 0.8],
        "item_bias_scale": np.linspace(1, 2, ITEMS),
    }
    numbers = {"user_scale": 0.8, "item_scale": 1, "user_bias_scale": np.float32(0.5)}
    zeros = [0.0, 0.1] if isinstance(likelihood, Gaussian) else [0.0]
    both = (False, True)
    for user, item, intercept, scales, k, zero, weighted in product(
        both, both, INTERCEPTS, (numbers, arrays), (0, 2), zeros, both
    ):
        if k or user or item or intercept is not None:
            model = MatrixFactorization(
                k, likelihood, intercept, user, item, unobserved_weight=zero, **scales
            )
            yield model, weighted


def difference(
    model: MatrixFactorization, observations: Observations
) -> tuple[float, float, float]:
    """How much two points differ in minus log density and in the objective, and the size."""
    density, objective = [], []
    for seed in (1, 2):
        values = {k: jnp.asarray(v) for k, v in draw_parameters(model, seed).items()}
        log_joint, _ = log_density(model, (observations,), {}, values)
        density.append(-float(log_joint))
        objective.append(float(model.objective(values, observations)))
    return density[1] - density[0], objective[1] - objective[0], abs(objective[0])


LIKELIHOODS = [Gaussian(0.7), Bernoulli("logit"), Bernoulli("probit")]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["gaussian", "logit", "probit"])
def test_objective_is_minus_log_density_up_to_a_constant(likelihood: Any) -> None:
    """All combinations, in float64."""
    with jax.enable_x64(True):
        for model, weighted in combinations(likelihood):
            ratings = table(binary=likelihood.binary, weighted=weighted)
            density, objective, size = difference(model, *model.arguments(ratings))
            assert density == pytest.approx(objective, rel=1e-9, abs=1e-9 * size), (model, weighted)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["gaussian", "logit", "probit"])
def test_objective_in_float32(likelihood: Any) -> None:
    """A tenth of the combinations."""
    for model, weighted in list(combinations(likelihood))[::10]:
        ratings = table(binary=likelihood.binary, weighted=weighted)
        density, objective, size = difference(model, *model.arguments(ratings))
        assert density == pytest.approx(objective, rel=1e-5, abs=1e-5 * size), (model, weighted)

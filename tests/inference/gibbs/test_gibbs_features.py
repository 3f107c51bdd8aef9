"""Gibbs with prior means from features: against closed forms and its own joint distribution."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probmf import (
    MLP,
    Gaussian,
    Linear,
    MatrixFactorization,
    NormalWishart,
    Ratings,
    sample_gibbs,
)
from probmf.inference.gibbs.factorization_chains import make_problem
from probmf.inference.gibbs.plan import GibbsState, Plan
from probmf.models.linear_predictor import linear_predictor
from probmf.models.observations import Observations
from probmf.models.parameter_table import ParameterTable
from probmf.rows.store import num_workers

USERS, ITEMS = 6, 5


def table(seed: int = 0) -> Ratings:
    rng = np.random.default_rng(seed)
    seen = rng.random((USERS, ITEMS)) < 0.7
    seen[:, 0] = seen[0] = True
    user, item = np.nonzero(seen)
    return Ratings.from_frame(
        {"user": user, "item": item, "rating": rng.normal(3.0, 1.0, len(user))},
        user_features={"user": range(USERS), "x": rng.normal(size=USERS), "y": [0, 1, 1, 0, 1, 0]},
        item_features={"item": range(ITEMS), "z": rng.normal(size=ITEMS)},
    )


def test_weights_have_their_closed_form() -> None:
    """Without factors biases and weights are one Gaussian."""
    data = table()
    scale = np.linspace(0.5, 1.0, USERS)
    model = MatrixFactorization(
        0, Gaussian(0.7), intercept=2.0, user_bias_scale=scale, item_bias_scale=1.2,
        user_mean=Linear(weight_scale=0.8, bias_scale=1.5),
    )  # fmt: skip
    fit = sample_gibbs(model, data, key=1, num_warmup=20, num_samples=500, num_chains=2, thin=1)
    features = np.concatenate([model.encode(data)["user"], np.ones((USERS, 1))], axis=1)
    # Unknown: deviations of the users' biases, items' biases, weights and the layer's bias.
    design = np.concatenate(
        [np.eye(USERS)[data.user], np.eye(ITEMS)[data.item], features[data.user]], axis=1
    )
    prior = np.concatenate([scale, np.full(ITEMS, 1.2), [0.8, 0.8, 1.5]]) ** -2.0
    covariance = np.linalg.inv(np.diag(prior) + design.T @ design / 0.49)
    mean = covariance @ design.T @ (data.rating - 2.0) / 0.49
    to_rows = np.eye(len(prior))
    to_rows[:USERS, USERS + ITEMS :] = features
    mean, covariance = to_rows @ mean, to_rows @ covariance @ to_rows.T
    names = ("user_bias", "item_bias", "user_mean_weight_0", "user_mean_bias_0")
    drawn = np.concatenate([fit.samples[n].reshape(1000, -1) for n in names], axis=1)
    # Autocorrelation leaves at least a tenth of the draws.
    error = np.sqrt(np.diag(covariance) * 10 / len(drawn))
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 4.5 * error)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.2 * covariance.max())


HALF = dist.HalfNormal(1.0)
PRIORS: dict[str, Any] = {
    "spherical": HALF,
    "one per factor": dist.HalfNormal(jnp.ones((1, 2))),
    "fixed": 0.8,
    "by row": np.linspace(0.5, 1.0, USERS),
    "wishart": NormalWishart(dof=4.0),
}
FEW, MANY = 120, 3000


def simulate(
    model: MatrixFactorization, data: Ratings, count: int
) -> tuple[Observations, dict[str, np.ndarray]]:
    (observations,) = model.arguments(data)
    pairs = observations.without_ratings()

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        trace = numpyro.handlers.trace(numpyro.handlers.seed(model, key)).get_trace(pairs)
        return {n: s["value"] for n, s in trace.items() if s["type"] in ("sample", "deterministic")}

    with jax.numpy_rank_promotion("allow"):
        found = draw(jax.random.split(jax.random.key(5), count))
    return pairs, {name: np.asarray(value) for name, value in found.items()}


def look(values: dict[str, Any], pairs: Observations, rating: Any) -> dict[str, float]:
    """What sweeps must leave distributed as it is."""
    found = {"intercept": float(values["intercept"])}
    for name, value in values.items():
        if name.endswith("_scale"):
            found[f"log {name}"] = float(np.mean(np.log(value)))
        elif "_mean_" in name:
            found[f"{name} squared"] = float(np.tanh(np.mean(np.square(value))))
            if value.shape[-1] == 3:
                found[name] = float(np.tanh(value.reshape(-1, 3)[0, 0]))
        elif name.endswith("_precision"):
            found[f"log det {name}"] = float(np.linalg.slogdet(value)[1])
        elif name.endswith("_factors"):
            found[f"{name} squared"] = float(np.log(np.mean(np.square(value))))
    scores = np.asarray(linear_predictor(values, pairs.user, pairs.item))
    bias = values["user_bias"] @ np.asarray(pairs.user_features)[:, 0]
    found["bias by feature"] = float(np.tanh(bias))
    found["loss"] = float(np.log(np.mean(np.square(scores - rating))))
    return found


@pytest.mark.parametrize(
    ("prior", "count"),
    [pytest.param("one per factor", FEW, marks=pytest.mark.slow)]
    + [pytest.param(prior, MANY, marks=pytest.mark.calibration) for prior in PRIORS],
)
def test_sweeps_leave_the_joint_distribution_alone(prior: str, count: int) -> None:
    """From a draw of parameters and ratings, sweeps lead to another such draw (Geweke 2004)."""
    data = table()
    model = MatrixFactorization(
        2, Gaussian(HALF), intercept=dist.Normal(0.5, 1.0), user_scale=PRIORS[prior],
        item_scale=0.9 if prior == "by row" else PRIORS[prior], user_bias_scale=HALF,
        user_mean=Linear(weight_scale=0.6, bias_scale=0.4), item_mean=Linear(bias=False),
    )  # fmt: skip
    pairs, truth = simulate(model, data, count)
    differences: dict[str, list[float]] = {}
    rows = [*model.site_shapes(USERS, ITEMS), "intercept"]
    packing = ParameterTable(model, USERS, ITEMS)
    with ThreadPoolExecutor(1) as pool:
        for index in range(count):
            values = {name: value[index] for name, value in truth.items()}
            rating = values.pop("rating")
            observed = dataclasses.replace(pairs, rating=jnp.asarray(rating))
            plan = Plan.of(model)
            scales = {
                site.scale: jnp.asarray(getattr(model, site.scale), float)
                for site in plan.sites if site.kind == "fixed"
            }  # fmt: skip
            scales |= {n: jnp.asarray(v) for n, v in values.items() if n not in rows}
            problem = make_problem(model, observed, scales, num_workers(), jax.random.key(0), None)
            start = jnp.asarray(values["intercept"])
            state = GibbsState(packing.pack(values), start, scales, jnp.int32(0))
            for sweep in range(3):
                key = jax.random.fold_in(jax.random.key(index), sweep)
                state, _ = problem.sweep(key, state, False, pool)
            after = {"intercept": state.intercept, **packing.unpack(state.table)}
            after |= {n: v for n, v in state.scales.items() if n in values}
            here = look(values, pairs, rating)
            there = look(jax.tree.map(np.asarray, after), pairs, rating)
            for name, value in here.items():
                differences.setdefault(name, []).append(there[name] - value)
    scores = {
        name: np.mean(found) / np.std(found) * np.sqrt(count) for name, found in differences.items()
    }
    assert len(scores) >= 10
    assert max(map(abs, scores.values())) < 4.5, scores


def test_a_network_and_a_scale_for_each_row_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sample_gibbs .* Linear\(\) only"):
        sample_gibbs(MatrixFactorization(1, user_mean=MLP((2,))), table(), key=0)
    by_row = MatrixFactorization(1, user_mean=Linear(), user_scale=dist.HalfNormal(jnp.ones(USERS)))
    with pytest.raises(ValueError, match=r"user_scale has a distribution for each row"):
        sample_gibbs(by_row, table(), key=0)

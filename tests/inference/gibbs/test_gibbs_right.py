"""Gibbs against closed forms, against its own joint distribution, and against NUTS."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probmf import (
    Bernoulli,
    Gaussian,
    LogNormal,
    MatrixFactorization,
    NormalWishart,
    Ordinal,
    Ratings,
    sample_gibbs,
    sample_nuts,
)
from probmf.inference.gibbs.factorization_chains import make_problem
from probmf.inference.gibbs.plan import GibbsState, Plan
from probmf.models.linear_predictor import linear_predictor
from probmf.models.observations import Observations
from probmf.models.parameter_table import ParameterTable
from probmf.rows.store import num_workers

USERS, ITEMS = 6, 5


def table(seed: int = 0, share: float = 0.7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    seen = rng.random((USERS, ITEMS)) < share
    seen[:, 0] = seen[0] = True
    user, item = np.nonzero(seen)
    return {"user": user, "item": item, "rating": rng.normal(3.0, 1.0, len(user))}


def test_biases_have_their_closed_form() -> None:
    """Without factors all is one Gaussian: mean and covariance of intercept and biases."""
    data = table()
    ratings = Ratings.from_frame(data)
    model = MatrixFactorization(
        0, Gaussian(0.7), intercept=dist.Normal(2.0, 1.5), user_bias_scale=0.8,
        item_bias_scale=1.2,
    )  # fmt: skip
    fit = sample_gibbs(model, ratings, key=1, num_warmup=20, num_samples=500, num_chains=2)
    design = np.concatenate(
        [np.ones((len(data["user"]), 1)), np.eye(USERS)[data["user"]], np.eye(ITEMS)[data["item"]]],
        axis=1,
    )
    prior = np.concatenate([[1.5], np.full(USERS, 0.8), np.full(ITEMS, 1.2)]) ** -2.0
    start = np.concatenate([[2.0], np.zeros(USERS + ITEMS)])
    precision = np.diag(prior) + design.T @ design / 0.49
    mean = np.linalg.solve(precision, prior * start + design.T @ data["rating"] / 0.49)
    covariance = np.linalg.inv(precision)
    drawn = np.concatenate(
        [fit.samples["intercept"][..., None], fit.samples["user_bias"], fit.samples["item_bias"]],
        axis=2,
    ).reshape(-1, 1 + USERS + ITEMS)
    # Autocorrelation leaves at least a quarter of the draws.
    error = np.sqrt(np.diag(covariance) * 4 / len(drawn))
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 4.5 * error)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.2 * covariance.max())


PRIORS: dict[str, Any] = {
    "spherical": dist.HalfNormal(1.0),
    "one per factor": dist.HalfNormal(jnp.ones((1, 2))),
    "one per row": dist.HalfNormal(jnp.ones(USERS)),
    "fixed": 0.8,
    "wishart": NormalWishart(dof=4.0),
}
LIKELIHOODS: dict[str, Any] = {
    "gaussian": Gaussian(dist.HalfNormal(1.0)),
    "logit": Bernoulli(),
    "probit": Bernoulli("probit"),
    "ordinal": Ordinal(3, cutpoint_scale=1.0),
    "ordinal probit": Ordinal(3, cutpoint_scale=1.0, link="probit"),
    "lognormal": LogNormal(dist.HalfNormal(1.0)),
}
#: Replications.
COUNT = 3000
CASES = [
    ("spherical", "gaussian"), ("one per factor", "gaussian"), ("wishart", "gaussian"),
    ("one per row", "gaussian"), ("fixed", "logit"), ("spherical", "logit"),
    ("spherical", "probit"), ("spherical", "ordinal"),
    ("spherical", "ordinal probit"), ("spherical", "lognormal"),
]  # fmt: skip


def make(prior: str, likelihood: str) -> MatrixFactorization:
    learned = not likelihood.startswith("ordinal")
    item = PRIORS["fixed"] if prior == "one per row" else PRIORS[prior]
    return MatrixFactorization(
        2, LIKELIHOODS[likelihood], intercept=dist.Normal(0.5, 1.0) if learned else None,
        user_scale=PRIORS[prior], item_scale=item, user_bias_scale=dist.HalfNormal(1.0),
        item_bias_scale=dist.HalfNormal(1.0),
    )  # fmt: skip


def simulate(model: MatrixFactorization, count: int) -> tuple[Observations, dict[str, np.ndarray]]:
    """Parameters and ratings from the model's own joint distribution, many times over."""
    data = table()
    pairs = Observations(
        jnp.asarray(data["user"]), jnp.asarray(data["item"]), None, None, jnp.zeros(()), USERS,
        ITEMS,
    )  # fmt: skip

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        trace = numpyro.handlers.trace(numpyro.handlers.seed(model, key)).get_trace(pairs)
        return {n: s["value"] for n, s in trace.items() if s["type"] in ("sample", "deterministic")}

    with jax.numpy_rank_promotion("allow"):
        found = draw(jax.random.split(jax.random.key(5), count))
    return pairs, {name: np.asarray(value) for name, value in found.items()}


def features(
    model: MatrixFactorization, values: dict[str, Any], pairs: Observations, rating: Any
) -> dict[str, float]:
    """What the sampler must leave distributed as it is."""
    found = {name: float(np.mean(v)) for name, v in values.items() if name == "intercept"}
    for name, value in values.items():
        if name.endswith("_scale"):
            found[f"log {name}"] = float(np.mean(np.log(value)))
        elif name.endswith(("_bias", "_mean")):
            found[f"{name} squared"] = float(np.tanh(np.mean(np.square(value))))
        elif name == "cutpoints":
            found["cutpoints"] = float(value[0])
            found["between cutpoints"] = float(np.log(value[1] - value[0]))
        elif name.endswith("_precision"):
            found[f"log det {name}"] = float(np.linalg.slogdet(value)[1])
    scores = np.asarray(linear_predictor(values, pairs.user, pairs.item))
    found["score"] = float(np.tanh(scores[3]))
    found["scores squared"] = float(np.log(np.mean(np.square(scores))))
    scales = {n: v for n, v in values.items() if n in ("noise_scale", "cutpoints")}
    found["loss"] = float(np.mean(model.likelihood.loss(scores, rating, scales)))
    found["covariance"] = float(np.tanh(np.mean(scores * rating)))
    return found


@pytest.mark.calibration
@pytest.mark.parametrize(("prior", "likelihood"), CASES)
def test_sweeps_leave_the_joint_distribution_alone(prior: str, likelihood: str) -> None:
    """From a draw of parameters and ratings, sweeps lead to another such draw (Geweke 2004).

    With 3,000 replications this finds a scale that is wrong by a hundredth.
    """
    model = make(prior, likelihood)
    pairs, truth = simulate(model, COUNT)
    differences: dict[str, list[float]] = {}
    names = [*model.site_shapes(USERS, ITEMS), "intercept"]
    with ThreadPoolExecutor(1) as pool:
        for index in range(COUNT):
            values = {name: value[index] for name, value in truth.items()}
            rating = values.pop("rating")
            observed = dataclasses.replace(pairs, rating=jnp.asarray(rating))
            plan = Plan.of(model)
            scales = {
                site.scale: jnp.asarray(getattr(model, site.scale))
                for site in plan.sites if site.kind == "fixed"
            }  # fmt: skip
            scales |= {n: jnp.asarray(v) for n, v in values.items() if n not in names}
            problem = make_problem(model, observed, scales, num_workers(), jax.random.key(0), None)
            packing = ParameterTable(model, USERS, ITEMS)
            state = GibbsState(
                packing.pack(values), jnp.asarray(values["intercept"]), scales, jnp.int32(0)
            )
            for sweep in range(3):
                key = jax.random.fold_in(jax.random.key(index), sweep)
                state, _ = problem.sweep(key, state, False, pool)
            after = {"intercept": state.intercept, **packing.unpack(state.table)}
            after |= {n: v for n, v in state.scales.items() if n in values}
            here = features(model, values, pairs, rating)
            there = features(model, jax.tree.map(np.asarray, after), pairs, rating)
            for name, value in here.items():
                differences.setdefault(name, []).append(there[name] - value)
    scores = {
        name: np.mean(found) / np.std(found) * np.sqrt(COUNT)
        for name, found in differences.items() if np.std(found) > 0
    }  # fmt: skip
    assert len(scores) >= 5
    assert max(map(abs, scores.values())) < 4.5, scores


@pytest.mark.slow
def test_gibbs_agrees_with_nuts() -> None:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((12, 9)) < 0.6)
    scores = 3 + rng.normal(size=(12, 1)) * rng.normal(size=9) + 0.5 * rng.normal(size=9)
    ratings = Ratings.from_frame(
        {"user": user, "item": item, "rating": scores[user, item] + rng.normal(0, 0.5, len(user))}
    )
    half = dist.HalfNormal(1.0)
    model = MatrixFactorization(
        1, Gaussian(half), intercept="learned", user_scale=half, item_scale=half,
        user_bias_scale=half, item_bias_scale=half,
    )  # fmt: skip
    gibbs = sample_gibbs(
        model, ratings, key=0, num_warmup=200, num_samples=1500, num_chains=2, watch=ratings
    )
    nuts = sample_nuts(model, ratings, key=1, num_warmup=400, num_samples=500, num_chains=4)
    assert gibbs.traces is not None
    for name in ("intercept", "noise_scale", "user_bias_scale", "item_bias_scale"):
        one, other = gibbs.traces.values[name], nuts.samples[name]
        error = np.hypot(one.std() / np.sqrt(ess(one)), other.std() / np.sqrt(ess(other)))
        assert abs(one.mean() - other.mean()) < 4.5 * error, name
    watched = gibbs.traces.watched
    assert watched is not None
    expected = nuts.predict(ratings, interval=None).mean
    np.testing.assert_allclose(watched.mean, expected, atol=0.08)


def ess(draws: np.ndarray) -> float:
    return float(np.asarray(arviz_stats.ess(draws)))

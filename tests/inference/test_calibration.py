"""Simulation-based calibration by simuk: ranks of the truth among the draws are uniform.

simuk draws parameters and data from a NumPyro model, runs a kernel of NumPyro's on the data, and
ranks the parameters. Our samplers are no such kernels, so one is made of them: its first state
holds all the draws of a whole run, and each step hands out the next. What is ranked are quantities
that the data identify; raw factors, whose posterior has many modes alike, are not.

Modrak et al. (2023), Simulation-based calibration checking for Bayesian computation; Talts,
Betancourt, Simpson, Vehtari and Gelman (2018).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.infer.mcmc import MCMCKernel
from simuk import SBC

from probmf import (
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    Ordinal,
    Ratings,
    sample_gibbs,
    sample_nuts,
)
from probmf.inference.gibbs import factorization_chains as _gibbs_factorization
from probmf.models.linear_predictor import linear_predictor
from probmf.models.observations import Observations

USERS, ITEMS = 8, 6
#: Draws that a truth is ranked among, and bins of the ranks.
RANKS, BINS = 29, 10
HALF = dist.HalfNormal(1.0)
#: Away from zero, where so few rows leave a scale, and chains crawl.
SCALE = dist.LogNormal(0.0, 0.5)

Quantities = dict[str, Any]


class Case(NamedTuple):
    """A model that simuk can simulate, and what is ranked.

    Attributes:
        simulate: From a key to a response and the quantities to rank.
        sample: From a response and a key to draws of the quantities, (draw,).
    """

    simulate: Callable[[Any], tuple[Any, Quantities]]
    sample: Callable[[np.ndarray, int], Quantities]


class Handed(NamedTuple):
    """The state of the kernel below; a pytree."""

    z: Quantities
    place: Any
    draws: Quantities


class WholeRun(MCMCKernel):
    """A kernel of NumPyro's that hands out the draws of another sampler."""

    sample_field = "z"

    def __init__(self, case: Case) -> None:
        self.case = case

        def model(response: Any = None) -> None:
            del response  # given, it is the kernel's business
            simulated, quantities = case.simulate(numpyro.prng_key())
            for name, value in {"response": simulated, **quantities}.items():
                numpyro.deterministic(name, value)

        self.model = model

    def init(
        self, rng_key: Any, num_warmup: int, init_params: Any, model_args: Any, model_kwargs: Any
    ) -> Handed:
        key = int(jax.random.randint(rng_key, (), 0, 2**30))
        draws = self.case.sample(np.asarray(model_kwargs["response"]), key)
        draws = {name: jnp.asarray(value) for name, value in draws.items()}
        return Handed({n: v[0] for n, v in draws.items()}, jnp.zeros((), jnp.int32), draws)

    def sample(self, state: Handed, model_args: Any, model_kwargs: Any) -> Handed:
        now = {name: value[state.place] for name, value in state.draws.items()}
        return Handed(now, state.place + 1, state.draws)


def run_calibration(case: Case, simulations: int, seed: int) -> dict[str, np.ndarray]:
    """Ranks of each quantity, by simuk."""

    def simulator(**drawn: Any) -> dict[str, Any]:
        return {"response": drawn["response"]}

    check = SBC(
        WholeRun(case), num_simulations=simulations, seed=seed, simulator=simulator,
        sample_kwargs={"num_warmup": 0, "num_samples": RANKS, "progress_bar": False},
    )  # fmt: skip
    with jax.numpy_rank_promotion("allow"):
        check.run_simulations()
    ranks = check.simulations["prior_sbc"]
    return {str(name): np.asarray(ranks[name]).ravel() for name in ranks.data_vars}


def check_uniform(ranks: dict[str, np.ndarray]) -> None:
    """No bin stands out, and ranks lean to neither side."""
    told, wrong = [], []
    for name, found in ranks.items():
        counts = np.bincount(found * BINS // (RANKS + 1), minlength=BINS)
        chance = scipy.stats.chisquare(counts).pvalue
        lean = (found.mean() - RANKS / 2) / np.sqrt(((RANKS + 1) ** 2 - 1) / 12 / len(found))
        told.append(f"{name}: p {chance:.3f}, lean {lean:+.2f}, {counts.tolist()}")
        if chance < 1e-3 or abs(lean) > 3.5:
            wrong.append(name)
    print("\n".join(told))  # noqa: T201  # shown by `pytest -s`, and when the test fails
    assert not wrong, told


def factorization_case(likelihood: Any, sampler: str) -> Case:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < 0.8)
    model = MatrixFactorization(
        1, likelihood, intercept=None if isinstance(likelihood, Ordinal) else dist.Normal(0.0, 1.0),
        user_scale=SCALE, item_scale=0.8, user_bias_scale=SCALE, item_bias_scale=0.5,
    )  # fmt: skip
    pairs = Observations(
        jnp.asarray(user), jnp.asarray(item), None, None, jnp.zeros(()), USERS, ITEMS
    )

    def quantities(values: Any) -> Quantities:
        """Of one draw."""
        scores = linear_predictor(values, pairs.user[:4], pairs.item[:4])
        found = {f"score {n}": scores[n] for n in (0, 3)}
        found["user bias"] = values["user_bias"][1] - values["user_bias"][0]
        found["user bias scale"] = values["user_bias_scale"]
        if "noise_scale" in values:
            found["noise scale"] = values["noise_scale"]
        return found

    def simulate(key: Any) -> tuple[Any, Quantities]:
        with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=key):
            trace = numpyro.handlers.trace(model).get_trace(pairs)
        values = {
            n: s["value"] for n, s in trace.items() if s["type"] in ("sample", "deterministic")
        }
        return values.pop("rating"), quantities(values)

    def sample(response: np.ndarray, key: int) -> Quantities:
        data = Ratings.from_frame({"user": user, "item": item, "rating": response})
        assert np.array_equal(data.user, user)
        assert np.array_equal(data.item, item)
        if sampler == "gibbs":
            fit = sample_gibbs(
                model, data, key=key, num_warmup=60, num_samples=6 * RANKS, num_chains=1, thin=6
            )
        else:
            fit = sample_nuts(
                model, data, key=key, num_warmup=200, num_samples=4 * RANKS, num_chains=1,
                target_accept=0.9,
            )  # fmt: skip
        fixed = {} if "intercept" in fit.samples else {"intercept": np.zeros(fit.num_draws)}
        values = fixed | {name: value[0] for name, value in fit.samples.items()}
        every = fit.num_draws // RANKS
        values = {name: jnp.asarray(value[every - 1 :: every]) for name, value in values.items()}
        return jax.vmap(quantities)(values)

    return Case(simulate, sample)


def mixed_case(sampler: str) -> Case:
    groups, each = 6, 4
    g, x = np.repeat(np.arange(groups), each), np.tile(np.linspace(-1, 1, each), groups)
    model = MixedEffects(
        "y ~ 1 + (1 + x | g)",
        priors={
            "coefficients": {"Intercept": dist.Normal(0.0, 2.0)}, "g_scale": HALF,
            "g_correlation": 2.0, "noise_scale": HALF,
        },
    )  # fmt: skip
    (data,) = model.arguments({"y": np.arange(float(len(g))), "x": x, "g": g})

    def quantities(values: Any) -> Quantities:
        return {
            "intercept": values["coefficients"][0], "scale": values["g_scale"][0],
            "slope scale": values["g_scale"][1], "correlation": values["g_correlation"][1, 0],
            "noise scale": values["noise_scale"], "effect": values["g_effects"][0, 1],
        }  # fmt: skip

    def simulate(key: Any) -> tuple[Any, Quantities]:
        with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=key):
            trace = numpyro.handlers.trace(model).get_trace(data.without_response())
        values = {n: s["value"] for n, s in trace.items() if s["type"] == "sample"}
        return values.pop("y"), quantities(values)

    def sample(response: np.ndarray, key: int) -> Quantities:
        table = {"y": np.asarray(response, np.float64), "x": x, "g": g}
        if sampler == "gibbs":
            fit = sample_gibbs(
                model, table, key=key, num_warmup=60, num_samples=3 * RANKS, num_chains=1, thin=3
            )
        else:
            fit = sample_nuts(
                model, table, key=key, num_warmup=200, num_samples=4 * RANKS, num_chains=1,
                marginalize="all", target_accept=0.95,
            )  # fmt: skip
        every = fit.num_draws // RANKS
        values = {name: jnp.asarray(v[0, every - 1 :: every]) for name, v in fit.samples.items()}
        return jax.vmap(quantities)(values)

    return Case(simulate, sample)


#: Cutpoints are known, as data that lack a level are refused, and the others would be selected.
CASES: dict[str, Callable[[str], Case]] = {
    "gaussian": lambda sampler: factorization_case(Gaussian(HALF), sampler),
    "bernoulli": lambda sampler: factorization_case(Bernoulli(), sampler),
    "ordinal": lambda sampler: factorization_case(Ordinal(3, (-0.7, 0.7)), sampler),
    "mixed": mixed_case,
}
#: Simulations of each but one.
SIMULATIONS = {"gaussian": 200, "bernoulli": 200, "ordinal": 200, "mixed": 100}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so few rows, handing them to threads takes longer than drawing them."""
    monkeypatch.setattr(_gibbs_factorization, "num_workers", lambda: 1)


@pytest.mark.calibration
@pytest.mark.parametrize("sampler", ["gibbs", "nuts"])
@pytest.mark.parametrize("name", CASES)
def test_ranks_are_uniform(name: str, sampler: str) -> None:
    # NUTS of a mixed model takes seconds to prepare for new data.
    simulations = 50 if (name, sampler) == ("mixed", "nuts") else SIMULATIONS[name]
    check_uniform(run_calibration(CASES[name](sampler), simulations, seed=1))


@pytest.mark.slow
def test_a_few_ranks() -> None:
    """The same in small: ranks that are not all alike, and lean to neither side much."""
    ranks = run_calibration(CASES["gaussian"]("gibbs"), 8, seed=2)
    assert set(ranks) == {"score 0", "score 3", "user bias", "user bias scale", "noise scale"}
    for name, found in ranks.items():
        assert found.shape == (8,), name
        assert len(set(found.tolist())) > 3, name
        assert abs(found.mean() - RANKS / 2) < 4 * RANKS / np.sqrt(12 * 8), name

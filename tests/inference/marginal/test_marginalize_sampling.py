"""Marginal models in the hands of NumPyro: samplers, guides, prediction; and effects drawn back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from marginal_models import DATA, GROUPS, ROWS, intercepts, slopes, two_by_row
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, log_likelihood
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

from probmf.inference.marginal import marginalize, prepared_model
from probmf.inference.marginal.captured_arrays import Captured
from probmf.inference.potential import Potential

ARRAYS = {name: jnp.asarray(values) for name, values in DATA.items()}
FEATURES = {name: values for name, values in ARRAYS.items() if name != "y"}
EFFECTS = ("a", "b", "u", "v")
LEFT = {"tau", "kappa"}


@pytest.fixture(scope="module")
def samples() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.3, 2.0, (2, 3)) for name in sorted(LEFT)}


@pytest.mark.slow
def test_chains_may_be_vectorized_and_effects_come_back_by_chain() -> None:
    marginal = marginalize(slopes, EFFECTS)
    mcmc = MCMC(
        NUTS(marginal), num_warmup=5, num_samples=30, num_chains=2, chain_method="vectorized",
        progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), **ARRAYS)
    flat, by_chain = mcmc.get_samples(), mcmc.get_samples(group_by_chain=True)
    assert set(flat) == LEFT
    shapes = {"a": (), "b": (), "u": (5,), "v": (5,), "twice": (5,), "eta": (ROWS,)}
    effects = marginal.recover(0, flat, **ARRAYS)
    assert {n: v.shape for n, v in effects.items()} == {n: (60, *s) for n, s in shapes.items()}
    chains = marginal.recover(0, by_chain, **ARRAYS)
    for name, values in chains.items():
        np.testing.assert_array_equal(values.reshape(effects[name].shape), effects[name])
    np.testing.assert_allclose(effects["twice"], 2 * effects["v"], rtol=1e-6)
    eta = effects["u"][:, DATA["g"]] + effects["v"][:, DATA["g"]] * DATA["x"][None]
    np.testing.assert_allclose(effects["eta"], eta, atol=1e-5)


@pytest.mark.slow
def test_a_normal_guide_runs() -> None:
    marginal = marginalize(slopes, EFFECTS)
    guide = AutoNormal(marginal)
    svi = SVI(marginal, guide, numpyro.optim.Adam(0.05), Trace_ELBO())
    result = svi.run(jax.random.key(1), 60, progress_bar=False, **ARRAYS)
    assert float(result.losses[-10:].mean()) < float(result.losses[:10].mean())
    drawn = guide.sample_posterior(jax.random.key(2), result.params, sample_shape=(7,))
    assert marginal.recover(3, drawn, **ARRAYS)["u"].shape == (7, GROUPS)


def test_points_may_be_mapped_over_and_effects_come_back_by_chain(samples: dict[str, Any]) -> None:
    """As chains that are vectorized have it."""
    marginal = marginalize(slopes, EFFECTS)
    flat = {name: jnp.asarray(values).ravel() for name, values in samples.items()}
    one = jax.jit(lambda at: log_density(marginal, (), ARRAYS, at)[0])
    found = jax.jit(jax.vmap(lambda at: log_density(marginal, (), ARRAYS, at)[0]))(flat)
    wanted = [one({name: values[n] for name, values in flat.items()}) for n in range(6)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    effects, chains = (marginal.recover(0, given, **ARRAYS) for given in (flat, samples))
    shapes = {"a": (), "b": (), "u": (5,), "v": (5,), "twice": (5,), "eta": (ROWS,)}
    assert {n: v.shape for n, v in effects.items()} == {n: (6, *s) for n, s in shapes.items()}
    for name, values in chains.items():
        np.testing.assert_array_equal(values.reshape(effects[name].shape), effects[name])
    np.testing.assert_allclose(effects["twice"], 2 * effects["v"], rtol=1e-6)


def test_prediction_and_likelihood(samples: dict[str, Any]) -> None:
    """Without observations the effects come from their prior, with them the data come back."""
    marginal = marginalize(slopes, EFFECTS)
    flat = {name: jnp.asarray(values).ravel() for name, values in samples.items()}
    likelihood = log_likelihood(marginal, flat, **ARRAYS)
    assert {name: v.shape for name, v in likelihood.items()} == {"y": (6,)}
    evidence, _ = marginal.evidence_and_effects(0, flat, **ARRAYS)
    np.testing.assert_allclose(likelihood["y"], evidence, rtol=1e-5)
    given = Predictive(marginal, flat)(jax.random.key(0), **ARRAYS)
    np.testing.assert_allclose(given["y"], np.broadcast_to(DATA["y"], (6, ROWS)), rtol=1e-6)
    prior = Predictive(marginal, num_samples=4)(jax.random.key(1), **FEATURES)
    assert prior["y"].shape == (4, ROWS)
    assert prior["u"].shape == (4, GROUPS)


@jax.enable_x64(True)
def test_its_own_draws_of_the_observations_have_their_covariance() -> None:
    """The distribution of the marginal site can be sampled, effects included."""
    marginal = marginalize(intercepts, "u")
    latents = {"tau": jnp.array(0.8), "sigma": jnp.array(0.5)}
    held = numpyro.handlers.substitute(marginal, latents)
    law = numpyro.handlers.trace(held).get_trace(**DATA)["y"]["fn"]
    drawn = jax.jit(lambda key: law.sample(key, (5000,)))(jax.random.key(0))
    same = (DATA["g"][:, None] == DATA["g"]).astype(float)
    expected = 0.64 * same + 0.25 * np.eye(ROWS)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=6 * 0.9 / np.sqrt(5000))
    np.testing.assert_allclose(drawn.mean(0), 0.3, atol=4.5 * 0.95 / np.sqrt(5000))
    density = law.log_prob(drawn[0])
    data = {**DATA, "y": np.asarray(drawn[0])}
    other = numpyro.handlers.trace(numpyro.handlers.substitute(marginal, latents)).get_trace(**data)
    assert density == pytest.approx(float(other["y"]["fn"].log_prob(drawn[0])), rel=1e-10)


def test_how_many_are_drawn_at_once_changes_nothing(
    samples: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = {name: values.ravel() for name, values in samples.items()}
    drawn = []
    for numbers in (1, 4_000, 4_000_000):
        monkeypatch.setattr(prepared_model, "DRAW_NUMBERS", numbers)
        drawn.append(marginalize(slopes, EFFECTS).recover(0, flat, **ARRAYS))
    for other in drawn[1:]:
        for name, values in drawn[0].items():
            np.testing.assert_allclose(other[name], values, atol=1e-4)


def test_effects_are_drawn_within_jit_as_outside(samples: dict[str, Any]) -> None:
    marginal, key = marginalize(slopes, EFFECTS), jax.random.key(0)
    want = marginal.recover(key, samples, **ARRAYS)

    def of_draws(values: Any) -> Any:
        return marginal.recover(key, values, **ARRAYS)

    def of_key(one: Any) -> Any:
        return marginal.recover(one, samples, **ARRAYS)

    for got in (jax.jit(of_draws)(samples), jax.jit(of_key)(key)):
        assert got.keys() == want.keys()
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_keys_may_be_numbers_or_typed_and_do_matter(samples: dict[str, Any]) -> None:
    marginal = marginalize(slopes, EFFECTS)
    drawn = marginal.recover(0, samples, **ARRAYS)["u"]
    assert drawn.shape == (2, 3, GROUPS)
    np.testing.assert_array_equal(
        drawn, marginal.recover(jax.random.key(0), samples, **ARRAYS)["u"]
    )
    assert not np.allclose(drawn, marginal.recover(1, samples, **ARRAYS)["u"])
    assert len(np.unique(np.asarray(drawn))) == drawn.size


def test_without_other_sites_the_effects_can_be_drawn_as_well() -> None:
    def model(y: Any) -> None:
        with numpyro.plate("rows", 3):
            m = numpyro.sample("m", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(m, 1), obs=y)

    drawn = marginalize(model, "m").recover(0, {"other": np.zeros(50)}, np.ones(3))
    assert drawn["m"].shape == (50, 3)


def test_other_observed_sites_and_factors_stay() -> None:
    marginal = marginalize(two_by_row, "u")
    held = numpyro.handlers.substitute(marginal, {"tau": jnp.array(0.8)})
    trace = numpyro.handlers.trace(held).get_trace(**DATA)
    assert {"tau", "tau_seen", "bonus", "y"} <= set(trace)
    assert "u" not in trace


def test_structure_is_found_once_for_the_same_data_and_anew_for_others() -> None:
    calls = []

    def model(g: Any, y: Any, flavour: Any = None) -> None:
        calls.append(1)
        with numpyro.plate("groups", GROUPS):
            u = numpyro.sample("u", dist.Normal(0, 1))
        size = 1.0 if flavour is None else flavour.size
        numpyro.sample("y", dist.Normal(size * u[g], 1.0), obs=y)

    class Flavour:
        """Two of them look the same when they are printed."""

        def __init__(self, size: float) -> None:
            self.size = size

        def __repr__(self) -> str:
            return "Flavour"

    marginal = marginalize(model, "u")
    first = marginal.prepare(DATA["g"], DATA["y"])
    count = len(calls)
    assert marginal.prepare(DATA["g"].copy(), DATA["y"].copy()) is first
    assert len(calls) == count
    assert marginal.prepare(DATA["g"], DATA["y"] + 1) is not first
    assert marginal.prepare(DATA["g"].astype(float).astype(int), DATA["y"]) is not first
    plain, double = Flavour(1.0), Flavour(2.0)
    one = marginal.prepare(DATA["g"], DATA["y"], plain)
    assert marginal.prepare(DATA["g"], DATA["y"], double) is not one
    assert marginal.prepare(DATA["g"], DATA["y"], plain) is one


class Holder:
    """A model that is a method of what holds its data."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def run(self, y: Any = DATA["y"]) -> None:
        with numpyro.plate("groups", GROUPS):
            u = numpyro.sample("u", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(u[self.group], 1.0), obs=y)


def test_arrays_that_a_program_has_seen_are_read_in_both_precisions() -> None:
    """JAX remembers a NumPy array in the precision of a program that has used it."""
    held = {"group": DATA["g"].astype(np.int64), "y": DATA["y"].copy()}

    def shift(u: Any) -> Any:
        return u[held["group"]]

    def model(group: Any = None, y: Any = held["y"]) -> None:
        with numpyro.plate("groups", GROUPS):
            u = numpyro.sample("u", dist.Normal(0, 1))
        own = shift(u) if group is None else u[group]
        numpyro.sample("y", dist.Normal(own, 1.0), obs=y)

    def step(_: int, total: jax.Array) -> jax.Array:
        return total + jnp.sum(shift(total) * held["y"])

    def density(model: Any) -> float:
        return float(numpyro.infer.util.log_density(model, (), {}, {})[0])

    right = density(marginalize(partial(model, jnp.asarray(held["group"])), "u"))
    # Held by the marginal model, and then by a loop of the caller's in the caller's precision.
    first = marginalize(model, "u")
    assert density(first) == right
    seen = jax.jit(lambda start: jax.lax.fori_loop(0, 3, step, start))
    seen(jnp.ones(GROUPS))
    others = partial(model), numpyro.handlers.block(model, hide=["z"]), Holder(held["group"]).run
    for one in (model, *others):
        assert density(marginalize(one, "u")) == right


def test_what_a_model_captures_is_read_anew() -> None:
    """Also by programs that are compiled: they hold what the function captured at the time."""
    seen, size = np.arange(6) % 4, 1.0

    def model() -> None:
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        with numpyro.plate("groups", 6):
            u = numpyro.sample("u", dist.Normal(0, tau))
        numpyro.sample("y", dist.Poisson(size * jnp.exp(u)), obs=seen)

    marginal = marginalize(model, "u")

    def density(marginal: Any) -> float:
        return float(Potential(marginal, (), {}).value(np.zeros(1)))

    found = [density(marginal)]
    before = Captured(model)
    assert Captured(model) == before
    seen[0] = 7
    assert Captured(model) != before
    found.append(density(marginal))
    seen, size = seen + 1, 2.0
    found.append(density(marginal))

    def log_marginal(seen: Any, size: float) -> float:
        grid = np.linspace(-9, 9, 2001)[:, None]
        logs = scipy.stats.poisson.logpmf(seen, size * np.exp(grid))
        each = np.logaddexp.reduce(logs + scipy.stats.norm.logpdf(grid), axis=0)
        return float(
            np.sum(each + np.log(grid[1, 0] - grid[0, 0])) + scipy.stats.halfnorm.logpdf(1)
        )

    first = np.arange(6) % 4
    other = np.where(np.arange(6) == 0, 7, first)
    wanted = [log_marginal(first, 1.0), log_marginal(other, 1.0), log_marginal(other + 1, 2.0)]
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_marginal_draws_with_effects_recovered_are_joint_draws() -> None:
    """Means and standard deviations of two samplers, within their Monte-Carlo errors."""
    rng = np.random.default_rng(3)
    group, x = np.arange(48) % 6, rng.normal(size=48)
    y = 1.0 + 0.5 * x + 0.8 * rng.normal(size=6)[group] + 0.6 * rng.normal(size=48)

    def model(group: Any, x: Any, y: Any = None) -> None:
        coefficient = numpyro.sample("coefficient", dist.Normal(0, 2))
        mean = numpyro.sample("mean", dist.Normal(0, 2))
        tau = numpyro.sample("tau", dist.LogNormal(-0.3, 0.4))
        sigma = numpyro.sample("sigma", dist.LogNormal(-0.5, 0.5))
        with numpyro.plate("groups", 6):
            u = numpyro.sample("u", dist.Normal(mean, tau))
        with numpyro.plate("rows", 48):
            numpyro.sample("y", dist.Normal(u[group] + coefficient * x, sigma), obs=y)

    def run(model: Callable[..., None]) -> dict[str, Any]:
        mcmc = MCMC(NUTS(model), num_warmup=400, num_samples=3000, progress_bar=False)
        mcmc.run(jax.random.key(4), group, x, y)
        return mcmc.get_samples()

    marginal = marginalize(model, ("u", "mean", "coefficient"))
    draws = run(marginal)
    draws |= marginal.recover(5, draws, group, x, y)
    joint = run(model)
    assert set(draws) == set(joint)
    for name, wanted in joint.items():
        one, other = (np.asarray(v).reshape(3000, -1) for v in (draws[name], wanted))
        size = [effective_sample_size(v[None]) for v in (one, other)]
        error = np.sqrt(one.var(0) / size[0] + other.var(0) / size[1])
        assert np.all(np.abs(one.mean(0) - other.mean(0)) < 4.5 * error), name
        spread = np.sqrt(0.5 / size[0] + 0.5 / size[1])
        assert np.all(np.abs(np.log(one.std(0) / other.std(0))) < 6 * spread), name

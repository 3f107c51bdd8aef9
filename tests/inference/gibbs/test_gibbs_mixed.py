"""Gibbs sampling of mixed models: closed forms, its own joint distribution, NUTS, and runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed

from probmf import MatrixFactorization, MixedEffects, load, sample_gibbs, sample_nuts
from probmf.effects import pattern as effects_pattern
from probmf.inference.gibbs.mixed_effects import mixed_job
from probmf.inference.gibbs.mixed_sweep import MixedProblem
from probmf.models.mixed.program import MixedProgram
from probmf.results import MixedFit
from probmf.results.measures import measure
from probmf.run.driver import FitWarning
from probmf.run.threads import Workers

HALF = dist.HalfNormal(1.0)


def crossed(n: int = 40, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    g, h = rng.permutation(np.arange(n) % 6), rng.permutation(np.arange(n) % 4)
    x = rng.normal(size=n)
    y = 1 + 0.5 * x + rng.normal(size=6)[g] + rng.normal(size=4)[h] + rng.normal(0, 0.7, n)
    return {"y": y, "x": x, "g": g, "h": [f"h{code}" for code in h]}


def sleep(seed: int = 3, groups: int = 12, each: int = 8) -> dict[str, Any]:
    """Reaction times over days of many subjects, as in sleepstudy."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(groups), each), np.tile(np.arange(each) / 4.0, groups)
    effects = rng.multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 0.5]], groups)
    y = 2 + x + effects[g, 0] + effects[g, 1] * x + rng.normal(0, 0.6, len(g))
    return {"y": y, "x": x, "g": g}


@pytest.mark.parametrize(("float64", "together"), [(True, True), (False, False)])
def test_fixed_scales_have_their_closed_form(
    float64: bool, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is one Gaussian: drawn at once, or where that is too large by grouping factor."""
    if not together:
        monkeypatch.setattr(effects_pattern, "MAX_REMAINDER", 3)
    data = crossed()
    model = MixedEffects(
        "y ~ 1 + x + (1 | g) + (0 + x | h)",
        priors={
            "coefficients": {"Intercept": dist.Normal(0.5, 2.0), "x": dist.Normal(0.0, 1.0)},
            "g_scale": 0.8, "h_scale": 1.1, "noise_scale": 0.7,
        },
    )  # fmt: skip
    fit = sample_gibbs(
        model, data, key=0, num_warmup=20, num_samples=1000, float64=float64, progress=False
    )
    columns = np.stack([np.ones(40), data["x"]], axis=1)
    h = np.asarray([int(name[1]) for name in data["h"]])
    design = np.concatenate([columns, np.eye(6)[data["g"]], np.eye(4)[h] * columns[:, 1:]], axis=1)
    prior = np.concatenate([[2.0, 1.0], np.full(6, 0.8), np.full(4, 1.1)]) ** -2.0
    precision = np.diag(prior) + design.T @ design / 0.49
    start = np.concatenate([[0.5], np.zeros(11)])
    mean = np.linalg.solve(precision, prior * start + design.T @ data["y"] / 0.49)
    covariance = np.linalg.inv(precision)
    parts = [fit.samples[name] for name in ("coefficients", "g_effects", "h_effects")]
    assert parts[0].dtype == (np.float64 if float64 else np.float32)
    drawn = np.concatenate([part.reshape(2000, -1) for part in parts], axis=1)
    error = np.sqrt(np.diag(covariance) / len(drawn) * (1 if together else 12))
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 4.5 * error)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.12 * covariance.max())


MODELS: dict[str, MixedEffects] = {
    "correlated": MixedEffects(
        "y ~ 1 + (1 + x | g)",
        priors={
            "coefficients": {"Intercept": dist.Normal(0.0, 1.0)}, "g_scale": HALF,
            "g_correlation": 2.0, "noise_scale": HALF,
        },
    ),
    "crossed": MixedEffects(
        "y ~ 0 + x + (1 | g) + (x || h)",
        priors={
            "coefficients": {"x": dist.Normal(0.0, 1.0)}, "g_scale": dist.Exponential(1.0),
            "h_scale": HALF, "h_x_scale": 0.5, "noise_scale": HALF,
        },
    ),
    "known correlation, known noise": MixedEffects(
        "y ~ 1 + (1 + x | g)",
        priors={
            "coefficients": {"Intercept": dist.Normal(0.0, 1.0)}, "g_scale": 0.8,
            "noise_scale": 0.6,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "together", "count"),
    [
        pytest.param("correlated", True, 1500, marks=pytest.mark.slow),
        pytest.param("crossed", False, 1500, marks=pytest.mark.slow),
        pytest.param("crossed", True, 20_000, marks=pytest.mark.calibration),
        pytest.param("correlated", True, 20_000, marks=pytest.mark.calibration),
        pytest.param("known correlation, known noise", True, 20_000, marks=pytest.mark.calibration),
    ],
)
def test_sweeps_leave_the_joint_distribution_alone(
    name: str, together: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a draw of parameters and responses, sweeps lead to another such draw (Geweke 2004)."""
    if not together:
        monkeypatch.setattr(effects_pattern, "MAX_REMAINDER", 3)
    model = MODELS[name]
    data = {key: value for key, value in crossed(24).items() if key != "h" or "h" in model.formula}
    with jax.enable_x64(True):
        job = mixed_job(model, data, jax.random.key(0), jax.random.key(0), 1)
        base = job.engine
        assert isinstance(base, MixedProblem)
        assert len(base.blocks) == (1 if together else 2)

        def problem_of(response: jax.Array) -> MixedProblem:
            own = replace(base.data, response=response)
            blocks = tuple(replace(b, args=(own,), statistics=None) for b in base.blocks)
            return MixedProblem(own, response, blocks)

        @jax.jit
        @jax.vmap
        def replicate(varying: Any, log_noise: Any, key: Any) -> Any:
            effects_key, noise_key, sweep_key = jax.random.split(key, 3)
            sites = base.natural(varying, log_noise)
            effects = draw_effects(base, sites, effects_key)
            eta = base.data.mean(effects)
            noise = (
                sites["noise_scale"] if "noise_scale" in sites else base.data.priors["noise_scale"]
            )
            response = eta + noise * jax.random.normal(noise_key, eta.shape)
            problem = problem_of(response)
            flat = jnp.concatenate([jnp.ravel(effects[site]) for site in base.sites])
            before = features(base, varying, log_noise, flat, response)
            for sweep in range(2):
                words = jax.random.key_data(jax.random.fold_in(sweep_key, sweep))
                varying, log_noise, flat, _ = problem._next(varying, log_noise, flat, words)
            return before, features(base, varying, log_noise, flat, response)

        varying, log_noise = draw_varying(base, count)
        before, after = replicate(varying, log_noise, jax.random.split(jax.random.key(5), count))
        differences = {name: np.asarray(after[name] - before[name]) for name in before}
    scores = {
        name: float(np.mean(found) / np.std(found) * np.sqrt(count))
        for name, found in differences.items()
    }
    assert len(scores) >= 4
    assert max(map(abs, scores.values())) < 4.5, scores


def draw_varying(problem: MixedProblem, count: int) -> tuple[Any, Any]:
    """Scales and correlations from their priors, as the sampler holds them."""
    keys = iter(jax.random.split(jax.random.key(9), 8))
    parts, noise = [jnp.zeros((count, 0))], jnp.zeros(count)
    for name, law in problem.laws.items():
        drawn = law.sample(next(keys), (count,))
        if name.endswith("_correlation"):
            parts.append(dist.transforms.CorrCholeskyTransform().inv(drawn))
        elif name == "noise_scale":
            noise = jnp.log(drawn)
        else:
            parts.append(jnp.log(drawn))
    return jnp.concatenate(parts, axis=1), noise


def draw_effects(problem: MixedProblem, sites: Any, key: Any) -> dict[str, Any]:
    mean, keys, found = problem.data.mean, iter(jax.random.split(key, 8)), {}
    if mean.names:
        found[mean.site] = problem.data.priors[mean.site].sample(next(keys))
    for term in mean.groups:
        root = problem._root(term, sites)
        shape = (term.num_groups, len(term.names))
        found[term.effects_site] = jax.random.normal(next(keys), shape) @ root.T
    return found


def features(problem: MixedProblem, varying: Any, log_noise: Any, flat: Any, y: Any) -> Any:
    """What the sampler must leave distributed as it is."""
    effects = problem.split(problem.sites, flat)
    error = y - problem.data.mean(effects)
    found = {f"varying {i}": jnp.tanh(varying[i]) for i in range(len(varying))}
    if "noise_scale" in problem.laws:
        found["noise"] = log_noise
        found["noise and error"] = log_noise * jnp.log(jnp.mean(jnp.square(error)))
    for name, value in effects.items():
        found[f"{name} mean"] = jnp.tanh(jnp.mean(value))
        found[f"{name} squared"] = jnp.log(jnp.mean(jnp.square(value)))
        found[f"{name} and response"] = jnp.tanh(jnp.mean(y) * value.ravel()[0])
        if value.ndim == 2 and value.shape[1] == 2:
            found[f"{name} product"] = jnp.tanh(jnp.mean(value[:, 0] * value[:, 1]))
    return found


@pytest.mark.slow
def test_gibbs_agrees_with_nuts() -> None:
    model, data = MixedEffects("y ~ 1 + x + (1 + x | g)"), sleep()
    gibbs = sample_gibbs(model, data, key=0, num_warmup=100, num_samples=1500, num_chains=2)
    nuts = sample_nuts(
        model, data, key=1, num_warmup=300, num_samples=500, num_chains=2, marginalize="all",
    )  # fmt: skip
    assert gibbs.samples.keys() == nuts.samples.keys()
    for name in gibbs.samples:
        one, other = (fit.samples[name] for fit in (gibbs, nuts))
        one, other = (value.reshape(*value.shape[:2], -1) for value in (one, other))
        for place in range(one.shape[2]):
            a, b = one[..., place], other[..., place]
            if np.std(b) < 1e-9:  # corners of the correlations' factor
                continue
            error = np.hypot(a.std() / np.sqrt(ess(a)), b.std() / np.sqrt(ess(b)))
            assert abs(a.mean() - b.mean()) < 4.5 * error, (name, place)
            assert 0.8 < a.std() / b.std() < 1.25, (name, place)


def ess(draws: np.ndarray) -> float:
    return float(measure(draws[..., None]).ess_bulk[0])


@pytest.mark.slow
def test_a_scale_at_zero_does_not_hold_the_chain() -> None:
    """Without the second update, given standardized effects, a chain sticks where scales vanish."""
    rng = np.random.default_rng(1)
    data = {"y": rng.normal(size=60), "g": np.arange(60) % 20}
    model = MixedEffects("y ~ 1 + (1 | g)", priors={"g_scale": HALF})
    settings: dict[str, Any] = {"key": 2, "num_warmup": 50, "num_samples": 600}
    both = sample_gibbs(model, data, **settings).samples["g_scale"][..., 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MixedProblem, "_interweave",
            lambda self, key, varying, effects, error, latents: (varying, effects, error),
        )  # fmt: skip
        # Another function, which JAX has not compiled yet.
        following = MixedProblem._next
        patch.setattr(MixedProblem, "_next", lambda *given: following(*given))
        once = sample_gibbs(model, data, **settings).samples["g_scale"][..., 0]
    assert ess(np.log(both)) > 3 * ess(np.log(once))


SHORT: dict[str, Any] = {"num_warmup": 10, "num_samples": 40, "num_chains": 2}


@pytest.fixture(scope="module")
def short() -> MixedFit:
    return sample_gibbs(MODELS["correlated"], sleep(), key=3, **SHORT)


def test_a_fit_as_of_any_sampler(short: MixedFit, tmp_path: Path) -> None:
    assert short.samples["g_effects"].shape == (2, 40, 12, 2)
    assert short.samples["g_effects"].dtype == np.float64
    assert not jax.config.jax_enable_x64
    assert "gibbs" in repr(short)
    assert {"g_scale[x]", "noise_scale"} <= {row["name"] for row in short.summary()}
    tree = short.to_arviz()
    assert tree["posterior"]["g_effects"].dims[2:] == ("g", "g_coefficient")
    assert tree["sample_stats"]["lp"].shape == (2, 40)
    assert np.corrcoef(short.predict().mean, sleep()["y"])[0, 1] > 0.8
    short.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    assert short.moments is not None
    assert loaded.moments is not None
    for name, value in short.samples.items():
        np.testing.assert_array_equal(loaded.samples[name], value)
    for name, value in short.moments.mean.items():
        np.testing.assert_array_equal(loaded.moments.mean[name], value)
        np.testing.assert_allclose(value, short.samples[name].mean(axis=1), atol=1e-12)
        np.testing.assert_allclose(short.moments.sd[name], short.samples[name].std(axis=1))
    mean, sd = short.moments.pooled("g_effects")
    np.testing.assert_allclose(mean, short.samples["g_effects"].mean(axis=(0, 1)))
    np.testing.assert_allclose(sd, short.samples["g_effects"].std(axis=(0, 1)))


def test_an_interrupted_run_goes_on_bit_for_bit(
    short: MixedFit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, made = Workers.map, []

    def sometimes(self: Workers, function: Any, items: Any) -> Any:
        made.append(1)
        if len(made) > 3:
            raise KeyboardInterrupt
        return real(self, function, items)

    monkeypatch.setattr(Workers, "map", sometimes)
    arguments: dict[str, Any] = {"key": 3, "checkpoint": tmp_path / "run", **SHORT}
    with pytest.warns(FitWarning, match="20 of 40 draws"):
        sample_gibbs(MODELS["correlated"], sleep(), **arguments)
    monkeypatch.undo()
    resumed = sample_gibbs(MODELS["correlated"], sleep(), **arguments)
    for name, value in short.samples.items():
        np.testing.assert_array_equal(resumed.samples[name], value)
    assert resumed.moments is not None
    assert short.moments is not None
    np.testing.assert_array_equal(resumed.moments.sd["g_effects"], short.moments.sd["g_effects"])
    other = replace(MODELS["correlated"], priors={"noise_scale": HALF})
    with pytest.raises(ValueError, match="holds another run"):
        sample_gibbs(other, sleep(), **arguments)


@pytest.mark.usefixtures("short")
def test_other_data_of_the_same_shapes_trace_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    traced, run = [], MixedProgram.__call__

    def counted(self: MixedProgram, data: Any) -> Any:
        traced.append(data)
        return run(self, data)

    monkeypatch.setattr(MixedProgram, "__call__", counted)
    sample_gibbs(replace(MODELS["correlated"]), sleep(4), key=4, **SHORT)
    assert not traced
    model = MODELS["correlated"]
    jax.eval_shape(seed(model.program, 0), *model.arguments(sleep()))
    assert traced  # It would have been counted.


def test_a_lognormal_response_is_its_logarithm(short: MixedFit) -> None:
    data = sleep() | {"y": np.exp(sleep()["y"])}
    fit = sample_gibbs(
        replace(MODELS["correlated"], likelihood="lognormal", centered=False), data, key=3, **SHORT
    )
    for name, value in short.samples.items():
        np.testing.assert_allclose(fit.samples[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"likelihood": "bernoulli"}, r"likelihood is Bernoulli\(.*\): .* Use sample_marginal or"),
        ({"scale_formula": "~ x"}, "scale_formula is '~ x': .* Use sample_nuts"),
    ],
)
def test_models_that_are_not_served(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        sample_gibbs(replace(MODELS["correlated"], **change), sleep(), key=0)


@pytest.mark.parametrize("name", ["watch", "start"])
def test_arguments_of_factorizations(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is for factorizations"):
        sample_gibbs(MODELS["correlated"], sleep(), key=0, **{name: 1})


def test_other_models_and_data() -> None:
    with pytest.raises(TypeError, match="expected MatrixFactorization or MixedEffects"):
        sample_gibbs("y ~ x", sleep(), key=0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="expected Ratings"):
        sample_gibbs(MatrixFactorization(1), sleep(), key=0)  # type: ignore[call-overload]


def test_scales_start_within_their_prior() -> None:
    """A prior that excludes the usual start is drawn from."""
    model = MixedEffects(
        "y ~ 1 + (1 | g)",
        priors={"g_scale": dist.Uniform(3.0, 4.0), "noise_scale": dist.Uniform(0.01, 0.02)},
    )
    fit = sample_gibbs(model, sleep(), key=0, **SHORT)
    assert np.all((fit.samples["g_scale"] > 3) & (fit.samples["g_scale"] < 4))
    assert np.all((fit.samples["noise_scale"] > 0.01) & (fit.samples["noise_scale"] < 0.02))

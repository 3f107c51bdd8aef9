"""Fits made by several threads at once are those that one thread makes one after the other."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import toys
from formulaic import ModelSpec
from numpyro.infer.util import log_density
from rings import slow

from probmf import (
    MixedEffects,
    fit_laplace,
    fit_marginal,
    fit_svi,
    marginalize,
    sample_gibbs,
    sample_marginal,
    sample_nuts,
)
from probmf.models.mixed import encoding
from probmf.models.mixed.program import MixedProgram

THREADS = 2
MODEL = MixedEffects("y ~ 1 + (1 | g)")


def table(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(10), 6)
    return {"y": rng.normal(0, 1, 10)[group] + rng.normal(size=60), "g": group}


def at_once[T](work: Callable[[int], T]) -> list[T]:
    """Results of the work for 0, 1, ..., all begun at the same moment."""
    barrier = threading.Barrier(THREADS)

    def one(index: int) -> T:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def sites(fit: Any) -> dict[str, np.ndarray]:
    return dict(fit.samples)


METHODS: dict[str, Callable[[int], dict[str, Any]]] = {
    "fit_marginal": lambda seed: sites(fit_marginal(MODEL, table(seed))),
    "sample_marginal": lambda seed: sites(
        sample_marginal(MODEL, table(seed), key=seed, num_samples=50)
    ),
    "sample_nuts": lambda seed: sites(
        sample_nuts(MODEL, table(seed), key=seed, num_warmup=5, num_samples=5, num_chains=1)
    ),
    "sample_nuts_marginal": lambda seed: sites(
        sample_nuts(
            MODEL,
            table(seed),
            key=seed,
            num_warmup=5,
            num_samples=5,
            num_chains=1,
            marginalize="all",
        )
    ),
    "fit_laplace": lambda seed: sites(
        fit_laplace(MODEL, table(seed), key=seed, num_samples=20, marginalize="all")
    ),
    "sample_gibbs": lambda seed: sites(
        sample_gibbs(MODEL, table(seed), key=seed, num_warmup=5, num_samples=5, num_chains=1)
    ),
}


@pytest.mark.parametrize(
    "method",
    slow(METHODS, "sample_nuts", "sample_nuts_marginal"),
)
@pytest.mark.filterwarnings("ignore::probmf.run.driver.FitWarning")
def test_threads_give_what_one_gives(method: str) -> None:
    together = at_once(METHODS[method])
    for index, found in enumerate(together):
        for name, value in METHODS[method](index).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.filterwarnings("ignore::probmf.run.driver.FitWarning")
@pytest.mark.slow
def test_svi_in_threads_takes_the_same_steps() -> None:
    def one(seed: int) -> np.ndarray:
        fit = fit_svi(MODEL, table(seed), key=seed, num_steps=10, num_samples=10, marginalize="all")
        assert fit.history is not None
        return fit.history.objective

    together = at_once(one)
    np.testing.assert_allclose(together, [one(seed) for seed in range(THREADS)], rtol=1e-6)


def effects(group: Any, y: Any = None) -> None:
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 10):
        u = numpyro.sample("u", dist.Normal(0.0, tau))
    numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)


def test_one_marginal_model_serves_threads_with_data_of_their_own() -> None:
    # More data sets than a model remembers, so that threads drop each other's.
    model = marginalize(effects, "u")

    def one(seed: int) -> list[float]:
        found = []
        for offset in (0, 100, 200, 300):
            data = table(seed + offset)
            u = model.recover(seed, {"tau": jnp.ones(3)}, data["g"], data["y"])["u"]
            found.append(float(jnp.sum(u)))
        return found

    together = at_once(one)
    np.testing.assert_allclose(together, [one(seed) for seed in range(THREADS)], rtol=1e-5)
    data = table(0)
    cov = np.eye(60) + (data["g"][:, None] == data["g"])
    want = (
        -0.5 * data["y"] @ np.linalg.solve(cov, data["y"])
        - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
    )
    value, _ = log_density(model, (data["g"], data["y"]), {}, {"tau": 1.0})
    np.testing.assert_allclose(value - dist.HalfNormal(1.0).log_prob(1.0), want, rtol=1e-5)


def test_validation_is_as_it_was_when_threads_are_done() -> None:
    at_once(lambda seed: MODEL.design(table(seed)))
    with pytest.raises(ValueError, match="invalid scale"):
        dist.Normal(0.0, -1.0)


def test_filters_of_warnings_are_changed_by_one_thread_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are the process's; each thread restores what it found, in whatever order they end."""
    real, seen = ModelSpec.get_model_matrix, []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(encoding.FILTERS.locked())
        return real(*arguments, **options)

    before = list(warnings.filters)
    monkeypatch.setattr(ModelSpec, "get_model_matrix", watched)
    designs = at_once(lambda seed: MODEL.design(table(seed)))
    at_once(lambda seed: MODEL.encode(designs[seed], table(seed)))
    assert len(seen) >= THREADS
    assert all(seen)
    assert not encoding.FILTERS.locked()
    assert warnings.filters == before


def test_models_run_in_the_thread_of_the_caller_whatever_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Programs that it has traced are found by threads of ours, which would run a model else."""
    run, threads = MixedProgram.__call__, set()

    def noted(self: MixedProgram, *args: Any) -> Any:
        threads.add(threading.get_ident())
        return run(self, *args)

    monkeypatch.setattr(MixedProgram, "__call__", noted)
    model = MixedEffects("y ~ x + (1 | g)", scale_formula="~ x")
    with (
        jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("float32"),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        sample_marginal(model, toys.mixed(), key=0, num_samples=4)
    assert threads == {threading.get_ident()}

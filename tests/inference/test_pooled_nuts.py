"""Chains that learn one mass matrix together."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats

from probmf.inference.nuts import pooled_warmup as pooled_module
from probmf.inference.nuts.pooled_warmup import PooledNuts, shrunk_covariance, variances
from probmf.inference.potential import Potential

SIZE = 30
#: Correlated, and of very different scales.
ROOT = np.diag(np.geomspace(0.1, 10.0, SIZE)) @ (np.eye(SIZE) + 0.5 * np.ones((SIZE, SIZE)))


def normal() -> None:
    law = dist.MultivariateNormal(
        jnp.arange(SIZE) * 1.0, scale_tril=jnp.linalg.cholesky(COVARIANCE)
    )
    numpyro.sample("x", law)


COVARIANCE = ROOT @ ROOT.T


@pytest.mark.parametrize(
    "most_dense", [500, pytest.param(5, marks=pytest.mark.slow)], ids=["dense", "diagonal"]
)
def test_draws_of_a_normal_law(most_dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_module, "MAX_DENSE", most_dense)
    with jax.enable_x64(True):
        run = PooledNuts(Potential(normal, (), {}), 4, jax.random.key(0), False)
        run.warm_up()
        chains = run.draw(250)
    assert run.settings.dense_mass == (most_dense > SIZE)
    assert 1 < run.gradients < 1000
    assert run.cost == run.gradients * run.operations
    assert run.num_warmup >= 4 * 40 + 160
    draws = chains.vectors.reshape(-1, SIZE)
    sizes = array_stats.ess(chains.vectors, chain_axis=0, draw_axis=1)
    errors = np.sqrt(np.diag(COVARIANCE) / sizes)
    np.testing.assert_array_less(np.abs(draws.mean(0) - np.arange(SIZE)), 4.5 * errors)
    if run.settings.dense_mass:
        np.testing.assert_allclose(draws.std(0), np.sqrt(np.diag(COVARIANCE)), rtol=0.25)
        assert chains.stats["n_steps"].mean() < 16
        assert sizes.min() > 300


def test_given_up_when_it_takes_too_much() -> None:
    with jax.enable_x64(True):
        run = PooledNuts(Potential(normal, (), {}), 1, jax.random.key(0), False)
        run.warm_up(0.0)
    assert run.cost == np.inf
    assert run.spent > 80 * run.operations  # At least a gradient for each transition.


def test_noise_is_removed_and_signal_kept() -> None:
    rng = np.random.default_rng(0)
    scales = np.geomspace(1e-3, 1e3, 40)
    noise = rng.normal(size=(120, 40))
    found = shrunk_covariance(noise * scales) / np.outer(scales, scales)
    error = np.linalg.norm(found - np.eye(40))
    assert error < 0.5 * np.linalg.norm(np.cov(noise.T) - np.eye(40))
    shared = noise + 3 * rng.normal(size=(120, 1))
    found = shrunk_covariance(shared)
    one = np.ones(40) / np.sqrt(40)
    assert one @ found @ one == pytest.approx(1 + 9 * 40, rel=0.3)
    other = np.eye(40)[0] - np.eye(40)[1]
    assert other @ found @ other == pytest.approx(2.0, rel=0.6)


@pytest.mark.parametrize("num", [3, 30, 300])
def test_always_positive_definite(num: int) -> None:
    draws: Any = np.random.default_rng(1).normal(size=(num, 20))
    draws[:, 3] = 7.0  # Has not moved.
    draws[:, 5] = draws[:, 6]
    found = shrunk_covariance(draws)
    assert np.linalg.eigvalsh(found).min() > 0
    assert 0.5 < found[3, 3] < 3
    assert variances(draws)[3] == 1

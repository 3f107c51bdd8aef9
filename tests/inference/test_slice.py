"""Slice sampling against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from probmf.inference.gibbs.slice_sampling import slice_sample


@pytest.mark.parametrize("width", [0.05, 300.0])
def test_slice_sampling_leaves_a_law_invariant(width: float) -> None:
    """Started from the law, it stays there: many chains at once, a few updates each."""
    count = 20_000
    start = jax.random.gamma(jax.random.key(0), 2.0, (count,))

    def log_density(x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, jnp.log(jnp.maximum(x, 1e-30)) - x, -jnp.inf)

    @jax.jit
    def run(start: jax.Array) -> jax.Array:
        def step(index: int, x: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(1), index)
            return slice_sample(key, x, log_density, jnp.full(count, width))

        return jax.lax.fori_loop(0, 6, step, start)

    drawn = np.asarray(run(start), np.float64)
    assert np.mean(drawn != np.asarray(start)) > 0.99
    assert scipy.stats.kstest(drawn, scipy.stats.gamma(2.0).cdf).pvalue > 1e-4


def test_slice_sampling_ends_where_there_are_no_numbers() -> None:
    start = jnp.asarray([-jnp.inf, jnp.nan, 0.5])
    found = slice_sample(jax.random.key(0), start, lambda x: -0.5 * x**2, jnp.full(3, 0.3))
    assert np.isfinite(np.asarray(found)).tolist() == [False, False, True]


def test_slice_sampling_forgets_its_start() -> None:
    def log_density(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.square((x - 1.0) / 0.1)

    @jax.jit
    def run(start: jax.Array) -> jax.Array:
        def step(index: int, x: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(3), index)
            return slice_sample(key, x, log_density, jnp.full(x.shape, 0.3))

        return jax.lax.fori_loop(0, 40, step, start)

    drawn = np.asarray(run(jnp.full(4000, 3.0)), np.float64)
    assert scipy.stats.kstest(drawn, scipy.stats.norm(1.0, 0.1).cdf).pvalue > 1e-4

"""The one decomposition for fixed prior scales, against the factorization for each noise scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probmf.effects import Grouping, draw_effects, log_evidence, make_pattern, sum_on_host
from probmf.inference.marginal.spectral import Spectrum


@pytest.mark.parametrize("dims", [(1,), (1, 2, 3)])
def test_evidence_and_draws_against_the_factorization(dims: tuple[int, ...]) -> None:
    """Same evidence at any noise; draws with the exact conditional's mean and spread."""
    rng = np.random.default_rng(3)
    sizes = (40, 6, 1)[: len(dims)]
    groups = [rng.integers(0, size, 150).astype(np.int32) for size in sizes]
    pattern = make_pattern(
        [
            Grouping(f"g{i}", group, size, dim)
            for i, (group, size, dim) in enumerate(zip(groups, sizes, dims, strict=True))
        ]
    )
    designs = [rng.normal(size=(150, dim)) for dim in dims]
    trils = [np.tril(rng.normal(size=(dim, dim))) + 2 * np.eye(dim) for dim in dims]
    ordered = [trils[i] for i in pattern.order]
    statistics = sum_on_host(pattern, [designs[i] for i in pattern.order], rng.normal(size=150))
    spectrum = Spectrum(pattern, statistics, ordered)
    with jax.enable_x64(True):
        device = jax.tree.map(jnp.asarray, statistics)
        factors = [jnp.asarray(tril) for tril in ordered]
        evidence = jax.jit(lambda beta: log_evidence(pattern, device, factors, beta))
        for precision in (1e-3, 0.7, 50.0):
            beta = jnp.asarray(precision)
            expected = evidence(beta)
            got = spectrum.log_evidence(np.array([precision]))
            np.testing.assert_allclose(got, [float(expected)], rtol=1e-10)
        beta = jnp.asarray(0.7)
        _, means = jax.jit(lambda: draw_effects(pattern, device, factors, beta, None))()
        keys = jax.random.split(jax.random.key(0), 4000)
        drawn = jax.vmap(lambda key: draw_effects(pattern, device, factors, beta, key)[1])
        exact = jax.jit(drawn)(keys)
    draws = spectrum.draw(np.full(4000, 0.7), rng)
    for drawn, mean, reference in zip(draws, means, exact, strict=True):
        deviation = np.asarray(reference).std(axis=0)
        error = np.abs(drawn.mean(axis=0) - np.asarray(mean)) / deviation
        assert error.max() < 5 / np.sqrt(4000)
        np.testing.assert_allclose(drawn.std(axis=0), deviation, rtol=0.12)

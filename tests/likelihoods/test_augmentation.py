"""Latent variables against their distribution functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from probmf.likelihoods.augmentation import draw_between, draw_polya_gamma

COUNT = 100_000


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("score", [0.0, 0.4, -2.0, 3.1, 3.2, -6.0, 25.0])
def test_polya_gamma_has_the_right_law(score: float) -> None:
    """Moments in closed form, and quantiles against the sum of exponentials that defines it."""
    key = jax.random.key(int(abs(score) * 10))
    drawn = np.asarray(jax.jit(draw_polya_gamma)(key, jnp.full(COUNT, score)), np.float64)
    size = abs(score)
    mean = np.tanh(size / 2) / (2 * size) if size else 0.25
    variance = (np.sinh(size) - size) / np.cosh(size / 2) ** 2 / 4 / size**3 if size else 1 / 24
    assert abs(drawn.mean() - mean) < 4.5 * np.sqrt(variance / COUNT)
    assert drawn.var() == pytest.approx(variance, rel=0.05)
    rng = np.random.default_rng(1)
    places = (np.arange(1, 1001) - 0.5) ** 2 + (score / 2 / np.pi) ** 2
    sums = (rng.exponential(size=(4000, 1000)) / places).sum(axis=1) / (2 * np.pi**2)
    sums += mean - np.sum(1 / places) / (2 * np.pi**2)  # the terms left out hardly vary
    assert scipy.stats.ks_2samp(drawn, sums).pvalue > 1e-4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("lower", "upper", "mean"),
    [
        (-np.inf, 0.0, 0.0), (-np.inf, 0.0, 4.0), (0.0, np.inf, -7.0), (1.0, 2.0, 0.0),
        (-1.0, 1.5, 0.2), (6.0, 6.5, 0.0), (-np.inf, -20.0, 0.0), (9.0, 9.3, 1.0),
        (-1e10, 1.0, 3.0),
    ],
)  # fmt: skip
def test_truncated_normal_has_the_right_law(lower: float, upper: float, mean: float) -> None:
    arrays = [jnp.full(COUNT, value) for value in (mean, lower, upper)]
    drawn = np.asarray(jax.jit(draw_between)(jax.random.key(2), *arrays), np.float64)
    assert drawn.min() >= lower
    assert drawn.max() <= upper
    law = scipy.stats.truncnorm(lower - mean, upper - mean, loc=mean)
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-4


def test_extreme_scores_stay_finite() -> None:
    scores = jnp.asarray([-300.0, -80.0, 80.0, 300.0])
    latent = jax.jit(draw_polya_gamma)(jax.random.key(0), scores)
    np.testing.assert_allclose(latent, 0.5 / np.abs(scores), rtol=0.5)
    zero, far = jnp.zeros(4), jnp.full(4, jnp.inf)
    above = jax.jit(draw_between)(jax.random.key(1), scores, zero, far)
    assert np.isfinite(above).all()
    assert (np.asarray(above) >= 0).all()


def test_no_draw_is_as_good_as_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ten million uniform numbers is the least: its quantile is no outlier for a row."""

    def least(key: Any, shape: Any = (), dtype: Any = float, minval: float = 0.0) -> jax.Array:
        return jnp.full(shape, minval, dtype)

    monkeypatch.setattr(jax.random, "uniform", least)
    far = jnp.full(7, jnp.inf)
    drawn = draw_between(jax.random.key(0), jnp.zeros(7), -far, far)
    assert float(jnp.max(jnp.abs(drawn))) < 6.5
    assert float(jnp.min(jnp.abs(drawn))) > 5.0


def test_what_is_not_a_number_ends_no_loop() -> None:
    nan = jnp.asarray([jnp.nan, 0.0])
    assert np.isnan(jax.jit(draw_polya_gamma)(jax.random.key(0), nan)).tolist() == [True, False]
    assert np.isnan(jax.jit(draw_between)(jax.random.key(0), nan, nan, nan + 1)).tolist() == [
        True,
        False,
    ]


def test_entries_are_those_of_a_longer_array() -> None:
    """Padding must not change draws: they go by the place alone."""
    scores = jnp.linspace(-6.0, 6.0, 12)
    draw, between = jax.jit(draw_polya_gamma), jax.jit(draw_between)
    for size in (5, 12):
        part = scores[:size]
        latent = draw(jax.random.key(0), scores)[:size]
        np.testing.assert_array_equal(draw(jax.random.key(0), part), latent)
        zero, far = jnp.zeros(12), jnp.full(12, jnp.inf)
        above = between(jax.random.key(1), scores, zero, far)[:size]
        got = between(jax.random.key(1), part, zero[:size], far[:size])
        np.testing.assert_allclose(got, above, rtol=1e-5)

"""Models with effects in the noise: draws with all effects integrated out, against sums."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

from probmf import MixedEffects, sample_marginal
from probmf.inference.mixed.noise_sampler import (
    NoiseDensity,
    NoiseIntegral,
    has_noise_integral,
    integrated,
)

GROUPS, EACH = 4, 6


def table(seed: int = 0) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(GROUPS), EACH)
    scale = np.exp(-0.2 + 0.6 * rng.normal(size=GROUPS))[group]
    y = 1.0 + 0.8 * rng.normal(size=GROUPS)[group] + scale * rng.normal(size=len(group))
    x = rng.normal(size=len(group)).round(2)
    names = np.array(list("abcd"))
    return {"y": y.tolist(), "g": names[group].tolist(), "x": x.tolist(),
            "h": names[(group + np.arange(len(group))) % GROUPS].tolist()}  # fmt: skip


def model() -> MixedEffects:
    return MixedEffects(
        "y ~ 1 + (1 | g)", scale_formula="~ 1 + (1 | g)",
        priors={
            "coefficients": dist.Normal(0.0, 2.0), "noise_coefficients": dist.Normal(0.0, 1.0),
            "g_scale": 0.8, "noise_g_scale": 0.6,
        },
    )  # fmt: skip


def by_sums() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means and sds of coefficients and of the effects in the noise, on a grid of all of them."""
    rows = table()
    y = np.asarray(rows["y"]).reshape(GROUPS, EACH)
    a, b = np.linspace(-2.5, 4.5, 71), np.linspace(-2.0, 1.6, 61)
    s = np.linspace(-3.0, 3.0, 61)
    center, log_noise, effect = a[:, None, None], b[None, :, None], s[None, None, :]
    precision = np.exp(-2 * (log_noise + effect))
    logs = []
    for own in y:
        left = own.sum() - EACH * center
        square = np.sum((own[:, None, None, None] - center) ** 2, axis=0)
        total = 1 / 0.8**2 + EACH * precision
        logs.append(
            -0.5 * square * precision - EACH * (log_noise + effect)
            + 0.5 * (precision * left) ** 2 / total - 0.5 * np.log(total)
            + norm.logpdf(effect, 0, 0.6)
        )  # fmt: skip
    alone = [np.logaddexp.reduce(one, axis=-1) for one in logs]
    joint = sum(alone) + norm.logpdf(a, 0, 2)[:, None] + norm.logpdf(b, 0, 1)
    weight = np.exp(joint - joint.max())
    weight /= weight.sum()

    def moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        mean = np.sum(weights * values)
        return mean, np.sqrt(np.sum(weights * (values - mean) ** 2))

    effects = []
    for one, sums in zip(logs, alone, strict=True):
        given = np.exp(one - sums[..., None])
        effects.append(moments(s, np.einsum("ab,abs->s", weight, given)))
    means, sds = map(np.array, zip(*effects, strict=True))
    first, second = moments(a, weight.sum(1)), moments(b, weight.sum(0))
    return {
        "coefficients": tuple(np.array([v]) for v in first),
        "noise_coefficients": tuple(np.array([v]) for v in second),
        "noise_g_effects": (means, sds),
    }


def test_draws_are_of_the_posterior() -> None:
    num = 2000
    fit = sample_marginal(model(), table(), key=0, num_samples=num, progress=False)
    assert fit.method == "marginal/importance"
    assert fit.sampling.info["k_hat"] < 0.5
    for site, (means, sds) in by_sums().items():
        draws = np.asarray(fit.samples[site]).reshape(num, -1)
        np.testing.assert_allclose(draws.mean(0), means, atol=5 * np.max(sds) / np.sqrt(num))
        np.testing.assert_allclose(draws.std(0), sds, rtol=0.12)
    # The mean's effects, too, are drawn with all else given.
    noise = np.exp(fit.samples["noise_coefficients"][0] + fit.samples["noise_g_effects"][0, ..., 0])
    y = np.asarray(table()["y"]).reshape(GROUPS, EACH)
    left = y.mean(1) - fit.samples["coefficients"][0]
    precision = EACH / noise**2
    mean, sd = left * precision / (precision + 1 / 0.64), (precision + 1 / 0.64) ** -0.5
    z = (fit.samples["g_effects"][0, ..., 0] - mean) / sd
    np.testing.assert_allclose(z.mean(0), 0.0, atol=5 / np.sqrt(num))
    np.testing.assert_allclose(z.std(0), 1.0, atol=5 / np.sqrt(2 * num))
    again = sample_marginal(model(), table(), key=0, num_samples=num, progress=False)
    for site, value in fit.samples.items():
        np.testing.assert_array_equal(again.samples[site], value)


@pytest.mark.parametrize(
    ("formula", "scale_formula", "serves"),
    [
        ("y ~ x + (1 + x | g)", "~ x + (1 + x || g)", True),
        ("y ~ x", "~ (1 | g)", True),
        ("y ~ 1 + (1 | h)", "~ (1 | g)", False),
        ("y ~ 1 + (1 | g)", "~ (1 + x + I(x ** 2) | g)", False),
        ("y ~ 1 + (1 | g)", "~ x", False),
    ],
)
def test_models_that_it_serves(formula: str, scale_formula: str, serves: bool) -> None:
    own = MixedEffects(formula, scale_formula=scale_formula)
    assert has_noise_integral(own.design(table()).data) == serves


@pytest.mark.parametrize("likelihood", ["gaussian", "lognormal"])
def test_rows_that_are_alike_count_as_one(likelihood: str) -> None:
    """Six rows of a group, joined: the same density but for a log-normal response's constant."""
    rows = table()
    rows["y"] = np.exp(rows["y"]).tolist()
    with jax.enable_x64(True):
        own = MixedEffects("y ~ 1 + (1 | g)", likelihood=likelihood, scale_formula="~ 1 + (1 | g)")
        design = own.design(rows)
        data = [own.arguments(design, join=join)[0] for join in (True, False)]
        assert [one.num_observations for one in data] == [GROUPS, GROUPS * EACH]
        both = [
            NoiseDensity(integrated, (NoiseIntegral.of(own.program, part),), {}) for part in data
        ]
        points = np.random.default_rng(3).normal(0, 0.4, (3, both[0].num_dims))
        one, other = (jax.jit(density.log_density) for density in both)
        gaps = [float(one(p)) - float(other(p)) for p in points]
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-4)
    if likelihood == "gaussian":
        np.testing.assert_allclose(gaps, 0.0, atol=1e-4)

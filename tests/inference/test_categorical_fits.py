"""Categorical factorizations: fits end where the gradient is zero, and find what was simulated."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import MCMC, NUTS
from scipy.special import expit, softmax

from probmf import (
    CategoricalFactorization,
    Ratings,
    fit_als,
    fit_laplace,
    fit_map,
    fit_svi,
    fit_variational,
    sample_gibbs,
    sample_nuts,
)
from probmf.metrics import level_log_score


def simulate(num_users: int, num_items: int) -> tuple[Ratings, Ratings, np.ndarray]:
    """Training and held-out ratings of three classes, and the true probabilities of the latter."""
    rng = np.random.default_rng(0)
    user_factors = rng.normal(size=(num_users, 2))
    item_factors = rng.normal(size=(num_items, 3, 2))
    bias = 0.5 * rng.normal(size=(num_items, 3))
    user, item = np.divmod(np.arange(num_users * num_items), num_items)
    scores = np.einsum("nk,nck->nc", user_factors[user], item_factors[item]) + bias[item]
    chance = softmax(scores, axis=1)
    code = (rng.random(len(user))[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    table = {"user": user, "item": item, "rating": code}
    held = rng.random(len(user)) < 0.2
    train, test = (
        Ratings.from_frame({name: column[part] for name, column in table.items()})
        for part in (~held, held)
    )
    return train, test, chance[held]


TRAIN, TEST, TRUTH = simulate(60, 40)
MODEL = CategoricalFactorization(2, 3, user_bias=False, item_bias_scale=0.5)


def test_the_gradient_is_zero_at_the_fit() -> None:
    with jax.enable_x64(True):
        model = CategoricalFactorization(1, 3, intercept=dist.Normal(0.0, 2.0))
        small = TRAIN.split(key=0, test_fraction=0.9)[0]
        fit = fit_map(model, small, key=0, num_epochs=300, tol=0, optimizer=optax.lbfgs())
        (data,) = model.arguments(small)
        slopes = jax.grad(model.objective)(fit.point(), data)
        assert max(float(np.abs(slope).max()) for slope in slopes.values()) < 1e-6
        # Priors centred at zero settle the shifts that leave all probabilities alone.
        for site in ("intercept", "user_bias", "item_bias"):
            np.testing.assert_allclose(fit.point()[site].sum(axis=-1), 0.0, atol=1e-6)
        np.testing.assert_allclose(fit.point()["item_factors"].sum(axis=1), 0.0, atol=1e-6)
        assert fit.history is not None
        assert fit.history.objective[-1] == pytest.approx(float(model.objective(fit.point(), data)))


def test_fits_beat_frequencies_and_come_near_the_truth() -> None:
    share = np.bincount(TRAIN.rating.astype(int)) / len(TRAIN)
    frequencies = np.mean(np.log(share)[TEST.rating.astype(int)])
    full = fit_map(MODEL, TRAIN, key=0, num_epochs=300)
    small = fit_map(MODEL, TRAIN, key=0, num_epochs=60, batch_size=100, validation=TEST)
    assert full.history is not None
    assert small.history is not None
    assert small.history.validation is not None
    for fit in (full, small):
        predicted = fit.predict(TEST)
        score = level_log_score(TEST.rating, predicted.probability, range(3))
        assert score > frequencies + 0.1
        error = np.abs(predicted.probability - TRUTH).mean()
        assert error < 0.6 * np.abs(share - TRUTH).mean()
        right = np.mean(predicted.label == TEST.rating)
        assert right > np.mean(TEST.rating == np.argmax(share)) + 0.05
    best = small.history.validation[small.history.best - 1]
    score = level_log_score(TEST.rating, small.predict(TEST).probability, range(3))
    assert best == pytest.approx(-score, rel=1e-5)


def test_minibatches_end_where_full_batches_do() -> None:
    model = CategoricalFactorization(0, 3)
    full = fit_map(model, TRAIN, key=0, num_epochs=400, tol=0)
    rates = optax.linear_schedule(0.03, 0.0, 40 * 20)
    small = fit_map(
        model, TRAIN, key=1, num_epochs=40, batch_size=100, optimizer=optax.adam(rates), start=full
    )
    apart = np.abs(full.predict(TEST).probability - small.predict(TEST).probability).max()
    assert apart < 0.02


def test_nuts_agrees_with_quadrature() -> None:
    # Two classes of one item: the difference of its biases is Normal(0, 2 s^2) a priori.
    codes = [1, 1, 1, 0, 1, 1]
    data = Ratings.from_frame({"user": range(6), "item": ["a"] * 6, "rating": codes})
    model = CategoricalFactorization(
        0, ["no", "yes"], intercept=None, user_bias=False, item_bias_scale=0.8
    )
    grid = np.linspace(-8, 8, 4001)
    density = np.exp(-(grid**2) / (4 * 0.8**2)) * expit(grid) ** 5 * expit(-grid)
    density /= density.sum()
    mean = density @ expit(grid)
    sd = np.sqrt(density @ np.square(expit(grid) - mean))
    fit = sample_nuts(model, data, key=0, num_warmup=300, num_samples=1500, num_chains=2)
    predicted = fit.predict([(0, "a")], interval=0.9)
    assert predicted.probability[0, 1] == pytest.approx(mean, abs=0.015)
    assert predicted.sd is not None
    assert predicted.lower is not None
    assert predicted.upper is not None
    assert predicted.sd[0, 1] == pytest.approx(sd, abs=0.015)
    ends = np.interp([0.05, 0.95], np.cumsum(density), expit(grid))
    assert [predicted.lower[0, 1], predicted.upper[0, 1]] == pytest.approx(ends, abs=0.03)


@pytest.mark.slow
def test_numpyro_runs_the_model_and_scales_are_sampled() -> None:
    model = CategoricalFactorization(
        1, 3, dist.Normal(0.0, 1.0), item_scale=dist.HalfNormal(1.0), user_bias=False
    )
    small = TRAIN.split(key=0, test_fraction=0.9)[0]
    sampler = MCMC(NUTS(model), num_warmup=5, num_samples=3, progress_bar=False)
    sampler.run(jax.random.PRNGKey(0), *model.arguments(small))
    draws = sampler.get_samples()
    shapes = model.row_shapes(small.num_users, small.num_items)
    assert draws["item_factors"].shape == (3, *shapes["item_factors"])
    fit = sample_nuts(model, small, key=0, num_warmup=5, num_samples=3, num_chains=1)
    assert fit.samples["item_scale"].shape == (1, 3)
    assert fit.samples["intercept"].shape == (1, 3, 3)
    with pytest.raises(ValueError, match="fit_map needs fixed scales, but item_scale has a prior"):
        fit_map(model, small, key=0, num_epochs=1)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (fit_als, {}),
        (sample_gibbs, {}),
        (fit_variational, {}),
        (fit_svi, {"num_steps": 1}),
        (fit_laplace, {}),
    ],
)
def test_other_methods_name_those_that_fit(method: Callable, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no categorical likelihood; .* fit_map or sample_nuts"):
        method(MODEL, TRAIN, key=0, **options)


def test_messages() -> None:
    with pytest.raises(ValueError, match="no site can be integrated out exactly"):
        sample_nuts(MODEL, TRAIN, key=0, marginalize="user_factors")
    with pytest.raises(ValueError, match=r"there are .* ratings; give at most that many"):
        fit_map(MODEL, TRAIN, key=0, num_epochs=1, batch_size=10**6)
    with pytest.raises(TypeError, match="validation is of type dict; expected Ratings"):
        fit_map(MODEL, TRAIN, key=0, num_epochs=1, validation={})
    with pytest.raises(TypeError, match="start is of type dict; expected a CategoricalFit"):
        fit_map(MODEL, TRAIN, key=0, num_epochs=1, start={})
    other = fit_map(CategoricalFactorization(0, 3), TRAIN, key=0, num_epochs=1)
    with pytest.raises(ValueError, match="The fit to start from has user_factors of shape None"):
        fit_map(MODEL, TRAIN, key=0, num_epochs=1, start=other)
    wrong = Ratings.from_frame({"user": [0], "item": [0], "rating": [3]})
    with pytest.raises(ValueError, match="Row 0 has 3, but the 3 classes"):
        fit_map(MODEL, TRAIN, key=0, num_epochs=1, validation=wrong)

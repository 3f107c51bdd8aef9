"""Neural factorizations: fits end where the gradient is zero, and find what was simulated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from probmf import (
    MLP,
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    NeuralFactorization,
    NeuralFit,
    Ordinal,
    Ratings,
    fit_als,
    fit_laplace,
    fit_map,
    fit_svi,
    fit_variational,
    sample_gibbs,
    sample_nuts,
)
from probmf.metrics import rmse

SMALL = Ratings.from_frame(
    {
        "user": ["ann", "ann", "bob", "bob", "cho", "cho", "dan"],
        "item": [1, 2, 1, 3, 2, 4, 3],
        "rating": [1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 2.0],
    }
)
TINY = NeuralFactorization(1, MLP((2,)), likelihood=Gaussian(0.5), intercept=2.0)


def bump(num_users: int = 60, num_items: int = 50) -> tuple[Ratings, Ratings]:
    """Users like items near them on a line; half of the pairs, and the scores of the others."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(num_users * num_items), num_items)
    apart = rng.uniform(-1, 1, num_users)[user] - rng.uniform(-1, 1, num_items)[item]
    score = 2 * np.exp(-np.square(apart) / (2 * 0.25**2))
    seen = rng.random(len(user)) < 0.5
    noise = 0.1 * rng.normal(size=len(user))
    return (
        Ratings.from_frame(
            {"user": user[seen], "item": item[seen], "rating": (score + noise)[seen]}
        ),
        Ratings.from_frame({"user": user[~seen], "item": item[~seen], "rating": score[~seen]}),
    )


@pytest.mark.slow
def test_the_gradient_is_zero_at_the_fit() -> None:
    with jax.enable_x64(True):
        model = NeuralFactorization(1, MLP((2,)), likelihood=Gaussian(0.5), intercept="learned")
        rate = optax.cosine_decay_schedule(0.1, 1000)
        fit = fit_map(
            model, SMALL, key=0, num_epochs=1000, tol=0, optimizer="adam", learning_rate=rate
        )
        (data,) = model.arguments(SMALL)
        point = {site: fit.point()[site] for site in model.site_shapes(data)}
        slopes = jax.grad(model.objective)(point, data)
        assert max(float(np.abs(slope).max()) for slope in slopes.values()) < 1e-4
        assert fit.history is not None
        assert fit.history.objective[-1] == pytest.approx(float(model.objective(point, data)))


@pytest.mark.slow
def test_a_network_finds_what_no_inner_product_of_so_few_factors_can() -> None:
    train, test = bump()
    plain = fit_als(MatrixFactorization(2, Gaussian(0.1)), train, key=0, num_sweeps=100)
    error = rmse(test.rating, plain.predict(test, interval=None).mean)
    assert error > 0.3
    model = NeuralFactorization(2, MLP((32,)), product=False, likelihood=Gaussian(0.1))
    fit = fit_map(
        model, train, key=0, num_epochs=100, batch_size=100, num_restarts=4, validation=test,
        patience=100,
    )  # fmt: skip
    assert fit.history is not None
    assert fit.history.validation is not None
    found = rmse(test.rating, fit.predict(test).mean)
    assert found < 0.6 * error
    assert fit.history.validation[fit.history.best - 1] == pytest.approx(found, rel=1e-4)
    assert fit.history.restarts.shape[0] == 4


def test_minibatches_carry_the_whole_objective() -> None:
    """One epoch of plain descent by batches, at a rate so small that nothing moves meanwhile."""
    (data,) = TINY.arguments(SMALL)
    first = TINY.start(jax.random.key(0), data)
    start = NeuralFit.from_point(TINY, SMALL, first, history=None, method="none")
    moves = []
    for batch_size in (None, 2):
        fit = fit_map(
            TINY, SMALL, key=0, num_epochs=1, batch_size=batch_size, start=start, tol=0,
            optimizer="sgd", learning_rate=1e-4,
        )  # fmt: skip
        moves.append({s: fit.point()[s] - start.point()[s] for s in fit.samples})
    for site, moved in moves[0].items():
        np.testing.assert_allclose(moves[1][site], moved, rtol=0.1, atol=2e-5)


def test_a_checkpoint_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"key": 0, "num_epochs": 6, "batch_size": 3}
    model = NeuralFactorization(1, MLP((2,)), likelihood=Ordinal(3))
    whole = fit_map(model, SMALL, **options)
    assert whole.history is not None
    assert whole.history.objective[-1] < whole.history.objective[0]
    assert np.all(np.diff(whole.point()["cutpoints"]) > 0)
    kept = fit_map(model, SMALL, checkpoint=tmp_path / "run", **options)
    again = fit_map(model, SMALL, checkpoint=tmp_path / "run", **options)
    for site, value in whole.samples.items():
        np.testing.assert_array_equal(kept.samples[site], value)
        np.testing.assert_array_equal(again.samples[site], value)


def test_nuts_agrees_with_quadrature() -> None:
    # One user and one item with a bias only beside a network that is next to nothing.
    data = Ratings.from_frame({"user": [0], "item": [0], "rating": [1.0]})
    layers = MLP((1,), weight_scale=1e-3, bias_scale=1e-3)
    model = NeuralFactorization(
        1, layers, False, Gaussian(1.0), intercept=0.0, item_bias=False, user_bias_scale=1.0
    )
    fit = sample_nuts(model, data, key=0, num_warmup=200, num_samples=1000, num_chains=1)
    bias = fit.samples["user_bias"]
    assert float(bias.mean()) == pytest.approx(0.5, abs=0.08)
    assert float(bias.std()) == pytest.approx(np.sqrt(0.5), abs=0.08)
    predicted = fit.predict([(0, 0)], interval=0.9)
    assert predicted.sd is not None
    assert predicted.sd[0] == pytest.approx(np.sqrt(1.5), abs=0.1)


@pytest.mark.parametrize(
    "product", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["product", "network"]
)
def test_laplace_leaves_turns_of_the_factors_out(product: bool) -> None:
    model = NeuralFactorization(2, MLP((2,)), product, Gaussian(0.7))
    fit = fit_laplace(model, SMALL, key=0, num_samples=20)
    assert isinstance(fit, NeuralFit)
    assert fit.sampling is not None
    assert fit.sampling.info["converged"] == "yes"
    assert "log_evidence" not in fit.sampling.info
    assert np.isfinite(fit.predict(SMALL, interval=0.5).mean).all()


@pytest.mark.slow
def test_svi_gives_draws() -> None:
    fit = fit_svi(TINY, SMALL, key=0, num_steps=300, num_samples=20)
    assert isinstance(fit, NeuralFit)
    assert fit.samples["network_weight_0"].shape == (1, 20, 2, 2)
    assert np.isfinite(fit.predict(SMALL, interval=0.5).mean).all()


@pytest.mark.slow
def test_numpyro_runs_the_model_and_scales_are_sampled() -> None:
    model = NeuralFactorization(
        2, MLP((2,), weight_scale=dist.HalfNormal(1.0)), likelihood=Gaussian(dist.HalfNormal(1.0)),
        item_scale=dist.HalfNormal(1.0).expand([1, 2]), intercept="learned",
    )  # fmt: skip
    fit = sample_nuts(model, SMALL, key=0, num_warmup=5, num_samples=3, num_chains=1)
    assert fit.samples["item_scale"].shape == (1, 3, 1, 2)
    assert fit.samples["network_weight_scale_1"].shape == (1, 3)
    assert np.isfinite(fit.predict([("eve", 9)], interval=0.5).mean).all()
    with pytest.raises(ValueError, match="fit_map needs fixed scales, but item_scale, noise_scale"):
        fit_map(model, SMALL, key=0, num_epochs=1)
    with pytest.raises(ValueError, match="fit_laplace needs the highest point of the density"):
        fit_laplace(model, SMALL, key=0)


@pytest.mark.parametrize("method", [fit_als, sample_gibbs, fit_variational])
def test_methods_in_closed_form_name_those_that_fit(method: Callable) -> None:
    with pytest.raises(ValueError, match=r"not linear in a row\. Fit .* with fit_map, sample_nuts"):
        method(TINY, SMALL, key=0)


def test_messages() -> None:
    stepped = NeuralFactorization(1, MLP((2,), "step"))
    calls: tuple[Callable, ...] = (fit_map, sample_nuts, fit_svi, fit_laplace)
    for method in calls:
        options = {"num_epochs": 1} if method is fit_map else {}
        with pytest.raises(ValueError, match="activation='step' can't be trained"):
            method(stepped, SMALL, key=0, **options)
    for method in (sample_nuts, fit_svi):
        with pytest.raises(ValueError, match="so that none can be integrated out exactly"):
            method(TINY, SMALL, key=0, marginalize=["user_factors"])
    with pytest.raises(ValueError, match="there are 7 ratings; give at most that many"):
        fit_map(TINY, SMALL, key=0, num_epochs=1, batch_size=10)
    with pytest.raises(TypeError, match="validation is of type dict; expected Ratings"):
        fit_map(TINY, SMALL, key=0, num_epochs=1, validation={})
    with pytest.raises(TypeError, match="start is of type dict; expected a NeuralFit"):
        fit_map(TINY, SMALL, key=0, num_epochs=1, start={})
    other = fit_map(NeuralFactorization(1, MLP((3,))), SMALL, key=0, num_epochs=1)
    with pytest.raises(ValueError, match=r"The fit to start from has network_weight_0 of shape"):
        fit_map(TINY, SMALL, key=0, num_epochs=1, start=other)
    wrong = Ratings.from_frame({"user": ["eve"], "item": [1], "rating": [3]})
    with pytest.raises(ValueError, match="eve"):
        fit_map(TINY, SMALL, key=0, num_epochs=1, validation=wrong)
    yes = NeuralFactorization(1, MLP((2,)), likelihood=Bernoulli())
    with pytest.raises(ValueError, match="A Bernoulli likelihood needs ratings 0 or 1"):
        fit_map(yes, SMALL, key=0, num_epochs=1)

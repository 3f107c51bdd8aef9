"""Stochastic variational inference: closed forms, NUTS, storage, and what is refused."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from approximated_models import hours, linear, small, unknowns
from numpyro.infer import SVI, autoguide

from probmf import Bernoulli, Gaussian, MixedEffects, Ordinal, Ratings, fit_als, fit_svi, load
from probmf.inference.approximate import svi as approximation
from probmf.inference.approximate import svi_loop as kernel
from probmf.results import MixedFit, RatingsFit
from probmf.run.driver import FitWarning


@pytest.mark.slow
def test_a_full_covariance_converges_to_the_exact_posterior() -> None:
    exact = linear()
    fit = fit_svi(exact.model, exact.table, key=0, guide="multivariate", num_samples=4000)
    assert isinstance(fit, MixedFit)
    assert fit.sampling is not None
    draws, sd = unknowns(fit), np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose((draws.mean(axis=0) - exact.mean) / sd, 0, atol=0.12)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.08)
    np.testing.assert_allclose(np.corrcoef(draws.T), exact.covariance / np.outer(sd, sd), atol=0.06)
    assert fit.sampling.info["elbo"] == pytest.approx(exact.evidence, abs=0.05)
    assert fit.sampling.info["k_hat"] < 0.5


@pytest.mark.slow
def test_independent_normals_have_the_means_and_conditional_variances() -> None:
    exact = linear()
    fit = fit_svi(exact.model, exact.table, key=0, num_particles=4, num_samples=4000)
    draws, sd = unknowns(fit), np.sqrt(np.diag(exact.covariance))
    narrow = 1 / np.sqrt(np.diag(np.linalg.inv(exact.covariance)))
    np.testing.assert_allclose((draws.mean(axis=0) - exact.mean) / sd, 0, atol=0.15)
    np.testing.assert_allclose(draws.std(axis=0), narrow, rtol=0.1)
    assert fit.sampling is not None
    assert fit.sampling.info["elbo"] < exact.evidence - 0.5


@pytest.mark.slow
def test_a_factorization_predicts_and_is_stored(tmp_path: Path) -> None:
    model, data = small()
    fit = fit_svi(model, data, key=0, num_steps=1000, num_samples=200)
    assert isinstance(fit, RatingsFit)
    assert fit.samples["user_factors"].shape == (1, 200, 25, 1)
    predicted = fit.predict(data)
    error = np.sqrt(np.mean((predicted.mean - data.rating) ** 2))
    assert error < 0.8 * np.std(data.rating)
    inside = (predicted.lower <= data.rating) & (data.rating <= predicted.upper)
    assert 0.8 < inside.mean() < 0.99
    assert len(fit.recommend(fit.data.users.ids[0], k=3).item[0]) == 3
    assert fit.to_arviz()["posterior"]["noise_scale"].shape == (4, 50)
    assert fit.history is not None
    assert len(fit.history) == 1000
    assert fit.history.unit == "step"
    fit.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    assert loaded.method == "svi/normal"
    np.testing.assert_array_equal(loaded.predict(data).mean, predicted.mean)
    assert loaded.sampling is not None
    assert fit.sampling is not None
    assert loaded.sampling.info == fit.sampling.info


@pytest.mark.slow
@pytest.mark.slow
def test_one_side_of_a_factorization_integrated_out() -> None:
    model, data = small()
    fit = fit_svi(
        model, data, key=0, num_steps=600, num_samples=50, learning_rate=0.03,
        marginalize=("user_bias", "user_factors"),
    )  # fmt: skip
    assert fit.samples["user_factors"].shape == (1, 50, 25, 1)
    error = np.sqrt(np.mean((fit.predict(data).mean - data.rating) ** 2))
    assert error < 0.8 * np.std(data.rating)


@pytest.mark.filterwarnings("ignore:The bound still rose")
def test_a_response_far_from_zero() -> None:
    """The fit is that of the response less a million, which single precision rounds to 1/16."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(5), 8)
    y = rng.normal(0, 0.05, 40) + rng.normal(0, 0.05, 5)[g]
    model = MixedEffects("y ~ 1 + (1 | g)")
    here, there = (
        fit_svi(model, {"y": y + far, "g": g}, key=0, num_steps=40) for far in (0.0, 1e6)
    )
    for site, values in here.samples.items():
        far = 1e6 * (site == "coefficients")
        np.testing.assert_allclose(there.samples[site] - far, values, atol=1e-5)


def test_a_point_is_the_mode() -> None:
    model, data = small(likelihood=Gaussian(0.5), user_scale=0.5, item_scale=0.5)
    fit = fit_svi(model, data, key=0, guide="delta", num_steps=600)
    assert isinstance(fit, RatingsFit)
    assert fit.is_point
    als = fit_als(model, data, key=0, solver="cholesky", num_sweeps=200, tol=1e-9)
    np.testing.assert_allclose(fit.predict(data).mean, als.predict(data).mean, atol=0.01)


@pytest.mark.slow
def test_a_point_of_scales_with_effects_drawn(tmp_path: Path) -> None:
    model, table = hours()
    fit = fit_svi(model, table, key=0, guide="delta", num_steps=600, marginalize="all")
    assert isinstance(fit, MixedFit)
    assert np.ptp(fit.samples["noise_scale"]) == 0
    assert np.ptp(fit.samples["school_effects"][0, :, 0]) > 0
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").method == "svi/delta/marginal"


@pytest.mark.parametrize("own", ["class", pytest.param("instance", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:The bound still rose")
def test_guides_of_numpyro(own: str) -> None:
    exact = linear()
    guide: Any = autoguide.AutoDiagonalNormal
    if own == "instance":
        guide = autoguide.AutoLowRankMultivariateNormal(exact.model, rank=2)
    fit = fit_svi(exact.model, exact.table, key=0, guide=guide, num_steps=600, num_samples=100)
    assert fit.method.startswith("svi/Auto")
    sd = np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose((unknowns(fit).mean(axis=0) - exact.mean) / sd, 0, atol=0.5)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Ordinal(3)])
@pytest.mark.filterwarnings("ignore:The bound still rose")
@pytest.mark.slow
def test_other_likelihoods(likelihood: Any) -> None:
    model, data = small(likelihood=likelihood)
    rating = np.digitize(data.rating, np.quantile(data.rating, [0.3, 0.7])) + 1.0
    if isinstance(likelihood, Bernoulli):
        rating = (rating > 1).astype(float)
    data = Ratings.from_frame({"user": data.user, "item": data.item, "rating": rating})
    fit = fit_svi(model, data, key=0, num_steps=300, num_samples=20)
    assert np.corrcoef(fit.predict(data).mean, rating)[0, 1] > 0.4


def test_a_bound_that_is_not_finite() -> None:
    exact = linear()

    def jumps(step: Any) -> Any:
        return jnp.where(step < 150, 0.01, 1e30)

    with pytest.warns(FitWarning, match=r"at step 15\d \(learning rate 1e\+30\).*of step 100, are"):
        fit = fit_svi(exact.model, exact.table, key=0, num_steps=400, learning_rate=jumps)
    assert fit.history is not None
    assert fit.history.stopped == "diverged"
    assert not np.isfinite(fit.history.objective[-1])
    assert fit.history.best == 100
    with pytest.raises(ValueError, match=r"not finite at step \d+ \(learning rate 1e\+30\)"):
        fit_svi(exact.model, exact.table, key=0, num_steps=50, learning_rate=1e30)
    with pytest.raises(ValueError, match="the optimizer's own learning rate"):
        fit_svi(exact.model, exact.table, key=0, num_steps=50, optimizer=optax.sgd(1e30))


@pytest.mark.slow
def test_steps_that_are_too_few() -> None:
    model, table = hours()
    with pytest.warns(FitWarning, match="The bound still rose, by"):
        fit_svi(
            model, table, key=0, num_steps=300, learning_rate=0.005, num_particles=10,
            num_samples=10,
        )  # fmt: skip


@pytest.mark.parametrize("chunks", [0, 2], ids=["compiling", "running"])
def test_ctrl_c(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is stays: the steps, or the start if none was taken."""
    exact = linear()
    real, calls = kernel._compile, []

    def compile_once(*arguments: Any) -> Any:
        advance, most = real(*arguments)

        def some(state: Any, count: int) -> Any:
            calls.append(count)
            if len(calls) > chunks:
                raise KeyboardInterrupt
            return advance(state, count)

        return some, most

    monkeypatch.setattr(kernel, "_compile", compile_once)
    with pytest.warns(FitWarning, match=f"Interrupted after {100 * chunks} of 4000 steps") as told:
        fit = fit_svi(exact.model, exact.table, key=0, num_samples=10)
    assert len(told) == 1
    assert len(calls) == chunks + 1
    assert fit.sampling is not None
    assert not fit.sampling.complete
    assert fit.sampling.info["converged"] == "no"
    assert fit.history is not None
    assert (len(fit.history), fit.history.stopped) == (100 * chunks, "interrupted")
    assert len(fit.history.seconds) == 100 * chunks


@pytest.mark.filterwarnings("ignore::probmf.run.driver.FitWarning")  # Few steps are made.
@pytest.mark.parametrize(
    ("owner", "name", "num_steps"),  # Other numbers of steps, or nothing would be traced.
    [
        pytest.param(approximation, "Potential", 20, marks=pytest.mark.slow),
        (SVI, "init", 21),
        pytest.param(SVI, "update", 22, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_before_there_is_anything(
    owner: Any, name: str, num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the density, the guide or a step is traced."""
    exact = linear()

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"no step had been taken.*Call fit_svi again"):
            fit_svi(exact.model, exact.table, key=0, num_steps=num_steps, num_samples=10)
    # Nothing half-traced is left behind.
    fit = fit_svi(exact.model, exact.table, key=0, num_steps=num_steps, num_samples=10)
    assert fit.history is not None
    assert np.isfinite(fit.history.objective).all()


def test_a_dear_step_is_a_chunk_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an interruption need not wait for many; the fit is the same."""
    exact = linear()
    options: dict[str, Any] = {"key": 0, "num_steps": 30, "num_samples": 10}
    counts: list[int] = []
    real = kernel._compile

    def noted(*arguments: Any) -> Any:
        advance, most = real(*arguments)
        return (lambda state, count: counts.append(count) or advance(state, count)), most

    monkeypatch.setattr(kernel, "_compile", noted)
    found = []
    for operations in (3e8, 1.0):
        monkeypatch.setattr(kernel, "CHUNK_OPERATIONS", operations)
        found.append(unknowns(fit_svi(exact.model, exact.table, **options)))
    assert counts == [30] + 30 * [1]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("guide", ["multivariate", "low_rank"])
def test_a_covariance_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, guide: Any) -> None:
    model, data = small()
    monkeypatch.setattr("probmf.memory.MEMORY_SHARE", 1e-9)
    with pytest.raises(ValueError, match=r"93 unknowns takes .*guide='normal'"):
        fit_svi(model, data, key=0, guide=guide)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"guide": "full"}, ValueError, "guide is 'full'; expected 'delta', 'normal'"),
        ({"guide": 3}, TypeError, "guide is 3"),
        ({"guide": autoguide.AutoLaplaceApproximation}, ValueError, "fit_laplace"),
        ({"guide": autoguide.AutoNormal(linear().model)}, ValueError, "another model"),
        ({"guide": "delta"}, ValueError, "with school_scale unknown there is none"),
        ({"num_steps": 0}, ValueError, "num_steps is 0"),
        ({"num_particles": 0}, ValueError, "num_particles is 0"),
        ({"num_samples": 0.5}, TypeError, "num_samples is 0.5"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate is -1"),
        ({"optimizer": "adam"}, ValueError, "optimizer='adam' needs learning_rate="),
        ({"optimizer": 3}, TypeError, "optimizer is"),
        ({"marginalize": "b_effects"}, ValueError, "marginalize names 'b_effects'"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model, table = hours()
    with pytest.raises(error, match=re.escape(message)):
        fit_svi(model, table, key=0, **change)


def test_wrong_types_and_nothing_to_fit() -> None:
    model, data = small()
    with pytest.raises(TypeError, match="model is of type str"):
        fit_svi("model", data, key=0)
    with pytest.raises(TypeError, match="data is of type dict"):
        fit_svi(model, {}, key=0)
    with pytest.raises(ValueError, match=r"delta.*user_scale, item_scale, noise_scale unknown"):
        fit_svi(model, data, key=0, guide="delta")
    exact = linear()
    with pytest.raises(ValueError, match="Nothing is left to fit"):
        fit_svi(exact.model, exact.table, key=0, marginalize="all")

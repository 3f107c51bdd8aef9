"""Laplace's approximation: exact where it has to be, near NUTS elsewhere, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from approximated_models import hours, linear, small, unknowns
from jax.flatten_util import ravel_pytree
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from probmf import (
    Gaussian,
    MatrixFactorization,
    Ratings,
    fit_laplace,
    fit_svi,
    load,
    sample_nuts,
)
from probmf.inference.approximate import laplace as module
from probmf.results import MixedFit, RatingsFit
from probmf.run.driver import FitWarning


def test_exact_where_the_posterior_is_normal() -> None:
    exact = linear()
    fit = fit_laplace(exact.model, exact.table, key=0, num_samples=8000)
    assert isinstance(fit, MixedFit)
    assert fit.sampling is not None
    draws, sd = unknowns(fit), np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose((draws.mean(axis=0) - exact.mean) / sd, 0, atol=0.05)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.04)
    np.testing.assert_allclose(np.corrcoef(draws.T), exact.covariance / np.outer(sd, sd), atol=0.04)
    assert fit.sampling.info["log_evidence"] == pytest.approx(exact.evidence, abs=1e-4)
    assert fit.sampling.info["k_hat"] < 0.4


@pytest.mark.slow
def test_effects_integrated_out_agree_with_nuts(tmp_path: Path) -> None:
    model, table = hours()
    fit = fit_laplace(model, table, key=0, marginalize="all", num_samples=2000)
    svi = fit_svi(model, table, key=0, guide="multivariate", marginalize="all", num_steps=2000)
    nuts = sample_nuts(
        model, table, key=1, marginalize="all", num_warmup=200, num_samples=600, num_chains=1
    )
    for found in (fit, svi):
        assert found.samples.keys() == nuts.samples.keys()
        for site in ("school_effects", "coefficients", "noise_scale"):
            ours, theirs = (each.samples[site][0] for each in (found, nuts))
            np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.2)
            apart = (ours.mean(axis=0) - theirs.mean(axis=0)) / theirs.std(axis=0)
            np.testing.assert_allclose(apart, 0, atol=0.25)
    assert isinstance(fit, MixedFit)
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").sampling.info == fit.sampling.info  # type: ignore[union-attr]


def two_factors() -> tuple[MatrixFactorization, Ratings]:
    model, data = small(likelihood=Gaussian(0.5), user_scale=0.8, item_scale=0.8)
    return replace(model, num_factors=2, intercept="learned"), data


def test_turns_of_the_factors_are_left_out() -> None:
    """Predictions have the covariance of the pseudo-inverse of autodiff's Hessian."""
    model, data = two_factors()
    fit = fit_laplace(model, data, key=0, num_samples=4000)
    assert isinstance(fit, RatingsFit)
    assert fit.sampling is not None
    assert fit.sampling.info["converged"] == "yes"
    with jax.enable_x64(True):
        (observations,) = model.arguments(data)
        mean = {n: jnp.asarray(v[0].mean(axis=0), float) for n, v in fit.samples.items()}
        vector, unravel = ravel_pytree(mean)
        objective = jax.jit(lambda x: model.objective(unravel(x), observations))
        # The mean of the draws is the mode, but for their error.
        hessian = np.asarray(jax.jit(jax.hessian(objective))(vector))
        values = np.linalg.eigvalsh(hessian)
        assert np.sum(values < 0.02 * np.median(values)) == 1
        inverse = np.linalg.pinv(hessian, rcond=float(0.02 * np.median(values) / values[-1]))
        pairs = (observations.user[:40], observations.item[:40])

        def scores(x: Any) -> Any:
            own = unravel(x)
            products = own["user_factors"][pairs[0]] * own["item_factors"][pairs[1]]
            bias = own["user_bias"][pairs[0]] + own["item_bias"][pairs[1]]
            return own["intercept"] + bias + products.sum(axis=-1)

        slope = np.asarray(jax.jacfwd(scores)(vector))
        exact = np.sqrt(np.diag(slope @ inverse @ slope.T))
    draws = np.concatenate(
        [fit.samples[name][0].reshape(4000, -1) for name in sorted(fit.samples)], axis=1
    )
    drawn = (draws - np.asarray(vector)) @ slope.T
    np.testing.assert_allclose(drawn.std(axis=0) / exact, 1.0, atol=0.06)
    assert "k_hat" not in fit.sampling.info


def test_the_evidence_of_one_factor_counts_both_its_signs() -> None:
    """Beside the integral over two users' factors, the items' integrated out."""
    table = {"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [2.0, 1.5, -1.8, -1.2]}
    model = MatrixFactorization(
        1, Gaussian(0.3), intercept=0.0, user_bias=False, item_bias=False
    )  # fmt: skip
    fit = fit_laplace(model, Ratings.from_frame(table), key=0, num_samples=10)
    grid = np.linspace(-6, 6, 201)
    users = np.stack(np.meshgrid(grid, grid), axis=-1)
    covariance = 0.09 * np.eye(2) + users[..., :, None] * users[..., None, :]
    log = multivariate_normal(np.zeros(2)).logpdf(users)
    for item in ([2.0, -1.8], [1.5, -1.2]):
        squares = np.einsum("...de,d,e->...", np.linalg.inv(covariance), item, item)
        log -= 0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])
    exact = logsumexp(log) + 2 * np.log(grid[1] - grid[0])
    assert fit.sampling is not None
    assert fit.sampling.info["log_evidence"] == pytest.approx(exact, abs=0.1)


def test_a_search_that_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = linear()
    monkeypatch.setattr(module, "NEWTON_STEPS", 0)
    with pytest.warns(FitWarning, match="stopped before the mode after 1 of 1 iterations: by its"):
        fit = fit_laplace(exact.model, exact.table, key=0, max_iterations=1, num_samples=10)
    assert fit.sampling is not None
    assert fit.sampling.info["converged"] == "no"


def test_too_many_unknowns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = two_factors()
    expected = r"fit_variational or sample_gibbs"
    with monkeypatch.context() as patch:
        patch.setattr(module, "MOST_UNKNOWNS", 100)
        with pytest.raises(ValueError, match=r"has 136 unknowns.*at most 100\. Use " + expected):
            fit_laplace(model, data, key=0)
    monkeypatch.setattr("probmf.memory.MEMORY_SHARE", 1e-9)
    with pytest.raises(ValueError, match=r"dense Hessian of 136 unknowns takes .*" + expected):
        fit_laplace(model, data, key=0)


def test_a_hessian_that_is_not_positive_definite() -> None:
    """Two columns of which the data know the sum only, and no prior to tell them apart."""
    hessian = np.asarray([[1.0, 1.0], [1.0, 1.0]])
    none = np.zeros((2, 0))
    for matrix in (hessian, -np.eye(2), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="not positive definite where the search ended"):
            module._settle(None, np.zeros(2), matrix, none)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "fit_laplace needs the highest point of the density, and with school_s"),
        ({"num_samples": 0}, ValueError, "num_samples is 0"),
        ({"max_iterations": 1.5}, TypeError, "max_iterations is 1.5"),
        ({"marginalize": "b_effects"}, ValueError, "marginalize names 'b_effects'"),
        ({"marginalize": None}, TypeError, "marginalize is None; expected the name of a site"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model, table = hours()
    with pytest.raises(error, match=re.escape(message)):
        fit_laplace(model, table, key=0, **change)


def test_refused_models() -> None:
    model, data = small()
    with pytest.raises(ValueError, match="with user_scale, item_scale, noise_scale unknown"):
        fit_laplace(model, data, key=0)
    with pytest.raises(ValueError, match="out of mixed models only"):
        fit_laplace(model, data, key=0, marginalize="user_bias")
    exact = linear()
    with pytest.raises(ValueError, match="Nothing is left to fit"):
        fit_laplace(exact.model, exact.table, key=0, marginalize="all")

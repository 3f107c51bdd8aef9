"""Aligned draws predict the same, and undo what random rotations did."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import ortho_group, special_ortho_group

from probmf import MatrixFactorization, Ratings, diagnostics
from probmf.diagnostics.alignment import varimax
from probmf.results import RatingsFit, Sampling

SHAPE = (2, 40)


def turned_fit(k: int = 3, *, noise: float = 0.02, dtype: Any = np.float64) -> RatingsFit:
    """Draws that differ by little but a random rotation of each."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((30, 20)) < 0.5)
    data = Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(0, 1, len(user))},
                              users=list(range(30)), items=list(range(20)))  # fmt: skip
    spread = np.linspace(2, 1, k)
    u, v = rng.normal(0, spread, (30, k)), rng.normal(0, spread, (20, k)) ** 3 / 3
    turns = np.stack([ortho_group.rvs(k, random_state=rng) if k > 1 else np.eye(1)
                      for _ in range(80)])  # fmt: skip
    samples: dict[str, Any] = {"intercept": np.zeros(SHAPE)}
    for name, rows in (("user_factors", u), ("item_factors", v)):
        draws = (rows + noise * rng.normal(0, 1, (80, *rows.shape))) @ turns
        samples[name] = draws.reshape(*SHAPE, *rows.shape).astype(dtype)
    model = MatrixFactorization(k, intercept=None, user_bias=False, item_bias=False)
    samples["intercept"] = np.zeros(SHAPE)
    return RatingsFit(model, data, samples, "test", sampling=Sampling({}, 0, 0.0))


def product(fit: RatingsFit) -> np.ndarray:
    return np.einsum("csmk,csnk->csmn", fit.samples["user_factors"], fit.samples["item_factors"])


@pytest.mark.parametrize("method", ["procrustes", "varimax"])
@pytest.mark.parametrize("k", [1, 3])
def test_products_stay_and_factors_agree(method: Any, k: int) -> None:
    fit = turned_fit(k)
    found = diagnostics.align(fit, method=method)
    np.testing.assert_allclose(
        product(found), product(fit), atol=1e-12 * np.abs(product(fit)).max()
    )
    for site in ("user_factors", "item_factors"):
        spread = found.samples[site].std(axis=(0, 1))
        assert spread.max() < 0.15
    if k > 1:
        assert fit.samples["item_factors"].std(axis=(0, 1)).max() > 0.5
    assert found.model is fit.model
    again = diagnostics.align(found, method=method)
    np.testing.assert_allclose(
        again.samples["item_factors"], found.samples["item_factors"], atol=0.02
    )


def test_single_precision_stays_and_rounds() -> None:
    fit = turned_fit(dtype=np.float32)
    found = diagnostics.align(fit)
    assert found.samples["item_factors"].dtype == np.float32
    np.testing.assert_allclose(product(found), product(fit), atol=5e-7 * np.abs(product(fit)).max())


def test_procrustes_puts_the_largest_factor_first() -> None:
    found = diagnostics.align(turned_fit())
    size = np.square(found.samples["user_factors"]).mean(axis=(0, 1, 2))
    size += np.square(found.samples["item_factors"]).mean(axis=(0, 1, 2))
    assert (np.diff(size) < 0).all()


def test_varimax_is_a_maximum() -> None:
    def criterion(b: np.ndarray) -> float:
        return float(np.sum(np.mean(b**4, axis=0) - np.mean(b**2, axis=0) ** 2))

    rng = np.random.default_rng(1)
    simple = np.kron(np.eye(3), rng.uniform(0.5, 2, (8, 1)))
    loadings = simple @ special_ortho_group.rvs(3, random_state=rng)
    turn = varimax(loadings)
    np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-12)
    assert criterion(loadings @ turn) == pytest.approx(criterion(simple), rel=1e-8)
    noisy = loadings + rng.normal(0, 0.3, loadings.shape)
    best = criterion(noisy @ varimax(noisy))
    others = [criterion(noisy @ special_ortho_group.rvs(3, random_state=rng)) for _ in range(200)]
    assert best >= max(others)


def test_errors() -> None:
    fit = turned_fit()
    with pytest.raises(ValueError, match="method is 'pca'; expected 'procrustes' or 'varimax'"):
        diagnostics.align(fit, method="pca")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fit is a dict, expected a RatingsFit"):
        diagnostics.align({})  # type: ignore[arg-type]
    bare = {name: value for name, value in fit.samples.items() if name != "item_factors"}
    with pytest.raises(ValueError, match="The fit has no draws of item_factors"):
        diagnostics.align(replace(fit, samples=bare))
    flat = MatrixFactorization(0)
    zeros = {"intercept": np.zeros((1, 1)), "user_bias": np.zeros((1, 1, 30)),
             "item_bias": np.zeros((1, 1, 20))}  # fmt: skip
    with pytest.raises(ValueError, match="this model has num_factors=0"):
        diagnostics.align(RatingsFit(flat, fit.data, zeros, "test"))


def test_a_learned_mean_and_covariance_turn_along() -> None:
    fit = turned_fit()
    rng = np.random.default_rng(2)
    root = rng.normal(0, 1, (*SHAPE, 3, 3))
    precision = root @ np.swapaxes(root, 2, 3) + np.eye(3)
    sites = {"user_mean": rng.normal(0, 1, (*SHAPE, 3)), "user_precision": precision}
    fit = replace(fit, samples=dict(fit.samples) | sites)
    found = diagnostics.align(fit)

    def distances(of: RatingsFit) -> np.ndarray:
        gap = of.samples["user_factors"] - of.samples["user_mean"][:, :, None]
        return np.einsum("csmk,cskl,csml->csm", gap, of.samples["user_precision"], gap)

    np.testing.assert_allclose(distances(found), distances(fit), rtol=1e-8)
    scales = dict(fit.samples) | {"user_scale": np.ones((*SHAPE, 1, 3))}
    with pytest.raises(ValueError, match="user_scale has draws of one scale per factor, which a"):
        diagnostics.align(replace(fit, samples=scales))

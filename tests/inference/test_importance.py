"""Importance sampling on densities whose answers are known."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from probmf.inference.importance import (
    K_HAT_GATE,
    Mixture,
    NoModeError,
    effective_size,
    find_mode,
    refit,
    resample,
    smooth,
)

Density = Callable[[np.ndarray], np.ndarray]
COVARIANCE = np.array([[2.0, -0.6], [-0.6, 0.5]])
MEAN = np.array([1.0, -2.0])


def gaussian_score(vector: np.ndarray) -> tuple[float, np.ndarray]:
    solved = np.linalg.solve(COVARIANCE, vector - MEAN)
    return -0.5 * float((vector - MEAN) @ solved), -solved


def test_mode_of_a_gaussian() -> None:
    mode = find_mode(gaussian_score, np.zeros(2))
    np.testing.assert_allclose(mode.vector, MEAN, atol=1e-5)
    np.testing.assert_allclose(mode.covariance, COVARIANCE, rtol=1e-6)
    assert mode.log_density == pytest.approx(0, abs=1e-9)


def test_a_flat_direction_gets_a_finite_proposal() -> None:
    mode = find_mode(lambda v: (-0.5 * v[0] ** 2, np.array([-v[0], 0.0])), np.ones(2))
    np.testing.assert_allclose(mode.covariance, np.diag([1.0, 25.0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda v: (np.nan, v), "not finite at the starting values"),
        (lambda v: (0.0, np.zeros_like(v)), "no curvature"),
    ],
)
def test_no_mode(score: Callable[..., tuple[float, np.ndarray]], message: str) -> None:
    with pytest.raises(NoModeError, match=message):
        find_mode(score, np.zeros(2))


@pytest.fixture
def mixture() -> Mixture:
    factors = np.stack([np.linalg.cholesky(COVARIANCE), np.diag([0.3, 2.0])])
    return Mixture(np.array([0.7, 0.3]), np.stack([MEAN, [0.0, 1.0]]), factors)


def test_log_density_is_that_of_scipy(mixture: Mixture) -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    wanted = sum(
        weight * scipy.stats.multivariate_t(mean, factor @ factor.T, mixture.degrees).pdf(points)
        for weight, mean, factor in zip(
            mixture.weights, mixture.means, mixture.factors, strict=True
        )
    )
    np.testing.assert_allclose(mixture.log_density(points), np.log(wanted), rtol=1e-10)


def test_log_density_integrates_to_one(mixture: Mixture) -> None:
    axis = np.linspace(-60, 60, 1201)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.sum(np.exp(mixture.log_density(points))) * 0.1**2
    assert total == pytest.approx(1, abs=2e-3)


def test_draws_are_of_the_density(mixture: Mixture) -> None:
    points = mixture.sample(np.random.default_rng(1), 40_000)
    share, mean = mixture.weights, mixture.means
    np.testing.assert_allclose(points.mean(0), share @ mean, atol=0.03)
    inflation = mixture.degrees / (mixture.degrees - 2)
    second = sum(
        s * (inflation * f @ f.T + np.outer(m, m))
        for s, f, m in zip(share, mixture.factors, mean, strict=True)
    )
    np.testing.assert_allclose(points.T @ points / len(points), second, rtol=0.05, atol=0.05)


def banana(points: np.ndarray) -> np.ndarray:
    """Skewed: x ~ N(0, 1), y ~ N(x^2 / 4, 0.7^2)."""
    x, y = points.T
    return scipy.stats.norm.logpdf(x) + scipy.stats.norm.logpdf(y, x**2 / 4, 0.7)


def gaussian(points: np.ndarray) -> np.ndarray:
    return scipy.stats.multivariate_normal(MEAN, COVARIANCE).logpdf(points)


@pytest.mark.parametrize(
    ("density", "mean", "variance"),
    [(gaussian, MEAN, np.diag(COVARIANCE)), (banana, [0.0, 0.25], [1.0, 0.615])],
    ids=["gaussian", "skewed"],
)
def test_moments_and_evidence(density: Density, mean: np.ndarray, variance: np.ndarray) -> None:
    law = Mixture.around(np.asarray(mean), np.diag(variance) * 1.3)
    points = law.sample(np.random.default_rng(2), 20_000)
    logs = density(points) - law.log_density(points)
    assert np.mean(np.exp(logs)) == pytest.approx(1, abs=0.03)
    weights, k_hat = smooth(logs)
    assert weights.sum() == pytest.approx(1)
    assert k_hat < K_HAT_GATE
    np.testing.assert_allclose(weights @ points, mean, atol=0.05)
    np.testing.assert_allclose(weights @ (points - mean) ** 2, variance, rtol=0.08)


def test_refitting_pays() -> None:
    law = Mixture.around(np.zeros(2), np.diag([1.0, 0.5]))
    rng = np.random.default_rng(3)
    points = law.sample(rng, 2000)
    logs = banana(points) - law.log_density(points)
    better = refit(points, logs, 4, 0)
    again = better.sample(rng, 2000)
    refitted = banana(again) - better.log_density(again)
    assert effective_size(refitted) > 1.2 * effective_size(logs)
    assert np.mean(np.exp(refitted)) == pytest.approx(1, abs=0.05)


def test_tails_that_the_proposal_lacks_are_noticed() -> None:
    """A Cauchy by t with 6 degrees of freedom has k = 1 - 1/6; the other way round is harmless."""
    rng, law = np.random.default_rng(4), Mixture.around(np.zeros(1), np.eye(1))
    # At the width of the Cauchy itself the tail is beyond the reach of so few draws.
    narrow = Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), 0.05))
    few = narrow.sample(rng, 20_000)
    _, k_hat = smooth(scipy.stats.cauchy.logpdf(few[:, 0]) - narrow.log_density(few))
    assert k_hat > K_HAT_GATE
    points = rng.standard_cauchy((20_000, 1))
    weights, k_hat = smooth(law.log_density(points) - scipy.stats.cauchy.logpdf(points[:, 0]))
    assert k_hat < 0.3
    assert weights @ points[:, 0] == pytest.approx(0, abs=0.05)


def test_smooth_bears_weights_of_zero_and_equal_ones() -> None:
    logs = np.random.default_rng(5).normal(0, 0.1, 500)
    logs[:50] = -np.inf
    weights, k_hat = smooth(logs)
    assert np.all(weights[:50] < 1e-200)
    assert k_hat < K_HAT_GATE
    weights, k_hat = smooth(np.full(300, -7.0))
    np.testing.assert_allclose(weights, 1 / 300)
    assert k_hat == 0


def test_effective_size() -> None:
    assert effective_size(np.full(10, 3.0)) == pytest.approx(10)
    assert effective_size(np.array([0.0, -np.inf, -np.inf])) == pytest.approx(1)
    assert effective_size(np.log([2.0, 1.0, 1.0])) == pytest.approx(16 / 6)


def test_systematic_resampling_is_as_even_as_can_be() -> None:
    weights = np.array([0.5, 0.0, 0.26, 0.24])
    for seed in range(20):
        counts = np.bincount(resample(weights, 10, np.random.default_rng(seed)), minlength=4)
        assert np.all(np.abs(counts - 10 * weights) < 1)
        assert counts.sum() == 10
    orders = {tuple(resample(weights, 4, np.random.default_rng(seed))) for seed in range(20)}
    assert len(orders) > 3

"""Fits with random parameters, and what they should predict by dense float64 algebra."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit, ndtr

from probmf.data import Ratings
from probmf.likelihoods import Bernoulli
from probmf.models import MatrixFactorization
from probmf.results import RatingsFit


@pytest.fixture(scope="session")
def draw_ratings() -> Callable[..., Ratings]:
    """Random ratings of distinct pairs; the last user and the last item have none."""

    def draw(
        num_users: int = 14, num_items: int = 11, *, binary: bool = False, weights: bool = False,
        share: float = 0.4, seed: int = 0,
    ) -> Ratings:  # fmt: skip
        rng = np.random.default_rng(seed)
        rated = rng.random((num_users, num_items)) < share
        rated[0, 0], rated[-1], rated[:, -1] = True, False, False
        user, item = np.nonzero(rated)
        table = {"user": user, "item": item, "rating": rng.normal(3, 1, len(user))}
        if binary:
            table["rating"] = rng.integers(0, 2, len(user)).astype(float)
        if weights:
            table["weight"] = rng.choice([0.0, 0.5, 1.0, 2.5], len(user), p=[0.1, 0.3, 0.3, 0.3])
        return Ratings.from_frame(
            table, weight="weight" if weights else None, users=np.arange(num_users).tolist(),
            items=np.arange(num_items).tolist(),
        )  # fmt: skip

    return draw


@pytest.fixture(scope="session")
def random_fit() -> Callable[..., RatingsFit]:
    """A fit of random parameters, as if some method had found them."""

    def make(
        model: MatrixFactorization, data: Ratings, *, seed: int = 1, dtype: Any = np.float32
    ) -> RatingsFit:
        rng = np.random.default_rng(seed)
        parameters: dict[str, Any] = {"intercept": np.asarray(0.7, dtype)}
        for site, shape in model.site_shapes(data.num_users, data.num_items).items():
            parameters[site] = rng.normal(0, 0.6, shape).astype(dtype)
        return RatingsFit.from_point(model, data, parameters, method="random")

    return make


class Dense(NamedTuple):
    """Means and variances of the scores of all pairs; the last row and column are strangers."""

    mean: np.ndarray
    variance: np.ndarray


@pytest.fixture(scope="session")
def dense_moments() -> Callable[[RatingsFit], Dense]:
    """The plug-in moments by their definition, in float64 and without any batching."""

    def moments(fit: RatingsFit) -> Dense:
        point = {name: np.asarray(value, np.float64) for name, value in fit.point().items()}
        users, items = _rows(fit, point, "user"), _rows(fit, point, "item")
        c, d = _covariances(fit, users, items, "user"), _covariances(fit, items, users, "item")
        users, items = np.pad(users, ((0, 1), (0, 0))), np.pad(items, ((0, 1), (0, 0)))
        mean = np.empty((len(users), len(items)))
        variance = np.empty_like(mean)
        for m, x in enumerate(users):
            for n, y in enumerate(items):
                mean[m, n] = point["intercept"] + x[0] + y[0] + x[1:] @ y[1:]
                u, v = np.r_[1.0, x[1:]], np.r_[1.0, y[1:]]
                trace = np.trace(c[m][1:, 1:] @ d[n][1:, 1:])
                variance[m, n] = v @ c[m] @ v + u @ d[n] @ u + trace
        return Dense(mean, variance)

    return moments


def _rows(fit: RatingsFit, point: dict[str, np.ndarray], side: str) -> np.ndarray:
    size = fit.data.num_users if side == "user" else fit.data.num_items
    bias = point.get(f"{side}_bias", np.zeros(size))
    return np.column_stack([bias, point.get(f"{side}_factors", np.zeros((size, 0)))])


def _covariances(
    fit: RatingsFit, rows: np.ndarray, others: np.ndarray, side: str
) -> list[np.ndarray]:
    """Of every row, and at the end that of a row which the fit does not know."""
    model, data = fit.model, fit.data
    weight = np.zeros((data.num_users, data.num_items)) + model.unobserved_weight
    own = np.ones(len(data)) if data.weight is None else data.weight
    counts = own > 0
    weight[data.user[counts], data.item[counts]] = own[counts]
    weight = weight if side == "user" else weight.T
    has_bias = model.user_bias if side == "user" else model.item_bias
    scales = [getattr(model, f"{side}_bias_scale"), *[getattr(model, f"{side}_scale")]]
    bias_variance, variance = (
        np.square(np.broadcast_to(np.asarray(s, np.float64), len(rows))) for s in scales
    )
    k = rows.shape[1] - 1
    free = np.r_[bool(has_bias), np.ones(k, bool)]
    found = []
    for row, x in enumerate(rows):
        prior = np.r_[bias_variance[row], np.full(k, variance[row])]
        precision = np.diag(1 / prior)
        for n, y in enumerate(others):
            z = np.r_[1.0, y[1:]]
            score = float(fit.point()["intercept"]) + x[0] + y[0] + x[1:] @ y[1:]
            precision += weight[row, n] * _information(model.likelihood, score) * np.outer(z, z)
        covariance = np.zeros_like(precision)
        covariance[np.ix_(free, free)] = np.linalg.inv(precision[np.ix_(free, free)])
        found.append(covariance)
    found.append(np.diag(np.r_[bias_variance.mean(), np.full(k, variance.mean())] * free))
    return found


def _information(likelihood: Any, score: float) -> float:
    if not isinstance(likelihood, Bernoulli):
        return float(likelihood.noise_scale) ** -2
    if likelihood.link == "logit":
        return float(expit(score) * expit(-score))
    density = np.exp(-0.5 * score**2) / np.sqrt(2 * np.pi)
    return float(density**2 / (ndtr(score) * ndtr(-score)))

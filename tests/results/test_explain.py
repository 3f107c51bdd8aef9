"""Shares of a user's ratings in a score, vectors for an index, users alike."""

from typing import Any

import numpy as np
import pytest

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, fit_als
from probmf.results import RatingsFit

SHAPE, RANK = (8, 7), 2
ITEMS = np.array([f"i{code}" for code in range(SHAPE[1])])


def ratings(*, binary: bool = False) -> Ratings:
    """Ratings of some pairs, every user with a few."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random(SHAPE) < 0.6)
    rating = rng.normal(3, 1, len(user)) if not binary else rng.integers(0, 2, len(user))
    return Ratings.from_frame({"user": user, "item": ITEMS[item], "rating": rating.astype(float)})


def solved(model: MatrixFactorization, data: Ratings) -> RatingsFit:
    """A fit whose search has converged."""
    return fit_als(model, data, key=0, num_sweeps=300, tol=1e-10, solver="cholesky")


@pytest.fixture(scope="module")
def gaussian() -> RatingsFit:
    return solved(MatrixFactorization(RANK, Gaussian(0.7), user_scale=0.8), ratings())


def test_shares_of_gaussian_ratings_are_those_of_ridge_regression(gaussian: RatingsFit) -> None:
    data, point = gaussian.data, gaussian.point()
    code, item = 3, 2
    told = gaussian.explain(code, ITEMS[item])
    rows = np.flatnonzero(data.user == code)
    z = np.column_stack([np.ones(len(rows)), point["item_factors"][data.item[rows]]])
    prior = np.diag([1.0, *[1 / 0.8**2] * RANK])
    covariance = np.linalg.inv(prior + z.T @ z / 0.7**2)
    toward = covariance @ np.append(1.0, point["item_factors"][item])
    left = data.rating[rows] - point["intercept"] - point["item_bias"][data.item[rows]]
    expected = dict(zip(ITEMS[data.item[rows]], z @ toward * left / 0.7**2, strict=True))
    assert {*told.rated} == expected.keys()
    np.testing.assert_allclose(told.share, [expected[name] for name in told.rated], atol=1e-5)
    assert np.all(np.diff(np.abs(told.share)) <= 0)
    given = dict(zip(ITEMS[data.item[rows]], data.rating[rows], strict=True))
    np.testing.assert_array_equal(told.rating, [given[name] for name in told.rated])
    assert told.to_arrow().column_names == ["item", "rating", "share"]


@pytest.mark.parametrize(
    ("model", "binary"),
    [
        (MatrixFactorization(RANK, Gaussian(0.7), user_scale=0.8), False),
        (MatrixFactorization(RANK, Gaussian(0.7), user_bias=False), False),
        (MatrixFactorization(RANK, Gaussian(1.0), intercept=None, user_bias=False, item_bias=False,
                             unobserved_weight=0.2), False),
        (MatrixFactorization(RANK, Bernoulli()), True),
    ],
    ids=["gaussian", "no bias", "weak zeros", "yes or no"],
)  # fmt: skip
def test_shares_sum_to_the_score(model: MatrixFactorization, binary: bool) -> None:
    fit = solved(model, ratings(binary=binary))
    scores = fit.vectors("user") @ fit.vectors("item").T
    for code, name in ((0, "i1"), (5, "i6")):
        told = fit.explain(code, name)
        assert told.score == pytest.approx(scores[code, ITEMS.tolist().index(name)], abs=1e-5)
        total = told.baseline + told.share.sum() + told.remainder
        assert total == pytest.approx(told.score, abs=1e-6)
        assert abs(told.remainder) < 2e-3
        assert np.abs(told.share).sum() > 0.01


def test_mistakes(gaussian: RatingsFit, chains: RatingsFit) -> None:
    with pytest.raises(ValueError, match="user holds 2 ids; give one"):
        gaussian.explain([0, 1], "i0")
    with pytest.raises(ValueError, match="the fit has no such item; it has 7"):
        gaussian.explain(0, "i9")
    with pytest.raises(ValueError, match="side is 'film'; expected 'user' or 'item'"):
        gaussian.vectors("film")  # type: ignore[arg-type]
    for call in (lambda: chains.explain(0, "i0"), lambda: chains.vectors("user")):
        with pytest.raises(ValueError, match="is for point fits, such as of fit_als; this"):
            call()


def test_vectors_reproduce_the_order_of_recommendations(gaussian: RatingsFit) -> None:
    scores = gaussian.vectors("user") @ gaussian.vectors("item").T
    found = gaussian.recommend(k=SHAPE[1], exclude=None)
    np.testing.assert_array_equal(found.code, np.argsort(-scores, axis=1))
    np.testing.assert_allclose(found.score, -np.sort(-scores, axis=1), atol=1e-5)


@pytest.fixture(scope="module")
def chains(gaussian: RatingsFit) -> RatingsFit:
    """Draws about the point, by no sampler."""
    rng = np.random.default_rng(1)
    draws: dict[str, Any] = {
        name: value + 0.1 * rng.normal(size=(2, 3, *value.shape[2:]))
        for name, value in gaussian.samples.items()
    }
    return RatingsFit(gaussian.model, gaussian.data, draws, "made")


def test_users_alike_have_the_largest_cosines(gaussian: RatingsFit, chains: RatingsFit) -> None:
    for fit in (gaussian, chains):
        factors = fit.samples["user_factors"].reshape(-1, SHAPE[0], RANK)
        unit = factors / np.linalg.norm(factors, axis=-1, keepdims=True)
        cosine = np.mean(unit @ np.swapaxes(unit, 1, 2), axis=0)
        np.fill_diagonal(cosine, -np.inf)
        found = fit.similar_users([4, 6], k=3)
        expected = np.argsort(-cosine, axis=1)[[4, 6], :3]
        np.testing.assert_array_equal(found.item, expected)
        np.testing.assert_allclose(found.score, cosine[[[4], [6]], expected], atol=1e-5)

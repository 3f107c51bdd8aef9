"""New users: the exact mode of their rows, and nothing else moves."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings

MODELS = {
    "gaussian": MatrixFactorization(3, Gaussian(0.5), user_scale=0.7, user_bias_scale=0.4),
    "no user bias": MatrixFactorization(3, Gaussian(0.5), user_bias=False),
    "biases only": MatrixFactorization(0, Gaussian(0.5)),
    "learned intercept": MatrixFactorization(2, Gaussian(0.5), intercept="learned"),
    "weak zeros": MatrixFactorization(3, Gaussian(0.5), unobserved_weight=0.2),
    "logit": MatrixFactorization(3, Bernoulli()),
    "probit": MatrixFactorization(3, Bernoulli("probit")),
    "logit, wide prior": MatrixFactorization(3, Bernoulli(), user_scale=30.0, user_bias_scale=30.0),
}


def new_ratings(*, binary: bool = False, weights: bool = False) -> Ratings:
    """Ratings by two new users and by the known users 2 and 3, some of pairs rated already."""
    rng = np.random.default_rng(5)
    user = np.repeat([3, 50, 2, 40], [4, 6, 3, 1])
    item = np.concatenate([rng.permutation(11)[:n] for n in (4, 6, 3, 1)])
    table = {"user": user, "item": item, "rating": rng.normal(2, 1, 14)}
    if binary:
        table["rating"] = rng.integers(0, 2, 14).astype(float)
    if weights:
        table["weight"] = rng.choice([0.5, 1.0, 3.0], 14)
    return Ratings.from_frame(table, weight="weight" if weights else None)


def gradient_of_users(fit: Any, model: MatrixFactorization) -> dict[str, np.ndarray]:
    """Gradient of the objective in the users' parameters, at a fit, in float64."""
    with jax.enable_x64(True):
        (observations,) = model.arguments(fit.data)
        point = {name: jnp.asarray(value, jnp.float64) for name, value in fit.point().items()}
        gradient = jax.jit(jax.grad(lambda values: model.objective(values, observations)))(point)
        return {name: np.asarray(gradient[name]) for name in gradient if name.startswith("user")}


@pytest.mark.parametrize("name", MODELS)
def test_new_rows_are_exact_modes(x64: bool, name: str, draw_ratings: Any, random_fit: Any) -> None:
    model = MODELS[name]
    binary, weights = model.likelihood.binary, name not in ("biases only", "logit, wide prior")
    data = draw_ratings(binary=binary, weights=weights)
    fit = random_fit(model, data, dtype=np.float64 if x64 else np.float32)
    grown = fit.fold_in(new_ratings(binary=binary, weights=weights))
    changed = grown.data.users.encode([2, 3, 40, 50])
    curvature = (1 if binary else 4) * 20
    for gradient in gradient_of_users(grown, model).values():
        assert np.abs(gradient[changed]).max() < curvature * (1e-10 if x64 else 5e-6)


@pytest.mark.parametrize("name", ["gaussian", "weak zeros", "logit"])
def test_nothing_else_moves(name: str, draw_ratings: Any, random_fit: Any) -> None:
    model = MODELS[name]
    fit = random_fit(model, draw_ratings(binary=model.likelihood.binary))
    before = {site: value.copy() for site, value in fit.point().items()}
    grown = fit.fold_in(new_ratings(binary=model.likelihood.binary))
    others = np.setdiff1d(np.arange(14), [2, 3])
    for site, value in grown.point().items():
        assert value.dtype == before[site].dtype
        if site.startswith("user"):
            assert len(value) == 16
            np.testing.assert_array_equal(value[others], before[site][others])
        else:
            np.testing.assert_array_equal(value, before[site])
        np.testing.assert_array_equal(fit.point()[site], before[site])
    assert grown.data.users.ids.tolist() == [*range(14), 40, 50]
    assert grown.data.items is fit.data.items
    assert grown.model is fit.model
    assert grown.method == fit.method


def test_a_pair_rated_again_keeps_the_new_rating(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    user, item = int(fit.data.user[4]), int(fit.data.item[4])
    again = Ratings.from_frame({"user": [user], "item": [item], "rating": [-9.0]})
    grown = fit.fold_in(again)
    assert len(grown.data) == len(fit.data)
    at = (grown.data.user == user) & (grown.data.item == item)
    assert grown.data.rating[at].tolist() == [-9.0]
    assert grown.predict(again).mean < fit.predict(again).mean


def test_a_user_folded_in_again_gets_the_same_row(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["logit"], draw_ratings(binary=True))
    grown = fit.fold_in(new_ratings(binary=True))
    twice = grown.fold_in(new_ratings(binary=True))
    for site, value in grown.point().items():
        np.testing.assert_allclose(twice.point()[site], value, atol=1e-6)


def test_more_ratings_narrow_the_interval(draw_ratings: Any, random_fit: Any) -> None:
    # The first item, which is predicted, is known well, so what is left is the user's part.
    fit = random_fit(MODELS["gaussian"], draw_ratings(80, 11, share=0.9))
    # A stranger comes apart: its factors are zero, so the item's part is smaller.
    assert fit.predict([(99, 0)]).known_user.tolist() == [False]
    width = []
    for count in (1, 3, 9):
        table = {"user": [99] * count, "item": range(1, count + 1), "rating": [3.0] * count}
        predicted = fit.fold_in(Ratings.from_frame(table)).predict([(99, 0)])
        assert predicted.known_user.tolist() == [True]
        width.append(float(predicted.upper[0] - predicted.lower[0]))
    assert width == sorted(width, reverse=True)
    assert width[-1] < 0.7 * width[0]


def test_new_users_are_recommended_what_they_lack(draw_ratings: Any, random_fit: Any) -> None:
    grown = random_fit(MODELS["gaussian"], draw_ratings()).fold_in(new_ratings())
    recommended = grown.recommend([50], k=11)
    rated = new_ratings()
    seen = rated.items.ids[rated.item[rated.user == rated.users.encode([50])[0]]]
    assert not set(seen.tolist()) & set(recommended.item[0])
    assert (recommended.code[0] >= 0).sum() == 5


def test_scales_of_each_user(draw_ratings: Any, random_fit: Any) -> None:
    scales = np.linspace(0.5, 2, 14)
    model = MatrixFactorization(2, Gaussian(0.5), user_scale=scales)
    fit = random_fit(model, draw_ratings())
    message = r"user_scale has one number per user, 14 in all, and none for the 2 new users\. Give"
    with pytest.raises(ValueError, match=message):
        fit.fold_in(new_ratings())
    for given, each in ((0.1, [0.1, 0.1]), ([0.1, 3.0], [0.1, 3.0])):
        grown = fit.fold_in(new_ratings(), user_scale=given)
        np.testing.assert_array_equal(grown.model.user_scale, [*scales, *each])
        assert (
            np.abs(gradient_of_users(grown, grown.model)["user_factors"][[2, 14, 15]]).max() < 1e-3
        )
    # Nobody is new here, so nothing is missing.
    known = new_ratings().select(np.flatnonzero(new_ratings().users.ids[new_ratings().user] < 14))
    assert fit.fold_in(known).data.num_users == 14
    with pytest.raises(ValueError, match=r"user_scale has shape \(3,\); expected one number, or 2"):
        fit.fold_in(new_ratings(), user_scale=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="user_scale is -1; a scale is a standard deviation"):
        fit.fold_in(new_ratings(), user_scale=-1.0)
    with pytest.raises(ValueError, match="user_bias_scale was given, but this model has no user_b"):
        fit.fold_in(new_ratings(), user_scale=1.0, user_bias_scale=1.0)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("gaussian", {"user": [1], "item": [99], "rating": [1.0]}, "id 99, which is not among the"),
        ("gaussian", {"user": ["a"], "item": [1], "rating": [1.0]}, "holds text"),
        ("logit", {"user": [90], "item": [1], "rating": [0.5]}, "needs ratings 0 or 1, but row 0"),
    ],
)
def test_bad_ratings(
    name: str, table: dict[str, Any], message: str, draw_ratings: Any, random_fit: Any
) -> None:
    fit = random_fit(MODELS[name], draw_ratings(binary=MODELS[name].likelihood.binary))
    with pytest.raises(ValueError, match=message):
        fit.fold_in(Ratings.from_frame(table))


def test_bad_arguments(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["weak zeros"], draw_ratings())
    with pytest.raises(TypeError, match="Expected Ratings, got dict"):
        fit.fold_in({"user": [1], "item": [1], "rating": [1.0]})
    light = replace(new_ratings(weights=True), weight=np.full(14, 0.1))
    with pytest.raises(
        ValueError, match=r"Row 0 has weight 0\.1, not above unobserved_weight=0\.2"
    ):
        fit.fold_in(light)
    with pytest.raises(TypeError, match="unexpected keyword argument 'item_scale'"):
        fit.fold_in(new_ratings(), item_scale=1.0)


def test_fits_of_objectives_that_rank_have_no_rows_given_ratings(
    draw_ratings: Any, random_fit: Any
) -> None:
    data = draw_ratings()
    fit = replace(random_fit(MatrixFactorization(2), data), method="map/ranking/bpr")
    asks = (lambda: fit.fold_in(data), lambda: fit.explain(1, 1), lambda: fit.choose_next(1))
    for ask in asks:
        with pytest.raises(ValueError, match="lowered objective='bpr', under which no rating is"):
            ask()

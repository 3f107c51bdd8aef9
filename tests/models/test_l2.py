"""The L2-regularized losses of the literature have the same minimizer as the model's objective."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from rings import slow
from scipy import optimize

from probmf.data import Ratings
from probmf.likelihoods import Bernoulli, Gaussian, Likelihood
from probmf.models import MatrixFactorization
from probmf.models.l2 import prior_scale

USERS, ITEMS, FACTORS = 5, 4, 2
PAIRS = np.array([(0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 3), (3, 3), (3, 0)])
USER, ITEM = PAIRS.T
COUNT = len(PAIRS)
INTERCEPT = 0.4
LIKELIHOODS = {
    "gaussian": Gaussian(0.6),
    "logit": Bernoulli("logit"),
    "probit": Bernoulli("probit"),
}
STRENGTHS = {
    "shared": {"regularization": 0.3},
    "separate": {"user": 0.2, "item": 0.5, "user_bias": 0.1, "item_bias": 0.7},
    "one of its own": {"regularization": 0.3, "item_bias": 0.05},
}


def table(likelihood: Likelihood) -> Ratings:
    """User 4 has no rating."""
    rating = np.random.default_rng(0).normal(size=COUNT)
    return Ratings.from_frame(
        {"user": USER, "item": ITEM, "rating": 1.0 * (rating > 0) if likelihood.binary else rating},
        users=list(range(USERS)), items=list(range(ITEMS)),
    )  # fmt: skip


def strength_of(given: dict[str, float], term: str) -> float:
    return given.get(term, given.get("regularization", np.nan))


def literature(
    likelihood: Likelihood, given: dict[str, float], *, loss: str, per_rating: bool
) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """sum: 1/2 sum e^2 + lambda/2 |x|^2;  mean: 1/n sum e^2 + lambda |x|^2;  log loss likewise."""
    rating = jnp.asarray(table(likelihood).rating)
    degree = {
        "user": np.maximum(np.bincount(USER, minlength=USERS), 1),
        "item": np.maximum(np.bincount(ITEM, minlength=ITEMS), 1),
    }

    def evaluate(x: dict[str, jax.Array]) -> jax.Array:
        score = INTERCEPT + x["user_bias"][USER] + x["item_bias"][ITEM]
        score = score + jnp.sum(x["user_factors"][USER] * x["item_factors"][ITEM], axis=1)
        if isinstance(likelihood, Gaussian):
            errors = (rating - score) ** 2
        elif likelihood.link == "logit":
            errors = jnp.logaddexp(0.0, -(2 * rating - 1) * score)
        else:
            errors = -jax.scipy.stats.norm.logcdf((2 * rating - 1) * score)
        squares = jnp.zeros(())
        for site, values in x.items():
            side, kind = site.split("_")
            strength = strength_of(given, site if kind == "bias" else side)
            rows = degree[side] if per_rating else np.ones(len(values))
            rows = jnp.asarray(rows).reshape(-1, *[1] * (values.ndim - 1))
            squares = squares + strength * jnp.sum(rows * values**2)
        if loss == "mean":
            return jnp.mean(errors) + squares
        half = 0.5 if isinstance(likelihood, Gaussian) else 1.0
        return half * jnp.sum(errors) + 0.5 * squares

    return evaluate


def draw(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = MatrixFactorization(FACTORS).site_shapes(USERS, ITEMS)
    return {site: jnp.asarray(rng.normal(size=shape)) for site, shape in shapes.items()}


@pytest.mark.parametrize("per_rating", [False, True])
@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize("name", slow(LIKELIHOODS, "probit"))
def test_objective_is_a_multiple_of_the_loss(
    name: str, strengths: str, loss: Any, per_rating: bool
) -> None:
    """And so are their gradients: everywhere, not only at the minimum."""
    likelihood, given = LIKELIHOODS[name], STRENGTHS[strengths]
    with jax.enable_x64(True):
        ratings = table(likelihood)
        model = MatrixFactorization.from_l2(
            FACTORS, **given, loss=loss, ratings=ratings, per_rating=per_rating,
            likelihood=likelihood, intercept=INTERCEPT,
        )  # fmt: skip
        (observations,) = model.arguments(ratings)
        target = literature(likelihood, given, loss=loss, per_rating=per_rating)
        multiple = {"sum": 1.0, "mean": float(COUNT)}[loss]
        if isinstance(likelihood, Gaussian):
            multiple *= likelihood.noise_scale**-2 * {"sum": 1.0, "mean": 0.5}[loss]
        for seed in range(3):
            x = draw(seed)
            wanted = multiple * float(target(x))
            assert float(jax.jit(model.objective)(x, observations)) == pytest.approx(
                wanted, rel=1e-10
            )


@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("name", ["gaussian", "logit"])
@pytest.mark.parametrize("strengths", ["shared", "separate"])
def test_minimizer_of_the_loss_has_gradient_zero(name: str, loss: Any, strengths: str) -> None:
    """The minimum is found by SciPy from the literature's loss alone."""
    likelihood, given = LIKELIHOODS[name], STRENGTHS[strengths]
    with jax.enable_x64(True):
        ratings = table(likelihood)
        target = literature(likelihood, given, loss=loss, per_rating=False)
        flat, restore = ravel_pytree(draw(0))
        value_and_gradient = jax.jit(jax.value_and_grad(lambda x: target(restore(x))))
        found = optimize.minimize(
            lambda x: [np.asarray(part, float) for part in value_and_gradient(jnp.asarray(x))],
            np.asarray(flat), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000},
        )  # fmt: skip
        model = MatrixFactorization.from_l2(
            FACTORS, **given, loss=loss, ratings=ratings, likelihood=likelihood,
            intercept=INTERCEPT,
        )  # fmt: skip
        (observations,) = model.arguments(ratings)
        gradient = jax.jit(jax.grad(model.objective))(restore(jnp.asarray(found.x)), observations)
        norms = [float(jnp.abs(part).max()) for part in gradient.values()]
        assert max(norms) < 1e-6
        elsewhere = jax.jit(jax.grad(model.objective))(draw(1), observations)
        assert max(float(jnp.abs(part).max()) for part in elsewhere.values()) > 0.1


def test_only_the_ratio_of_noise_to_prior_matters() -> None:
    """With another noise scale the objective is multiplied, the minimizer is the same."""
    with jax.enable_x64(True):
        ratings = table(Gaussian())
        x = draw(0)
        values = []
        for noise in (1.0, 0.5):
            model = MatrixFactorization.from_l2(
                FACTORS, regularization=0.3, likelihood=Gaussian(noise), intercept=INTERCEPT
            )
            values.append(float(jax.jit(model.objective)(x, *model.arguments(ratings))))
        assert values[1] == pytest.approx(4 * values[0], rel=1e-12)


def test_terms_without_a_strength_are_left_out() -> None:
    model = MatrixFactorization.from_l2(2, user=1.0, item=4.0)
    assert not model.user_bias
    assert not model.item_bias
    assert (model.user_scale, model.item_scale) == (1.0, 0.5)
    model = MatrixFactorization.from_l2(2, regularization=1.0, user_bias=False)
    assert not model.user_bias
    assert model.item_bias
    model = MatrixFactorization.from_l2(2, user=1.0, item=1.0, item_bias=0.25, user_bias=False)
    assert not model.user_bias
    assert (model.item_bias, model.item_bias_scale) == (True, 2.0)
    model = MatrixFactorization.from_l2(0, user_bias=1.0, intercept=2.0)
    assert (model.num_factors, model.item_bias, model.intercept) == (0, False, 2.0)


def test_scales_by_row_with_per_rating() -> None:
    ratings = table(Gaussian())
    model = MatrixFactorization.from_l2(1, regularization=0.5, ratings=ratings, per_rating=True)
    degree = np.array([2, 1, 3, 2, 1])  # user 4 has none and counts as one
    np.testing.assert_allclose(model.user_scale, (0.5 * degree) ** -0.5)
    np.testing.assert_allclose(model.user_bias_scale, (0.5 * degree) ** -0.5)
    np.testing.assert_allclose(model.item_scale, (0.5 * np.array([3, 2, 1, 2])) ** -0.5)


@pytest.mark.parametrize(
    ("likelihood", "loss", "wanted"),
    [
        (Gaussian(0.5), "sum", 4 * 0.1),
        (Gaussian(0.5), "mean", 4 * 20 * 0.1),
        (Bernoulli(), "sum", 0.1),
        (Bernoulli(), "mean", 2 * 20 * 0.1),
    ],
)
def test_the_four_forms(likelihood: Likelihood, loss: Any, wanted: float) -> None:
    scale = prior_scale(0.1, likelihood, loss=loss, num_ratings=20)
    assert scale == pytest.approx(wanted**-0.5)
    by_row = prior_scale(0.1, likelihood, loss=loss, num_ratings=20, counts=np.array([0, 1, 4]))
    np.testing.assert_allclose(by_row, scale * np.array([1, 1, 0.5]))


def test_numpy_scalars_are_numbers() -> None:
    model = MatrixFactorization.from_l2(
        1, regularization=np.float32(4.0), likelihood=Gaussian(np.float32(0.5))
    )
    assert model.user_scale == pytest.approx(0.25)


def test_other_arguments_are_passed_on() -> None:
    model = MatrixFactorization.from_l2(
        1, regularization=1.0, intercept=None, unobserved_weight=0.1, user_bias=False
    )
    assert model.intercept is None
    assert model.unobserved_weight == 0.1


RATINGS = table(Gaussian())
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "no strength for the user and item factors; give regularization="),
    ({"user": 1.0}, "no strength for the item factors"),
    ({"regularization": 0}, "regularization is 0; expected a positive number (0 would be a flat"),
    ({"regularization": -1.0}, "regularization is -1; expected a positive number"),
    ({"regularization": np.nan}, "regularization is nan; expected a positive number"),
    ({"regularization": np.inf}, "regularization is inf; expected a positive number"),
    ({"regularization": "strong"}, "regularization is 'strong'; expected a positive number"),
    ({"regularization": True}, "regularization is True; expected a positive number"),
    ({"regularization": 1.0, "user": np.ones(2)}, "user is array([1., 1.]); expected a positive"),
    ({"regularization": 1.0, "item": False}, "item is False; expected a positive number"),
    ({"regularization": 1.0, "item_bias": True}, "item_bias is True; expected a positive number"),
    ({"regularization": 1.0, "item_bias": -2}, "item_bias is -2; expected a positive number"),
    ({"regularization": 1.0, "loss": "average"}, "loss is 'average'; expected 'sum' or 'mean'"),
    ({"regularization": 1.0, "loss": "mean"}, "The averaged loss depends on the number of ratings"),
    (
        {"regularization": 1.0, "per_rating": True},
        "per_rating=True counts each row's ratings: give",
    ),
    (
        {"regularization": 1.0, "likelihood": Gaussian(dist.HalfNormal(1.0))},
        "from_l2 needs a noise_scale that is a number",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MatrixFactorization.from_l2(2, **options)


def test_per_rating_of_other_data_is_noticed_when_fitting() -> None:
    """The scales are one per row of the data that they were made from."""
    other = Ratings.from_frame({"user": [1, 2], "item": [1, 2], "rating": [1.0, 2.0]})
    model = MatrixFactorization.from_l2(1, regularization=0.5, ratings=RATINGS, per_rating=True)
    with pytest.raises(ValueError, match=re.escape("user_bias_scale has shape (5,); expected one")):
        model.arguments(other)

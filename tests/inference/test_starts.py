"""Starts of fits, their held-out data, and checks of arguments that methods share."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probmf.data import Ratings
from probmf.inference.gibbs.plan import Plan
from probmf.inference.gibbs.starting_points import start_scales
from probmf.inference.marginal.density import median
from probmf.inference.point.validation import Validation
from probmf.inference.starts import (
    START_SCALE,
    initial_parameters,
    prepare_validation,
)
from probmf.likelihoods import Bernoulli, Gaussian
from probmf.models import MatrixFactorization
from probmf.models.observations import Observations
from probmf.results import RatingsFit
from probmf.run.checks import check_counts, check_tol

nan, inf = np.nan, np.inf
WEIGHTS = np.array([1.0, 3.0, 0.5])


@pytest.mark.parametrize("weighted", [False, True])
def test_held_out_error_is_the_weighted_rmse(weighted: bool) -> None:
    held_out = observations(np.array([1.0, 2.0, 4.0]), WEIGHTS if weighted else None)
    parameters = {"intercept": jnp.asarray(1.0), "user_bias": jnp.asarray([0.0, 0.5])}
    residual = np.array([0.0, 0.5, 3.0])
    wanted = np.sqrt(np.average(residual**2, weights=WEIGHTS if weighted else None))
    got = Validation(held_out, Gaussian(0.3)).error(parameters)
    assert got == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("link", ["logit", "probit"])
def test_held_out_error_of_yes_no_data_is_the_weighted_log_loss(link: str, weighted: bool) -> None:
    rating = np.array([1.0, 0.0, 1.0])
    held_out = observations(rating, WEIGHTS if weighted else None)
    parameters = {"intercept": jnp.asarray(1.0), "user_bias": jnp.asarray([0.0, 0.5])}
    chance = np.asarray(Bernoulli(link).mean(jnp.asarray([1.0, 1.5, 1.0]), {}), float)
    losses = -np.log(np.where(rating == 1, chance, 1 - chance))
    wanted = np.average(losses, weights=WEIGHTS if weighted else None)
    got = Validation(held_out, Bernoulli(link)).error(parameters)
    assert got == pytest.approx(wanted, rel=1e-5)


def observations(rating: np.ndarray, weight: np.ndarray | None) -> Observations:
    """Users 0, 1, 0 and items 0, 0, 1."""
    return Observations(
        jnp.asarray([0, 1, 0]), jnp.asarray([0, 0, 1]), jnp.asarray(rating),
        None if weight is None else jnp.asarray(weight), jnp.asarray(0.0), 2, 2,
    )  # fmt: skip


def test_check_counts_names_the_argument() -> None:
    check_counts(num_sweeps=1, cg_steps=np.int64(3))
    with pytest.raises(ValueError, match="patience is 0; expected a whole number of at least 1"):
        check_counts(num_sweeps=1, patience=0)
    for bad in (1.0, "1", True, None):
        message = re.escape(f"cg_steps is {bad!r}; expected a whole number")
        with pytest.raises(TypeError, match=message):
            check_counts(cg_steps=bad)


def test_check_tol() -> None:
    for good in (0, 0.0, 1e-5, np.float32(0.1)):
        check_tol(good)
    for bad in (-1e-9, nan, inf, "0", None, True):
        with pytest.raises(ValueError, match=re.escape(f"tol is {bad!r}; expected a finite num")):
            check_tol(bad)


TABLE = Ratings.from_frame({"user": ["a", "b", "c"], "item": [1, 2, 2], "rating": [1.0, 4.0, 2.0]})


def test_random_start_is_small_and_no_wider_than_the_prior() -> None:
    """Factors only: biases start at zero, the intercept at the constant that fits best."""
    users = 4000
    many = Ratings.from_frame({"user": [0], "item": [0], "rating": [2.0]}, users=list(range(users)))
    scale = np.where(np.arange(users) < users // 2, 0.01, 5.0)
    model = MatrixFactorization(2, user_scale=scale, intercept="learned")
    (data,) = model.arguments(many)
    values = initial_parameters(model, data, None)(jax.random.key(0))
    assert float(values["intercept"]) == 2.0
    assert not np.asarray(values["user_bias"]).any()
    factors = np.asarray(values["user_factors"])
    assert factors[: users // 2].std() == pytest.approx(0.01, rel=0.05)
    assert factors[users // 2 :].std() == pytest.approx(START_SCALE, rel=0.05)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.05


def test_start_takes_a_learned_intercept_but_not_a_fixed_one() -> None:
    """A fixed intercept belongs to the model, not to the fit that is started from."""
    learned, fixed = (MatrixFactorization(0, intercept=i) for i in ("learned", 1.5))
    (data,) = learned.arguments(TABLE)
    values = {"user_bias": np.ones(3), "item_bias": np.ones(2), "intercept": np.asarray(9.0)}
    start = RatingsFit.from_point(learned, TABLE, values, method="test")
    key = jax.random.key(0)
    assert float(initial_parameters(learned, data, start)(key)["intercept"]) == 9.0
    assert float(initial_parameters(fixed, data, start)(key)["intercept"]) == 1.5


def test_validation_is_brought_to_the_training_codes() -> None:
    held_out = Ratings.from_frame({"user": ["c", "b"], "item": [2, 1], "rating": [3.0, 5.0]})
    assert prepare_validation(MatrixFactorization(1), TABLE, None) is None
    found = prepare_validation(MatrixFactorization(1), TABLE, held_out)
    assert found is not None
    assert found.data.user.tolist() == [2, 1]
    assert found.data.item.tolist() == [1, 0]
    assert found.data.num_users == 3


@pytest.mark.parametrize(
    ("law", "wanted"),
    [
        (dist.HalfNormal(3.0), 3.0 * 0.67449),
        (dist.Gamma(2.0, 1e5), 2e-5),
        (dist.InverseGamma(3.0, 8e6), 4e6),
        (dist.Beta(2.0, 6.0), 0.25),
        (dist.HalfCauchy(2.0), 2.0),
        (dist.InverseGamma(0.5, 1.0), 7.0),
        (dist.LogNormal(1.0, 2.0).expand((3,)).to_event(1), np.exp(1.0)),
    ],
)
def test_a_search_begins_where_the_prior_is(law: dist.Distribution, wanted: float) -> None:
    """In its own unit; with or without the package that has NumPyro's quantiles of some laws."""
    otherwise = jnp.full(law.batch_shape + law.event_shape, 7.0)
    got = median(law, otherwise)
    assert got.shape == otherwise.shape
    # The mean of a skewed law in place of its median is near enough to begin with.
    np.testing.assert_allclose(got, wanted, rtol=0.5)


def test_scales_start_where_their_priors_allow_them() -> None:
    """Else slices of a density of zero would wander, and keep draws that the prior rules out."""
    ratings = Ratings.from_frame({"user": [1, 2, 3], "item": [1, 1, 2], "rating": [1.0, 2.0, 3.5]})
    laws = {
        "user_scale": dist.Uniform(5.0, 6.0).expand((1, 2)), "item_scale": dist.HalfNormal(1.0),
        "user_bias_scale": dist.Uniform(0.01, 0.02).expand((3,)),
        "item_bias_scale": dist.Pareto(4.0, 1.0), "noise_scale": dist.TruncatedNormal(low=9.0),
    }  # fmt: skip
    own = {name: law for name, law in laws.items() if name != "noise_scale"}
    model = MatrixFactorization(2, Gaussian(laws["noise_scale"]), **own)
    found = start_scales(model, ratings, Plan.of(model))
    for name, law in laws.items():
        assert found[name].shape == law.batch_shape
        assert law.support(found[name]).all(), name
    assert float(found["item_scale"]) == pytest.approx(0.539, abs=0.001)

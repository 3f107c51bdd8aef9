"""Prior means from features: the density, and point estimates against closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from rings import slow

from probmf import (
    MLP,
    Bernoulli,
    Features,
    Gaussian,
    Linear,
    MatrixFactorization,
    NormalWishart,
    Ratings,
    fit_als,
    fit_map,
    fit_variational,
    sample_nuts,
)

USERS, ITEMS = 9, 7


def simulate(seed: int = 0, binary: bool = False) -> Ratings:
    rng = np.random.default_rng(seed)
    seen = rng.random((USERS, ITEMS)) < 0.7
    # The last user and the last item have features only.
    seen[-1], seen[:, -1] = False, False
    user, item = np.nonzero(seen)
    users = {
        "user": np.arange(USERS),
        "age": rng.normal(40, 10, USERS),
        "job": rng.choice(["cook", "poet", "smith"], USERS),
    }
    items = {"item": np.arange(ITEMS), "year": rng.integers(1950, 2000, ITEMS)}
    rating = rng.normal(3, 1, len(user)) + 0.05 * users["age"][user]
    if binary:
        rating = (rating > np.median(rating)).astype(float)
    return Ratings.from_frame(
        {"user": user, "item": item, "rating": rating}, users=np.arange(USERS),
        items=np.arange(ITEMS), user_features=users, item_features=items,
    )  # fmt: skip


DATA = simulate()
BOTH: dict[str, Any] = {"user_mean": Linear(), "item_mean": Linear(weight_scale=0.7)}


@pytest.mark.parametrize(
    "model",
    [
        MatrixFactorization(2, Gaussian(0.8), **BOTH, user_scale=0.5, user_bias_scale=0.4),
        MatrixFactorization(2, user_mean=MLP((3,), bias_scale=0.5), item_bias=False),
        MatrixFactorization(0, user_mean=Linear(weight_scale="flat"), item_bias=False),
    ],
    ids=["linear", "mlp", "biases"],
)
def test_objective_is_minus_the_log_density(model: MatrixFactorization) -> None:
    (observations,) = model.arguments(DATA)
    fit = fit_map(model, DATA, key=0, num_epochs=2)
    here = {name: value for name, value in fit.point().items() if name != "intercept"}
    there = {name: value + 0.1 for name, value in here.items()}
    log_prior = jax.jit(lambda values: log_density(model, (observations,), {}, values)[0])
    density = [log_prior(values) for values in (here, there)]
    loss = jax.jit(model.objective)
    objective = [loss(values, observations) for values in (here, there)]
    assert float(objective[0] - objective[1]) == pytest.approx(float(density[1] - density[0]), 1e-3)
    assert fit.history.objective[-1] == pytest.approx(float(objective[0]), rel=1e-5)


@pytest.mark.parametrize("update", ["block", "coordinate"])
def test_als_without_factors_is_one_linear_system(update: Any) -> None:
    """Biases and weights solve a ridge regression; the dense solution is the oracle."""
    model = MatrixFactorization(
        0, Gaussian(0.7), intercept=2.0, user_bias_scale=0.8, item_bias_scale=0.6,
        user_mean=Linear(weight_scale=0.9, bias_scale=2.0),
    )  # fmt: skip
    fit = fit_als(model, DATA, key=0, num_sweeps=400, tol=0, update=update)
    features = model.encode(DATA)["user"]
    width = features.shape[1]
    # Unknown: user biases less their means, item biases, weights, the layer's bias.
    pairs = np.concatenate(
        [
            np.eye(USERS)[DATA.user], np.eye(ITEMS)[DATA.item], features[DATA.user],
            np.ones((len(DATA), 1)),
        ],
        axis=1,
    )  # fmt: skip
    scales = [0.8] * USERS + [0.6] * ITEMS + [0.9] * width + [2.0]
    matrix = pairs.T @ pairs / 0.49 + np.diag(np.asarray(scales) ** -2)
    found = np.linalg.solve(matrix, pairs.T @ (DATA.rating - 2.0) / 0.49)
    point = fit.point()
    weights, constant = found[USERS + ITEMS : -1], found[-1]
    mean = features @ weights + constant
    np.testing.assert_allclose(point["user_mean_weight_0"][:, 0], weights, atol=2e-4)
    np.testing.assert_allclose(point["user_mean_bias_0"], [constant], atol=2e-4)
    np.testing.assert_allclose(point["user_bias"], mean + found[:USERS], atol=2e-4)
    # Without ratings the prior mean is all there is.
    np.testing.assert_allclose(point["user_bias"][-1], mean[-1], atol=2e-4)


CASES: dict[str, tuple[MatrixFactorization, Ratings]] = {
    "gaussian": (MatrixFactorization(2, Gaussian(0.8), **BOTH, user_scale=0.5), DATA),
    "scales by row": (
        MatrixFactorization(
            2, intercept="learned", user_mean=Linear(), item_bias=False,
            user_scale=np.linspace(0.4, 1.0, USERS), user_bias_scale=np.linspace(1.5, 0.5, USERS),
        ),
        DATA,
    ),
    "bernoulli": (MatrixFactorization(1, Bernoulli(), **BOTH), simulate(binary=True)),
    "weak zeros": (
        MatrixFactorization(1, intercept=0.5, unobserved_weight=0.05, **BOTH), DATA,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", slow(CASES, "scales by row", "bernoulli"))
def test_als_never_rises_and_ends_where_the_gradient_is_zero(case: str) -> None:
    model, data = CASES[case]
    with jax.enable_x64(True):
        (observations,) = model.arguments(data)
        fit = fit_als(model, data, key=0, num_sweeps=300, tol=0, solver="cholesky")
        objective = fit.history.objective
        assert np.diff(objective).max() < 1e-9 * abs(objective[0])
        point = {name: jnp.asarray(value, float) for name, value in fit.point().items()}
        if not model.learns_intercept:
            point.pop("intercept")
        value, gradient = jax.jit(jax.value_and_grad(model.objective))(point, observations)
        assert objective[-1] == pytest.approx(float(value), rel=1e-9)
        largest = max(float(jnp.abs(slope).max()) for slope in gradient.values())
        assert largest < 1e-4


@pytest.mark.slow
def test_gradients_end_where_als_does() -> None:
    model, data = CASES["gaussian"]
    als = fit_als(model, data, key=0, num_sweeps=100, tol=0, solver="cholesky")
    full = fit_map(model, data, key=1, num_epochs=400, learning_rate=0.05, tol=0)
    assert full.history.objective[-1] == pytest.approx(als.history.objective[-1], rel=2e-3)
    again = fit_als(model, data, key=0, num_sweeps=1, start=full)
    assert again.history.objective[-1] <= full.history.objective[-1] * (1 + 1e-6)


def test_minibatches_lower_the_same_objective() -> None:
    model, data = CASES["gaussian"]
    (observations,) = model.arguments(data)
    best = fit_als(model, data, key=0, num_sweeps=100).history.objective[-1]
    loss = jax.jit(model.objective)
    fit = fit_map(model, data, key=0, num_epochs=60, batch_size=8)
    found = fit.history.objective[fit.history.best - 1]
    assert found == pytest.approx(float(loss(fit.point(), observations)), rel=1e-5)
    assert found < 1.05 * best


@pytest.mark.slow
def test_a_network_fits_what_a_line_can_not() -> None:
    rng = np.random.default_rng(0)
    age = rng.uniform(-2, 2, 60)
    data = Ratings.from_frame(
        {"user": np.arange(60), "item": np.zeros(60, int), "rating": np.square(age)},
        user_features={"user": np.arange(60), "age": age},
    )
    options: dict[str, Any] = {"item_bias": False, "user_bias_scale": 0.1}
    losses = [
        fit_map(
            MatrixFactorization(0, Gaussian(0.1), user_mean=mean, **options), data, key=0,
            num_epochs=200, learning_rate=0.05, tol=0,
        ).history.objective[-1]
        for mean in (Linear(), MLP((8,)))
    ]  # fmt: skip
    assert losses[1] < 0.1 * losses[0]


@pytest.mark.slow
def test_it_is_a_numpyro_model() -> None:
    model = MatrixFactorization(0, user_mean=Linear(), item_bias=False)
    sampler = MCMC(NUTS(model, max_tree_depth=2), num_warmup=3, num_samples=4, progress_bar=False)
    sampler.run(jax.random.key(0), *model.arguments(DATA))
    assert sampler.get_samples()["user_mean_weight_0"].shape == (4, 4, 1)


def test_scales_of_weights_and_full_covariances_are_sites() -> None:
    model = MatrixFactorization(
        2, user_mean=Linear(weight_scale=dist.HalfNormal(1.0)), user_scale=NormalWishart()
    )
    (observations,) = model.arguments(DATA)

    @jax.jit
    def drawn(key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        trace = handlers.trace(handlers.seed(model, key)).get_trace(observations)
        values = {name: site["value"] for name, site in trace.items()}
        return values, trace["user_factors"]["fn"].loc

    with jax.numpy_rank_promotion("allow"):
        values, loc = drawn(jax.random.PRNGKey(0))
    assert {"user_mean_weight_scale_0", "user_mean", "user_precision"} < set(values)
    mean = model.row_means(observations.features)["user"](values)["user_factors"]
    np.testing.assert_allclose(loc, mean + values["user_mean"][None], rtol=1e-5)


def test_what_a_method_can_not_do_is_refused() -> None:
    network = MatrixFactorization(1, user_mean=MLP((2,)))
    with pytest.raises(ValueError, match=r"fit_als .* only, and user_mean .*Use fit_map"):
        fit_als(network, DATA, key=0)
    flat = MatrixFactorization(1, user_mean=Linear(weight_scale="flat"))
    with pytest.raises(ValueError, match=r"fit_als needs a prior of user_mean_weight_0"):
        fit_als(flat, DATA, key=0)
    random = MatrixFactorization(1, user_mean=Linear(weight_scale=dist.HalfNormal(1.0)))
    for method, options in ((fit_als, {}), (fit_map, {"num_epochs": 1})):
        with pytest.raises(ValueError, match=r"user_mean_weight_scale_0 has a prior distribution"):
            method(random, DATA, key=0, **options)
    with pytest.raises(
        ValueError, match=r"fit_variational .* \(user_mean, item_mean\); use fit_als"
    ):
        fit_variational(MatrixFactorization(1, user_mean=Linear()), DATA, key=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_mean": "linear"}, r"user_mean is 'linear' of type str; expected Linear"),
        ({"user_features": Features()}, r"user_features names features, but nothing uses them"),
        ({"user_mean": Linear(), "user_features": {"age": [1]}}, r"expected Features\(\.\.\.\)"),
        ({"num_factors": 0, "user_bias": False, "user_mean": Linear()}, r"the model has neither"),
        ({"user_mean": MLP((2,), activation="step")}, r"can't be trained"),
    ],
)
def test_bad_configuration(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MatrixFactorization(**options)


def test_ratings_without_a_side_table() -> None:
    bare = Ratings.from_frame({"user": [1, 2], "item": [1, 1], "rating": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"user_mean needs features, and the ratings have no"):
        MatrixFactorization(1, user_mean=Linear()).arguments(bare)


@pytest.mark.slow
def test_nuts_gives_a_fit_that_knows_new_users() -> None:
    model = MatrixFactorization(0, Gaussian(0.8), user_mean=Linear(), item_bias=False)
    options: dict[str, Any] = {"num_warmup": 200, "num_samples": 200, "num_chains": 1}
    full = sample_nuts(model, DATA, key=0, **options)
    marginal = sample_nuts(model, DATA, key=1, marginalize="user_bias", **options)
    best = fit_als(model, DATA, key=0, num_sweeps=200, tol=0).point()
    for fit in (full, marginal):
        # Without factors the posterior is Gaussian, so its mean is the mode.
        mean = fit.samples["user_mean_weight_0"][0].mean(axis=0)
        np.testing.assert_allclose(mean, best["user_mean_weight_0"], atol=0.15)
        new = {"user": [50], "age": [40.0], "job": ["poet"]}
        assert np.isfinite(fit.predict([(50, 0)], user_features=new, key=0).mean).all()

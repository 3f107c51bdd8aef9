"""The factorization as a NumPyro model, and its objective, over all its options."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers, optim
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from numpyro.infer.util import log_density
from scipy import stats

from probmf.data import Ratings
from probmf.likelihoods import Bernoulli, Gaussian, LogNormal, StudentT
from probmf.models import MatrixFactorization
from probmf.models.linear_predictor import linear_predictor
from probmf.models.observations import Observations

USERS, ITEMS = 5, 4
PAIRS = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 3), (3, 3), (3, 0)]  # user 4 has none
WEIGHTS = [1.0, 2.0, 0.5, 1.5, 0.0, 1.0, 3.0, 0.7]
INTERCEPTS = ["mean", "learned", 1.5, None, dist.Normal(3.0, 2.0)]


def table(*, binary: bool = False, weighted: bool = False) -> Ratings:
    rng = np.random.default_rng(0)
    rating = rng.normal(3, 1, len(PAIRS))
    frame = {
        "user": [f"u{user}" for user, _ in PAIRS],
        "item": [item for _, item in PAIRS],
        "rating": (rating > 3).astype(float) if binary else rating,
        "weight": WEIGHTS,
    }
    return Ratings.from_frame(
        frame, weight="weight" if weighted else None, users=[f"u{i}" for i in range(USERS)],
        items=list(range(ITEMS)),
    )  # fmt: skip


def draw_parameters(model: MatrixFactorization, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = dict(model.site_shapes(USERS, ITEMS))
    if model.learns_intercept:
        shapes["intercept"] = ()
    return {site: np.asarray(rng.normal(size=shape)) for site, shape in shapes.items()}


def combinations(likelihood: Gaussian | Bernoulli) -> Iterator[tuple[MatrixFactorization, bool]]:
    """Every combination of biases, intercept, array scales, factors, zeros; and of weights."""
    arrays = {
        "user_scale": np.linspace(0.5, 2, USERS),
        "item_scale": jnp.linspace(0.3, 1, ITEMS),
        "user_bias_scale": [0.4, 0.5, 0.6, 0.7, 0.8],
        "item_bias_scale": np.linspace(1, 2, ITEMS),
    }
    numbers = {"user_scale": 0.8, "item_scale": 1, "user_bias_scale": np.float32(0.5)}
    zeros = [0.0, 0.1] if isinstance(likelihood, Gaussian) else [0.0]
    both = (False, True)
    for user, item, intercept, scales, k, zero, weighted in product(
        both, both, INTERCEPTS, (numbers, arrays), (0, 2), zeros, both
    ):
        if k or user or item or intercept is not None:
            model = MatrixFactorization(
                k, likelihood, intercept, user, item, unobserved_weight=zero, **scales
            )
            yield model, weighted


def difference(
    model: MatrixFactorization, observations: Observations
) -> tuple[float, float, float]:
    """How much two points differ in minus log density and in the objective, and the size."""

    @jax.jit
    def both(values: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        log_joint, _ = log_density(model, (observations,), {}, values)
        return -log_joint, model.objective(values, observations)

    points = [
        {k: jnp.asarray(v) for k, v in draw_parameters(model, seed).items()} for seed in (1, 2)
    ]
    density, objective = zip(*(map(float, both(values)) for values in points), strict=True)
    return density[1] - density[0], objective[1] - objective[0], abs(objective[0])


LIKELIHOODS = [Gaussian(0.7), Bernoulli("logit"), Bernoulli("probit")]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["gaussian", "logit", "probit"])
def test_objective_is_minus_log_density_up_to_a_constant(likelihood: Any) -> None:
    """Every eleventh combination in float64: 11 is prime to 2 and 5, so all pairs occur."""
    with jax.enable_x64(True):
        for model, weighted in list(combinations(likelihood))[::11]:
            ratings = table(binary=likelihood.binary, weighted=weighted)
            density, objective, size = difference(model, *model.arguments(ratings))
            assert density == pytest.approx(objective, rel=1e-9, abs=1e-9 * size), (model, weighted)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["gaussian", "logit", "probit"])
def test_objective_in_float32(likelihood: Any) -> None:
    for model, weighted in list(combinations(likelihood))[::61]:
        ratings = table(binary=likelihood.binary, weighted=weighted)
        density, objective, size = difference(model, *model.arguments(ratings))
        assert density == pytest.approx(objective, rel=1e-5, abs=1e-5 * size), (model, weighted)


def scale_of(model: MatrixFactorization, name: str, size: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(getattr(model, name), float), (size,))


def objective_by_loops(
    model: MatrixFactorization, ratings: Ratings, values: dict[str, np.ndarray]
) -> float:
    """Pair by pair, the unobserved ones included."""
    weight = np.ones(len(ratings)) if ratings.weight is None else ratings.weight
    mean = np.average(ratings.rating, weights=weight)
    intercept = {"mean": mean, None: 0.0}.get(model.intercept, values.get("intercept"))
    observed = {
        pair: (r, w)
        for pair, r, w in zip(
            zip(ratings.user.tolist(), ratings.item.tolist(), strict=True), ratings.rating, weight,
            strict=True,
        )
        if w > 0
    }  # fmt: skip
    total = 0.0
    for user, item in product(range(USERS), range(ITEMS)):
        score = intercept + values["user_bias"][user] + values["item_bias"][item]
        score = score + values["user_factors"][user] @ values["item_factors"][item]
        rating, w = observed.get((user, item), (0.0, model.unobserved_weight))
        total += 0.5 * w * (rating - score) ** 2 / model.likelihood.noise_scale**2
    for site, name, size in (
        ("user_bias", "user_bias_scale", USERS), ("item_bias", "item_bias_scale", ITEMS),
        ("user_factors", "user_scale", USERS), ("item_factors", "item_scale", ITEMS),
    ):  # fmt: skip
        scaled = values[site].T / scale_of(model, name, size)
        total += 0.5 * float(np.sum(scaled**2))
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("zero", [0.0, 0.2])
@pytest.mark.parametrize("intercept", ["mean", None, "learned"])
def test_objective_by_loops(intercept: Any, zero: float, weighted: bool, x64: bool) -> None:
    ratings = table(weighted=weighted)
    model = MatrixFactorization(
        2, Gaussian(0.7), intercept, user_scale=np.linspace(0.5, 2, USERS), item_bias_scale=0.4,
        unobserved_weight=zero,
    )  # fmt: skip
    (observations,) = model.arguments(ratings)
    values = draw_parameters(model, 3)
    got = model.objective({k: jnp.asarray(v) for k, v in values.items()}, observations)
    wanted = objective_by_loops(model, ratings, values)
    assert float(got) == pytest.approx(wanted, rel=1e-12 if x64 else 1e-5)


def test_objective_does_not_need_a_fixed_intercept_but_heeds_a_given_one() -> None:
    model = MatrixFactorization(1, intercept="mean")
    (observations,) = model.arguments(table())
    values = {k: jnp.asarray(v, jnp.float32) for k, v in draw_parameters(model, 0).items()}
    base = {**values, "intercept": observations.base_score}
    assert float(model.objective(values, observations)) == float(
        model.objective(base, observations)
    )


def test_log_density_with_random_scales() -> None:
    """Against SciPy: scales' own priors, and the normalizing constants that depend on them."""
    with jax.enable_x64(True):
        model = MatrixFactorization(
            1, Gaussian(dist.HalfNormal(2.0)), dist.Normal(3.0, 2.0),
            user_scale=dist.LogNormal(0.0, 1.0), item_scale=dist.HalfNormal(jnp.ones(ITEMS)),
            user_bias_scale=dist.Exponential(2.0), item_bias_scale=0.6,
        )  # fmt: skip
        assert model.random_scales() == [
            "user_bias_scale", "user_scale", "item_scale", "noise_scale",
        ]  # fmt: skip
        ratings = table()
        values = draw_parameters(model, 4)
        rng = np.random.default_rng(5)
        scales = {name: rng.uniform(0.5, 1.5) for name in model.random_scales()}
        scales["item_scale"] = rng.uniform(0.5, 1.5, ITEMS)
        given = model.arguments(ratings)
        density = jax.jit(lambda own: log_density(model, given, {}, own)[0])(values | scales)
    score = values["intercept"] + values["user_bias"][ratings.user]
    score = score + values["item_bias"][ratings.item]
    product_ = values["user_factors"][ratings.user] * values["item_factors"][ratings.item]
    score = score + product_.sum(1)
    normal = stats.norm.logpdf
    wanted = normal(ratings.rating, score, scales["noise_scale"]).sum()
    wanted += normal(values["user_bias"], 0, scales["user_bias_scale"]).sum()
    wanted += normal(values["item_bias"], 0, 0.6).sum()
    wanted += normal(values["user_factors"], 0, scales["user_scale"]).sum()
    wanted += normal(values["item_factors"][:, 0], 0, scales["item_scale"]).sum()
    wanted += normal(values["intercept"], 3, 2)
    wanted += stats.halfnorm.logpdf(scales["noise_scale"], 0, 2)
    wanted += stats.halfnorm.logpdf(scales["item_scale"]).sum()
    wanted += stats.lognorm.logpdf(scales["user_scale"], 1)
    wanted += stats.expon.logpdf(scales["user_bias_scale"], 0, 0.5)
    assert float(density) == pytest.approx(wanted, rel=1e-10)


RANDOM = MatrixFactorization(
    2, Gaussian(dist.HalfNormal(1.0)), "learned", user_scale=dist.HalfNormal(1.0),
    item_scale=dist.HalfNormal(jnp.ones(ITEMS)), user_bias_scale=dist.LogNormal(0.0, 0.5),
    item_bias_scale=dist.HalfNormal(1.0),
)  # fmt: skip
FIXED = MatrixFactorization(2, Bernoulli(), user_scale=np.full(USERS, 0.5))
RUNS = {"fixed scales": (FIXED, True), "random scales": (RANDOM, False)}


def shapes_of(model: MatrixFactorization) -> dict[str, tuple[int, ...]]:
    shapes = dict(model.site_shapes(USERS, ITEMS))
    shapes |= dict.fromkeys(model.random_scales(), ())
    if "item_scale" in shapes:
        shapes["item_scale"] = (ITEMS,)
    return shapes


@pytest.mark.slow  # The contract samples such models by the same kernel.
@pytest.mark.parametrize("name", ["random scales", "fixed scales"])
def test_nuts_runs_on_the_model_as_it_is(name: str) -> None:
    model, binary = RUNS[name]
    kernel = NUTS(model, max_tree_depth=3)
    mcmc = MCMC(kernel, num_warmup=6, num_samples=4, progress_bar=False)
    mcmc.run(jax.random.key(0), *model.arguments(table(binary=binary, weighted=True)))
    samples = mcmc.get_samples()
    shapes = shapes_of(model) | {"intercept": ()}
    assert {site: values.shape[1:] for site, values in samples.items()} == shapes
    assert all(np.isfinite(values).all() for values in samples.values())
    assert all((np.asarray(samples[scale]) > 0).all() for scale in model.random_scales())
    moved = np.asarray(samples["user_factors"]).std(axis=0)
    assert (moved > 0).all()


@pytest.mark.slow
def test_variational_inference_runs_on_the_model_as_it_is() -> None:
    svi = SVI(RANDOM, AutoNormal(RANDOM), optim.Adam(0.05), Trace_ELBO())
    result = svi.run(jax.random.key(0), 60, *RANDOM.arguments(table()), progress_bar=False)
    losses = np.asarray(result.losses)
    assert np.isfinite(losses).all()
    assert losses[-20:].mean() < losses[:5].mean()


@pytest.mark.slow
def test_autodelta_finds_a_zero_of_the_objective_gradient() -> None:
    """NumPyro's own MAP is ours. (It promotes ranks where it draws the start.)"""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        model = MatrixFactorization(1, Gaussian(0.5), "learned")
        (observations,) = model.arguments(table())
        svi = SVI(model, AutoDelta(model), optim.Minimize(), Trace_ELBO())
        state = svi.init(jax.random.key_data(jax.random.key(1)), observations)
        state, _ = svi.update(state, observations)
        found = svi.get_params(state)
        point = {name.removesuffix("_auto_loc"): value for name, value in found.items()}
        gradient = jax.jit(jax.grad(model.objective))(point, observations)
    assert set(gradient) == {"intercept", *model.site_shapes(USERS, ITEMS)}
    assert max(np.abs(np.asarray(part)).max() for part in gradient.values()) < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_predictive_draws_ratings_with_the_model_s_noise(weighted: bool) -> None:
    model = MatrixFactorization(1, Gaussian(0.5), 2.0)
    (observations,) = model.arguments(table(weighted=weighted))
    values = draw_parameters(model, 0)
    draws = 4000
    samples = {k: jnp.asarray(np.broadcast_to(v, (draws, *v.shape))) for k, v in values.items()}
    open_ = observations.without_ratings()
    assert open_.rating is None
    assert observations.rating is not None
    got = Predictive(model, samples)(jax.random.key(2), open_)["rating"]
    scores = linear_predictor(
        {**{k: jnp.asarray(v) for k, v in values.items()}, "intercept": jnp.asarray(2.0)},
        observations.user, observations.item,
    )  # fmt: skip
    sd = 0.5 / np.sqrt(1 if observations.weight is None else np.asarray(observations.weight))
    z = (np.asarray(got).mean(0) - np.asarray(scores)) / sd * np.sqrt(draws)
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(np.asarray(got).std(0) / sd, 1, atol=5 / np.sqrt(2 * draws))


def test_prior_predictive_of_yes_no_data() -> None:
    (observations,) = FIXED.arguments(table(binary=True, weighted=True))
    predictive = Predictive(FIXED, num_samples=20)
    got = predictive(jax.random.key(0), observations.without_ratings())
    assert got["rating"].shape == (20, observations.user.shape[0])
    assert set(np.unique(np.asarray(got["rating"]))) == {0, 1}


def test_model_samples_its_sites_in_plates() -> None:
    model = replace(RANDOM, intercept=dist.Normal(3.0, 1.0))
    (observations,) = model.arguments(table())
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        model(observations)
    plates = {
        name: [frame.name for frame in site["cond_indep_stack"]]
        for name, site in trace.items() if site["type"] == "sample"
    }  # fmt: skip
    assert plates["user_bias"] == plates["user_factors"] == ["user"]
    assert plates["item_bias"] == plates["item_factors"] == ["item"]
    assert plates["rating"] == ["rating_row"]
    assert plates["item_scale"] == plates["noise_scale"] == []
    assert trace["user_factors"]["fn"].event_shape == (2,)


def test_arguments_keep_order_and_drop_weights_of_zero_and_of_one() -> None:
    ratings = table(weighted=True)
    (observations,) = MatrixFactorization(1).arguments(ratings)
    kept = ratings.weight > 0
    np.testing.assert_array_equal(observations.user, ratings.user[kept])
    np.testing.assert_array_equal(observations.item, ratings.item[kept])
    np.testing.assert_allclose(observations.rating, ratings.rating[kept], rtol=1e-6)
    np.testing.assert_allclose(observations.weight, ratings.weight[kept], rtol=1e-6)
    assert (observations.num_users, observations.num_items) == (USERS, ITEMS)
    same = replace(ratings, weight=(ratings.weight > 0).astype(float))
    assert MatrixFactorization(1).arguments(same)[0].weight is None


def test_observations_are_a_pytree_with_static_sizes() -> None:
    (observations,) = MatrixFactorization(1).arguments(table(weighted=True))
    leaves, treedef = jax.tree.flatten(observations)
    assert len(leaves) == 5
    again = jax.tree.unflatten(treedef, leaves)
    assert isinstance(again, Observations)
    assert (again.num_users, again.num_items) == (USERS, ITEMS)
    model = MatrixFactorization(1)
    values = {k: jnp.asarray(v, jnp.float32) for k, v in draw_parameters(model, 0).items()}
    once = float(jax.jit(model.objective)(values, observations))
    assert once == pytest.approx(float(model.objective(values, observations)), rel=1e-6)


def test_fixed_intercept() -> None:
    assert float(MatrixFactorization(1, intercept=2).fixed_intercept(7.0)) == 2
    assert float(MatrixFactorization(1, intercept=np.float32(2)).fixed_intercept(7.0)) == 2
    assert float(MatrixFactorization(1, intercept=None).fixed_intercept(7.0)) == 0
    assert float(MatrixFactorization(1, intercept="mean").fixed_intercept(7.0)) == 7
    assert MatrixFactorization(1, intercept=dist.Normal(3.0, 2.0)).intercept_prior() == (3.0, 0.25)
    assert MatrixFactorization(1, intercept="learned").intercept_prior() == (0.0, 0.0)


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_factors": -1}, ValueError, "num_factors is -1; expected 0 or more"),
    ({"num_factors": 2.0}, TypeError, "num_factors is 2.0; expected a whole number"),
    ({"num_factors": True}, TypeError, "num_factors is True; expected a whole number"),
    ({"num_factors": "8"}, TypeError, "num_factors is '8'; expected a whole number"),
    ({"likelihood": "gaussian"}, TypeError, "likelihood is 'gaussian'; expected one such as"),
    ({"likelihood": Gaussian}, TypeError, "expected one such as Gaussian(), LogNormal()"),
    ({"user_scale": -1}, ValueError, "user_scale is -1; a scale is a standard deviation"),
    ({"item_scale": 0}, ValueError, "item_scale is 0; a scale is a standard deviation"),
    ({"user_bias_scale": np.nan}, ValueError, "user_bias_scale is nan; a scale is"),
    ({"item_bias_scale": [1.0, np.inf]}, ValueError, "item_bias_scale is inf at position 1"),
    ({"item_scale": np.array([1.0, 0, -1])}, ValueError, "item_scale is 0 at position 1"),
    ({"user_scale": None}, TypeError, "user_scale is None of type NoneType"),
    ({"user_scale": "wide"}, TypeError, "user_scale is 'wide' of type str"),
    ({"user_scale": 0}, ValueError, "To leave a term out, switch it off (user_bias=False"),
    ({"intercept": "median"}, ValueError, "intercept is 'median'; expected 'mean', 'learned'"),
    ({"intercept": np.nan}, ValueError, "intercept is nan; expected"),
    ({"intercept": True}, ValueError, "intercept is True; expected"),
    ({"intercept": np.ones(2)}, ValueError, "intercept is array([1., 1.]); expected"),
    ({"intercept": dist.HalfNormal(1.0)}, ValueError, "a scalar NumPyro Normal, or None"),
    ({"intercept": dist.Normal(np.zeros(2), 1.0)}, ValueError, "a scalar NumPyro Normal, or None"),
    ({"unobserved_weight": -0.1}, ValueError, "unobserved_weight is -0.1; expected a finite"),
    ({"unobserved_weight": np.nan}, ValueError, "unobserved_weight is nan; expected a finite"),
    ({"unobserved_weight": "0.1"}, ValueError, "unobserved_weight is '0.1'; expected a finite"),
    (
        {"unobserved_weight": 0.1, "likelihood": Bernoulli()},
        ValueError,
        "counts unobserved pairs as zeros under a Gaussian likelihood",
    ),
    ({"user_bias": 0.5}, TypeError, "user_bias is 0.5; expected True or False"),
    ({"item_bias": None}, TypeError, "item_bias is None; expected True or False"),
    (
        {"num_factors": 0, "user_bias": False, "item_bias": False, "intercept": None},
        ValueError,
        "The model has no term: num_factors=0, no biases and no intercept",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        MatrixFactorization(**options)


def test_numpy_numbers_are_welcome() -> None:
    model = MatrixFactorization(
        np.int64(2), Gaussian(np.float32(0.5)), np.float64(3), np.True_, user_scale=np.float32(1)
    )
    (observations,) = model.arguments(table())
    values = {k: jnp.asarray(v, jnp.float32) for k, v in draw_parameters(model, 0).items()}
    assert np.isfinite(float(model.objective(values, observations)))


@pytest.mark.parametrize(
    ("name", "size", "row"),
    [("user_scale", USERS, "user"), ("item_scale", ITEMS, "item"),
     ("user_bias_scale", USERS, "user"), ("item_bias_scale", ITEMS, "item")],
)  # fmt: skip
@pytest.mark.parametrize("random", [False, True])
def test_array_of_scales_of_wrong_length(name: str, size: int, row: str, random: bool) -> None:
    for wrong in (np.ones(size + 1), np.ones((size, 1)), np.ones(1)):
        model = MatrixFactorization(1, **{name: dist.HalfNormal(wrong) if random else wrong})
        message = f"{name} has shape {wrong.shape}; expected one number or {size} of them, one per "
        with pytest.raises(ValueError, match=re.escape(message + row)):
            model.arguments(table())


def test_scale_of_an_absent_term_is_not_asked_for() -> None:
    model = MatrixFactorization(0, item_bias=False, item_scale=np.ones(99), item_bias_scale=[1, 1])
    model.arguments(table())
    assert MatrixFactorization(0, user_scale=dist.HalfNormal(1.0)).random_scales() == []


def test_other_data_than_ratings() -> None:
    with pytest.raises(
        TypeError, match=r"Expected Ratings, got dict\. Make them with Ratings\.from"
    ):
        MatrixFactorization(1).arguments({"user": [1], "item": [1], "rating": [1]})


def test_yes_no_likelihood_names_the_row() -> None:
    ratings = Ratings.from_frame({"user": [1, 2, 3], "item": [1, 2, 3], "rating": [0, 1, 4]})
    with pytest.raises(ValueError, match=r"but row 2 has 4 \(1 such row\)"):
        MatrixFactorization(1, Bernoulli()).arguments(ratings)


def test_weights_that_are_all_zero() -> None:
    """The data door refuses them; a selection of the table can still consist of them."""
    ratings = replace(table(weighted=True), weight=np.zeros(len(PAIRS)))
    with pytest.raises(ValueError, match="All weights are zero: there is nothing to fit"):
        MatrixFactorization(1).arguments(ratings)


def test_observed_pairs_must_weigh_more_than_unobserved_ones() -> None:
    model = MatrixFactorization(1, unobserved_weight=0.5)
    message = r"Row 2 has weight 0\.5, not above unobserved_weight=0\.5"
    with pytest.raises(ValueError, match=message):
        model.arguments(table(weighted=True))
    replace(model, unobserved_weight=0.49).arguments(table(weighted=True))


@pytest.mark.parametrize("weight", [1.0, 2])
def test_ratings_without_weights_weigh_one(weight: float) -> None:
    model = MatrixFactorization(1, unobserved_weight=weight)
    with pytest.raises(ValueError, match=f"unobserved_weight is {weight:g}, but ratings without"):
        model.arguments(table())
    replace(model, unobserved_weight=0.99).arguments(table())


def test_ratings_that_single_precision_can_not_tell_apart_are_refused() -> None:
    """Of them a tenth of all lists would change; far from zero by less, and wide, they may be."""
    table = {"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "weight": [1.0, 1.0, 1.0, 0.0]}
    apart = np.array([0.0, 1.0, 2.0, 1e9])
    far, near, wide = (
        Ratings.from_frame(table | {"rating": rating}, weight="weight")
        for rating in (1e6 + apart, 1e4 + apart, 1e6 * (1.0 + apart))
    )
    for likelihood in (Gaussian(0.5), StudentT(0.5)):
        model = MatrixFactorization(1, likelihood)
        with pytest.raises(
            ValueError, match=r"lie about 1e\+06, give or take 0.82.* float32.* such"
        ):
            model.arguments(far)
        model.arguments(near)
        model.arguments(wide)
        with jax.enable_x64(True):
            model.arguments(far)
    MatrixFactorization(1, LogNormal(0.5)).arguments(far)

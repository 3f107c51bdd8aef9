"""Ordinal ratings by ALS, by gradients and by NUTS."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.random import Generator

from probmf import MatrixFactorization, Ordinal, Ratings, fit_als, fit_map, sample_nuts
from probmf.inference.point.cutpoints import CutpointSums, newton_step
from probmf.likelihoods.links import LinkName
from probmf.results import RatingsFit

TRUTH = np.asarray([-1.2, -0.2, 0.9])
LEVELS = (1.0, 2.0, 3.5, 5.0)


def simulate(rng: Generator, users: int = 12, items: int = 9, *, weighted: bool = False) -> Ratings:
    user, item = np.nonzero(rng.random((users, items)) < 0.6)
    score = rng.normal(0, 0.7, users)[user] + rng.normal(0, 0.7, items)[item]
    rating = np.asarray(LEVELS)[np.searchsorted(TRUTH, score + rng.normal(size=len(user)))]
    table = {"user": user, "item": item, "rating": rating}
    if weighted:
        table["weight"] = rng.uniform(0.5, 2, len(user))
    return Ratings.from_frame(table, weight="weight" if weighted else None)


MODEL = MatrixFactorization(1, Ordinal(LEVELS, link="probit"), user_scale=0.5, item_scale=0.5)


@pytest.mark.parametrize(
    ("method", "link"),
    [
        ("cg", "logit"),
        ("coordinate", "logit"),
        pytest.param("cholesky", "probit", marks=pytest.mark.slow),
    ],
)
def test_sweeps_never_raise_the_objective(method: str, link: LinkName) -> None:
    model = replace(MODEL, likelihood=Ordinal(LEVELS, link=link))
    update = "coordinate" if method == "coordinate" else "block"
    solver = "cg" if method == "cg" else "cholesky"
    with jax.enable_x64(True):
        data = simulate(np.random.default_rng(0), weighted=True)
        fit = fit_als(model, data, key=0, num_sweeps=25, tol=0, update=update, solver=solver)
        assert np.diff(fit.history.objective).max() <= 1e-10
        (observations,) = model.arguments(data)
        at_end = float(jax.jit(model.objective)(fit.point(), observations))
        assert fit.history.objective[-1] == pytest.approx(at_end, rel=1e-12)


def test_als_and_gradients_reach_the_same_optimum() -> None:
    """Biases only, where there is one optimum: minus the log posterior is convex."""
    model = MatrixFactorization(0, Ordinal(LEVELS, cutpoint_scale=2.0))
    with jax.enable_x64(True):
        data = simulate(np.random.default_rng(1), weighted=True)
        als = fit_als(model, data, key=0, num_sweeps=200, tol=1e-14)
        gradients = fit_map(model, data, key=1, num_epochs=1000, tol=1e-14)
        assert als.history.objective[-1] == pytest.approx(gradients.history.objective[-1], rel=1e-9)
        for site, value in als.point().items():
            np.testing.assert_allclose(gradients.point()[site], value, atol=2e-4)
        (observations,) = model.arguments(data)
        slopes = jax.jit(jax.grad(model.objective))(als.point(), observations)
        np.testing.assert_allclose(slopes["cutpoints"], 0, atol=1e-4)


@pytest.mark.slow
def test_float32_and_minibatches() -> None:
    data = simulate(np.random.default_rng(2))
    best = fit_als(MODEL, data, key=0, num_sweeps=60)
    rough = fit_map(MODEL, data, key=0, num_epochs=30, batch_size=8)
    assert (np.diff(rough.point()["cutpoints"]) > 0).all()
    assert rough.history.objective[-1] < 1.05 * best.history.objective[-1]
    (observations,) = MODEL.arguments(data)
    at_end = float(jax.jit(MODEL.objective)(rough.point(), observations))
    assert rough.history.objective[-1] == pytest.approx(at_end, rel=1e-5)
    assert np.diff(best.history.objective).max() < 1e-5 * best.history.objective[-1]


def test_start_goes_on_and_validation_takes_the_log_loss() -> None:
    train, test = simulate(np.random.default_rng(3)).split(key=0, test_fraction=0.2)
    first = fit_als(MODEL, train, key=0, num_sweeps=3, tol=0, validation=test)
    assert first.history.validation is not None
    chance = fit_predictions(first, test)
    assert first.history.validation[first.history.best - 1] == pytest.approx(
        -np.log(chance).mean(), rel=1e-4
    )
    more = fit_als(MODEL, train, key=1, num_sweeps=1, start=first)
    assert more.history.objective[0] <= first.history.objective[first.history.best - 1] * (1 + 1e-6)


def fit_predictions(fit: RatingsFit, test: Ratings) -> np.ndarray:
    """Probabilities of the observed levels at the fitted scores."""
    predicted = fit.predict(test, interval=None)
    places = np.searchsorted(LEVELS, test.rating)
    assert predicted.probabilities is not None
    return predicted.probabilities[np.arange(len(test)), places]


def test_fixed_cutpoints_are_no_site() -> None:
    model = MatrixFactorization(
        0, Ordinal(LEVELS, tuple(TRUTH), link="probit"), intercept="learned"
    )
    data = simulate(np.random.default_rng(4))
    fit = fit_als(model, data, key=0, num_sweeps=150, tol=1e-8)
    other = fit_map(model, data, key=0, num_epochs=400)
    assert "cutpoints" not in fit.samples
    np.testing.assert_allclose(fit.point()["intercept"], other.point()["intercept"], atol=5e-3)


def test_a_newton_step_that_overshoots_is_halved() -> None:
    """The step would cross the cutpoints; and where nothing descends, nothing moves."""

    def steep(at: np.ndarray) -> CutpointSums:
        return CutpointSums(
            loss=np.sum(np.abs(at - [0.0, 0.1])),
            gradient=np.asarray([-1.0, 1.0]), diagonal=np.ones(2), beside=np.zeros(1),
        )  # fmt: skip

    new, loss = newton_step(steep, np.asarray([-1.0, 1.0]))
    assert np.diff(new) > 0
    assert loss < 1.9
    still, _ = newton_step(steep, np.asarray([0.0, 0.1]))
    np.testing.assert_array_equal(still, [0.0, 0.1])


@pytest.fixture(scope="module")
def sampled() -> RatingsFit:
    data = simulate(np.random.default_rng(5))
    return sample_nuts(MODEL, data, key=0, num_warmup=30, num_samples=40, num_chains=1)


@pytest.mark.slow
def test_nuts_samples_increasing_cutpoints(sampled: RatingsFit) -> None:
    cutpoints = sampled.samples["cutpoints"]
    assert cutpoints.shape == (1, 40, 3)
    assert (np.diff(cutpoints, axis=-1) > 0).all()
    assert np.abs(cutpoints.mean((0, 1)) - TRUTH).max() < 1.2


def test_draws_average_the_probabilities(sampled: RatingsFit) -> None:
    predicted = sampled.predict([(0, 1), (3, 2), (999, 0)])
    assert predicted.probabilities is not None
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1.0)
    np.testing.assert_allclose(predicted.mean, predicted.probabilities @ np.asarray(LEVELS))
    score, variance = sampled._draws.scores(np.asarray([0, 3, -1]), np.asarray([1, 2, 0]))
    by_draw = [
        Ordinal(LEVELS, link="probit").level_probabilities(s, {"cutpoints": c}, np.sqrt(v))
        for s, v, c in zip(score, variance, sampled.samples["cutpoints"][0], strict=True)
    ]
    np.testing.assert_allclose(predicted.probabilities, np.mean(by_draw, axis=0), rtol=1e-4)
    best = sampled.recommend([0, 999], k=2, exclude=None)
    everything = sampled.predict(([0] * 9, list(range(9)))).mean
    np.testing.assert_allclose(best.score[0], np.sort(everything)[:-3:-1], rtol=1e-4)
    tree = sampled.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    assert list(tree["posterior"]["cutpoint"].to_numpy()) == ["1|2", "2|3.5", "3.5|5"]
    assert set(np.unique(tree["posterior_predictive"]["rating"])) <= set(LEVELS)


def test_marginalization_is_refused() -> None:
    data = simulate(np.random.default_rng(7), 6, 5)
    with pytest.raises(ValueError, match="Gaussian likelihood"):
        sample_nuts(MODEL, data, key=0, marginalize=["user_bias", "user_factors"])

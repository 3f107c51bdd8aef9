"""Fits of networks: against scikit-learn, and what the descent promises."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from rings import slow
from scipy import stats
from sklearn import datasets, linear_model, neural_network

from probmf import (
    Bernoulli,
    Categorical,
    Examples,
    Gaussian,
    Network,
    Ordinal,
    diagnostics,
    fit_laplace,
    fit_map,
    fit_svi,
    sample_nuts,
)
from probmf.data import ExamplesWarning
from probmf.inference.point import descent as descent_module
from probmf.inference.point.network_objective import NetworkObjective
from probmf.results import NetworkFit
from probmf.run.driver import FitWarning

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
CURVE = Examples.from_arrays(X, np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.1 * RNG.normal(size=60))
SMALL = Network((3,), likelihood=Gaussian(0.3))
#: One object, so that fits of the same shapes share their programs.
LBFGS = optax.lbfgs()


def converged(model: Network, data: Examples) -> NetworkFit:
    """L-BFGS to the last digits, in double precision."""
    with jax.enable_x64(True):
        return fit_map(model, data, key=0, num_epochs=500, optimizer=LBFGS, tol=1e-13)


# --- against scikit-learn ----------------------------------------------------------------------


def test_linear_regression_and_ridge() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    examples = Examples.from_arrays(x, y, standardize=False)
    with jax.enable_x64(True):
        fit = converged(Network.from_l2((), regularization=0.5), examples)
        theirs = linear_model.Ridge(alpha=0.5).fit(x, y)
        point = fit.point()
        np.testing.assert_allclose(point["network_weight_0"][:, 0], theirs.coef_, rtol=1e-4)
        np.testing.assert_allclose(point["network_bias_0"], theirs.intercept_, rtol=1e-6)
        # Without a penalty it does not matter that features and response are standardized.
        free = converged(Network.from_l2(()), Examples.from_arrays(x, y))
        np.testing.assert_allclose(
            free.predict(x).mean, linear_model.LinearRegression().fit(x, y).predict(x), rtol=1e-4
        )


def test_several_responses_are_several_regressions() -> None:
    """The objective, which is convex, has no slope at scikit-learn's solution."""
    x, y = datasets.load_diabetes(return_X_y=True)
    both = np.stack([y, 5.0 - 0.3 * np.sqrt(y)], axis=1)
    examples = Examples.from_arrays(x, both, standardize=False)
    theirs = linear_model.Ridge(alpha=2.0).fit(x, both)
    model = Network.from_l2((), regularization=2.0)
    with jax.enable_x64(True):
        (data,) = model.arguments(examples)
        point = {
            "network_weight_0": jnp.asarray(theirs.coef_.T),
            "network_bias_0": jnp.asarray(theirs.intercept_),
        }
        for slope in jax.jit(jax.grad(model.objective))(point, data).values():
            np.testing.assert_allclose(slope, 0.0, atol=1e-6)
        fit = NetworkFit.from_point(model, examples, point, history=None, method="theirs")
        np.testing.assert_allclose(fit.predict().mean, theirs.predict(x), rtol=1e-10)


@pytest.mark.parametrize("name", slow(["breast_cancer", "wine"], "breast_cancer"))
def test_logistic_and_softmax_regression(name: str) -> None:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    examples = Examples.from_arrays(x, y)
    likelihood: Any = Bernoulli() if name == "breast_cancer" else Categorical(3)
    with jax.enable_x64(True):
        fit = converged(Network.from_l2((), regularization=2.0, likelihood=likelihood), examples)
        theirs = linear_model.LogisticRegression(C=0.5, tol=1e-10, max_iter=5000)
        theirs.fit(examples.inputs(), y)
        ours = fit.point()["network_weight_0"].T
        np.testing.assert_allclose(ours, theirs.coef_, atol=1e-4)
        predicted = fit.predict()
        assert predicted.probabilities is not None
        np.testing.assert_allclose(
            predicted.probabilities, theirs.predict_proba(examples.inputs()), atol=1e-4
        )
        np.testing.assert_array_equal(predicted.label, theirs.predict(examples.inputs()))


def test_labels_are_the_user_s_own() -> None:
    iris = datasets.load_iris()
    examples = Examples.from_arrays(
        iris.data, iris.target_names[iris.target], features=iris.feature_names
    )
    model = Network.from_l2((), regularization=1.0, likelihood=Categorical(3))
    fit = fit_map(model, examples, key=0, num_epochs=300, learning_rate=0.3)
    predicted = fit.predict({name: [5.0, 6.3] for name in iris.feature_names})
    assert predicted.levels == ("setosa", "versicolor", "virginica")
    assert set(predicted.label.tolist()) <= set(predicted.levels)  # type: ignore[union-attr]
    own = fit.predict().label
    theirs = linear_model.LogisticRegression(C=1.0).fit(examples.inputs(), iris.target)
    assert np.mean(own == iris.target_names[theirs.predict(examples.inputs())]) > 0.98


@pytest.mark.slow
def test_a_network_does_as_well_as_mlp_classifier() -> None:
    x, y = datasets.load_digits(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExamplesWarning)
        digits = Examples.from_arrays(x[:900] / 16, y[:900], standardize=False)
        train, test = digits.split(key=1, test_fraction=0.4)
    model = Network.from_l2(
        (32,), regularization=0.1, activation="relu", likelihood=Categorical(10)
    )
    fit = fit_map(model, train, key=0, num_epochs=20, batch_size=60, validation=test, patience=9)
    theirs = neural_network.MLPClassifier((32,), alpha=0.1, random_state=0, max_iter=20,
                                          learning_rate_init=0.01)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It says that 20 epochs are few.
        theirs.fit(train.x, train.response[:, 0])
    ours = np.mean(fit.predict(test).label == test.response[:, 0])
    # 360 test rows: the standard error of an accuracy of 0.95 is 0.011.
    assert ours > 0.9
    assert ours > theirs.score(test.x, test.response[:, 0]) - 0.035


# --- the descent -------------------------------------------------------------------------------


def test_the_parts_of_all_batches_sum_to_the_objective() -> None:
    with jax.enable_x64(True):
        (data,) = SMALL.arguments(CURVE)
        objective, given = NetworkObjective.build(SMALL, data)
        point = SMALL.start(jax.random.key(3), data)
        wanted = jax.jit(jax.value_and_grad(SMALL.objective))(point, data)
        places, weight = objective.batches(jax.random.key(1), given, 25)
        assert sorted(np.asarray(places)[np.asarray(weight) > 0]) == list(range(60))
        both = jax.jit(jax.vmap(jax.value_and_grad(objective.part), in_axes=(None, 0, None)))
        parts = jax.tree.map(lambda value: value.sum(axis=0), both(point, (places, weight), given))
        for found in (parts, jax.jit(jax.value_and_grad(objective.whole))(point, given)):
            assert found[0] == pytest.approx(float(wanted[0]), rel=1e-12)
            for site in point:
                np.testing.assert_allclose(found[1][site], wanted[1][site], rtol=1e-9, atol=1e-12)


def test_full_batch_descent_is_the_textbook_loop() -> None:
    start = fit_map(SMALL, CURVE, key=4, num_epochs=1, optimizer="sgd", learning_rate=1e-30)
    fit = fit_map(
        SMALL, CURVE, key=0, num_epochs=5, optimizer="sgd", learning_rate=1e-3, start=start, tol=0
    )
    (data,) = SMALL.arguments(CURVE)
    point = {site: jnp.asarray(value) for site, value in start.point().items()}
    curve, slopes = [], jax.jit(jax.value_and_grad(SMALL.objective))
    for _ in range(5):
        gradient = slopes(point, data)[1]
        point = {site: value - 1e-3 * gradient[site] for site, value in point.items()}
        curve.append(float(slopes(point, data)[0]))
    assert fit.history is not None
    np.testing.assert_allclose(fit.history.objective, curve, rtol=1e-4)
    for site, value in point.items():
        np.testing.assert_allclose(fit.point()[site], value, rtol=1e-3, atol=1e-5)


def test_the_best_of_many_restarts_is_kept() -> None:
    fit = fit_map(SMALL, CURVE, key=0, num_epochs=40, num_restarts=6)
    history = fit.history
    assert history is not None
    assert history.restarts is not None
    assert history.restarts.shape == (6, 40)
    assert history.objective.min() == pytest.approx(np.nanmin(history.restarts))
    assert len(np.unique(history.restarts[:, 0])) == 6
    (data,) = SMALL.arguments(CURVE)
    point = {site: jnp.asarray(value) for site, value in fit.point().items()}
    assert float(SMALL.objective(point, data)) == pytest.approx(history.objective.min(), rel=1e-5)


def test_early_stopping_keeps_the_epoch_of_the_least_held_out_error() -> None:
    train, test = CURVE.split(key=0, test_fraction=0.5)
    wide = Network((30,), weight_scale=10.0, likelihood=Gaussian(0.1))
    fit = fit_map(wide, train, key=0, num_epochs=400, batch_size=10, learning_rate=0.03,
                  validation=test, patience=5)  # fmt: skip
    history = fit.history
    assert history is not None
    assert history.validation is not None
    assert history.stopped == "validation"
    assert history.best == 1 + int(np.argmin(history.validation)) == len(history) - 5
    error = np.sqrt(np.mean(np.square(fit.predict(test).mean - test.response[:, 0])))
    assert history.validation.min() == pytest.approx(error, rel=1e-4)


def test_held_out_classes_are_coded_as_the_training_ones() -> None:
    y = np.arange(60) % 3 + 5
    train = Examples.from_arrays(X, y)
    test = Examples.from_arrays(X[:4], [7, 7, 5, 7])
    model = Network((), likelihood=Categorical(3))
    fit = fit_map(model, train, key=0, num_epochs=3, validation=test)
    probability = fit.predict(test).probabilities
    assert probability is not None
    assert fit.history is not None
    assert fit.history.validation is not None
    best = -np.mean(np.log(probability[np.arange(4), [2, 2, 0, 2]]))
    assert fit.history.validation.min() == pytest.approx(best, rel=1e-5)
    with pytest.raises(ValueError, match=r"is 8 in row 0 .*, which is none of the classes 5, 6, 7"):
        fit_map(model, train, key=0, num_epochs=3, validation=Examples.from_arrays(X[:1], [8]))


def test_ordered_classes_learn_their_cutpoints() -> None:
    truth = np.digitize(X[:, 0] + 0.3 * RNG.normal(size=60), [-0.5, 0.5])
    names = np.array(["low", "mid", "high"])[truth]
    examples = Examples.from_arrays(X, names, classes=["low", "mid", "high"])
    fit = fit_map(
        Network((), likelihood=Ordinal(3, link="probit")), examples, key=0, num_epochs=200
    )
    cutpoints = fit.point()["cutpoints"]
    assert cutpoints[0] < cutpoints[1]
    assert np.mean(fit.predict().label == names) > 0.75
    assert "network_bias_0" not in fit.samples
    # A score moved by a constant, fixed cutpoints: the bias takes the place of the shift.
    fixed = Ordinal(3, tuple(cutpoints + 1.0), link="probit")
    shifted = fit_map(Network((), likelihood=fixed), examples, key=0, num_epochs=200)
    assert shifted.point()["network_bias_0"][0] == pytest.approx(1.0, abs=0.3)
    assert np.mean(shifted.predict().label == fit.predict().label) > 0.95


@pytest.mark.parametrize("batch_size", [None, 20])
def test_divergence_tells_the_update_and_the_learning_rate(batch_size: int | None) -> None:
    relu = Network((8,), "relu", Gaussian(0.1))
    with pytest.warns(FitWarning, match=r"diverged: the loss is not finite at update \d+ \(epoch "
                      r"\d+, learning rate 1000\)"):  # fmt: skip
        fit = fit_map(relu, CURVE, key=0, num_epochs=40, optimizer="sgd", learning_rate=1e3,
                      batch_size=batch_size)  # fmt: skip
    assert fit.history is not None
    assert fit.history.stopped == "diverged"
    assert np.isfinite(fit.predict().mean).all()


def test_a_second_fit_compiles_nothing() -> None:
    fit_map(SMALL, CURVE, key=0, num_epochs=2)
    other = Network((3,), likelihood=Gaussian(0.5), weight_scale=2.0)
    count = descent_module._run_epoch._cache_size()
    fit_map(other, CURVE, key=1, num_epochs=2)
    assert descent_module._run_epoch._cache_size() == count


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (Network((3,), "step"), {}, ValueError, "can't be trained: the step is flat"),
        (Network((3,), weight_scale=dist.HalfNormal(1.0)), {}, ValueError,
         "needs fixed scales, but network_weight_scale_0, network_weight_scale_1 has a prior"),
        (Network(()), {"batch_size": 61}, ValueError, "batch_size is 61, but there are 60 exam"),
        (Network(()), {"optimizer": "sgd"}, ValueError, "'sgd' needs learning_rate="),
        (Network(()), {"optimizer": "newton", "learning_rate": 1.0}, ValueError,
         "optimizer is 'newton'; expected one of 'sgd'"),
        (Network(()), {"validation": {"x": 1}}, TypeError, "validation is of type dict"),
        (Network(()), {"start": 3}, TypeError, "start is of type int; expected a NetworkFit"),
        (Network(()), {"num_epochs": 0}, ValueError, "num_epochs is 0"),
    ],
)  # fmt: skip
def test_bad_arguments(
    model: Network, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_map(model, CURVE, key=0, **({"num_epochs": 2} | options))


def test_a_start_has_to_fit() -> None:
    start = fit_map(Network(()), CURVE, key=0, num_epochs=1)
    with pytest.raises(ValueError, match=r"has network_weight_0 of shape \(2, 1\).* needs \(2, 3"):
        fit_map(SMALL, CURVE, key=0, num_epochs=1, start=start)


# --- sampling ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_nuts_of_a_linear_network_is_the_exact_posterior() -> None:
    y = 0.8 * X[:, 0] - 0.3 * X[:, 1] + 0.5 * RNG.normal(size=60)
    examples = Examples.from_arrays(X, y, standardize=False)
    model = Network((), likelihood=Gaussian(0.5), weight_scale=1.0, bias_scale=2.0)
    fit = sample_nuts(model, examples, key=0, num_warmup=200, num_samples=400, num_chains=2)
    design = np.column_stack([X, np.ones(60)])
    precision = design.T @ design / 0.25 + np.diag([1.0, 1.0, 0.25])
    mean = np.linalg.solve(precision, design.T @ y / 0.25)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    draws = np.concatenate(
        [fit.samples["network_weight_0"][..., 0], fit.samples["network_bias_0"]], axis=-1
    ).reshape(-1, 3)
    # 800 draws, nearly independent: the mean's standard error is sd / 28.
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.2 * sd.max())
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.15)
    row = np.array([[0.5, -1.0]])
    predicted, response = fit.predict(row), fit.predict(row, kind="response")
    z = np.array([0.5, -1.0, 1.0])
    wanted = np.sqrt(z @ np.linalg.solve(precision, z))
    assert predicted.mean[0] == pytest.approx(z @ mean, abs=0.2 * wanted)
    assert predicted.sd is not None
    assert response.sd is not None
    assert response.lower is not None
    assert predicted.sd[0] == pytest.approx(wanted, rel=0.15)
    assert response.sd[0] == pytest.approx(np.hypot(wanted, 0.5), rel=0.02)
    assert response.lower[0] == pytest.approx(z @ mean - 1.645 * np.hypot(wanted, 0.5), abs=0.05)


@pytest.mark.slow
def test_sampled_scales_and_refusals() -> None:
    model = Network((2,), likelihood=Gaussian(dist.HalfNormal(1.0)),
                    weight_scale=dist.HalfNormal(1.0))  # fmt: skip
    fit = sample_nuts(model, CURVE, key=0, num_warmup=100, num_samples=50, num_chains=1)
    assert fit.samples["network_weight_scale_0"].shape == (1, 50)
    noise = fit.samples["noise_scale"].mean()
    assert 0.05 < noise < 1.0
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    assert tree["posterior"]["network_weight_0"].dims == ("chain", "draw", "feature", "unit_0")
    assert tree["posterior"]["feature"].values.tolist() == ["x0", "x1"]
    assert tree["posterior_predictive"]["response"].shape == (1, 50, 60)
    scores = fit.predict(kind="mean").mean
    drawn = tree["posterior_predictive"]["response"].values.mean(axis=(0, 1))
    unit = CURVE.response_scale[0]
    np.testing.assert_allclose(drawn, scores, atol=5 * unit * noise / np.sqrt(50))
    np.testing.assert_allclose(tree["observed_data"]["response"], CURVE.response[:, 0], rtol=1e-5)
    point = {site: value[0, 7] for site, value in fit.samples.items()}
    own = NetworkFit.from_point(model, CURVE, point, history=None, method="one draw")
    law = stats.norm(own.predict().mean, unit * point["noise_scale"])
    found = tree["log_likelihood"]["response"].values[0, 7]
    np.testing.assert_allclose(found, law.logpdf(CURVE.response[:, 0]), rtol=1e-3, atol=1e-3)
    judged = diagnostics.summary(fit)
    names = [row["name"] for row in judged.table]
    assert names == ["prediction", "network_weight_scale_0", "network_weight_scale_1",
                     "noise_scale"]  # fmt: skip
    assert judged.table.rows[0]["count"] == 60
    with pytest.raises(ValueError, match="can't be trained"):
        sample_nuts(Network((2,), "step"), CURVE, key=0)
    with pytest.raises(ValueError, match="the weights of a network are all sampled"):
        sample_nuts(model, CURVE, key=0, marginalize="all")


@pytest.mark.parametrize("method", [fit_laplace, pytest.param(fit_svi, marks=pytest.mark.slow)])
def test_approximations_of_a_linear_network(method: Any) -> None:
    """Laplace's is exact where the posterior is Normal; a guide of full covariance comes near."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 2))
    y = x @ [1.0, -0.5] + 0.3 + rng.normal(0, 0.5, 40)
    examples = Examples.from_arrays(x, y, standardize=False)
    model = Network(hidden=(), likelihood=Gaussian(0.5), weight_scale=1.0, bias_scale=1.0)
    design = np.column_stack([x, np.ones(40)])
    precision = design.T @ design / 0.25 + np.eye(3)
    mean = np.linalg.solve(precision, design.T @ y / 0.25)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    if method is fit_laplace:
        tolerance, fit = 0.05, fit_laplace(model, examples, key=0, num_samples=4000)
    else:
        tolerance = 0.3
        fit = fit_svi(model, examples, key=0, guide="multivariate", num_steps=1500)
    assert isinstance(fit, NetworkFit)
    weights = np.concatenate(
        [fit.samples["network_weight_0"].reshape(-1, 2), fit.samples["network_bias_0"][0]], 1
    )
    assert np.abs((weights.mean(axis=0) - mean) / sd).max() < tolerance
    np.testing.assert_allclose(weights.std(axis=0), sd, rtol=tolerance)
    assert fit.predict(x[:3]).mean.shape[0] == 3
    with pytest.raises(ValueError, match="there is none"):
        fit_laplace(Network((), weight_scale=dist.HalfNormal(1.0)), examples, key=0)

"""Maximum a posteriori by gradients: the gradients are right, and the descent is what it says."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from rings import slow

from probmf.data import Ratings
from probmf.inference.point import descent as descent_module
from probmf.inference.point import map as map_module
from probmf.inference.point.als import fit_als
from probmf.inference.point.descent import Descent
from probmf.inference.point.full_batch import FullBatchObjective
from probmf.inference.point.map import fit_map
from probmf.inference.point.minibatch import MinibatchObjective, shuffle
from probmf.inference.point.objective import ObjectiveTerms
from probmf.inference.point.optimizer import choose_rule, rating_rule
from probmf.inference.point.row_updates import leaves_rows_alone
from probmf.likelihoods import Bernoulli, Gaussian
from probmf.models import MatrixFactorization
from probmf.results import History, RatingsFit
from probmf.run.driver import FitWarning

USERS, ITEMS = 9, 8
LIKELIHOODS = {
    "gaussian": Gaussian(0.6),
    "logit": Bernoulli("logit"),
    "probit": Bernoulli("probit"),
}


def table(*, binary: bool = False, weighted: bool = False, seed: int = 0) -> Ratings:
    """Fifty ratings of rank two; the last user and the last item have none."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation((USERS - 1) * (ITEMS - 1))[:50]
    user, item = np.divmod(pairs, ITEMS - 1)
    truth = 1.5 * rng.normal(size=(USERS, 2)) @ rng.normal(size=(2, ITEMS))
    rating = 3 + truth[user, item] + 0.3 * rng.normal(size=50)
    columns = {"user": user, "item": item, "weight": rng.uniform(0.5, 2.0, 50)}
    columns["rating"] = (rating > 3).astype(float) if binary else rating
    return Ratings.from_frame(
        columns, weight="weight" if weighted else None, users=list(range(USERS)),
        items=list(range(ITEMS)),
    )  # fmt: skip


def model_of(likelihood: str, *, rich: bool = False) -> MatrixFactorization:
    """The rich one has scales by row, one bias, and a learned intercept with a prior."""
    if not rich:
        return MatrixFactorization(2, LIKELIHOODS[likelihood], user_scale=0.7, item_scale=0.7)
    return MatrixFactorization(
        2, LIKELIHOODS[likelihood], dist.Normal(0.5, 2.0), item_bias=False,
        user_scale=np.linspace(0.6, 0.9, USERS), item_scale=0.7,
        user_bias_scale=np.linspace(0.5, 1.0, USERS),
    )  # fmt: skip


def history_of(fit: RatingsFit) -> History:
    assert fit.history is not None
    return fit.history


def random_point(model: MatrixFactorization, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = model.site_shapes(USERS, ITEMS)
    point = {site: jnp.asarray(0.7 * rng.normal(size=shape)) for site, shape in shapes.items()}
    return point | ({"intercept": jnp.asarray(1.3)} if model.learns_intercept else {})


def assert_same(
    got: dict[str, jax.Array], wanted: dict[str, jax.Array], **tolerance: float
) -> None:
    assert got.keys() == wanted.keys()
    for site in wanted:
        np.testing.assert_allclose(got[site], wanted[site], err_msg=site, **tolerance)


# --- gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("rich", [False, True], ids=["plain", "rich"])
@pytest.mark.parametrize("likelihood", slow(LIKELIHOODS, "probit"))
def test_full_batch_gradient_is_that_of_the_objective(likelihood: str, rich: bool) -> None:
    check_full_batch_gradient(
        model_of(likelihood, rich=rich), table(binary=likelihood != "gaussian", weighted=rich)
    )


def test_full_batch_gradient_with_weak_zeros() -> None:
    check_full_batch_gradient(
        replace(model_of("gaussian", rich=True), unobserved_weight=0.2), table(weighted=True)
    )


def test_full_batch_gradient_without_factors() -> None:
    check_full_batch_gradient(MatrixFactorization(0, Gaussian(0.6)), table())


def check_full_batch_gradient(model: MatrixFactorization, data: Ratings) -> None:
    with jax.enable_x64(True):
        (observations,) = model.arguments(data)
        objective, given = FullBatchObjective.build(model, observations)
        point = random_point(model)
        value, gradient = jax.jit(jax.value_and_grad(objective.whole))(point, given)
        wanted = jax.jit(jax.value_and_grad(model.objective))(point, observations)
        assert value == pytest.approx(float(wanted[0]), rel=1e-12)
        assert_same(gradient, wanted[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("likelihood", "rich", "batch_size"),
    [("gaussian", True, 1), ("gaussian", False, 7), ("logit", True, 7), ("probit", True, 7)],
)
def test_batches_of_an_epoch_sum_to_the_objective(
    likelihood: str, rich: bool, batch_size: int
) -> None:
    """Hence number of batches x gradient of a random batch is unbiased; seven leave one over."""
    model = model_of(likelihood, rich=rich)
    data = table(binary=likelihood != "gaussian", weighted=rich)
    with jax.enable_x64(True):
        (observations,) = model.arguments(data)
        objective, given = MinibatchObjective.build(model, observations, optax.identity())
        # Rows without ratings are in no batch; they rest at their mode.
        point = objective.moved(random_point(model), given)
        batches = objective.batches(jax.random.key(1), given, batch_size)
        both = jax.jit(jax.vmap(jax.value_and_grad(objective.part), in_axes=(None, 0, None)))
        values, gradients = both(point, batches, given)
        assert len(values) == -(-50 // batch_size)
        wanted = jax.jit(jax.value_and_grad(model.objective))(point, observations)
        assert float(values.sum()) == pytest.approx(float(wanted[0]), rel=1e-12)
        assert float(objective.whole(point, given)) == pytest.approx(float(wanted[0]), rel=1e-12)
        total = {site: value.sum(axis=0) for site, value in gradients.items()}
        assert_same(total, wanted[1], rtol=1e-10, atol=1e-12)


def minibatch(
    model: MatrixFactorization,
    data: Ratings,
    batch_size: int,
    optimizer: optax.GradientTransformation | None = None,
) -> Descent:
    (observations,) = model.arguments(data)
    rule = choose_rule(optimizer, None, rating_rule(False, 100))
    return Descent(
        *MinibatchObjective.build(model, observations, rule.optimizer),
        lambda key: random_point(model), rule, num_runs=1, num_updates=-(-len(data) // batch_size),
        batch_size=batch_size,
    )  # fmt: skip


def test_every_rating_is_seen_once_an_epoch_in_another_order() -> None:
    data = table()
    _, ratings = minibatch(model_of("gaussian"), data, 7).given
    orders = [shuffle(jax.random.key(seed), ratings, 7) for seed in (0, 1)]
    for batches in orders:
        present = np.asarray(batches.present).ravel() > 0
        seen = np.asarray(batches.rating).ravel()[present]
        np.testing.assert_allclose(np.sort(seen), np.sort(data.rating), rtol=1e-6)
    assert not np.array_equal(orders[0].rating, orders[1].rating)


# --- updates ---------------------------------------------------------------------------------


def test_single_rating_descent_is_the_textbook_loop() -> None:
    """u += eta (e v - lambda u / n), one rating after the other, in NumPy."""
    model, data = model_of("gaussian"), table(weighted=True)
    rate = optax.linear_schedule(0.05, 0.01, 80)
    with jax.enable_x64(True):
        algorithm = minibatch(model, data, 1, optax.sgd(rate))
        state = algorithm.init(jax.random.key(0))
        values = {site: np.array(value) for site, value in algorithm.parameters(state, 0).items()}
        keys = jax.random.split(jax.random.key(1), 2)
        batches = [shuffle(key, algorithm.given[1], 1) for key in keys.copy()]
        for key in keys:
            state, _ = algorithm.step(key, state)
        got = algorithm.parameters(state, 0)
    counts = {"user": data.user_degree, "item": data.item_degree}
    columns = [np.concatenate([np.asarray(b[i]).ravel() for b in batches]) for i in range(4)]
    for step, (m, n, rating, weight) in enumerate(zip(*columns, strict=True)):
        u, v = values["user_factors"][m].copy(), values["item_factors"][n].copy()
        b, c = values["user_bias"][m], values["item_bias"][n]
        e = weight * (rating - values["intercept"] - b - c - u @ v) / 0.6**2
        eta = 0.05 - 0.04 * min(step, 80) / 80
        share_m, share_n = 1 / counts["user"][m], 1 / counts["item"][n]
        values["user_bias"][m] += eta * (e - share_m * b)
        values["item_bias"][n] += eta * (e - share_n * c)
        values["user_factors"][m] += eta * (e * v - share_m / 0.7**2 * u)
        values["item_factors"][n] += eta * (e * u - share_n / 0.7**2 * v)
    # optax computes the schedule in single precision.
    assert_same(got, values, rtol=1e-5)


OPTIMIZERS: dict[str, tuple[Callable[[], optax.GradientTransformation], bool]] = {
    "adagrad": (lambda: optax.adagrad(0.1), True),
    "global norm": (lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.02)), True),
    "by site": (
        lambda: optax.partition(
            {"bias": optax.sgd(0.01), "factors": optax.adagrad(0.1)},
            {site: site.split("_")[1] for site in model_of("gaussian").site_shapes(1, 1)},
        ),
        True,
    ),
    "hyperparameters": (lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.02), True),
    "momentum": (lambda: optax.sgd(0.01, momentum=0.9), False),
    "adam": (lambda: optax.adam(0.02), False),
    "weight decay": (
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.02)),
        False,
    ),
    "trust ratio": (lambda: optax.chain(optax.scale_by_trust_ratio(), optax.sgd(0.02)), False),
    "noise": (lambda: optax.noisy_sgd(0.02, key=jax.random.PRNGKey(0)), False),
    "lbfgs": (lambda: optax.lbfgs(0.05, linesearch=None), False),
    "step per parameter": (
        lambda: optax.stateless(
            lambda updates, _: {
                site: -0.01 * jnp.ones(model_of("gaussian").site_shapes(USERS, ITEMS)[site]) * value
                for site, value in updates.items()
            }
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", slow(OPTIMIZERS, "hyperparameters", "adagrad"))
def test_row_updates_equal_updates_of_all_rows(name: str) -> None:
    """Which optimizers may be run on the batch's rows is found out; then nothing differs."""
    make, by_rows = OPTIMIZERS[name]
    model, data = model_of("gaussian"), table()
    with jax.enable_x64(True):
        algorithm = minibatch(model, data, 7, make())
        assert algorithm.objective.by_rows is by_rows
        if not by_rows:
            return
        ends = []
        for choice in (True, False):
            algorithm.objective = replace(algorithm.objective, by_rows=choice)
            state, infos = algorithm.step(jax.random.key(1), algorithm.init(jax.random.key(0)))
            assert infos[0].trouble is None
            ends.append(algorithm.parameters(state, 0))
        assert_same(ends[0], ends[1], rtol=1e-9, atol=1e-12)


def test_a_learned_intercept_is_moved_by_every_batch() -> None:
    model, data = replace(model_of("gaussian"), intercept="learned"), table()
    assert leaves_rows_alone(optax.adagrad(0.1), {"intercept": (), "user_bias": (9,)})
    with jax.enable_x64(True):
        algorithm = minibatch(model, data, 7, optax.adagrad(0.1))
        ends = []
        for choice in (True, False):
            algorithm.objective = replace(algorithm.objective, by_rows=choice)
            state, _ = algorithm.step(jax.random.key(1), algorithm.init(jax.random.key(0)))
            ends.append(algorithm.parameters(state, 0))
    assert float(ends[0]["intercept"]) != 1.3
    assert_same(ends[0], ends[1], rtol=1e-9)


def test_the_default_for_minibatches_is_optax_adagrad() -> None:
    fits = [
        fit_map(model_of("gaussian"), table(), key=0, num_epochs=3, batch_size=7, **options)
        for options in ({"learning_rate": 0.2}, {"optimizer": optax.adagrad(0.2)})
    ]
    assert_same(fits[0].point(), fits[1].point(), rtol=1e-4, atol=1e-6)


def test_the_default_for_full_batches_is_optax_adam() -> None:
    fits = [
        fit_map(model_of("gaussian"), table(), key=0, num_epochs=5, **options)
        for options in ({"learning_rate": 0.2}, {"optimizer": optax.adam(0.2)})
    ]
    assert_same(fits[0].point(), fits[1].point(), rtol=1e-4, atol=1e-6)


# --- fits ------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "full batch": {"num_epochs": 600, "tol": 1e-9},
    "minibatch": {"num_epochs": 400, "batch_size": 10},
    "single rating": {
        "num_epochs": 400, "batch_size": 1,
        "optimizer": optax.sgd(optax.polynomial_schedule(0.03, 0, 2, 20_000)),
    },
    "lbfgs": {"num_epochs": 60, "optimizer": optax.lbfgs(), "tol": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("likelihood", "methods"),
    [
        ("gaussian", ["minibatch"]),
        pytest.param("gaussian", list(METHODS), marks=pytest.mark.slow),
        pytest.param("logit", ["full batch", "minibatch"], marks=pytest.mark.slow),
        pytest.param("probit", ["full batch", "minibatch"], marks=pytest.mark.slow),
    ],
)
def test_all_methods_agree(likelihood: str, methods: list[str]) -> None:
    model = replace(model_of(likelihood), user_scale=0.5, item_scale=0.5)
    data = table(binary=likelihood != "gaussian")
    wanted = fit_als(model, data, key=0, num_sweeps=300, tol=1e-6)
    lowest = history_of(wanted).objective.min()
    for name in methods:
        fit = fit_map(model, data, key=1, **METHODS[name])
        assert history_of(fit).objective.min() == pytest.approx(lowest, rel=1e-3), name
        predicted, expected = (fitted.predict(data, interval=None).mean for fitted in (fit, wanted))
        np.testing.assert_allclose(predicted, expected, atol=0.08, err_msg=name)


@pytest.mark.slow
def test_weak_zeros_and_a_learned_intercept_agree_with_als() -> None:
    model = replace(model_of("gaussian"), intercept="learned", unobserved_weight=0.1)
    data = table(weighted=True)
    with jax.enable_x64(True):
        wanted = fit_als(model, data, key=0, num_sweeps=200, tol=1e-8)
        fit = fit_map(model, data, key=1, num_epochs=400, tol=0)
    ends = [history_of(fitted).objective.min() for fitted in (fit, wanted)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


@pytest.mark.parametrize("x64", [True], indirect=True)
def test_in_double_precision(x64: bool) -> None:
    for options in ({}, {"batch_size": 8}):
        fit = fit_map(model_of("logit"), table(binary=True), key=0, num_epochs=30, **options)
        assert {value.dtype for value in fit.point().values()} == {np.dtype(np.float64)}
        history = history_of(fit)
        assert history.objective[-1] < history.objective[0]
        assert fit.method == ("map/minibatch" if options else "map/full-batch")


def test_history_is_the_objective_after_every_epoch() -> None:
    model, data = model_of("gaussian"), table()
    with jax.enable_x64(True):
        (observations,) = model.arguments(data)
        for options in ({}, {"batch_size": 8}):
            fit = fit_map(model, data, key=0, num_epochs=4, **options)
            history = history_of(fit)
            wanted = jax.jit(model.objective)(fit.point(), observations)
            assert (len(history), history.best, history.unit) == (4, 4, "epoch")
            assert (history.stopped, history.restarts) == ("num_epochs", None)
            assert history.objective[-1] == pytest.approx(float(wanted), rel=1e-12)
            assert np.all(np.diff(history.seconds) >= 0)


def test_full_batches_stop_when_the_objective_is_flat() -> None:
    fit = fit_map(model_of("gaussian"), table(), key=0, num_epochs=2000, tol=1e-4)
    history = history_of(fit)
    last, before = history.objective[-1], history.objective[-2]
    assert history.stopped == "tol"
    assert len(history) < 2000
    with pytest.warns(FitWarning, match="not converged after 2 epochs: .* Raise num_epochs"):
        fit_map(model_of("gaussian"), table(), key=0, num_epochs=2, tol=1e-4)
    assert abs(last - before) <= 1e-4 * before


def test_rows_without_ratings_are_at_their_mode() -> None:
    for options in ({"batch_size": 10}, {}):
        point = fit_map(model_of("gaussian"), table(), key=0, num_epochs=3, **options).point()
        for site, value in point.items():
            assert site == "intercept" or not np.any(value[-1])
            assert np.any(value)


def test_start_from_another_fit() -> None:
    model, data = model_of("gaussian"), table()
    first = fit_map(model, data, key=0, num_epochs=50, batch_size=10)
    again = fit_map(model, data, key=1, num_epochs=2, start=first, learning_rate=1e-6)
    assert_same(again.point(), first.point(), atol=1e-4)
    with pytest.raises(ValueError, match="num_restarts is 2, but start fixes where to start"):
        fit_map(model, data, key=1, num_epochs=2, start=first, num_restarts=2)


# --- restarts and early stopping -------------------------------------------------------------


def test_the_best_restart_is_kept_and_the_first_is_the_single_run() -> None:
    model, data = model_of("logit"), table(binary=True)
    for options in ({"batch_size": 10, "num_epochs": 4}, {"num_epochs": 4, "tol": 0}):
        alone = history_of(fit_map(model, data, key=3, **options))
        fit = fit_map(model, data, key=3, num_restarts=4, **options)
        history = history_of(fit)
        assert history.restarts is not None
        assert history.restarts.shape == (4, 4)
        np.testing.assert_allclose(history.restarts[0], alone.objective, rtol=1e-5)
        assert len(np.unique(history.restarts[:, -1])) == 4
        best = np.argmin(history.restarts.min(axis=1))
        np.testing.assert_array_equal(history.objective, history.restarts[best])
        (observations,) = model.arguments(data)
        value = jax.jit(model.objective)(fit.point(), observations)
        assert history.objective.min() == pytest.approx(float(value), rel=1e-5)


def overfitting() -> tuple[MatrixFactorization, Ratings, Ratings]:
    train, held_out = table(seed=4).split(key=0, test_fraction=0.3)
    return MatrixFactorization(4, Gaussian(0.1), user_scale=3.0, item_scale=3.0), train, held_out


def test_early_stopping_returns_the_best_epoch() -> None:
    model, train, held_out = overfitting()
    options: dict[str, Any] = {"key": 0, "batch_size": 5, "learning_rate": 0.3}
    fit = fit_map(model, train, num_epochs=100, validation=held_out, patience=5, **options)
    history = history_of(fit)
    assert history.validation is not None
    assert history.stopped == "validation"
    assert len(history) == len(history.validation) == history.best + 5
    assert history.best == 1 + np.argmin(history.validation) > 1
    short = fit_map(model, train, num_epochs=history.best, **options)
    assert_same(fit.point(), short.point(), rtol=1e-6)
    predicted = fit.predict(held_out, interval=None).mean
    rmse = np.sqrt(np.mean((predicted - held_out.rating) ** 2))
    assert rmse == pytest.approx(history.validation.min(), rel=1e-5)


def test_each_restart_stops_by_itself() -> None:
    """The best by held-out error; the shorter curves end in NaN."""
    model, train, held_out = overfitting()
    run = partial(
        fit_map, model, train, key=0, num_epochs=100, batch_size=5, validation=held_out,
        patience=4, learning_rate=0.3,
    )  # fmt: skip
    history, alone = history_of(run(num_restarts=5)), history_of(run())
    assert history.restarts is not None
    assert history.validation is not None
    assert alone.validation is not None
    lengths = np.sum(np.isfinite(history.restarts), axis=1)
    assert lengths[0] == len(alone)
    assert len(set(lengths)) > 1
    assert len(history) in lengths
    assert history.validation.min() <= alone.validation.min()


# --- trouble ---------------------------------------------------------------------------------


def test_divergence_names_the_update_and_its_learning_rate() -> None:
    model, data = model_of("gaussian"), table()
    schedule = optax.piecewise_constant_schedule(0.01, {20: 1e30})
    message = (
        r"The fit diverged: the loss is not finite at update 2\d \(epoch 3, learning rate "
        r"1e\+28\); the parameters of epoch 2 are kept. Lower the learning rate"
    )
    with pytest.warns(FitWarning, match=message):
        fit = fit_map(
            model, data, key=0, num_epochs=9, batch_size=5, learning_rate=schedule,
        )  # fmt: skip
    history = history_of(fit)
    assert (history.stopped, history.best, len(history)) == ("diverged", 2, 3)
    assert all(np.all(np.isfinite(value)) for value in fit.point().values())
    short = fit_map(model, data, key=0, num_epochs=2, batch_size=5, learning_rate=0.01)
    assert_same(fit.point(), short.point(), rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "words", "batch_size"),
    [
        (lambda: optax.sgd(1e3), "the optimizer's own learning rate", None),
        (lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=1e3), "learning rate 1000", 5),
    ],
    ids=["hidden", "injected"],
)
def test_divergence_under_a_given_optimizer(
    optimizer: Callable[[], optax.GradientTransformation], words: str, batch_size: int | None
) -> None:
    with pytest.warns(FitWarning, match=rf"diverged: .* at update \d+ \(epoch \d+, {words}\)"):
        fit = fit_map(
            model_of("gaussian"), table(), key=0, num_epochs=60, batch_size=batch_size,
            optimizer=optimizer(),
        )  # fmt: skip
    assert all(np.all(np.isfinite(value)) for value in fit.point().values())


def test_the_other_restarts_outlive_one_that_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = model_of("gaussian"), table()
    original = map_module.initial_parameters

    def spoiled(*arguments: Any) -> Callable[[jax.Array], dict[str, jax.Array]]:
        draw = original(*arguments)

        def one(key: jax.Array) -> dict[str, jax.Array]:
            values = draw(key)
            flip = jax.random.uniform(jax.random.fold_in(key, 99)) < 0.5
            return values | {"user_bias": values["user_bias"] + jnp.where(flip, 1e30, 0.0)}

        return one

    monkeypatch.setattr(map_module, "initial_parameters", spoiled)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = fit_map(model, data, key=0, num_epochs=5, batch_size=10, num_restarts=6)
    troubles = [str(w.message) for w in caught if issubclass(w.category, FitWarning)]
    assert 0 < len(troubles) < 6
    assert all(text.startswith("Restart ") and " of 6 diverged" in text for text in troubles)
    assert all("the starting values are kept" in text for text in troubles)
    history = history_of(fit)
    assert history.stopped == "num_epochs"
    assert history.restarts is not None
    assert np.sum(np.isnan(history.restarts[:, -1])) == len(troubles)
    assert np.all(np.isfinite(fit.point()["user_bias"]))


@pytest.mark.parametrize("batch_size", [None, 10])
def test_ctrl_c_in_an_update_keeps_the_last_whole_epoch(
    batch_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled epoch is under way or done, its result not yet taken."""
    real, calls = descent_module._run_epoch, []

    def cut_short(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        calls.append(1)
        # The gradient at the start of full batches is the first call.
        if len(calls) == (4 if batch_size else 5):
            raise KeyboardInterrupt
        return found

    options: dict[str, Any] = {"key": 0, "tol": 0, "batch_size": batch_size, "num_restarts": 2}
    run = partial(fit_map, model_of("gaussian"), table(), **options)
    whole, short = (
        run(num_epochs=6),
        run(
            num_epochs=3, learning_rate=optax.linear_schedule(0.5, 0.0, 30) if batch_size else None
        ),
    )
    monkeypatch.setattr(descent_module, "_run_epoch", cut_short)
    with pytest.warns(FitWarning, match="Interrupted after 3 epochs"):
        part = run(num_epochs=6, checkpoint=tmp_path)
    np.testing.assert_array_equal(history_of(part).objective, history_of(short).objective)
    for site, value in short.point().items():
        np.testing.assert_array_equal(part.point()[site], value, err_msg=site)
    calls.clear()
    again = run(num_epochs=6, checkpoint=tmp_path)
    # No epoch is done twice.
    assert len(calls) == 3 + (batch_size is None)
    for site, value in whole.point().items():
        np.testing.assert_array_equal(again.point()[site], value, err_msg=site)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_epochs": 0}, ValueError, "num_epochs is 0; expected a whole number of at least 1"),
        ({"num_epochs": 2.5}, TypeError, "num_epochs is 2.5; expected a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; expected"),
        ({"batch_size": 51}, ValueError, "batch_size is 51, but there are 50 ratings"),
        ({"num_restarts": 0}, ValueError, "num_restarts is 0; expected"),
        ({"patience": 0}, ValueError, "patience is 0; expected"),
        ({"tol": -1}, ValueError, "tol is -1; expected"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate is -0.1; expected a positive"),
        ({"learning_rate": np.nan}, ValueError, "learning_rate is nan; expected a positive"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate is 'fast'; expected a positive"),
        ({"optimizer": "adam"}, ValueError, "optimizer='adam' needs learning_rate="),
        ({"optimizer": "adm"}, ValueError, "optimizer is 'adm'; expected one of 'sgd', 'momentum'"),
        ({"optimizer": optax.adam}, TypeError, "of type function; expected an optax"),
        (
            {"optimizer": optax.adam(0.1), "learning_rate": 0.1},
            ValueError,
            "learning_rate is that of the default optimizer",
        ),
        (
            {"learning_rate": lambda update: 0.1 - 0.05 * update, "batch_size": 10},
            ValueError,
            r"schedule gives -0.05 at update 4; expected a finite number >= 0",
        ),
        ({"start": 3}, TypeError, "start is of type int; expected a RatingsFit"),
        ({"validation": [1]}, TypeError, "validation is of type list; expected Ratings"),
        ({"key": None}, TypeError, "key is None of type NoneType; give an int"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"key": 0, "num_epochs": 3} | options
    with pytest.raises(error, match=message):
        fit_map(model_of("gaussian"), table(), **arguments)


def test_what_a_model_cannot_do() -> None:
    model, data = model_of("gaussian"), table()
    with pytest.raises(TypeError, match="model is of type str; expected MatrixFactorization"):
        fit_map("model", data, key=0, num_epochs=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fit_map needs fixed scales, but user_scale has a prior"):
        fit_map(replace(model, user_scale=dist.HalfNormal(1.0)), data, key=0, num_epochs=1)
    zeros = replace(model, unobserved_weight=0.1)
    with pytest.raises(ValueError, match=r"unobserved_weight is 0.1: .* or fit_als"):
        fit_map(zeros, data, key=0, num_epochs=1, batch_size=5)
    constant = MatrixFactorization(0, Gaussian(), 3.0, user_bias=False, item_bias=False)
    with pytest.raises(ValueError, match="needs something to fit"):
        fit_map(constant, data, key=0, num_epochs=1)


def test_an_intercept_alone_is_the_mean() -> None:
    model = MatrixFactorization(0, Gaussian(), "learned", user_bias=False, item_bias=False)
    data = table(weighted=True)
    mean = np.average(data.rating, weights=data.weight)
    for options in ({"num_epochs": 300}, {"num_epochs": 30, "batch_size": 50}):
        fit = fit_map(model, data, key=0, **options)
        assert fit.point()["intercept"] == pytest.approx(mean, abs=1e-2)


# --- compiled programs -----------------------------------------------------------------------


def compilations(caplog: pytest.LogCaptureFixture) -> int:
    count = sum(record.getMessage().startswith("Compiling") for record in caplog.records)
    caplog.clear()
    return count


@pytest.mark.parametrize("batch_size", [None, 8])
def test_second_call_compiles_nothing(
    caplog: pytest.LogCaptureFixture, batch_size: int | None
) -> None:
    """Neither for another key, nor scale, nor learning rate, nor number of epochs."""
    train, held_out = table(), table(seed=5).select(np.arange(20))
    # No other test has so many columns of factors.
    model = replace(model_of("gaussian", rich=True), num_factors=33)
    options: dict[str, Any] = {"validation": held_out, "batch_size": batch_size, "num_restarts": 2}
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        fit_map(model, train, key=0, num_epochs=3, learning_rate=0.1, **options)
        # How many depends on the programs that other tests of the process have left.
        assert compilations(caplog) > 0
        fit_map(model, train, key=0, num_epochs=3, learning_rate=0.1, **options)
        assert compilations(caplog) == 0
        other = replace(model, likelihood=Gaussian(0.8), item_scale=0.2)
        fit_map(other, train, key=3, num_epochs=5, learning_rate=0.2, **options)
        assert compilations(caplog) == 0


def test_terms_share_the_prior_among_the_ratings_of_a_row() -> None:
    model, data = model_of("gaussian", rich=True), table()
    (observations,) = model.arguments(data)
    terms = ObjectiveTerms.build(model, observations)
    shares, counts = terms.shares, np.maximum(data.user_degree, 1)
    np.testing.assert_allclose(
        shares["user_factors"], np.linspace(0.6, 0.9, USERS) ** -2 / counts, rtol=1e-5
    )
    assert shares["intercept"] == pytest.approx(0.25 / 50)

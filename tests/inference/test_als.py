"""Alternating least squares: it descends, ends at a mode, and depends on nothing but the data."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probmf.data import Ratings
from probmf.datasets import simulate_ratings
from probmf.inference.point import als
from probmf.inference.point.als import fit_als
from probmf.likelihoods import Bernoulli, Gaussian
from probmf.models import MatrixFactorization
from probmf.results import RatingsFit
from probmf.run.driver import FitWarning

USERS, ITEMS = 11, 10
LIKELIHOODS = {
    "gaussian": Gaussian(0.5),
    "logit": Bernoulli("logit"),
    "probit": Bernoulli("probit"),
}
METHODS: dict[str, dict[str, Any]] = {
    "cg": {"solver": "cg", "cg_steps": 2},
    "cholesky": {"solver": "cholesky"},
    "coordinate": {"update": "coordinate"},
}


def frame(*, binary: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Seven items of each user but the last, of rank two; the last item has no rating.

    No row has more than eight, so that all fits share one bucket and few programs.
    """
    rng = np.random.default_rng(seed)
    user, item = np.divmod(np.arange((USERS - 1) * (ITEMS - 1)), ITEMS - 1)
    kept = ~np.isin((2 * user + item) % 9, [0, 4])
    user, item = user[kept], item[kept]
    left, right = (
        rng.choice([-1, 1], size=(rows, 2)) * rng.uniform(0.8, 1.6, size=(rows, 2))
        for rows in (USERS, ITEMS)
    )
    truth = (left @ right.T + 0.5 * rng.normal(size=ITEMS))[user, item]
    rating = 3 + truth + 0.3 * rng.normal(size=len(user))
    weight = rng.uniform(0.5, 2.0, len(user))
    weight[::9] = 0
    columns = {"user": user, "item": item, "weight": weight}
    return columns | {"rating": (truth > 0).astype(float) if binary else rating}


def table(*, binary: bool = False, weighted: bool = False, seed: int = 0) -> Ratings:
    return Ratings.from_frame(
        frame(binary=binary, seed=seed), weight="weight" if weighted else None,
        users=list(range(USERS)), items=list(range(ITEMS)),
    )  # fmt: skip


def model_of(likelihood: str, options: str) -> MatrixFactorization:
    """With "all" go weights, learned intercept, scales by row, and weak zeros."""
    law = LIKELIHOODS[likelihood]
    scale = 1.0 if likelihood == "gaussian" else 1.5
    if options == "plain":
        return MatrixFactorization(2, law, user_scale=scale, item_scale=scale, item_bias_scale=0.8)
    return MatrixFactorization(
        2, law, "learned" if likelihood == "gaussian" else dist.Normal(0.5, 2.0),
        user_scale=scale * np.linspace(0.7, 1.0, USERS), item_scale=scale,
        item_bias_scale=np.linspace(0.5, 1, ITEMS), user_bias=False,
        unobserved_weight=0.1 if likelihood == "gaussian" else 0.0,
    )  # fmt: skip


def data_of(likelihood: str, options: str) -> Ratings:
    return table(binary=likelihood != "gaussian", weighted=options == "all")


@cache
def long_fit(likelihood: str, method: str, options: str, double: bool = True) -> RatingsFit:
    """A fit of many sweeps."""
    with jax.enable_x64(double):
        return fit_als(
            model_of(likelihood, options), data_of(likelihood, options), key=1, tol=0,
            num_sweeps=300 if double else 40, **METHODS[method],
        )  # fmt: skip


def device(values: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    return {site: jnp.asarray(value) for site, value in values.items()}


def scores(point: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores of all pairs."""
    total = np.full((USERS, ITEMS), point["intercept"], float)
    total = total + point["user_factors"] @ point["item_factors"].T
    if "user_bias" in point:
        total = total + point["user_bias"][:, None]
    return total + point["item_bias"]


def start_from(model: MatrixFactorization, data: Ratings, seed: int = 3) -> RatingsFit:
    """Random values of all sites, as a fit."""
    rng = np.random.default_rng(seed)
    shapes = model.site_shapes(data.num_users, data.num_items)
    values = {site: 0.3 * rng.normal(size=shape) for site, shape in shapes.items()}
    return RatingsFit.from_point(
        model, data, {"intercept": np.asarray(0.1), **values}, method="random"
    )


every_fit = pytest.mark.parametrize(
    ("likelihood", "method", "options"),
    [
        *(("gaussian", method, "all") for method in METHODS),
        ("logit", "cg", "all"),
        ("logit", "coordinate", "all"),
        ("probit", "cholesky", "all"),
        ("gaussian", "cg", "plain"),
        ("gaussian", "cholesky", "plain"),
    ],
)


@every_fit
def test_objective_never_rises(likelihood: str, method: str, options: str) -> None:
    history = long_fit(likelihood, method, options).history
    assert history is not None
    rise = np.diff(history.objective)
    assert rise.max() <= 1e-12 * abs(history.objective[0])
    assert history.objective[0] > history.objective[-1]


@pytest.mark.parametrize(("likelihood", "method", "options"), [("gaussian", "cg", "all")])
def test_objective_never_rises_in_float32(likelihood: str, method: str, options: str) -> None:
    """And ends where float64 ends."""
    fit = long_fit(likelihood, method, options, double=False)
    history = fit.history
    assert history is not None
    assert np.diff(history.objective).max() <= 1e-6 * abs(history.objective[0])
    assert all(value.dtype == np.float32 for value in fit.point().values())
    (observations,) = fit.model.arguments(fit.data)
    objective = float(jax.jit(fit.model.objective)(device(fit.point()), observations))
    assert history.objective[history.best - 1] == pytest.approx(objective, rel=1e-5)
    double = long_fit(likelihood, method, options).history
    assert double is not None
    assert history.objective[-1] == pytest.approx(double.objective[-1], rel=1e-2)


@every_fit
def test_history_is_the_model_s_objective(likelihood: str, method: str, options: str) -> None:
    fit = long_fit(likelihood, method, options)
    assert fit.history is not None
    with jax.enable_x64(True):
        (observations,) = fit.model.arguments(fit.data)
        objective = float(jax.jit(fit.model.objective)(device(fit.point()), observations))
    assert fit.history.objective.min() == pytest.approx(objective, rel=1e-12)
    assert fit.history.objective[fit.history.best - 1] == fit.history.objective.min()


@every_fit
def test_fixed_point_has_gradient_zero(likelihood: str, method: str, options: str) -> None:
    fit = long_fit(likelihood, method, options)
    point = fit.point()
    if not fit.model.learns_intercept:
        point.pop("intercept")
    with jax.enable_x64(True):
        (observations,) = fit.model.arguments(fit.data)
        gradient = jax.jit(jax.grad(fit.model.objective))(device(point), observations)
    assert ("intercept" in gradient) == fit.model.learns_intercept
    for site, value in gradient.items():
        assert np.abs(np.asarray(value)).max() < 1e-5, site


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_methods_end_at_the_same_predictions(likelihood: str) -> None:
    """At an optimum of rank two, not at the saddle where factors are zero."""
    wanted = long_fit(likelihood, "cholesky", "all").point()
    assert np.linalg.matrix_rank(wanted["user_factors"] @ wanted["item_factors"].T, 1e-3) == 2
    for method in ("cg", "coordinate"):
        got = long_fit(likelihood, method, "all").point()
        np.testing.assert_allclose(scores(got), scores(wanted), atol=1e-5, err_msg=method)


def test_rows_without_ratings_stay_at_the_prior_mean() -> None:
    """Unless weak zeros say something about them."""
    point = long_fit("gaussian", "cholesky", "plain").point()
    assert not point["user_factors"][-1].any()
    assert point["user_bias"][-1] == point["item_bias"][-1] == 0
    point = long_fit("gaussian", "cholesky", "all").point()
    assert point["item_bias"][-1] < -0.01


@cache
def short_fit(data: Ratings, **options: Any) -> RatingsFit:
    model = model_of("gaussian", "plain")
    with jax.enable_x64(True):
        return fit_als(
            model, data, key=0, tol=0, num_sweeps=6, start=start_from(model, data), **options
        )


def test_order_of_the_rows_of_the_table_changes_nothing() -> None:
    data = table()
    wanted = short_fit(data).point()
    got = short_fit(data.select(np.random.default_rng(0).permutation(len(data)))).point()
    for site, value in wanted.items():
        np.testing.assert_allclose(got[site], value, rtol=1e-11, atol=1e-12, err_msg=site)


def test_names_of_users_and_items_change_nothing() -> None:
    """New ids sort in another order, so all codes and the rows' places change."""
    model, data = model_of("gaussian", "plain"), table()
    rng = np.random.default_rng(1)
    new_user, new_item = rng.permutation(USERS), rng.permutation(ITEMS)
    columns = frame()
    columns["user"], columns["item"] = new_user[columns["user"]], new_item[columns["item"]]
    renamed = Ratings.from_frame(columns, users=list(range(USERS)), items=list(range(ITEMS)))
    values = start_from(model, data).point()
    moved = {
        site: value if site == "intercept" else
        value[np.argsort(new_user if site.startswith("user") else new_item)]
        for site, value in values.items()
    }  # fmt: skip
    start = RatingsFit.from_point(model, renamed, moved, method="random")
    with jax.enable_x64(True):
        fit = fit_als(model, renamed, key=0, tol=0, num_sweeps=6, start=start)
    wanted = short_fit(data).point()
    for site, value in fit.point().items():
        back = value if site == "intercept" else value[new_user if "user" in site else new_item]
        np.testing.assert_allclose(back, wanted[site], rtol=1e-10, atol=1e-11, err_msg=site)


def test_swapped_sides_give_the_transposed_answer() -> None:
    """At convergence: one of the sides has to go first."""
    columns = frame(seed=2)
    model = replace(model_of("gaussian", "plain"), user_scale=0.6, user_bias_scale=0.5)
    swapped_model = replace(
        model, user_scale=model.item_scale, item_scale=model.user_scale,
        user_bias_scale=model.item_bias_scale, item_bias_scale=model.user_bias_scale,
    )  # fmt: skip
    users, items = list(range(USERS)), list(range(ITEMS))
    data = Ratings.from_frame(columns, users=users, items=items)
    swapped = Ratings.from_frame(columns, user="item", item="user", users=items, items=users)
    start = start_from(model, data).point()
    names = {"user": "item", "item": "user"}
    start_swapped = {
        "_".join([names[site.split("_")[0]], site.split("_")[1]]) if "_" in site else site: value
        for site, value in start.items()
    }
    with jax.enable_x64(True):
        one = fit_als(
            model, data, key=0, tol=0, num_sweeps=300, solver="cholesky",
            start=RatingsFit.from_point(model, data, start, method="random"),
        ).point()  # fmt: skip
        other = fit_als(
            swapped_model, swapped, key=0, tol=0, num_sweeps=300, solver="cholesky",
            start=RatingsFit.from_point(swapped_model, swapped, start_swapped, method="random"),
        ).point()  # fmt: skip
    transposed = {
        "intercept": other["intercept"],
        "user_factors": other["item_factors"], "item_factors": other["user_factors"],
        "user_bias": other["item_bias"], "item_bias": other["user_bias"],
    }  # fmt: skip
    np.testing.assert_allclose(scores(transposed), scores(one), atol=1e-5)


def test_number_of_workers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = table()
    wanted = short_fit(data).point()
    monkeypatch.setattr("probmf.rows.store.num_workers", lambda: 3)
    monkeypatch.setattr(als, "num_workers", lambda: 3)
    got = short_fit.__wrapped__(data).point()
    for site, value in wanted.items():
        np.testing.assert_allclose(got[site], value, rtol=1e-11, atol=1e-12, err_msg=site)


def test_ratings_of_weight_zero_are_as_if_they_were_not_there() -> None:
    weighted = table(weighted=True)
    assert weighted.weight is not None
    without = weighted.select(weighted.weight > 0)
    assert len(without) < len(weighted)
    spoiled = weighted.rating.copy()
    spoiled[weighted.weight == 0] = 1e6
    wanted = short_fit(without).point()
    for data in (weighted, replace(weighted, rating=spoiled)):
        got = short_fit(data).point()
        for site, value in wanted.items():
            np.testing.assert_allclose(got[site], value, rtol=1e-12, atol=1e-12, err_msg=site)


def test_weights_multiply_the_precision() -> None:
    """All weights four is a noise scale of one half."""
    data = replace(table(), weight=np.full(len(table()), 4.0))
    model = model_of("gaussian", "plain")
    start = start_from(model, data)
    options: dict[str, Any] = {"key": 0, "tol": 0, "num_sweeps": 6, "start": start}
    with jax.enable_x64(True):
        got = fit_als(replace(model, likelihood=Gaussian(1.0)), data, **options)
        wanted = fit_als(replace(model, likelihood=Gaussian(0.5)), table(), **options)
    np.testing.assert_allclose(scores(got.point()), scores(wanted.point()), rtol=1e-11)
    np.testing.assert_allclose(got.history.objective, wanted.history.objective, rtol=1e-11)


@pytest.fixture
def log_compiles() -> Iterator[None]:
    """For all threads: `jax.log_compiles` is for the calling one, and the workers compile most."""
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


def compilations(caplog: pytest.LogCaptureFixture) -> int:
    count = sum(record.getMessage().startswith("Compiling") for record in caplog.records)
    caplog.clear()
    return count


@pytest.mark.usefixtures("log_compiles")
def test_second_call_compiles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither for another key, nor noise scale, nor ratings, nor number of sweeps."""
    train, held_out = table(), table(seed=5).select(np.arange(20))
    # No other test has so many columns of factors.
    model = replace(model_of("gaussian", "all"), unobserved_weight=0.0, num_factors=33)
    options: dict[str, Any] = {"validation": held_out, "tol": 0}
    with caplog.at_level(logging.WARNING, logger="jax"):
        fit_als(model, train, key=0, num_sweeps=3, **options)
        assert "_finish" in caplog.text
        assert compilations(caplog) > 3
        fit_als(model, train, key=0, num_sweeps=3, **options)
        assert compilations(caplog) == 0
        fit_als(
            replace(model, likelihood=Gaussian(0.8), item_scale=0.2), table(seed=8), key=3,
            num_sweeps=5, **options,
        )  # fmt: skip
        assert compilations(caplog) == 0


def test_early_stopping_keeps_the_best_sweep() -> None:
    """Few ratings: the held-out error falls and rises again."""
    data = table(seed=2)
    train, held_out = data.split(key=0, test_fraction=0.25)
    model = MatrixFactorization(3, Gaussian(0.5), user_scale=0.7, item_scale=0.7)
    fit = fit_als(model, train, key=2, tol=0, num_sweeps=60, validation=held_out, patience=4)
    history = fit.history
    assert history is not None
    assert history.validation is not None
    assert history.stopped == "validation"
    assert len(history.validation) == len(history) == history.best + 4 < 60
    assert history.best == 1 + np.argmin(history.validation)
    assert history.best > 1
    predicted = fit.predict(held_out, interval=None).mean
    rmse = np.sqrt(np.mean((predicted - held_out.rating) ** 2))
    assert rmse == pytest.approx(history.validation.min(), rel=1e-5)


def test_validation_may_have_other_codes_but_no_other_ids() -> None:
    """The held-out table has its own vocabulary, of which code 0 is another user."""
    train = table()
    columns = {"user": [9, 7], "item": [3, 8], "rating": [2.0, 4.0]}
    held_out = Ratings.from_frame(columns)
    fit = fit_als(model_of("gaussian", "plain"), train, key=0, num_sweeps=2, validation=held_out)
    predicted = fit.predict(columns, interval=None).mean
    rmse = np.sqrt(np.mean((predicted - held_out.rating) ** 2))
    assert fit.history.validation[fit.history.best - 1] == pytest.approx(rmse, rel=1e-5)
    stranger = Ratings.from_frame({"user": [99], "item": [3], "rating": [2.0]})
    with pytest.raises(ValueError, match="99"):
        fit_als(model_of("gaussian", "plain"), train, key=0, validation=stranger)


def test_validation_of_yes_no_data_is_the_log_loss() -> None:
    train, held_out = table(binary=True).split(key=1, test_fraction=0.2)
    fit = fit_als(model_of("logit", "plain"), train, key=0, num_sweeps=4, validation=held_out)
    chance = fit.predict(held_out, interval=None).mean
    log_loss = -np.mean(np.log(np.where(held_out.rating == 1, chance, 1 - chance)))
    assert fit.history.validation[fit.history.best - 1] == pytest.approx(log_loss, rel=1e-5)


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_tolerance_stops(tol: float) -> None:
    with jax.enable_x64(True):
        fit = fit_als(
            model_of("gaussian", "plain"), table(), key=1, tol=tol, num_sweeps=500,
            solver="cholesky",
        )  # fmt: skip
    objective = fit.history.objective
    fall = -np.diff(objective) / np.abs(objective[:-1])
    assert fit.history.stopped == "tol"
    assert fall[-1] <= tol
    assert (fall[:-1] > tol).all()


def test_warns_of_a_tolerance_that_was_given() -> None:
    with pytest.warns(FitWarning, match="objective has not converged after 2 sweeps: .*tol=1e-09"):
        fit_als(model_of("gaussian", "plain"), table(), key=1, tol=1e-9, num_sweeps=2)


def test_number_of_sweeps_stops() -> None:
    fit = fit_als(model_of("gaussian", "plain"), table(), key=1, tol=0, num_sweeps=7)
    assert fit.history.stopped == "num_sweeps"
    assert len(fit.history) == 7
    assert fit.history.unit == "sweep"
    assert (np.diff(fit.history.seconds) > 0).all()
    assert fit.method == "als/cg"


def test_interruption_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    step = als.AlternatingLeastSquares.step
    calls = []

    def interrupted(self: Any, key: Any, state: Any) -> Any:
        calls.append(key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, key, state)

    model, data = model_of("gaussian", "plain"), table()
    wanted = fit_als(model, data, key=1, tol=0, num_sweeps=3).point()
    monkeypatch.setattr(als.AlternatingLeastSquares, "step", interrupted)
    with pytest.warns(FitWarning, match=r"Interrupted after 3 sweeps; .*\(of sweep 3\)") as record:
        fit = fit_als(model, data, key=1, tol=0, num_sweeps=20, validation=None)
    assert record[0].filename == __file__
    assert fit.history.stopped == "interrupted"
    assert (len(fit.history), fit.history.best) == (3, 3)
    for site, value in wanted.items():
        np.testing.assert_array_equal(fit.point()[site], value)


def test_divergence_returns_the_start_with_a_warning() -> None:
    """Its squares are beyond float32."""
    model, data = model_of("gaussian", "plain"), table()
    values = start_from(model, data).point()
    values["item_factors"] = np.full(values["item_factors"].shape, 1e30)
    bad = RatingsFit.from_point(model, data, values, method="random")
    with pytest.warns(
        FitWarning, match="after sweep 1; the starting values are kept.*jax_enable_x64"
    ) as record:
        fit = fit_als(model, data, key=0, num_sweeps=5, start=bad, validation=data)
    assert record[0].filename == __file__
    assert fit.history.stopped == "diverged"
    assert fit.history.best == 0
    assert len(fit.history.validation) == len(fit.history) == len(fit.history.seconds) == 1
    np.testing.assert_allclose(fit.point()["user_bias"], values["user_bias"], rtol=1e-6)


def test_start_goes_on_where_a_fit_ended() -> None:
    model, data = model_of("gaussian", "plain"), table()
    options: dict[str, Any] = {"key": 1, "tol": 0}
    with jax.enable_x64(True):
        whole = fit_als(model, data, num_sweeps=6, **options)
        half = fit_als(model, data, num_sweeps=3, **options)
        rest = fit_als(model, data, num_sweeps=3, start=half, **options)
    np.testing.assert_allclose(
        np.concatenate([half.history.objective, rest.history.objective]), whole.history.objective,
        rtol=1e-12,
    )  # fmt: skip


def test_start_in_another_precision() -> None:
    model, data = model_of("gaussian", "all"), table(weighted=True)
    double = long_fit("gaussian", "cg", "all")
    single = fit_als(model, data, key=0, start=double, num_sweeps=2, tol=0, **METHODS["cg"])
    assert all(value.dtype == np.float32 for value in single.point().values())
    assert single.history.objective[0] == pytest.approx(double.history.objective[-1], rel=1e-5)
    with jax.enable_x64(True):
        again = fit_als(model, data, key=0, start=single, num_sweeps=2, tol=0, **METHODS["cg"])
    assert all(value.dtype == np.float64 for value in again.point().values())


def test_start_of_another_shape() -> None:
    model, data = model_of("gaussian", "plain"), table()
    other = replace(model, num_factors=3)
    start = fit_als(other, data, key=0, num_sweeps=1)
    with pytest.raises(
        ValueError, match=re.escape("user_factors of shape (11, 3), but the model needs (11, 2)")
    ):
        fit_als(model, data, key=0, start=start)
    unbiased = fit_als(replace(model, user_bias=False), data, key=0, num_sweeps=1)
    with pytest.raises(ValueError, match=r"user_bias of shape None, but the model needs \(11,\)"):
        fit_als(model, data, key=0, start=unbiased)


def test_key_decides_the_start_and_nothing_else_is_random() -> None:
    model, data = model_of("gaussian", "plain"), table()
    options: dict[str, Any] = {"tol": 0, "num_sweeps": 2}
    one = fit_als(model, data, key=1, **options).point()
    for key in (np.int64(1), jax.random.key(1), jax.random.key_data(jax.random.key(1))):
        again = fit_als(model, data, key=key, **options).point()
        np.testing.assert_array_equal(again["user_factors"], one["user_factors"])
    two = fit_als(model, data, key=2, **options).point()
    assert not np.allclose(two["user_factors"], one["user_factors"])


@pytest.mark.parametrize("x64", [True], indirect=True, ids=["float64"])
@pytest.mark.parametrize("method", METHODS)
def test_biases_alone_are_a_linear_regression(method: str, x64: bool) -> None:
    """All biases at once by one dense solve."""
    data = table(weighted=True)
    weight = np.where(data.weight > 0, data.weight, 0) / 0.5**2
    design = np.zeros((len(data), USERS + ITEMS))
    design[np.arange(len(data)), data.user] = 1
    design[np.arange(len(data)), USERS + data.item] = 1
    prior = np.diag(np.repeat([0.7**-2, 0.8**-2], [USERS, ITEMS]))
    target = data.rating - 3.25
    wanted = np.linalg.solve(
        design.T @ (weight[:, None] * design) + prior, design.T @ (weight * target)
    )
    model = MatrixFactorization(0, Gaussian(0.5), 3.25, user_bias_scale=0.7, item_bias_scale=0.8)
    fit = fit_als(model, data, key=0, tol=0, num_sweeps=300, **METHODS[method])
    np.testing.assert_allclose(fit.point()["user_bias"], wanted[:USERS], atol=1e-7)
    np.testing.assert_allclose(fit.point()["item_bias"], wanted[USERS:], atol=1e-7)
    assert set(fit.point()) == {"intercept", "user_bias", "item_bias"}


def test_one_sided_model_is_solved_in_one_sweep() -> None:
    model = MatrixFactorization(0, Gaussian(0.5), 3.0, item_bias=False, user_bias_scale=0.7)
    data = table()
    with jax.enable_x64(True):
        fit = fit_als(model, data, key=0, num_sweeps=3)
    total = np.bincount(data.user, data.rating - 3.0, USERS) / 0.5**2
    precision = np.bincount(data.user, minlength=USERS) / 0.5**2 + 0.7**-2
    np.testing.assert_allclose(fit.point()["user_bias"], total / precision, rtol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_implicit_feedback_is_dense_weighted_least_squares(biased: bool) -> None:
    """Hu, Koren and Volinsky (2008), equations 4 and 5, sweep by sweep on the whole matrix.

    Confidence 1 + alpha r where something was seen and 1 elsewhere; with biases the design of
    a row has a one in front.
    """
    alpha, penalty, sweeps, rank = 3.0, 0.8, 4, 3
    rng = np.random.default_rng(6)
    seen = rng.random((12, 9)) < 0.35
    seen[np.arange(12), np.arange(12) % 9] = True
    counts = np.where(seen, rng.integers(1, 6, size=seen.shape), 0)
    user, item = np.nonzero(seen)
    data = Ratings.from_frame(
        {"user": user, "item": item, "rating": np.ones(len(user)),
         "confidence": 1 + alpha * counts[user, item]},
        weight="confidence",
    )  # fmt: skip
    model = MatrixFactorization.from_l2(
        rank, regularization=penalty, intercept=None, unobserved_weight=1.0,
        user_bias=None if biased else False, item_bias=None if biased else False,
    )  # fmt: skip
    start = start_from(model, data)
    first = start.point()
    with jax.enable_x64(True):
        fit = fit_als(model, data, key=0, tol=0, num_sweeps=sweeps, solver="cholesky", start=start)
    bias = {side: first.get(f"{side}_bias", np.zeros(n)) for side, n in (("user", 12), ("item", 9))}
    factors = {side: first[f"{side}_factors"] for side in ("user", "item")}
    for _ in range(sweeps):
        for side, other in (("user", "item"), ("item", "user")):
            confidence = 1 + alpha * (counts if side == "user" else counts.T)
            target = (seen if side == "user" else seen.T) - bias[other]
            design = factors[other]
            if biased:
                design = np.column_stack([np.ones(len(design)), design])
            solved = np.stack(
                [
                    np.linalg.solve(
                        design.T @ (c[:, None] * design) + penalty * np.eye(design.shape[1]),
                        design.T @ (c * t),
                    )
                    for c, t in zip(confidence, target, strict=True)
                ]
            )
            factors[side] = solved[:, biased:]
            bias[side] = solved[:, 0] if biased else bias[side]
    for side in ("user", "item"):
        np.testing.assert_allclose(fit.point()[f"{side}_factors"], factors[side], atol=1e-9)
        if biased:
            np.testing.assert_allclose(fit.point()[f"{side}_bias"], bias[side], atol=1e-9)
    prediction = bias["user"][:, None] + bias["item"] + factors["user"] @ factors["item"].T
    loss = 0.5 * np.sum((1 + alpha * counts) * (seen - prediction) ** 2)
    loss += 0.5 * penalty * sum(np.sum(x**2) for x in [*factors.values(), *bias.values()])
    assert fit.history.objective[-1] == pytest.approx(loss, rel=1e-10)


def test_recovery_of_simulated_truth() -> None:
    """Scores and U V' within what the number of parameters allows.

    A model of p parameters fitted to n ratings has squared error p / n sigma^2 at them on
    average when the prior says nothing, and less with the true prior.
    """
    simulation = simulate_ratings(
        key=3, num_users=80, num_items=60, num_ratings=2000, num_factors=2, noise_scale=0.3,
        user_scale=1, item_scale=1, popularity=0, with_titles=False,
    )  # fmt: skip
    truth, data = simulation.truth, simulation.ratings
    model = MatrixFactorization(
        2, Gaussian(0.3), "learned", user_bias_scale=0.3, item_bias_scale=0.4
    )  # fmt: skip
    fit = fit_als(model, data, key=0, num_sweeps=100, tol=0)
    parameters = 3 * (80 + 60) + 1
    bound = 0.3 * np.sqrt(parameters / len(data))
    error = fit.predict(data, interval=None).mean - simulation.score
    assert 0.4 * bound < np.sqrt(np.mean(error**2)) < 1.05 * bound
    got = fit.point()["user_factors"] @ fit.point()["item_factors"].T
    wanted = truth["user_factors"] @ truth["item_factors"].T
    known = np.ix_(data.user_degree >= 15, data.item_degree >= 15)
    assert np.sqrt(np.mean((got - wanted)[known] ** 2)) < 1.2 * bound
    assert np.sqrt(np.mean(wanted**2)) > 8 * bound


def test_random_scales_are_refused_with_the_reason() -> None:
    model = MatrixFactorization(
        1, Gaussian(dist.HalfNormal(1.0)), user_scale=dist.HalfNormal(1.0), user_bias=False
    )
    message = (
        r"fit_als needs fixed scales, but user_scale, noise_scale has a prior distribution.*"
        r"degenerate.*fit_variational.*sample_nuts"
    )
    with pytest.raises(ValueError, match=message):
        fit_als(model, table(), key=0)


def test_model_without_rows_is_refused() -> None:
    model = MatrixFactorization(0, user_bias=False, item_bias=False)
    with pytest.raises(ValueError, match="and the model has neither; give num_fac"):
        fit_als(model, table(), key=0)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_sweeps": 0}, ValueError, "num_sweeps is 0; expected a whole number of at least 1"),
    ({"num_sweeps": 2.5}, TypeError, "num_sweeps is 2.5; expected a whole number"),
    ({"cg_steps": 0}, ValueError, "cg_steps is 0; expected a whole number of at least 1"),
    ({"cg_steps": True}, TypeError, "cg_steps is True; expected a whole number"),
    ({"patience": -1}, ValueError, "patience is -1; expected a whole number of at least 1"),
    ({"tol": -1e-3}, ValueError, "tol is -0.001; expected a finite number >= 0"),
    ({"tol": np.nan}, ValueError, "tol is nan; expected a finite number >= 0"),
    ({"update": "row"}, ValueError, "update is 'row'; expected 'block' or 'coordinate'"),
    ({"solver": "lu"}, ValueError, "solver is 'lu'; expected 'cg' or 'cholesky'"),
    ({"key": None}, TypeError, "key is None of type NoneType; give an int"),
    ({"key": 0.5}, TypeError, "key is 0.5 of type float; give an int"),
    ({"start": {"user_bias": 1}}, TypeError, "start is of type dict; expected a RatingsFit"),
    ({"validation": {"user": [1]}}, TypeError, "validation is of type dict; expected Ratings"),
    ({"model": "mf"}, TypeError, "model is of type str; expected MatrixFactorization"),
    ({"data": [1, 2]}, TypeError, "Expected Ratings, got list"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"model": model_of("gaussian", "plain"), "data": table(), "key": 0, **options}
    with pytest.raises(error, match=re.escape(message)):
        fit_als(**given)


def test_yes_no_validation_is_checked_too() -> None:
    with pytest.raises(ValueError, match="needs ratings 0 or 1, but row 0 has"):
        fit_als(model_of("logit", "plain"), table(binary=True), key=0, validation=table())


def test_progress_bar_goes_to_stderr_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = model_of("gaussian", "plain"), table()
    fit_als(model, data, key=0, num_sweeps=2, progress=False)
    assert capsys.readouterr() == ("", "")
    fit_als(model, data, key=0, num_sweeps=2, progress=True)
    assert capsys.readouterr().out == ""


def test_example_data_of_this_file_fit_one_bucket() -> None:
    """What keeps these tests fast."""
    data = table()
    assert max(data.user_degree.max(), data.item_degree.max()) <= 8
    assert data.user_degree[-1] == data.item_degree[-1] == 0
    assert Path(__file__).name == "test_als.py"


def test_ratings_that_are_all_the_same_are_told() -> None:
    events = Ratings.from_frame({"user": [1, 1, 2], "item": [1, 2, 1], "rating": [1.0, 1.0, 1.0]})
    with pytest.warns(UserWarning, match=r"All ratings are 1, so that 1 is the best") as caught:
        fit_als(MatrixFactorization(1), events, key=0, num_sweeps=1)
    assert caught[0].filename == __file__

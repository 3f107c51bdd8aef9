"""Fits with features in use: new users and items, fold-in, strangers, files, ArviZ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import (
    MLP,
    Features,
    Gaussian,
    Linear,
    MatrixFactorization,
    NormalWishart,
    Ratings,
    diagnostics,
    load,
)
from probmf.results import RatingsFit
from probmf.results.records import RowMoments

USERS, ITEMS = 8, 6
JOBS = ["cook", "poet", "smith"]


def ratings() -> Ratings:
    rng = np.random.default_rng(0)
    seen = rng.random((USERS, ITEMS)) < 0.6
    seen[-1], seen[:, -1], seen[0, 0] = False, False, True
    user, item = np.nonzero(seen)
    users = {
        "user": np.arange(USERS),
        "age": rng.normal(40, 10, USERS),
        "job": [JOBS[n % 3] for n in range(USERS)],
    }
    items = {"item": np.arange(ITEMS), "year": rng.integers(1950, 2000, ITEMS).astype(float)}
    return Ratings.from_frame(
        {"user": user, "item": item, "rating": rng.normal(3, 1, len(user))}, users=np.arange(USERS),
        items=np.arange(ITEMS), user_features=users, item_features=items,
    )  # fmt: skip


DATA = ratings()
MODEL = MatrixFactorization(
    2, Gaussian(0.6), user_mean=Linear(), item_mean=MLP((3,)), user_scale=0.7, user_bias_scale=0.4
)


def point_fit(model: MatrixFactorization = MODEL, num_draws: int | None = None) -> RatingsFit:
    """Random weights; rows without ratings at their prior mean. Or many equal draws of it."""
    rng = np.random.default_rng(3)
    model = model.with_encoders(DATA)
    values: dict[str, Any] = {"intercept": np.float32(3.1)}
    for site, shape in model.mean_shapes.items():
        values[site] = rng.normal(0, 0.5, shape).astype(np.float32)
    (observations,) = model.arguments(DATA)
    for mean in model.row_means(observations.features).values():
        for site, center in mean(values).items():
            noise = rng.normal(0, 0.5, center.shape)
            noise[-1] = 0.0
            values[site] = np.asarray(center + noise, np.float32)
    for site, shape in model.site_shapes(USERS, ITEMS).items():
        if site not in values:
            values[site] = rng.normal(0, 0.5, shape).astype(np.float32)
    if isinstance(model.user_scale, NormalWishart):
        values["user_mean"] = np.array([0.3, -0.2], np.float32)
        values["user_precision"] = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)
        values["user_factors"] = values["user_factors"] + values["user_mean"]
    if num_draws is None:
        return RatingsFit.from_point(model, DATA, values, method="random")
    samples = {
        name: np.repeat(np.asarray(value)[None, None], num_draws, axis=1)
        for name, value in values.items()
    }
    return RatingsFit(model, DATA, samples, "random")


def features(side: str, code: int, new_id: int) -> dict[str, Any]:
    """A side table of one new id whose features are those of a known one."""
    table = getattr(DATA, f"{side}_features").slice(code, 1).to_pydict()
    return {**table, side: [new_id]}


@pytest.mark.parametrize("side", ["user", pytest.param("item", marks=pytest.mark.slow)])
def test_a_new_row_is_predicted_as_one_with_the_same_features_and_no_rating(side: str) -> None:
    fit = point_fit()
    last = USERS - 1 if side == "user" else ITEMS - 1
    others = np.arange(ITEMS - 1 if side == "user" else USERS - 1)

    def pairs(code: int) -> tuple[Any, Any]:
        own = np.full(len(others), code)
        return (own, others) if side == "user" else (others, own)

    new: Any = {f"{side}_features": features(side, last, 100)}
    found, expected = fit.predict(pairs(100), **new), fit.predict(pairs(last))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.sd, expected.sd, rtol=1e-5)
    assert not getattr(found, f"known_{side}").any()
    # Nothing changes for the others, and a known row keeps its features.
    more = fit.extend(**{f"{side}_features": {**features(side, 0, 100), side: [last]}})
    np.testing.assert_array_equal(more.predict(DATA).mean, fit.predict(DATA).mean)


def test_recommendations_for_new_users_and_of_new_items() -> None:
    fit = point_fit()
    lines = fit.recommend(100, k=6, user_features=features("user", USERS - 1, 100))
    expected = fit.recommend(USERS - 1, k=6)
    np.testing.assert_array_equal(lines.item, expected.item)
    np.testing.assert_allclose(lines.score, expected.score, rtol=1e-5)
    more = fit.recommend(0, k=7, exclude=None, item_features=features("item", ITEMS - 1, 77))
    assert 77 in more.item[0]


def dense_row(fit: RatingsFit, data: Ratings, code: int) -> tuple[np.ndarray, np.ndarray]:
    """Mode and covariance of a user's row by dense float64 algebra."""
    values = {name: np.asarray(value[0, 0], float) for name, value in fit.samples.items()}
    encoded = fit.model.encode(data)["user"][code]
    mean = encoded @ values["user_mean_weight_0"] + values["user_mean_bias_0"]
    prior = np.diag(np.array([0.4, 0.7, 0.7]) ** -2.0)
    if "user_precision" in values:
        prior[1:, 1:] = values["user_precision"]
        mean[1:] += values["user_mean"]
    mine = data.user == code
    items = data.item[mine]
    design = np.column_stack([np.ones(len(items)), values["item_factors"][items]])
    target = data.rating[mine] - values["intercept"] - values["item_bias"][items]
    precision = prior + design.T @ design / 0.36
    row = np.linalg.solve(precision, prior @ mean + design.T @ target / 0.36)
    return row, np.linalg.inv(precision)


def new_ratings() -> Ratings:
    return Ratings.from_frame(
        {"user": [100, 100, 2], "item": [0, 1, 3], "rating": [5.0, 1.0, 4.0]},
        user_features={"user": [100], "age": [70.0], "job": ["poet"]},
    )


def test_fold_in_starts_from_the_features() -> None:
    more = point_fit().fold_in(new_ratings())
    for code in (2, USERS):
        row, _ = dense_row(more, more.data, code)
        point = more.point()
        found = np.append(point["user_bias"][code], point["user_factors"][code])
        np.testing.assert_allclose(found, row, atol=1e-4)
    bare = Ratings.from_frame({"user": [100], "item": [0], "rating": [5.0]})
    with pytest.raises(ValueError, match=r"User_features has nothing for user 100"):
        point_fit().fold_in(bare)


@pytest.mark.parametrize("wishart", [False, True])
def test_draws_of_new_rows(wishart: bool) -> None:
    """Folded in from ratings, and drawn from the prior given features alone."""
    options: dict[str, Any] = {"user_scale": NormalWishart(dof=4.0) if wishart else 0.7}
    model = MatrixFactorization(
        2, Gaussian(0.6), user_mean=Linear(), user_bias_scale=0.4, **options
    )
    fit = point_fit(model, num_draws=4000)

    def rows(more: RatingsFit, code: int) -> np.ndarray:
        sites = [
            more.samples["user_bias"][0, :, code, None],
            more.samples["user_factors"][0, :, code],
        ]
        return np.concatenate(sites, axis=1)

    more = fit.fold_in(new_ratings(), key=0)
    row, covariance = dense_row(more, more.data, USERS)
    found = rows(more, USERS)
    assert np.abs(found.mean(axis=0) - row).max() < 4.5 * np.sqrt(covariance.max() / 4000)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.1 * covariance.max())
    few = {"user_bias": fit.samples["user_bias"].mean(axis=1)}
    fit = replace(fit, moments=RowMoments(few, few, 10))
    only = fit.extend(user_features=new_ratings().user_features, key=1)
    assert only.moments is None
    row, covariance = dense_row(only, only.data, USERS)
    found = rows(only, USERS)
    assert np.abs(found.mean(axis=0) - row).max() < 4.5 * np.sqrt(covariance.max() / 4000)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.1 * covariance.max())
    with pytest.raises(ValueError, match=r"extend draws the new rows .* give key="):
        fit.extend(user_features=new_ratings().user_features)


def test_a_stranger_is_an_average_row_and_less_certain() -> None:
    """Of someone without features the row is Normal about the average, with f's spread added.

    f gives biases and factors that depend on each other.
    """
    model = MatrixFactorization(
        2, Gaussian(0.6), item_bias=False, user_mean=Linear(), item_scale=0.7, user_scale=0.3,
        user_bias_scale=0.4,
    )  # fmt: skip
    fit = point_fit(model)
    draws, values, items = point_fit(fit.model, num_draws=3), fit.point(), np.arange(ITEMS - 1)
    f = fit.model.encode(DATA)["user"] @ values["user_mean_weight_0"] + values["user_mean_bias_0"]
    covariance = np.cov(f.T, bias=True) + np.diag([0.16, 0.09, 0.09])
    design = np.insert(values["item_factors"][items], 0, 1.0, axis=1)
    score, variance = 3.1 + design @ f.mean(axis=0), (design @ covariance * design).sum(axis=1)
    strangers, rows = np.full(len(items), -1), fit._conditionals
    of_users = (
        fit._scores.covariance(-1, items)[0], rows.prior_variances(strangers, items),
        np.square(draws.predict([(999, item) for item in items]).sd) - 0.36,
    )  # fmt: skip
    for found in of_users:
        np.testing.assert_allclose(found, variance, rtol=1e-5)
    np.testing.assert_allclose(fit.predict((strangers + 1000, items)).mean, score, rtol=1e-5)
    ((_, roots),) = rows.roots("item", items)
    spread, mean = np.swapaxes(roots, 1, 2) @ roots, np.insert(f.mean(axis=0)[1:], 0, 1.0)
    own = np.einsum("d,nde,e->n", mean, spread, mean)
    both = np.einsum("de,ned->n", covariance[1:, 1:], spread[:, 1:, 1:])
    np.testing.assert_allclose(rows.variances(strangers, items), variance + own + both, rtol=1e-4)
    noise = np.random.default_rng(0).standard_normal((20_000, 3))
    drawn = rows.draw("user", np.full(len(noise), -1), noise)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.05 * covariance.max())


def test_files_hold_weights_and_encodings(tmp_path: Path) -> None:
    half = dist.HalfNormal(0.5)
    models = (
        MODEL,
        MatrixFactorization(
            1, user_mean=Linear(weight_scale=half, bias=False),
            user_features=Features(categorical=["job"], unknown="average"),
        ),
        MatrixFactorization(1, item_mean=MLP((2,), "relu", (0.3, "flat"), bias=(True, False))),
    )  # fmt: skip
    for model in models:
        fit = point_fit(model)
        fit.save(tmp_path / "fit")
        back = load(tmp_path / "fit")
        assert back.model.user_features == fit.model.user_features
        assert back.model.item_mean == fit.model.item_mean
        assert repr(back.model.user_mean)[:20] == repr(fit.model.user_mean)[:20]
        for name, value in fit.samples.items():
            np.testing.assert_array_equal(back.samples[name], value)
    assert models[0].user_features is None
    fit, new = point_fit(), features("user", 1, 100)
    fit.save(tmp_path / "fit")
    pairs = [(100, 0), (100, 2)]
    np.testing.assert_array_equal(
        load(tmp_path / "fit").predict(pairs, user_features=new).mean,
        fit.predict(pairs, user_features=new).mean,
    )


def test_aligned_draws_keep_their_prior_means() -> None:
    fit = point_fit()
    turned = diagnostics.align(fit)
    assert not np.allclose(turned.samples["user_factors"], fit.samples["user_factors"])
    for side in ("user", "item"):
        new: Any = {f"{side}_features": features(side, 1, 100)}
        pairs = [(100, 0)] if side == "user" else [(0, 100)]
        np.testing.assert_allclose(
            turned.predict(pairs, **new).mean, fit.predict(pairs, **new).mean, rtol=1e-5
        )


def test_arviz_names_features_and_outputs() -> None:
    tree = point_fit().to_arviz()
    weights = tree["point"]["user_mean_weight_0"]
    assert weights.dims == ("chain", "draw", "user_feature", "user_output")
    names = ["age", "job[cook]", "job[poet]", "job[smith]"]
    assert weights.coords["user_feature"].values.tolist() == names
    assert weights.coords["user_output"].values.tolist() == ["bias", "factor 0", "factor 1"]
    inner = tree["point"]["item_mean_weight_1"]
    assert inner.dims == ("chain", "draw", "item_hidden_0", "item_output")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"There is nothing to add"),
        (
            {"user_features": {"user": [100], "age": [30.0]}},
            r"'job' .* 1 missing value .* user 100",
        ),
        (
            {"user_features": {"user": [100], "age": [30.0], "job": ["nun"]}},
            r"'job' of user_features is 'nun' in row 8 of user 100 .*, which training had not",
        ),
        (
            {"user_features": {"user": [100], "age": [np.nan], "job": ["cook"]}},
            r"Column 'age' of user_features has 1 missing value .* in row 8 of user 100",
        ),
        ({"user_features": {"who": [100]}}, r"ser_features has no column 'user'"),
    ],
)
def test_bad_features_of_new_rows(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point_fit().extend(**options)


def test_models_that_have_no_use_for_features() -> None:
    fit = point_fit(MatrixFactorization(1, item_mean=Linear()))
    with pytest.raises(ValueError, match=r"no user_mean, so user_features tell it nothing"):
        fit.extend(user_features=features("user", 0, 100))
    by_row = MatrixFactorization(1, user_mean=Linear(), user_scale=np.ones(USERS))
    with pytest.raises(ValueError, match=r"user_scale has a number for each user"):
        point_fit(by_row).extend(user_features=features("user", 0, 100))

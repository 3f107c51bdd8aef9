"""Predictions and their plug-in uncertainty."""

import uuid
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.special import expit, ndtr, ndtri

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, fit_als, metrics
from probmf.datasets import simulate_ratings
from probmf.models.linear_predictor import linear_predictor
from probmf.results import row_conditionals
from probmf.rows import problem as row_problem

SCALES = np.linspace(0.5, 1.5, 14), np.linspace(0.4, 0.9, 11)
MODELS = {
    "gaussian": MatrixFactorization(3, Gaussian(0.8), user_scale=0.7, item_bias_scale=0.3),
    "no user bias": MatrixFactorization(3, Gaussian(0.8), user_bias=False),
    "no bias": MatrixFactorization(3, Gaussian(0.8), user_bias=False, item_bias=False),
    "biases only": MatrixFactorization(0, Gaussian(0.8), user_bias_scale=0.4),
    "scales by row": MatrixFactorization(
        3, Gaussian(0.8), user_scale=SCALES[0], user_bias_scale=SCALES[0][::-1],
        item_scale=SCALES[1],
    ),
    "weak zeros": MatrixFactorization(3, Gaussian(0.8), unobserved_weight=0.1),
    "logit": MatrixFactorization(3, Bernoulli()),
    "probit": MatrixFactorization(3, Bernoulli("probit")),
}  # fmt: skip


def everything(num_users: int = 14, num_items: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """All pairs, with one user and one item more than there are."""
    user, item = np.meshgrid(np.arange(num_users + 1), np.arange(num_items + 1), indexing="ij")
    return user.ravel(), item.ravel()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
def test_scores_agree_with_dense_algebra(
    x64: bool, name: str, weights: bool, draw_ratings: Any, random_fit: Any, dense_moments: Any
) -> None:
    model = MODELS[name]
    data = draw_ratings(binary=model.likelihood.binary, weights=weights)
    fit = random_fit(model, data, dtype=np.float64 if x64 else np.float32)
    user, item = everything()
    oracle = dense_moments(fit)
    known = user < 14, item < 11
    codes = np.where(known[0], user, -1), np.where(known[1], item, -1)
    tolerance = 1e-12 if x64 else 1e-5
    np.testing.assert_allclose(fit._conditionals.means(*codes), oracle.mean.ravel(), atol=tolerance)
    np.testing.assert_allclose(
        fit._conditionals.variances(*codes),
        oracle.variance.ravel(),
        rtol=10 * tolerance,
        atol=1e-12,
    )


def test_known_pairs_are_the_linear_predictor(
    x64: bool, draw_ratings: Any, random_fit: Any
) -> None:
    data = draw_ratings()
    fit = random_fit(MODELS["gaussian"], data, dtype=np.float64 if x64 else np.float32)
    point = {name: jnp.asarray(value) for name, value in fit.point().items()}
    expected = linear_predictor(point, jnp.asarray(data.user), jnp.asarray(data.item))
    tolerance = 1e-14 if x64 else 1e-6
    predicted = fit.predict(data)
    np.testing.assert_allclose(predicted.mean, expected, rtol=tolerance)
    assert predicted.known_user.all()
    assert predicted.known_item.all()
    np.testing.assert_array_equal(predicted.user, data.users.decode(data.user))
    np.testing.assert_array_equal(predicted.item, data.items.decode(data.item))


def test_gaussian_interval_holds_the_noise(
    draw_ratings: Any, random_fit: Any, dense_moments: Any
) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    oracle = dense_moments(fit)
    predicted = fit.predict((np.arange(10), np.arange(10)), interval=0.8)
    variance = oracle.variance[np.arange(10), np.arange(10)]
    sd = np.sqrt(variance + 0.8**2)
    np.testing.assert_allclose(predicted.sd, sd, rtol=1e-5)
    np.testing.assert_allclose(predicted.upper, predicted.mean + ndtri(0.9) * sd, rtol=1e-5)
    np.testing.assert_allclose(predicted.lower, predicted.mean - ndtri(0.9) * sd, rtol=1e-4)


@pytest.mark.parametrize(("link", "inverse"), [("logit", expit), ("probit", ndtr)])
def test_bernoulli_mean_and_interval(
    link: Any, inverse: Callable[[Any], Any], draw_ratings: Any, random_fit: Any, dense_moments: Any
) -> None:
    fit = random_fit(MatrixFactorization(3, Bernoulli(link)), draw_ratings(binary=True))
    oracle = dense_moments(fit)
    user, item = everything()
    predicted = fit.predict((user, item), interval=0.9)
    mean, sd = oracle.mean.ravel(), np.sqrt(oracle.variance.ravel())
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    exact = inverse(mean[:, None] + sd[:, None] * nodes) @ weights / weights.sum()
    np.testing.assert_allclose(predicted.mean, exact, atol=1e-5)
    np.testing.assert_allclose(predicted.lower, inverse(mean - ndtri(0.95) * sd), atol=1e-5)
    np.testing.assert_allclose(predicted.upper, inverse(mean + ndtri(0.95) * sd), atol=1e-5)
    np.testing.assert_allclose(
        predicted.sd, np.sqrt(predicted.mean * (1 - predicted.mean)), atol=1e-6
    )
    # Without an interval rows with ratings count as known; the others still have their prior.
    fast = fit.predict((user, item), interval=None)
    x, y = _squares(fit, "user"), _squares(fit, "item")
    p, q = np.zeros((15, 4)), np.zeros((12, 4))
    p[~np.isin(np.arange(15), fit.data.user)] = q[~np.isin(np.arange(12), fit.data.item)] = 1.0
    sd = np.sqrt(p @ y.T + x @ q.T + p[:, 1:] @ q[:, 1:].T).ravel()
    exact = inverse(mean[:, None] + sd[:, None] * nodes) @ weights / weights.sum()
    np.testing.assert_allclose(fast.mean, exact, atol=1e-5)
    known = fast.known_user & fast.known_item
    assert (sd[known] == 0).all()
    assert (sd[~known] > 1).all()


def _squares(fit: Any, side: str) -> np.ndarray:
    """Squares of a side's rows and, at the end, a stranger's; the bias counts as one."""
    factors = np.pad(np.asarray(fit.point()[f"{side}_factors"], float), ((0, 1), (0, 0)))
    return np.column_stack([np.ones(len(factors)), factors**2])


def test_without_interval_only_the_mean(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    fast, slow = (fit.predict(fit.data, interval=interval) for interval in (None, 0.9))
    assert fast.sd is fast.lower is fast.upper is None
    np.testing.assert_array_equal(fast.mean, slow.mean)
    assert len(fast) == len(fit.data)


def test_strangers_and_the_unrated_are_flagged(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    predicted = fit.predict([(0, 0), (13, 0), (0, 10), (99, -7)])
    assert predicted.known_user.tolist() == [True, False, True, False]
    assert predicted.known_item.tolist() == [True, True, False, False]
    assert predicted.user.tolist() == [0, 13, 0, 99]
    assert predicted.item.tolist() == [0, 0, 10, -7]
    assert predicted.mean[3] == pytest.approx(0.7)
    # Two priors: the biases, the noise, and the trace term, 3 factors of variance 0.7^2 1^2.
    assert predicted.sd[3] ** 2 == pytest.approx(1 + 0.3**2 + 0.8**2 + 3 * 0.7**2, rel=1e-5)


def test_a_rating_of_weight_zero_makes_nobody_known(random_fit: Any) -> None:
    table = {"user": [1, 2], "item": [1, 2], "rating": [3.0, 4.0], "weight": [1.0, 0.0]}
    fit = random_fit(MatrixFactorization(1), Ratings.from_frame(table, weight="weight"))
    predicted = fit.predict([(1, 1), (2, 2)])
    assert predicted.known_user.tolist() == predicted.known_item.tolist() == [True, False]


def test_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, draw_ratings: Any, random_fit: Any
) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    pairs = everything()
    whole = fit.predict(pairs)
    monkeypatch.setattr(row_conditionals, "BATCH_BYTES", 1)
    monkeypatch.setattr(row_conditionals, "SPREAD_BYTES", 200)
    monkeypatch.setattr(row_conditionals, "PAIR_BLOCK", 3)
    monkeypatch.setattr(row_conditionals, "MEAN_BLOCK", 7)
    assert fit._conditionals.spread_rows == 2
    cut = fit.predict(pairs)
    for name in ("mean", "sd", "lower", "upper"):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), rtol=1e-5)


def test_rows_longer_than_a_piece(random_fit: Any, dense_moments: Any) -> None:
    rng = np.random.default_rng(0)
    user, item = (part.ravel() for part in np.indices((1500, 2)))
    ratings = {"user": user, "item": item, "rating": rng.normal(size=3000)}
    fit = random_fit(MatrixFactorization(2, Gaussian(2.0)), Ratings.from_frame(ratings))
    assert row_problem.PIECE < 1500
    predicted = fit.predict([(3, 0), (4, 1)])
    variance = dense_moments(fit).variance[[3, 4], [0, 1]]
    np.testing.assert_allclose(predicted.sd**2, variance + 4, rtol=1e-5)


def test_precise_ratings_do_not_drown_the_prior(
    x64: bool, random_fit: Any, dense_moments: Any
) -> None:
    rng = np.random.default_rng(0)
    user, item = (part.ravel() for part in np.indices((400, 3)))
    ratings = Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(size=1200)})
    # 400 ratings of noise 0.002: in float32 nothing is left of the prior's precision, one.
    fit = random_fit(MatrixFactorization(6, Gaussian(0.002)), ratings)
    oracle = dense_moments(fit)
    variance = fit._conditionals.variances(np.arange(8), np.arange(8) % 3)
    expected = oracle.variance[np.arange(8), np.arange(8) % 3]
    np.testing.assert_allclose(variance, expected, rtol=1e-6 if x64 else 0.05)


def test_a_fit_serves_both_precisions(draw_ratings: Any, random_fit: Any) -> None:
    with jax.enable_x64(True):
        fit = random_fit(MODELS["logit"], draw_ratings(binary=True), dtype=np.float64)
        wide = fit.predict(fit.data)
        best = fit.recommend(k=3, rank_by="upper")
    narrow = fit.predict(fit.data)
    np.testing.assert_allclose(narrow.upper, wide.upper, atol=1e-6)
    np.testing.assert_array_equal(fit.recommend(k=3, rank_by="upper").code, best.code)
    np.testing.assert_array_equal(fit.recommend(k=3).code.shape, best.code.shape)


@pytest.mark.slow
def test_intervals_cover_simulated_ratings() -> None:
    simulation = simulate_ratings(
        key=3, num_users=400, num_items=120, num_ratings=9000, num_factors=3, noise_scale=0.5
    )
    model = MatrixFactorization(
        3, Gaussian(0.5), user_scale=0.5, item_scale=0.5, user_bias_scale=0.3, item_bias_scale=0.4
    )
    train, test = simulation.ratings.split(key=0, test_fraction=0.2)
    fit = fit_als(model, train, key=0, num_sweeps=20, progress=False)
    for level in (0.5, 0.9):
        predicted = fit.predict(test, interval=level)
        share = metrics.coverage(test.rating, predicted.lower, predicted.upper)
        # 1800 test ratings: the standard error is about 0.012 and 0.007.
        assert share == pytest.approx(level, abs=0.04)
    bare = metrics.coverage(
        test.rating, *(predicted.mean + side * ndtri(0.95) * 0.5 for side in (-1, 1))
    )
    assert bare < share - 0.03


IDS: dict[str, tuple[list[Any], list[Any]]] = {
    "large integers": ([2**40 + 1, 2**40 + 2], [-(2**35), 7]),
    "text": (["ann", "bob"], ["x", "y"]),
    "uuids": ([uuid.UUID(int=1), uuid.UUID(int=2)], [uuid.UUID(int=2**100), uuid.UUID(int=4)]),
    "dates": (
        np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]"),
        np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"),
    ),
    "tuples": ([("a", 1), ("a", 2)], [(1, None), (2, None)]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_kind(kind: str, random_fit: Any) -> None:
    users, items = IDS[kind]

    def pick(ids: Any, *places: int) -> Any:
        return ids[list(places)] if isinstance(ids, np.ndarray) else [ids[p] for p in places]

    data = Ratings.from_frame(
        {"user": pick(users, 0, 1, 0), "item": pick(items, 0, 1, 1), "rating": [1.0, 2.0, 3.0]}
    )
    fit = random_fit(MatrixFactorization(2), data)
    point = fit.point()
    predicted = fit.predict((pick(users, 1, 0), pick(items, 0, 0)), interval=None)
    at = data.users.encode(pick(users, 1, 0)), data.items.encode(pick(items, 0, 0))
    expected = np.asarray(linear_predictor(point, *at))
    np.testing.assert_allclose(predicted.mean, expected, rtol=1e-6)
    assert predicted.user[0] == data.users.ids[at[0][0]]
    recommended = fit.recommend(users[0], k=2, exclude=None)
    assert set(recommended.item[0].tolist()) == set(data.items.ids.tolist())
    assert fit.recommend(users[:1], k=1, exclude=None).code[0, 0] == recommended.code[0, 0]
    left = fit.recommend(pick(users, 1), k=2)
    assert left.item[0, 0] == data.items.ids[left.code[0, 0]]
    assert left.item[0, 1] is None


def test_all_forms_of_pairs(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    user, item = [3, 99, 5], [1, 2, 77]
    columns = {"user": user, "item": item}
    expected = fit.predict(list(zip(user, item, strict=True)))
    renamed = pl.LazyFrame({"who": user, "what": item, "extra": ["a", "b", "c"]})
    forms = [
        columns,
        pd.DataFrame(columns),
        pl.DataFrame(columns),
        pl.LazyFrame(columns),
        pa.table(columns),
        (user, item),
        (np.asarray(user, np.int16), pd.Series(item)),
        np.column_stack([user, item]),
        np.array([(3, 1), (99, 2), (5, 77)], dtype=[("user", "i4"), ("item", "i8")]),
        [[3, 1], [99, 2], [5, 77]],
        Ratings.from_frame(columns, rating=None),
    ]
    results = [fit.predict(form) for form in forms]
    results.append(fit.predict(renamed, user="who", item="what"))
    for predicted in results:
        np.testing.assert_array_equal(predicted.mean, expected.mean)
        np.testing.assert_array_equal(predicted.sd, expected.sd)
        assert predicted.user.tolist() == user
        assert predicted.item.tolist() == item
        assert predicted.known_user.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("pairs", "options", "error", "message"),
    [
        ([(0, 0)], {"interval": 90}, ValueError, "interval is 90; expected a probability between"),
        ([(0, 0)], {"interval": 0.0}, ValueError, "interval is 0.0"),
        ([(0, 0)], {"interval": float("nan")}, ValueError, "interval is nan"),
        ([(0, 0)], {"interval": "wide"}, TypeError, "interval is 'wide'; expected a probability"),
        ([(0, 0)], {"interval": True}, TypeError, "interval is True"),
        ((0, 0), {}, ValueError, "put a single pair in a list"),
        ([(0, 0, 0)], {}, ValueError, r"Pair 0 is \(0, 0, 0\), expected a user and an item"),
        ([], {}, ValueError, "There are no pairs"),
        (([1, 2], [1]), {}, ValueError, "pairs"),
        ([("a", 1)], {}, ValueError, "holds text.*but the known user ids are integers"),
        ({"user": [1], "item": ["x"]}, {}, ValueError, "Column 'item' holds text"),
        ({"user": [1]}, {}, ValueError, "no column 'item'.*name it: item="),
        ({"user": [1], "item": [None]}, {}, ValueError, "Column 'item' has 1 missing value"),
        (7, {}, TypeError, "The table of pairs is a int, expected a table"),
    ],
)
def test_bad_pairs(
    pairs: Any, options: Any, error: Any, message: str, draw_ratings: Any, random_fit: Any
) -> None:
    fit = random_fit(MODELS["gaussian"], draw_ratings())
    with pytest.raises(error, match=message):
        fit.predict(pairs, **options)


def test_predictions_as_a_table(random_fit: Any) -> None:
    ids = [uuid.UUID(int=1), uuid.UUID(int=2)]
    table = {"user": ids, "item": ["x", "y"], "rating": [1.0, 2.0]}
    fit = random_fit(MatrixFactorization(1), Ratings.from_frame(table))
    predicted = fit.predict([(ids[1], "x"), (uuid.UUID(int=3), "x")])
    arrow = predicted.to_arrow()
    assert arrow.column_names == [
        "user", "item", "mean", "sd", "lower", "upper", "known_user", "known_item",
    ]  # fmt: skip
    assert arrow["user"].to_pylist() == [ids[1], uuid.UUID(int=3)]
    assert pl.from_arrow(arrow.drop_columns("user"))["known_user"].to_list() == [True, False]
    fast = fit.predict([(ids[1], "x")], interval=None)
    assert fast.to_arrow().column_names == ["user", "item", "mean", "known_user", "known_item"]
    assert repr(predicted).startswith("Predictions(2 pairs, the first UUID(")
    assert "1 with a user or item unknown to the fit" in repr(predicted)
    assert repr(fast).endswith(f"of 'x': {fast.mean[0]:.4g})")


def test_other_numbers_of_pairs_compile_nothing(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MODELS["logit"], draw_ratings(binary=True))
    fit.predict(([0] * 60, [1] * 60))
    compiled = row_problem.precision_factors._cache_size()
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        seen: list[str] = []
        patch.setattr("jax._src.interpreters.pxla.logger.log", lambda _, m, *a: seen.append(m % a))
        fit.predict(([1] * 55, [0] * 55))
    assert row_problem.precision_factors._cache_size() == compiled
    assert not [line for line in seen if line.startswith("Compiling")]

"""Recommendations and similar items against sorting everything."""

from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from rings import slow
from scipy.special import expit, ndtr, ndtri

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ordinal, Ratings
from probmf.results import RatingsFit, ranking, row_conditionals
from probmf.results.point_scores import top_uncertain
from probmf.results.ranking import Order, top_products

NUM_USERS, NUM_ITEMS = 14, 11
GAUSSIAN = MatrixFactorization(3, Gaussian(0.8), user_scale=0.7)


def best(scores: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """The k best items of each line in order, the first of equal ones first; -1 if none is left."""
    scores = np.where(allowed, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(scores, order, axis=1)), -1, order)


@pytest.fixture(scope="module")
def fit(draw_ratings: Any, random_fit: Any) -> Any:
    return random_fit(GAUSSIAN, draw_ratings())


@pytest.fixture(scope="module")
def oracle(fit: Any, dense_moments: Any) -> Any:
    return dense_moments(fit)


@pytest.fixture(scope="module")
def unseen(fit: Any) -> np.ndarray:
    return fit.data.to_scipy().toarray() == 0


@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS])
def test_everybody_gets_the_best_unseen_items(
    fit: Any, oracle: Any, unseen: np.ndarray, k: int
) -> None:
    recommended = fit.recommend(k=k)
    np.testing.assert_array_equal(recommended.code, best(oracle.mean[:-1, :-1], unseen, k))
    np.testing.assert_array_equal(recommended.user, fit.data.users.ids)
    filled = recommended.code >= 0
    lines = np.nonzero(filled)[0]
    np.testing.assert_allclose(
        recommended.score[filled], oracle.mean[lines, recommended.code[filled]], rtol=1e-5
    )
    np.testing.assert_array_equal(recommended.item[filled], recommended.code[filled])
    assert recommended.lower is recommended.upper is None
    np.testing.assert_array_equal(recommended.known_user, fit.data.user_degree > 0)
    assert not recommended.known_user[-1]
    assert len(recommended) == NUM_USERS


def test_scores_are_sorted_and_those_of_predict(fit: Any) -> None:
    recommended = fit.recommend(k=5, exclude=None, interval=0.9)
    assert (np.diff(recommended.score, axis=1) <= 0).all()
    pairs = np.repeat(recommended.user, 5), recommended.item.ravel()
    predicted = fit.predict(pairs, interval=0.9)
    for ours, theirs in (("score", "mean"), ("lower", "lower"), ("upper", "upper")):
        np.testing.assert_allclose(
            getattr(recommended, ours).ravel(), getattr(predicted, theirs), atol=1e-5
        )


def test_one_user_several_users_and_strangers(fit: Any, oracle: Any, unseen: np.ndarray) -> None:
    expected = best(oracle.mean[:-1, :-1], unseen, 3)
    for users in (4, np.int64(4), [4], (4,), np.array(4), np.array([4]), pl.Series([4])):
        np.testing.assert_array_equal(fit.recommend(users, k=3).code, expected[[4]])
    mixed = fit.recommend([6, 99, 2, 6], k=3)
    np.testing.assert_array_equal(mixed.code[[0, 2, 3]], expected[[6, 2, 6]])
    assert mixed.user.tolist() == [6, 99, 2, 6]
    assert mixed.known_user.tolist() == [True, False, True, True]
    # The prior of a stranger ranks by the item's bias.
    np.testing.assert_array_equal(mixed.code[1], np.argsort(-fit.point()["item_bias"])[:3])


def test_exclude_ratings(fit: Any, oracle: Any) -> None:
    items = np.arange(NUM_ITEMS)
    table = {"user": [4] * 9 + [99] * 10, "item": [*items[:9], *items[:10]]}
    exclude = Ratings.from_frame({**table, "item": table["item"]}, rating=None)
    found = fit.recommend([4, 5, 99], k=2, exclude=exclude)
    assert set(found.code[0]) == {9, 10}
    everything = np.ones((NUM_USERS + 1, NUM_ITEMS), bool)
    np.testing.assert_array_equal(found.code[1], best(oracle.mean[:, :-1], everything, 2)[5])
    # A stranger's pairs count as well.
    assert found.code[2].tolist() == [10, -1]
    # Items of which the fit knows nothing are nothing to leave out.
    elsewhere = Ratings.from_frame({"user": [4], "item": [-5]}, rating=None)
    np.testing.assert_array_equal(
        fit.recommend(4, k=3, exclude=elsewhere).code, fit.recommend(4, k=3, exclude=None).code
    )
    np.testing.assert_array_equal(
        fit.recommend(k=3, exclude=fit.data).code, fit.recommend(k=3).code
    )


@pytest.mark.parametrize("rank_by", ["mean", "lower"])
@pytest.mark.parametrize("as_type", [list, tuple, set, np.array, pl.Series])
def test_exclude_a_list_of_items(fit: Any, rank_by: Any, as_type: Any) -> None:
    """The same as Ratings of these items by everybody, and of the training pairs."""
    blocked = [3, 7, 10, 3]
    pairs = [(user, item) for user in range(NUM_USERS) for item in {*blocked}]
    pairs += [*zip(fit.data.user.tolist(), fit.data.item.tolist(), strict=True)]
    users, items = zip(*{*pairs}, strict=True)
    every = Ratings.from_frame({"user": users, "item": items}, rating=None)
    expected = fit.recommend(k=4, exclude=every, rank_by=rank_by)
    found = fit.recommend(k=4, exclude=as_type(blocked), rank_by=rank_by)
    np.testing.assert_array_equal(found.code, expected.code)
    assert not np.isin(fit.recommend(99, k=8, exclude=as_type(blocked)).item, blocked).any()


def test_exclude_a_list_with_candidates_and_unknown_items(fit: Any, unseen: np.ndarray) -> None:
    user = int(np.argmax(unseen[:, [1, 8, 9]].sum(axis=1) == 3))
    found = fit.recommend(user, k=2, candidates=[1, 8, 9], exclude=[8, 4, -5])
    assert set(found.item[0]) == {1, 9}
    np.testing.assert_array_equal(
        fit.recommend(k=3, exclude=[]).code, fit.recommend(k=3, exclude=[-5]).code
    )
    np.testing.assert_array_equal(fit.recommend(k=3, exclude=[]).code, fit.recommend(k=3).code)
    assert 3 not in fit.choose_next(99, 9, exclude=[3]).item
    assert 3 not in fit.rank_posterior(99, k=9, exclude=[3], key=0).item


def test_a_pair_of_weight_zero_is_seen_all_the_same(random_fit: Any) -> None:
    table = {"user": [1, 1, 2], "item": [1, 2, 3], "rating": [3.0, 4.0, 5.0], "w": [1.0, 0.0, 1.0]}
    fit = random_fit(MatrixFactorization(1), Ratings.from_frame(table, weight="w"))
    assert fit.recommend(1, k=3).item[0].tolist() == [3, None, None]


@pytest.mark.parametrize("exclude", ["seen", None])
def test_candidates(fit: Any, oracle: Any, unseen: np.ndarray, exclude: Any) -> None:
    allowed = unseen.copy() if exclude else np.ones_like(unseen)
    chosen = [8, 1, 9, 3, 3]
    allowed[:, np.setdiff1d(np.arange(NUM_ITEMS), chosen)] = False
    for rank_by, scores in (("mean", oracle.mean), ("upper", upper(oracle))):
        recommended = fit.recommend(k=4, candidates=chosen, exclude=exclude, rank_by=rank_by)
        np.testing.assert_array_equal(recommended.code, best(scores[:-1, :-1], allowed, 4))
    assert fit.recommend(0, k=1, candidates=9, exclude=None).item.tolist() == [[9]]


def upper(oracle: Any, interval: float = 0.9) -> np.ndarray:
    return oracle.mean + ndtri(0.5 + interval / 2) * np.sqrt(oracle.variance)


def test_few_left(fit: Any, unseen: np.ndarray) -> None:
    recommended = fit.recommend(k=NUM_ITEMS, interval=0.5)
    left = unseen.sum(axis=1)
    filled = np.arange(NUM_ITEMS) < left[:, None]
    np.testing.assert_array_equal(recommended.code >= 0, filled)
    for name in ("score", "lower", "upper"):
        np.testing.assert_array_equal(np.isnan(getattr(recommended, name)), ~filled)
    assert all(value is None for value in recommended.item[~filled])
    assert all(type(value) is int for value in recommended.item[filled])
    table = recommended.to_arrow()
    assert table.num_rows == filled.sum()
    assert table.column_names == ["user", "item", "rank", "score", "lower", "upper"]
    assert table["rank"].to_pylist()[: left[0]] == list(range(1, left[0] + 1))
    assert fit.recommend(k=2).to_arrow().column_names == ["user", "item", "rank", "score"]


@pytest.mark.parametrize("rank_by", ["lower", "upper"])
@pytest.mark.parametrize("interval", [None, 0.5])
def test_ranking_by_a_bound(
    x64: bool, fit: Any, oracle: Any, unseen: np.ndarray, rank_by: Any, interval: Any
) -> None:
    half = ndtri(0.5 + (interval or 0.9) / 2) * np.sqrt(oracle.variance)
    bound = oracle.mean + (half if rank_by == "upper" else -half)
    users = [*range(NUM_USERS), 99]
    recommended = fit.recommend(users, k=5, rank_by=rank_by, interval=interval)
    allowed = np.vstack([unseen, np.ones((1, NUM_ITEMS), bool)])
    np.testing.assert_array_equal(recommended.code, best(bound[:, :-1], allowed, 5))
    filled = recommended.code >= 0
    lines = np.nonzero(filled)[0]
    np.testing.assert_allclose(
        recommended.score[filled], oracle.mean[lines, recommended.code[filled]], rtol=1e-5
    )
    assert (recommended.lower is None) == (interval is None)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, fit: Any) -> None:
    whole = [fit.recommend(k=4, rank_by=rank_by) for rank_by in ("mean", "lower", "upper")]
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 1)
    monkeypatch.setattr(row_conditionals, "BATCH_BYTES", 1)
    monkeypatch.setattr(row_conditionals, "SPREAD_BYTES", 3 * 4 * 4 * 5)
    assert fit._conditionals.spread_rows == 3
    for rank_by, expected in zip(("mean", "lower", "upper"), whole, strict=True):
        cut = fit.recommend(k=4, rank_by=rank_by)
        np.testing.assert_array_equal(cut.code, expected.code)
        np.testing.assert_allclose(cut.score, expected.score, rtol=1e-6)
    drawn = fit.recommend(k=4, rank_by="thompson", key=0)
    assert ((drawn.code >= 0) == (whole[0].code >= 0)).all()


def test_products_with_ties_and_many_items() -> None:
    rng = np.random.default_rng(0)
    # Whole numbers, so that there are ties and products are exact.
    lines, items = rng.integers(-2, 3, (40, 3)), rng.integers(-2, 3, (1000, 3))
    allowed = np.ones((40, 1000), bool)
    lines, items = lines.astype(np.float32), items.astype(np.float32)
    for k in (1, 5, 300, 1000):
        places, products = top_products(lines, items, k, None)
        np.testing.assert_array_equal(places, best(lines @ items.T, allowed, k))
        np.testing.assert_array_equal(products, -np.sort(-(lines @ items.T), axis=1)[:, :k])


def test_thompson_draws_have_the_conditionals_moments(fit: Any, oracle: Any) -> None:
    num = 4000
    codes = np.repeat([2, 13, -1], num)
    rng = np.random.default_rng(0)
    places, drawn = top_uncertain(
        fit._conditionals, codes, np.arange(NUM_ITEMS), NUM_ITEMS, None, Order("thompson", rng=rng)
    )
    scores = np.take_along_axis(drawn, np.argsort(places, axis=1), axis=1)
    assert (np.diff(drawn, axis=1) <= 0).all()
    for place, user in enumerate([2, 13, -1]):
        own = scores[place * num : (place + 1) * num]
        mean, variance = oracle.mean[user, :-1], oracle.variance[user, :-1]
        assert np.abs((own.mean(axis=0) - mean) / np.sqrt(variance / num)).max() < 4.5
        np.testing.assert_allclose(own.var(axis=0), variance, rtol=0.15)
        # One draw of the user for all items: their scores go together.
        assert np.corrcoef(own[:, 0], own[:, 1])[0, 1] > 0.1


def test_thompson_is_fixed_by_its_key(fit: Any) -> None:
    first = fit.recommend(k=3, rank_by="thompson", key=5)
    again = fit.recommend(k=3, rank_by="thompson", key=5)
    other = fit.recommend(k=3, rank_by="thompson", key=jax.random.key(6))
    np.testing.assert_array_equal(first.code, again.code)
    assert (first.code != other.code).any()
    # What is reported is the prediction, not the draw.
    filled = first.code >= 0
    pairs = np.repeat(first.user, 3)[filled.ravel()], first.code[filled]
    np.testing.assert_allclose(first.score[filled], fit.predict(pairs).mean, rtol=1e-6)


def test_yes_no_data(draw_ratings: Any, random_fit: Any, dense_moments: Any) -> None:
    fit = random_fit(MatrixFactorization(2, Bernoulli()), draw_ratings(binary=True))
    oracle = dense_moments(fit)
    recommended = fit.recommend(k=3, exclude=None, interval=0.8)
    lines = np.arange(NUM_USERS)[:, None]
    mean, sd = (part[lines, recommended.code] for part in (oracle.mean, np.sqrt(oracle.variance)))
    rated = recommended.known_user[:, None] & (fit.data.item_degree[recommended.code] > 0)
    np.testing.assert_allclose(recommended.score[rated], expit(mean[rated]), atol=1e-6)
    np.testing.assert_allclose(recommended.lower, expit(mean - ndtri(0.9) * sd), atol=1e-5)
    assert (np.diff(recommended.score, axis=1) <= 0).all()


WIDE = {"user_scale": 2.0, "item_scale": 1.5, "user_bias_scale": 0.7, "item_bias_scale": 1.5}
NOT_LINEAR = {
    "logit": MatrixFactorization(2, Bernoulli(), **WIDE),
    "probit": MatrixFactorization(2, Bernoulli("probit"), **WIDE),
    "ordinal": MatrixFactorization(2, Ordinal(3), **WIDE),
}


@pytest.fixture(scope="module", params=slow(NOT_LINEAR, "probit"))
def bent(request: Any, draw_ratings: Any) -> Any:
    """A point fit whose ratings are not linear in the score, of well-spread item factors."""
    model, rng = NOT_LINEAR[request.param], np.random.default_rng(3)
    data = draw_ratings(binary=True)
    if request.param == "ordinal":
        table = {"user": data.user, "item": data.item, "rating": 1.0 + np.arange(len(data)) % 3}
        vocabulary = {"users": data.users.ids.tolist(), "items": data.items.ids.tolist()}
        data = Ratings.from_frame(table, **vocabulary)
    parameters: dict[str, Any] = {"intercept": np.float32(0.7)}
    for site, shape in model.site_shapes(NUM_USERS, NUM_ITEMS).items():
        parameters[site] = rng.normal(0, 1, shape).astype(np.float32)
    for side in ("user", "item"):  # The last of each is known by its prior alone.
        parameters[f"{side}_bias"][-1] = 0.0
        parameters[f"{side}_factors"][-1] = 0.0
    if request.param == "ordinal":
        parameters["cutpoints"] = np.array([-1.0, 1.5], np.float32)
    return RatingsFit.from_point(model, data, parameters, method="test")


def by_quadrature(fit: Any, user: int, item: int) -> float:
    """Expected rating over the prior of the one row that has no ratings, number by number."""
    point = {name: np.asarray(value, np.float64) for name, value in fit.point().items()}
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 3)
    weight = np.prod(np.stack(np.meshgrid(*3 * [weights], indexing="ij"), axis=-1), axis=-1).ravel()
    side, other, place = ("user", "item", item)
    if user not in (-1, NUM_USERS - 1):
        side, other, place = ("item", "user", user)
    row = grid * [WIDE[f"{side}_bias_scale"], *2 * [WIDE[f"{side}_scale"]]]
    score = point["intercept"] + point[f"{other}_bias"][place] + row[:, 0]
    score = score + row[:, 1:] @ point[f"{other}_factors"][place]
    cdf = expit if fit.model.likelihood.link == "logit" else ndtr
    if isinstance(fit.model.likelihood, Ordinal):
        rating = 1.0 + cdf(score[:, None] - point["cutpoints"]).sum(axis=1)
    else:
        rating = cdf(score)
    return float(weight @ rating / weight.sum())


def test_unknown_rows_are_averaged_over_and_ranked_so(bent: Any) -> None:
    """Users 99 (unknown) and 13 (without ratings), and item 10 (without ratings)."""
    users, every = [4, 99, NUM_USERS - 1, 6], NUM_ITEMS
    found = bent.recommend(users, k=every, exclude=None, at_least=1.0)
    pairs = np.repeat(users, every), found.item.ravel()
    predicted = bent.predict(pairs, interval=None, at_least=1.0)
    assert found.known_user.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(found.score.ravel(), predicted.mean)
    np.testing.assert_array_equal(found.probability.ravel(), predicted.probability)
    assert (np.diff(found.score, axis=1) <= 0).all()
    for line, user in ((1, -1), (2, NUM_USERS - 1)):
        for code, score in zip(found.code[line], found.score[line], strict=True):
            if code != NUM_ITEMS - 1:
                np.testing.assert_allclose(score, by_quadrature(bent, user, code), atol=1e-6)
    for line in (0, 3):
        place = int(np.argmax(found.code[line] == NUM_ITEMS - 1))
        wanted = by_quadrature(bent, users[line], NUM_ITEMS - 1)
        np.testing.assert_allclose(found.score[line, place], wanted, atol=1e-6)
    by_bias = np.argsort(-bent.point()["item_bias"], kind="stable")
    assert (found.code[1] != by_bias).any()


@pytest.mark.parametrize("exclude", ["seen", None])
def test_the_best_few_are_the_first_of_all(bent: Any, exclude: Any) -> None:
    """With candidates, exclusions and any k, for users with and without ratings."""
    users = [*range(NUM_USERS), 99]
    whole = bent.recommend(users, k=NUM_ITEMS, exclude=exclude)
    for k in (1, 5):
        few = bent.recommend(users, k=k, exclude=exclude)
        np.testing.assert_array_equal(few.code, whole.code[:, :k])
        np.testing.assert_array_equal(few.score, whole.score[:, :k])
    some = [0, 3, 5, 7, NUM_ITEMS - 1]
    few = bent.recommend([2, NUM_USERS - 1, 99], k=3, candidates=some, exclude=None)
    every = bent.recommend([2, NUM_USERS - 1, 99], k=NUM_ITEMS, exclude=None)
    for line in range(3):
        kept = [code for code in every.code[line] if code in some]
        assert few.code[line].tolist() == kept[:3]


@pytest.mark.parametrize("rank_by", ["lower", "upper", "probability", "thompson"])
def test_every_ranking_shows_the_number_of_predict(bent: Any, rank_by: Any) -> None:
    found = bent.recommend([4, 99], k=4, exclude=None, rank_by=rank_by, at_least=1.0, key=0)
    predicted = bent.predict(
        (np.repeat([4, 99], 4), found.item.ravel()), interval=None, at_least=1.0
    )
    np.testing.assert_array_equal(found.score.ravel(), predicted.mean)
    np.testing.assert_array_equal(found.probability.ravel(), predicted.probability)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": NUM_ITEMS + 1}, ValueError, "k is 12; expected a whole number from 1 to 11, the n"),
        ({"k": 3, "candidates": [1, 2]}, ValueError, "from 1 to 2, the number of candidates"),
        ({"k": 0}, ValueError, "k is 0; expected"),
        ({"k": 2.0}, TypeError, "k is 2.0; expected a whole number from 1 to 11"),
        ({"k": True}, TypeError, "k is True"),
        (
            {"k": 1, "candidates": [1, 55]},
            ValueError,
            "candidates holds 55, and the fit has no such item",
        ),
        ({"k": 1, "candidates": []}, ValueError, "candidates is empty; give at least one item id"),
        ({"k": 1, "candidates": ["x"]}, ValueError, "holds text .*known item ids are integers"),
        ({"users": [], "k": 1}, ValueError, "users is empty; give at least one user id"),
        ({"users": "ann", "k": 1}, ValueError, "list of users holds text .*are integers"),
        ({"users": [[1]], "k": 1}, TypeError, "can't be hashed"),
        ({"k": 1, "rank_by": "median"}, ValueError, "rank_by is 'median'; expected one of 'mean'"),
        ({"k": 1, "rank_by": "thompson"}, ValueError, "draws at random; give key="),
        ({"k": 1, "interval": 1.5}, ValueError, "interval is 1.5"),
        (
            {"k": 1, "exclude": "all"},
            ValueError,
            "exclude is 'all'; expected 'seen', Ratings, a list",
        ),
        ({"k": 1, "exclude": {"user": [1]}}, TypeError, "exclude is a dict; expected 'seen'"),
        ({"k": 1, "exclude": 3}, TypeError, "exclude is a int; expected .* a list of item ids"),
        ({"k": 1, "exclude": pl.DataFrame({"item": [1]})}, TypeError, "exclude is a DataFrame"),
        ({"k": 1, "exclude": ["a"]}, ValueError, "exclude"),
        ({"k": 1, "exclude": list(range(NUM_ITEMS))}, ValueError, "exclude holds all items"),
        ({"k": NUM_ITEMS, "exclude": [1]}, ValueError, "from 1 to 10, the number of items that"),
    ],
)
def test_bad_arguments(fit: Any, arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fit.recommend(**arguments)


def test_excluding_everything(random_fit: Any) -> None:
    table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [1.0, 2.0, 3.0]}
    fit = random_fit(MatrixFactorization(1), Ratings.from_frame(table))
    message = "All 2 candidates are excluded for user 'a'. Give other candidates, or exclude=None"
    with pytest.raises(ValueError, match=message):
        fit.recommend(["b", "a"], k=1)
    with pytest.raises(ValueError, match="All 1 candidates are excluded for user 'b'"):
        fit.recommend("b", k=1, candidates=[1], rank_by="lower")
    # For all users at once, one of them has an empty line.
    assert fit.recommend(k=1).item.tolist() == [[None], [2]]
    assert (
        repr(fit.recommend(k=1)) == "Recommendations(1 item for each of 2; for 'a': nothing left)"
    )
    nothing = fit.recommend(k=1, exclude=fit.data, candidates=[1])
    assert nothing.to_arrow().num_rows == 0


def test_similar_items(fit: Any) -> None:
    factors = fit.point()["item_factors"].astype(np.float64)
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    others = ~np.eye(NUM_ITEMS, dtype=bool)
    similar = fit.similar_items([3, 10], k=NUM_ITEMS - 1)
    np.testing.assert_array_equal(similar.code, best(cosine, others, 10)[[3, 10]])
    np.testing.assert_allclose(
        similar.score, np.take_along_axis(cosine[[3, 10]], similar.code, axis=1), atol=1e-6
    )
    assert similar.user.tolist() == [3, 10]
    assert similar.known_user.tolist() == [True, False]
    np.testing.assert_array_equal(fit.similar_items(3, k=2).code, similar.code[:1, :2])


def test_an_item_without_factors_is_like_nothing(random_fit: Any, draw_ratings: Any) -> None:
    fit = random_fit(GAUSSIAN, draw_ratings())
    parameters = {name: value.copy() for name, value in fit.point().items()}
    parameters["item_factors"][2] = 0.0
    bare = type(fit).from_point(fit.model, fit.data, parameters, method="test")
    assert (bare.similar_items(2, k=3).score == 0).all()


@pytest.mark.parametrize(
    ("items", "k", "error", "message"),
    [
        ([77], 2, ValueError, "items is 77, and the fit has no such item; it has 11"),
        ([3], 11, ValueError, "k is 11; expected a whole number from 1 to 10, the number of other"),
        ([3], 2.5, TypeError, "k is 2.5"),
    ],
)
def test_bad_similar_items(fit: Any, items: Any, k: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fit.similar_items(items, k)


def test_a_length_that_nobody_gave_is_ten_or_all_there_are(
    random_fit: Any, draw_ratings: Any
) -> None:
    fit = random_fit(GAUSSIAN, draw_ratings())
    assert fit.recommend([3], exclude=None).item.shape == (1, min(10, NUM_ITEMS))
    assert fit.recommend([3], exclude=None, candidates=[1, 2, 4]).item.shape == (1, 3)
    assert fit.similar_items(2).item.shape == (1, min(10, NUM_ITEMS - 1))
    ranks = fit.rank_posterior(3, candidates=[1, 2, 4], exclude=None, key=0)
    assert ranks.k == 3


def test_nothing_to_compare(random_fit: Any, draw_ratings: Any) -> None:
    with pytest.raises(ValueError, match="this model has num_factors=0"):
        random_fit(MatrixFactorization(0), draw_ratings()).similar_items(1)
    alone = Ratings.from_frame({"user": [1, 2], "item": [1, 1], "rating": [1.0, 2.0]})
    with pytest.raises(ValueError, match="one item only, so there is nothing to compare"):
        random_fit(MatrixFactorization(1), alone).similar_items(1)


def test_biases_alone_rank_alike_for_everybody(random_fit: Any, draw_ratings: Any) -> None:
    fit = random_fit(MatrixFactorization(0), draw_ratings())
    order = np.argsort(-fit.point()["item_bias"])
    for rank_by in ("mean", "lower"):
        recommended = fit.recommend(k=4, exclude=None, rank_by=rank_by)
        assert (recommended.code == recommended.code[0]).all() or rank_by == "lower"
    np.testing.assert_array_equal(fit.recommend(k=4, exclude=None).code[0], order[:4])


def test_repr_says_whom_for(fit: Any) -> None:
    text = repr(fit.recommend(4, k=2))
    assert text.startswith("Recommendations(2 items for 4: ")
    assert text.count("(") == 3
    assert "prior" not in text


def test_repr_says_that_users_are_unknown(fit: Any) -> None:
    alone = "; no ratings in the fit, so by the prior alone)"
    assert repr(fit.recommend(99, k=2)).endswith(alone)
    several = repr(fit.recommend([4, 99, NUM_USERS - 1], k=2))
    assert several.endswith("; 2 of 3 have no ratings in the fit: by the prior alone)")
    assert repr(fit.similar_items(NUM_ITEMS - 1, k=2)).endswith(alone)
    assert repr(fit.choose_next(99)).endswith(alone)
    assert repr(fit.rank_posterior(99, k=2, key=0)).endswith(alone)
    for known in (fit.choose_next(4), fit.rank_posterior(4, k=2, key=0)):
        assert "prior" not in repr(known)

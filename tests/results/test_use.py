"""What a user does with a fit: recommend, fold in, save, load, hand over to ArviZ."""

import json
import pickle
import uuid
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, fit_als, load
from probmf.datasets import simulate_ratings
from probmf.results import RatingsFit, ranking


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return simulate_ratings(
        key=0, num_users=60, num_items=90, num_ratings=1500, num_factors=3
    ).ratings


@pytest.fixture(scope="module")
def fit(ratings: Ratings) -> RatingsFit:
    model = MatrixFactorization(3, Gaussian(0.5), user_scale=0.5, item_scale=0.5)
    return fit_als(model, ratings, key=0, num_sweeps=20)


def score_table(fit: RatingsFit) -> np.ndarray:
    point = fit.point()
    products = point["user_factors"] @ point["item_factors"].T
    return point["intercept"] + point["user_bias"][:, None] + point["item_bias"][None] + products


def best_items(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("block", [64, 1 << 20])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_recommends_the_best_unseen(
    fit: RatingsFit, ratings: Ratings, k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK_SCORES", block)
    scores = score_table(fit)
    scores[ratings.user, ratings.item] = -np.inf
    found = fit.recommend(k=k)
    np.testing.assert_array_equal(found.code, best_items(scores, k))
    np.testing.assert_array_equal(found.item, ratings.items.ids[found.code])
    chosen = np.take_along_axis(scores, found.code, axis=1)
    np.testing.assert_allclose(found.score, chosen, atol=1e-5)


def test_groups_of_items_give_the_same_ranking_as_all(fit: RatingsFit) -> None:
    # 90 items are fewer than 4 k groups; with k = 1 they are more: both ways are taken above.
    assert 4 * 1 * ranking.GROUP <= 90 < 4 * 4 * ranking.GROUP
    scores = score_table(fit)
    found = fit.recommend(k=1, exclude=None)
    np.testing.assert_array_equal(found.code, best_items(scores, 1))


def test_candidates_and_given_exclusions(fit: RatingsFit, ratings: Ratings) -> None:
    some = ratings.items.ids[[3, 40, 41, 7]]
    scores = np.full((60, 90), -np.inf)
    columns = [3, 40, 41, 7]
    scores[:, columns] = score_table(fit)[:, columns]
    one = ratings.select(np.flatnonzero(ratings.item == 3))
    scores[one.user, 3] = -np.inf
    found = fit.recommend(k=2, candidates=some.tolist(), exclude=one)
    np.testing.assert_array_equal(found.code, best_items(scores, 2))


def test_few_left_are_marked(fit: RatingsFit, ratings: Ratings) -> None:
    user = int(ratings.user[0])
    seen = np.flatnonzero(np.isin(np.arange(90), ratings.item[ratings.user == user]))
    unseen = np.setdiff1d(np.arange(90), seen)
    candidates = ratings.items.ids[[*seen[:4], unseen[0]]].tolist()
    found = fit.recommend(ratings.users.ids[user], k=3, candidates=candidates)
    assert found.code[0, 0] == unseen[0]
    assert found.code[0, 1:].tolist() == [-1, -1]
    assert found.item[0, 1] is None
    assert np.isnan(found.score[0, 1:]).all()


def test_bounds_and_draws_rank_by_the_plug_in_moments(fit: RatingsFit, ratings: Ratings) -> None:
    user = ratings.users.ids[5]
    pairs = [(user, item) for item in ratings.items.ids]
    predicted = fit.predict(pairs, interval=0.8)
    # The interval of a rating has the noise in it, that of a score has not.
    score_sd = np.sqrt(np.maximum(predicted.sd**2 - 0.5**2, 0))
    half = 1.2815515655446004 * score_sd
    for rank_by, value in (("lower", predicted.mean - half), ("upper", predicted.mean + half)):
        found = fit.recommend(user, k=5, exclude=None, rank_by=rank_by, interval=0.8)
        best = np.sort(value)[::-1][:5]
        np.testing.assert_allclose(value[found.code[0]], best, atol=1e-4)
    first = fit.recommend(user, k=5, rank_by="thompson", key=1)
    again = fit.recommend(user, k=5, rank_by="thompson", key=1)
    np.testing.assert_array_equal(first.code, again.code)
    others = [fit.recommend(user, k=5, rank_by="thompson", key=key).code[0, 0] for key in range(20)]
    assert len(set(others)) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 91}, r"k is 91.* from 1 to 90"),
        ({"k": 0}, "k is 0"),
        ({"k": 2.0}, r"k is 2\.0"),
        ({"rank_by": "best"}, "rank_by is 'best'"),
        ({"rank_by": "thompson"}, "thompson"),
        ({"candidates": [123456]}, "123456"),
        ({"candidates": []}, "(?i)empty|no item|no candidates"),
        ({"exclude": "all"}, "exclude"),
        ({"interval": 1.5}, "interval is 1.5"),
    ],
)
def test_bad_requests_are_refused(fit: RatingsFit, arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fit.recommend(**arguments)


def test_all_items_excluded_names_the_user(fit: RatingsFit, ratings: Ratings) -> None:
    user = ratings.users.ids[2]
    own = ratings.items.ids[ratings.item[ratings.user == 2]].tolist()
    with pytest.raises(ValueError, match=rf"excluded.*{user}|{user}.*excluded"):
        fit.recommend(user, k=1, candidates=own)


def test_unknown_ids_get_the_prior_and_a_flag(fit: RatingsFit, ratings: Ratings) -> None:
    item = ratings.items.ids[4]
    predicted = fit.predict([(99_999, item), (99_999, 88_888)])
    point = fit.point()
    np.testing.assert_allclose(
        predicted.mean, [point["intercept"] + point["item_bias"][4], point["intercept"]], rtol=1e-6
    )
    assert predicted.known_user.tolist() == [False, False]
    assert predicted.known_item.tolist() == [True, False]
    prior = 1.0 + 1.0 + 3 * 0.5**2 * 0.5**2  # both biases, and the product of the factors
    np.testing.assert_allclose(predicted.sd[1], np.sqrt(prior + 0.5**2), rtol=1e-5)


def test_similar_items_are_the_largest_cosines(fit: RatingsFit, ratings: Ratings) -> None:
    factors = fit.point()["item_factors"]
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    found = fit.similar_items(ratings.items.ids[[0, 7]].tolist(), k=3)
    np.testing.assert_allclose(found.score, -np.sort(-cosine[[0, 7]], axis=1)[:, :3], atol=1e-5)


def test_fold_in_is_the_mode_of_the_new_rows() -> None:
    with jax.enable_x64(True):
        known = simulate_ratings(
            key=1, num_users=30, num_items=20, num_ratings=300, num_factors=2,
            likelihood="bernoulli",
        ).ratings  # fmt: skip
        model = MatrixFactorization(2, Bernoulli(), user_scale=0.7, intercept=0.3)
        fit = fit_als(model, known, key=0, num_sweeps=10)
        new = Ratings.from_frame(
            {"user": [-5, -5, -5, -6], "item": known.items.ids[:4], "rating": [1.0, 0, 1, 1]}
        )
        grown = fit.fold_in(new)
        (observations,) = model.arguments(grown.data)
        point = {name: jnp.asarray(value) for name, value in grown.point().items()}
        gradient = jax.jit(jax.grad(model.objective))(point, observations)
        codes = grown.data.users.encode([-5, -6])
        assert float(jnp.abs(gradient["user_factors"][codes]).max()) < 1e-6
        assert float(jnp.abs(gradient["user_bias"][codes]).max()) < 1e-6
        for name in ("item_factors", "item_bias", "intercept"):
            np.testing.assert_array_equal(grown.point()[name], fit.point()[name])
        np.testing.assert_array_equal(grown.point()["user_bias"][:30], fit.point()["user_bias"])


def test_intervals_of_a_new_user_shrink(fit: RatingsFit, ratings: Ratings) -> None:
    item = ratings.items.ids[50]
    widths = []
    for count in (0, 3, 40):
        grown = fit
        if count:
            new = {"user": [-1] * count, "item": ratings.items.ids[:count], "rating": [3.0] * count}
            grown = fit.fold_in(Ratings.from_frame(new))
        widths.append(float(grown.predict([(-1, item)]).sd[0]))
    assert widths[0] > widths[1] > widths[2]


def test_fold_in_needs_scales_where_each_user_has_one(ratings: Ratings) -> None:
    model = MatrixFactorization(1, user_scale=np.full(60, 0.5))
    fit = fit_als(model, ratings, key=0, num_sweeps=2)
    new = Ratings.from_frame({"user": [-1], "item": [ratings.items.ids[0]], "rating": [3.0]})
    with pytest.raises(ValueError, match="user_scale"):
        fit.fold_in(new)
    assert fit.fold_in(new, user_scale=0.5).data.num_users == 61


IDS = {
    "integers": [2**40, 7, 2**40 + 1],
    "text": ["b", "a", "ç"],
    "UUIDs": [uuid.UUID(int=i) for i in (5, 3, 9)],
}


@pytest.mark.parametrize("kind", IDS)
def test_save_and_load_give_the_same_fit(kind: str, tmp_path: Path) -> None:
    ids = IDS[kind]
    data = Ratings.from_frame(
        {
            "user": [ids[0], ids[0], ids[1], ids[2]],
            "item": [ids[0], ids[1], ids[2], ids[1]],
            "rating": [1.0, 2, 3, 4],
            "w": [1.0, 2, 1, 1],
            "t": np.array(["2024-01-01"] * 4, "M8[D]"),
            "fold": [1, 2, 1, 2],
        },
        weight="w", time="t", keep=["fold"], item_features={"item": ids, "title": ["x", "y", "z"]},
    )  # fmt: skip
    model = MatrixFactorization(2, user_scale=np.array([0.5, 0.6, 0.7]), intercept="learned")
    fit = fit_als(model, data, key=0, num_sweeps=5)
    fit.save(tmp_path / "fit")
    again = load(tmp_path / "fit")
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(again.samples[name], value)
    before, after = fit.predict(data), again.predict(data)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.lower, after.lower)
    assert again.data.users == fit.data.users
    assert again.data.item_labels([0, 1, 2]).tolist() == fit.data.item_labels([0, 1, 2]).tolist()
    np.testing.assert_array_equal(again.data.time, data.time)
    np.testing.assert_array_equal(again.data.columns["fold"], data.columns["fold"])
    np.testing.assert_array_equal(again.history.objective, fit.history.objective)
    fit.save(tmp_path / "fit")  # over the old one


@pytest.mark.parametrize("file", ["fit.json", "arrays.0.safetensors"])
def test_truncated_files_are_named(fit: RatingsFit, tmp_path: Path, file: str) -> None:
    fit.save(tmp_path / "fit")
    path = tmp_path / "fit" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{file}.*truncated"):
        load(tmp_path / "fit")
    path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=file):
        load(tmp_path / "fit")


class Trap:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (exec, ("raise RuntimeError('unpickled')",))


def test_pickles_and_foreign_files_are_never_opened(fit: RatingsFit, tmp_path: Path) -> None:
    pickled = tmp_path / "fit.pkl"
    pickled.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"is a file|not a saved fit"):
        load(pickled)
    fit.save(tmp_path / "fit")
    (tmp_path / "fit" / "arrays.0.safetensors").write_bytes(pickled.read_bytes())
    with pytest.raises(ValueError, match="is truncated or was altered"):
        load(tmp_path / "fit")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=r"fit\.json"):
        load(foreign)
    (foreign / "fit.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="not written by probmf"):
        load(foreign)


def test_save_spares_what_is_not_a_fit(fit: RatingsFit, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="not a saved fit"):
        fit.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "keep me"


def test_ids_without_a_file_form_are_refused(tmp_path: Path) -> None:
    data = Ratings.from_frame({"user": [("a", 1), ("b", 2)], "item": [1, 2], "rating": [1.0, 2.0]})
    fit = fit_als(MatrixFactorization(1), data, key=0, num_sweeps=2)
    with pytest.raises((ValueError, TypeError), match="user"):
        fit.save(tmp_path / "fit")
    assert not (tmp_path / "fit").exists()


def test_arviz_has_the_users_ids(fit: RatingsFit, ratings: Ratings) -> None:
    tree = fit.to_arviz()
    point = tree["point"]
    assert point["user_factors"].dims == ("chain", "draw", "user", "factor")
    np.testing.assert_array_equal(point["user"].values, ratings.users.ids)
    np.testing.assert_array_equal(
        point["item_bias"].sel(item=ratings.items.ids[3]).values.ravel(),
        fit.point()["item_bias"][3],
    )
    assert tree["observed_data"]["rating"].sizes == {"rating_row": 1500}

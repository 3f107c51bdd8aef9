"""Simulated ratings against the law they should follow, and MovieLens files in both formats."""

import itertools
import tracemalloc

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probmf import metrics
from probmf.datasets import load_movielens, simulate_catalogue, simulate_ratings
from probmf.datasets.pairs import _draw_by_ranking, _draw_by_rejection, draw_pairs
from probmf.datasets.simulation import invent_titles

SMALL = {"num_users": 60, "num_items": 40, "num_ratings": 700, "num_factors": 3}


def scores(truth, ratings):
    """The linear predictor written out again, from the truth and the codes of the ratings."""
    products = truth["user_factors"][ratings.user] * truth["item_factors"][ratings.item]
    biases = truth["user_bias"][ratings.user] + truth["item_bias"][ratings.item]
    return truth["intercept"] + biases + products.sum(axis=1)


# ---- pairs


@given(st.data())
@settings(deadline=None)
def test_pairs_are_distinct_and_leave_nobody_out(data):
    num_users, num_items = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    num_ratings = data.draw(st.integers(max(num_users, num_items), num_users * num_items))
    popularity = data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0, 200.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    user, item = draw_pairs(rng, num_users, num_items, num_ratings, popularity)
    assert user.shape == item.shape == (num_ratings,)
    assert len(set(zip(user.tolist(), item.tolist(), strict=True))) == num_ratings
    assert set(user.tolist()) == set(range(num_users))
    assert set(item.tolist()) == set(range(num_items))


@pytest.mark.parametrize("draw", [_draw_by_ranking, _draw_by_rejection])
def test_both_ways_draw_users_one_by_one_in_proportion_to_activity(monkeypatch, draw):
    monkeypatch.setattr("probmf.datasets.pairs._BLOCK_ENTRIES", 10_000)
    activity = np.array([0.5, 0.25, 0.15, 0.1])
    num_draws, num_taken = 40_000, 2
    items, degree = np.arange(num_draws), np.full(num_draws, num_taken)
    user, item = draw(np.random.default_rng(0), items, degree, np.log(activity))
    assert np.array_equal(np.bincount(item), degree)
    chosen = np.zeros((num_draws, 4), bool)
    chosen[item, user] = True
    for pair in itertools.combinations(range(4), num_taken):
        expected = sum(
            activity[first] * activity[second] / (1 - activity[first])
            for first, second in itertools.permutations(pair)
        )
        found = chosen[:, pair].all(axis=1).mean()
        error = np.sqrt(expected * (1 - expected) / num_draws)
        assert found == pytest.approx(expected, abs=4.5 * error)


def test_popularity_is_a_power_law_and_activity_log_normal():
    num_users, num_items = 4000, 1000
    for popularity in (0.7, 1.0, 1.4):
        rng = np.random.default_rng(1)
        user, item = draw_pairs(rng, num_users, num_items, 60_000, popularity)
        degree = np.sort(np.bincount(item))[::-1]
        rank = np.arange(1, num_items + 1) + num_items / 50
        well_off = degree > 20  # below, rounding to whole ratings is felt
        slope = np.polyfit(np.log(rank[well_off]), np.log(degree[well_off]), 1)[0]
        assert slope == pytest.approx(-popularity, abs=0.02)
        log_degree = np.log(np.bincount(user))
        assert np.std(log_degree) == pytest.approx(1.0, abs=0.15)


def test_without_popularity_all_items_are_alike():
    _, item = draw_pairs(np.random.default_rng(0), 50, 30, 400, 0.0)
    assert set(np.bincount(item)) == {400 // 30, 400 // 30 + 1}


def test_memory_grows_with_the_ratings_only():
    tracemalloc.start()
    draw_pairs(np.random.default_rng(0), 100_000, 100_000, 100_000, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000 * 8 * 20


# ---- simulate_ratings


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_score_belongs_to_truth_and_codes(likelihood):
    simulation = simulate_ratings(key=3, likelihood=likelihood, **SMALL)
    ratings, truth = simulation.ratings, simulation.truth
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (60, 40, 700)
    np.testing.assert_allclose(simulation.score, scores(truth, ratings), rtol=1e-12)
    assert np.array_equal(ratings.users.decode(ratings.user), ratings.user + 1)
    assert np.array_equal(ratings.items.decode(ratings.item), ratings.item + 1)
    shapes = {name: value.shape for name, value in truth.items()}
    noise = {"noise_scale": ()} if likelihood == "gaussian" else {}
    scales = ["user_scale", "item_scale", "user_bias_scale", "item_bias_scale"]
    assert shapes == noise | dict.fromkeys([*scales, "intercept"], ()) | {
        "user_bias": (60,),
        "item_bias": (40,),
        "user_factors": (60, 3),
        "item_factors": (40, 3),
    }


def test_scores_do_not_depend_on_the_blocks(monkeypatch):
    whole = simulate_ratings(key=3, **SMALL).score
    monkeypatch.setattr("probmf.datasets.simulation._BLOCK_RATINGS", 32)
    np.testing.assert_array_equal(simulate_ratings(key=3, **SMALL).score, whole)


def test_truth_attains_the_noise_floor():
    size = {"num_users": 800, "num_items": 500, "num_ratings": 60_000, "num_factors": 3}
    gaussian = simulate_ratings(key=1, noise_scale=0.7, **size)
    assert gaussian.noise_floor == 0.7
    rmse = metrics.rmse(gaussian.ratings.rating, gaussian.score)
    assert rmse == pytest.approx(0.7, abs=4 * 0.7 / np.sqrt(2 * 60_000))
    binary = simulate_ratings(key=1, likelihood="bernoulli", intercept=-0.5, **size)
    assert set(binary.ratings.rating) == {0.0, 1.0}
    probability = 1 / (1 + np.exp(-binary.score))
    loss = metrics.log_loss(binary.ratings.rating, probability)
    assert loss == pytest.approx(binary.noise_floor, abs=0.01)
    assert binary.ratings.rating.mean() == pytest.approx(probability.mean(), abs=0.01)
    assert 0 < binary.noise_floor < np.log(2)


def test_effects_have_their_scales():
    truth = simulate_ratings(
        key=0,
        num_users=3000,
        num_items=2000,
        num_ratings=3000,
        num_factors=4,
        user_scale=0.2,
        item_scale=0.9,
        user_bias_scale=0.1,
        item_bias_scale=1.3,
        intercept=2.0,
        with_titles=False,
    ).truth
    for site, scale in {
        "user_factors": "user_scale",
        "item_factors": "item_scale",
        "user_bias": "user_bias_scale",
        "item_bias": "item_bias_scale",
    }.items():
        values = truth[site]
        error = truth[scale] / np.sqrt(2 * values.size)
        assert np.sqrt(np.mean(values**2)) == pytest.approx(truth[scale], abs=4 * error)
    assert truth["intercept"] == 2.0


def test_defaults_of_the_intercept():
    assert simulate_ratings(key=0, **SMALL).truth["intercept"] == 3.5
    assert simulate_ratings(key=0, likelihood="bernoulli", **SMALL).truth["intercept"] == 0.0


def test_what_is_switched_off_is_left_out():
    simulation = simulate_ratings(
        key=0, **SMALL | {"num_factors": 0}, user_bias_scale=0.0, item_bias_scale=0, noise_scale=0
    )
    assert simulation.truth.keys() == {"intercept", "noise_scale"}
    assert np.all(simulation.ratings.rating == 3.5)
    assert simulation.noise_floor == 0.0


def test_same_key_same_data_and_pairs_shared_by_the_likelihoods():
    first, again, other = (simulate_ratings(key=key, **SMALL) for key in (5, 5, 6))
    assert np.array_equal(first.ratings.rating, again.ratings.rating)
    assert np.array_equal(first.ratings.user, again.ratings.user)
    assert not np.array_equal(first.ratings.rating, other.ratings.rating)
    binary = simulate_ratings(key=5, likelihood="bernoulli", intercept=3.5, **SMALL)
    assert np.array_equal(first.ratings.item, binary.ratings.item)
    assert np.array_equal(first.score, binary.score)
    typed = simulate_ratings(key=jax.random.key(5), **SMALL)
    assert len(typed.ratings) == 700


def test_extreme_sizes():
    full = simulate_ratings(key=0, num_users=7, num_items=5, num_ratings=35, num_factors=1)
    assert full.ratings.density == 1.0
    single = simulate_ratings(key=0, num_users=1, num_items=1, num_ratings=1, num_factors=1)
    assert len(single.ratings) == 1
    fewest = simulate_ratings(key=0, num_users=9, num_items=4, num_ratings=9, num_factors=1)
    assert set(fewest.ratings.user_degree) == {1}


def test_titles_are_unique_and_lie_at_their_codes():
    titles = invent_titles(10_000)
    assert len(set(titles)) == 10_000
    assert invent_titles(50) == titles[:50]
    assert titles[4096] == titles[0] + " 2"
    ratings = simulate_ratings(key=0, **SMALL).ratings
    assert ratings.item_features.column_names == ["item", "title"]
    assert ratings.item_features["title"].to_pylist() == titles[:40]
    assert ratings.item_features["item"].to_pylist() == list(range(1, 41))
    assert simulate_ratings(key=0, with_titles=False, **SMALL).ratings.item_features is None


def test_catalogue():
    catalogue = simulate_catalogue(key=0)
    ratings = catalogue.ratings
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (600, 300, 30_000)
    inside = metrics.coverage(ratings.rating, np.full(30_000, 1.0), np.full(30_000, 5.5))
    assert inside > 0.95
    assert "title" in ratings.item_features.column_names


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_users": 0}, ValueError, r"num_users is 0; it must be at least 1"),
        ({"num_items": 2.0}, TypeError, r"num_items is 2\.0 of type float; give a whole number"),
        ({"num_factors": -1}, ValueError, r"num_factors is -1; it must be at least 0"),
        ({"num_factors": True}, TypeError, r"num_factors is True of type bool"),
        ({"num_ratings": 59}, ValueError, r"num_ratings is 59, .* from 60 .* to 2400"),
        ({"num_ratings": 2401}, ValueError, r"num_ratings is 2401, .* to 2400"),
        ({"likelihood": "poisson"}, ValueError, r"likelihood is 'poisson'; expected one of"),
        ({"likelihood": "bernoulli", "noise_scale": 1.0}, ValueError, r"has no noise of its own"),
        ({"noise_scale": -0.1}, ValueError, r"noise_scale is -0\.1; .* at least 0"),
        ({"user_scale": 0.0}, ValueError, r"user_scale is 0; .* num_factors=0"),
        ({"item_scale": "1"}, TypeError, r"item_scale is '1' of type str; give one number"),
        ({"user_bias_scale": np.nan}, ValueError, r"user_bias_scale is nan; it must be finite"),
        ({"item_bias_scale": np.ones(3)}, TypeError, r"item_bias_scale is array"),
        ({"intercept": np.inf}, ValueError, r"intercept is inf; it must be finite\."),
        ({"popularity": -1.0}, ValueError, r"popularity is -1; .* at least 0"),
        ({"key": "seed"}, TypeError, r"key is 'seed'"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        simulate_ratings(**{"key": 0} | SMALL | change)


# ---- load_movielens

U_DATA = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t5\t881250950\n"
U_ITEM = (
    "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|"
    "0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    '302|Cité des "enfants" perdus, La (1995)|19-Sep-1997||http://us.imdb.com/M/|'
    "0|0|0|0|0|0|1|0|0|0|1|0|0|1|0|0|1|0|0\n"
    "303|Never rated||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
)
RATINGS_DAT = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
MOVIES_DAT = (
    "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
    '1193::Ça: One "Flew", Over the Cuckoo\'s Nest (1975)::Drama\n'
    "2::Never rated (1995)::Drama\n"
)


def write(folder, **files):
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text.encode("latin-1"))
    return folder


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_movielens_100k(tmp_path, newline):
    files = {"u_data": U_DATA, "u_item": U_ITEM}
    write(tmp_path, **{name: text.replace("\n", newline) for name, text in files.items()})
    ratings = load_movielens(str(tmp_path))
    assert ratings.users.decode(ratings.user).tolist() == [196, 186, 196]
    assert ratings.items.decode(ratings.item).tolist() == [242, 302, 302]
    assert ratings.rating.tolist() == [3.0, 3.0, 5.0]
    assert ratings.time.tolist() == [881250949, 891717742, 881250950]
    assert ratings.item_features.to_pylist() == [
        {"item": 242, "title": "Kolya (1996)", "genres": "Comedy"},
        {
            "item": 302,
            "title": 'Cité des "enfants" perdus, La (1995)',
            "genres": "Crime|Film-Noir|Mystery|Thriller",
        },
    ]


def test_movielens_1m(tmp_path):
    ratings = load_movielens(write(tmp_path, ratings_dat=RATINGS_DAT, movies_dat=MOVIES_DAT))
    assert ratings.users.decode(ratings.user).tolist() == [1, 1, 2]
    assert ratings.items.decode(ratings.item).tolist() == [1193, 661, 1193]
    assert ratings.rating.tolist() == [5.0, 3.0, 4.0]
    assert ratings.item_features.to_pylist() == [
        {
            "item": 661,
            "title": "James and the Giant Peach (1996)",
            "genres": "Animation|Children's|Musical",
        },
        {
            "item": 1193,
            "title": 'Ça: One "Flew", Over the Cuckoo\'s Nest (1975)',
            "genres": "Drama",
        },
    ]


def test_missing_movielens_files_are_named(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"nowhere is missing, expected a folder"):
        load_movielens(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither u\.data .* nor ratings\.dat"):
        load_movielens(tmp_path)
    write(tmp_path, ratings_dat=RATINGS_DAT)
    with pytest.raises(NotADirectoryError, match=r"ratings\.dat is a file, expected a folder"):
        load_movielens(tmp_path / "ratings.dat")
    with pytest.raises(FileNotFoundError, match=r"movies\.dat is missing"):
        load_movielens(tmp_path)
    write(tmp_path, u_data=U_DATA)
    with pytest.raises(FileNotFoundError, match=r"u\.item is missing"):
        load_movielens(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1::2::3::4\n1::2::3\n", r"ratings\.dat is not in the format.*Row #2: Expected 4.*'::'"),
        ("1::2::three::4\n", r"ratings\.dat is not in the format.*three"),
        ("", r"ratings\.dat is not in the format.*[Ee]mpty"),
    ],
)
def test_malformed_movielens_files_are_refused(tmp_path, text, message):
    write(tmp_path, ratings_dat=text, movies_dat=MOVIES_DAT)
    with pytest.raises(ValueError, match=message):
        load_movielens(tmp_path)

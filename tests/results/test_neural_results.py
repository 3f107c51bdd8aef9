"""Fits of neural factorizations: predictions and rankings are those of loops; storage keeps all."""

from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import expit
from scipy.stats import norm

from probmf import (
    MLP,
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    NeuralFactorization,
    NeuralFit,
    Ordinal,
    Ratings,
    Sampling,
)
from probmf.diagnostics import summary
from probmf.results import Fit
from probmf.results.directory import MANIFEST

# User "eli" and item 5 have a rating of weight zero: they are known ids without any data.
DATA = Ratings.from_frame(
    {
        "user": ["ann", "ann", "bob", "bob", "cho", "cho", "eli"],
        "item": [1, 2, 1, 3, 2, 4, 5],
        "rating": [1, 0, 1, 1, 0, 1, 1],
        "weight": [1, 1, 1, 2, 1, 1, 0],
    },
    weight="weight",
)
LAYERS = MLP((3,), "relu", weight_scale=(dist.HalfNormal(1.0), 0.5))
MODEL = NeuralFactorization(
    2, LAYERS, likelihood=Gaussian(dist.HalfNormal(1.0)), item_scale=dist.HalfNormal(1.0),
    user_scale=np.full(4, 0.5),
)  # fmt: skip


def make_fit(model: NeuralFactorization = MODEL, chains: int = 2, draws: int = 3) -> NeuralFit:
    rng = np.random.default_rng(1)
    (arrays,) = model.arguments(DATA)
    shapes = {"intercept": ()} | model.site_shapes(arrays)
    samples = {site: rng.normal(size=(chains, draws, *shape)) for site, shape in shapes.items()}
    samples |= {s: rng.uniform(0.5, 1.5, size=(chains, draws)) for s in model.random_scales()}
    if "cutpoints" in samples:
        samples["cutpoints"] = np.sort(samples["cutpoints"])
    sampling = None if chains * draws == 1 else Sampling({}, 10, 0.1, True, {})
    return NeuralFit(model, DATA, samples, "nuts" if sampling else "map", sampling=sampling)


FIT = make_fit()
POINT = make_fit(NeuralFactorization(2, MLP((3,), "relu"), False, Bernoulli()), 1, 1)


def scores(fit: NeuralFit, m: int, n: int) -> np.ndarray:
    """Scores of a pair at every draw, by loops."""
    found = []
    for chain in range(fit.num_chains):
        for draw in range(fit.num_draws):
            own = {site: value[chain, draw] for site, value in fit.samples.items()}
            u, v = own["user_factors"][m], own["item_factors"][n]
            h = np.concatenate([u, v]) @ own["network_weight_0"] + own["network_bias_0"]
            score = np.maximum(h, 0) @ own["network_weight_1"][:, 0] + own["network_bias_1"][0]
            score += own["intercept"] + own["user_bias"][m] + own["item_bias"][n]
            found.append(score + (u @ v if fit.model.product else 0.0))
    return np.array(found)


def test_predictions_of_draws_are_mixtures() -> None:
    predicted = FIT.predict([("bob", 4), ("ann", 1)], interval=0.8, at_least=0.5)
    noise = FIT.samples["noise_scale"].ravel()
    assert predicted.lower is not None
    for line, (m, n) in enumerate([(1, 3), (0, 0)]):
        each = scores(FIT, m, n)
        assert predicted.mean[line] == pytest.approx(each.mean(), rel=1e-5)
        spread = np.sqrt(each.var() + np.mean(noise**2))
        assert predicted.sd[line] == pytest.approx(spread, rel=1e-5)  # type: ignore[index]
        below = norm.cdf(predicted.lower[line], each, noise).mean()
        assert below == pytest.approx(0.1, abs=1e-4)
        above = norm.cdf(each - 0.5, 0, noise).mean()
        assert predicted.probability[line] == pytest.approx(above, rel=1e-4)  # type: ignore[index]


def test_a_point_predicts_probabilities_and_rows_of_the_prior() -> None:
    predicted = POINT.predict([("bob", 4), ("eli", 1), ("zoe", 1), ("ann", 9), ("zoe", 9)])
    assert predicted.known_user.tolist() == [True, False, False, True, False]
    assert predicted.known_item.tolist() == [True, True, True, False, False]
    assert predicted.mean[0] == pytest.approx(expit(scores(POINT, 1, 3)[0]), rel=1e-5)
    # A row without data has its prior, whatever the fit happens to hold.
    assert predicted.mean[1] == predicted.mean[2]
    own = {site: value[0, 0] for site, value in POINT.samples.items()}
    # A grid of the user's bias and two factors.
    grid = np.linspace(-6, 6, 49)
    b, *u = (x.ravel() for x in np.meshgrid(grid, grid, grid))
    mass = np.exp(-0.5 * (b**2 + u[0] ** 2 + u[1] ** 2))
    u = np.column_stack(u)
    v = np.broadcast_to(own["item_factors"][0], u.shape)
    h = np.maximum(np.hstack([u, v]) @ own["network_weight_0"] + own["network_bias_0"], 0)
    score = own["intercept"] + b + own["item_bias"][0]
    score = score + h @ own["network_weight_1"][:, 0] + own["network_bias_1"][0]
    # Of 256 random draws the standard error would be 0.02.
    assert predicted.mean[2] == pytest.approx(np.average(expit(score), weights=mass), abs=0.002)
    with pytest.raises(ValueError, match="a point fit does not know how well it knows its factors"):
        POINT.predict([("ann", 1)], interval=0.9)


def test_with_a_network_of_zeros_predictions_are_those_of_plain_factorization() -> None:
    likelihood = Ordinal((0, 1, 2), cutpoints=(-1.0, 1.0))
    model = NeuralFactorization(2, MLP((3,)), likelihood=likelihood)
    start = make_fit(model, 1, 1).point()
    zeros = {s: np.zeros_like(x) if s.startswith("network") else x for s, x in start.items()}
    fit = NeuralFit.from_point(model, DATA, zeros, history=None, method="map")
    plain = MatrixFactorization(2, likelihood)
    rows = {site: x for site, x in start.items() if not site.startswith("network")}
    other = Fit.from_point(plain, DATA, rows, method="map")
    pairs = [("ann", 1), ("bob", 4), ("cho", 3)]
    own, wanted = fit.predict(pairs), other.predict(pairs, interval=None)
    np.testing.assert_allclose(own.probabilities, wanted.probabilities, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(own.mean, wanted.mean, rtol=1e-5)


@pytest.mark.parametrize("fit", [FIT, POINT], ids=["draws", "point"])
def test_recommendations_are_those_of_brute_force(
    fit: NeuralFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of eight users, and of four items whose hidden layer is computed at once.
    monkeypatch.setattr("probmf.results.neural_draws.BLOCK_SCORES", 1)
    monkeypatch.setattr(type(fit.draws), "_block", lambda self, count: 4)
    users, items = list(DATA.users.ids), list(DATA.items.ids)
    predicted = fit.predict([(user, item) for user in users for item in items])
    table = predicted.mean.reshape(len(users), len(items))
    found = fit.recommend(k=3)
    seen = set(zip(DATA.user.tolist(), DATA.item.tolist(), strict=True))
    for m in range(len(users)):
        left = [n for n in range(len(items)) if (m, n) not in seen]
        best = sorted(left, key=lambda n: (-table[m, n], n))[:3]
        assert found.code[m].tolist() == best
        np.testing.assert_allclose(found.score[m], table[m, best], rtol=1e-5)
    stranger = fit.recommend(["zoe", "ann"], 5, exclude=None, at_least=1)
    assert stranger.known_user.tolist() == [False, True]
    wanted = fit.predict([("zoe", item) for item in items], at_least=1)
    order = np.argsort(-wanted.mean, kind="stable")
    np.testing.assert_allclose(stranger.score[0], wanted.mean[order], rtol=1e-5)
    np.testing.assert_allclose(
        stranger.probability[0], wanted.probability[stranger.code[0]], rtol=1e-5
    )  # type: ignore[index]
    some = fit.recommend("bob", 2, candidates=[2, 4, 1])
    assert set(some.item[0]) <= {2, 4}
    full = fit.recommend(k=5)
    assert full.item[0, 4] is None
    assert full.code[0, 4] == -1


def test_storage_keeps_everything(tmp_path: Path) -> None:
    for fit in (FIT, POINT):
        fit.save(tmp_path / "fit")
        back = NeuralFit.load(tmp_path / "fit")
        assert repr(back) == repr(fit)
        assert back.model.network.hidden == fit.model.network.hidden
        assert back.model.product == fit.model.product
        for site, value in fit.samples.items():
            np.testing.assert_array_equal(back.samples[site], value)
        np.testing.assert_array_equal(back.predict(DATA).mean, fit.predict(DATA).mean)
        np.testing.assert_array_equal(back.recommend(k=2).code, fit.recommend(k=2).code)
    FIT.save(tmp_path / "fit")
    back = NeuralFit.load(tmp_path / "fit")
    assert isinstance(back.model.item_scale, dist.HalfNormal)
    np.testing.assert_array_equal(np.asarray(back.model.user_scale), 0.5)
    assert isinstance(back.model.network.weight_scale, tuple)
    assert isinstance(back.model.network.weight_scale[0], dist.HalfNormal)
    with pytest.raises(ValueError, match="was not written by probmf's Fit"):
        Fit.load(tmp_path / "fit")
    manifest = tmp_path / "fit" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"product"', '"producer"'))
    with pytest.raises(ValueError, match="save the fit again"):
        NeuralFit.load(tmp_path / "fit")


def test_arviz_names_users_items_and_inputs() -> None:
    tree = FIT.to_arviz(log_likelihood=True, posterior_predictive=True, key=0)
    factors = tree["posterior"]["item_factors"]
    assert factors.dims == ("chain", "draw", "item", "factor")
    weights = tree["posterior"]["network_weight_0"]
    assert weights.dims == ("chain", "draw", "network_input", "network_hidden_0")
    chosen = weights.sel(network_input="item factor 1").values
    np.testing.assert_array_equal(chosen, FIT.samples["network_weight_0"][:, :, 3])
    density = tree["log_likelihood"]["rating"].values.reshape(6, -1)
    wanted = norm.logpdf(0, scores(FIT, 0, 1), FIT.samples["noise_scale"].ravel())
    np.testing.assert_allclose(density[:, 1], wanted, rtol=1e-4)
    assert tree["posterior_predictive"]["rating"].shape == (2, 3, 7)
    assert "point" in POINT.to_arviz()
    with pytest.raises(ValueError, match="draws at random; give key="):
        FIT.to_arviz(posterior_predictive=True)


def test_convergence_is_judged_on_scores() -> None:
    text = str(summary(make_fit(draws=20)))
    for name in ("prediction", "user_bias", "noise_scale", "network_weight_scale_0"):
        assert name in text
    assert "network_weight_0" not in text


def test_similar_items_are_by_cosine() -> None:
    found = POINT.similar_items(1, k=4)
    factors = POINT.point()["item_factors"]
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    np.testing.assert_allclose(found.score[0], np.sort(unit[1:] @ unit[0])[::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.fold_in(DATA), r"not linear in the row\. Fit again with the new ratings"),
        (lambda fit: fit.extend(user_features={}), r"Use MatrixFactorization\(user_mean="),
        (lambda fit: fit.choose_next("ann"), r"compare predict\(\.\.\.\)\.sd of a fit of many"),
        (lambda fit: fit.predict([("ann", 1)], interval=1.5), "interval is 1.5"),
        (lambda fit: fit.predict([("ann", 1)], at_least=np.nan), "at_least is nan"),
        (lambda fit: fit.recommend("ann", 9), "k is 9; expected a whole number from 1 to 5"),
        (lambda fit: fit.recommend("ann", 1, candidates=[8]), "8"),
        (
            lambda fit: fit.recommend("ann", 1, candidates=[1, 2]),
            "All 2 candidates are excluded for user 'ann'",
        ),
    ],
)
def test_bad_questions_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(FIT)


def test_draws_are_checked() -> None:
    lacking = {site: x for site, x in FIT.samples.items() if site != "user_bias"}
    with pytest.raises(ValueError, match="samples lacks 'user_bias'"):
        NeuralFit(MODEL, DATA, lacking, "nuts", FIT.sampling)
    misshapen = {**FIT.samples, "network_bias_0": np.zeros((2, 3, 7))}
    with pytest.raises(ValueError, match="network_bias_0 has shape"):
        NeuralFit(MODEL, DATA, misshapen, "nuts", FIT.sampling)

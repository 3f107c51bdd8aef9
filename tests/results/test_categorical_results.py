"""Fits of classes: probabilities and rankings are those of loops; storage and ArviZ keep all."""

from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import CategoricalFactorization, CategoricalFit, Ratings, Sampling
from probmf.diagnostics import summary
from probmf.results.directory import MANIFEST

LABELS = ("dislike", "neutral", "like")
DATA = Ratings.from_frame(
    {
        "user": ["ann", "ann", "bob", "bob", "cho", "cho"],
        "item": [1, 2, 1, 3, 2, 4],
        "rating": [0, 1, 2, 2, 1, 0],
    }
)
MODEL = CategoricalFactorization(
    2, LABELS, dist.Normal(0.0, 2.0), item_scale=dist.HalfNormal(1.0), user_scale=0.5
)


def make_fit(num_chains: int = 2, num_draws: int = 3) -> CategoricalFit:
    rng = np.random.default_rng(1)
    shapes = MODEL.row_shapes(DATA.num_users, DATA.num_items) | {"intercept": (3,)}
    leading = (num_chains, num_draws)
    samples = {site: rng.normal(size=(*leading, *shape)) for site, shape in shapes.items()}
    samples["item_scale"] = rng.uniform(0.5, 1.5, size=leading)
    sampling = Sampling({}, 10, 0.1, True, {})
    return CategoricalFit(MODEL, DATA, samples, "nuts", sampling=sampling)


FIT = make_fit()


def by_loops(fit: CategoricalFit, m: int, n: int) -> np.ndarray:
    """Probabilities of a pair's classes at every draw."""
    found = []
    for chain in range(fit.num_chains):
        for draw in range(fit.num_draws):
            own = {site: value[chain, draw] for site, value in fit.samples.items()}
            scores = own["intercept"] + own["user_bias"][m] + own["item_bias"][n]
            scores = scores + own["item_factors"][n] @ own["user_factors"][m]
            found.append(np.exp(scores) / np.exp(scores).sum())
    return np.array(found)


def test_predictions_are_averages_of_softmaxes() -> None:
    pairs = [("bob", 4), ("ann", 1)]
    predicted = FIT.predict(pairs, interval=0.5)
    assert predicted.user.tolist() == ["bob", "ann"]
    for line, (m, n) in enumerate([(1, 3), (0, 0)]):
        each = by_loops(FIT, m, n)
        np.testing.assert_allclose(predicted.probability[line], each.mean(axis=0), rtol=1e-12)
        assert predicted.label[line] == LABELS[int(np.argmax(each.mean(axis=0)))]
        for values, wanted in (
            (predicted.sd, each.std(axis=0)),
            (predicted.lower, np.quantile(each, 0.25, axis=0)),
            (predicted.upper, np.quantile(each, 0.75, axis=0)),
        ):
            assert values is not None
            np.testing.assert_allclose(values[line], wanted, rtol=1e-12)
    table = predicted.to_arrow()
    assert table.column_names[:4] == ["user", "item", "label", "probability of dislike"]
    assert table["upper of like"].to_pylist() == predicted.upper[:, 2].tolist()  # type: ignore[index]
    assert len(FIT.predict()) == len(DATA)
    assert repr(predicted).startswith("ClassPredictions(2 pairs, the first '")


def test_recommendations_rank_by_the_probability_of_wanted_classes() -> None:
    for wanted, codes in (("like", [2]), (["like", "neutral"], [1, 2])):
        found = FIT.recommend("bob", 2, wanted=wanted)
        chance = {n: by_loops(FIT, 1, n)[:, codes].sum(axis=1).mean() for n in (1, 3)}
        best = sorted(chance, key=lambda n: -chance[n])
        assert found.code[0].tolist() == best
        np.testing.assert_allclose(found.score[0], [chance[n] for n in best], rtol=1e-12)
    everyone = FIT.recommend(k=3, wanted="like")
    assert len(everyone) == 3
    assert (everyone.code[:, 2] == -1).all()
    assert everyone.item[0, 2] is None
    assert FIT.recommend("ann", 4, wanted="like", exclude=None).code.min() == 0
    assert FIT.recommend("ann", 1, wanted="like", candidates=[4]).item.tolist() == [[4]]


def test_a_point_averages_over_the_prior_of_rows_without_ratings() -> None:
    """User "eli" and item 5 have a rating of weight zero; against a grid, and random draws."""
    data = Ratings.from_frame(
        {
            "user": ["ann", "bob", "ann", "eli"],
            "item": [1, 1, 2, 5],
            "rating": [0, 1, 2, 0],
            "weight": [1.0, 1.0, 1.0, 0.0],
        },
        weight="weight",
    )
    model = CategoricalFactorization(1, 2 + 1, user_bias=False, user_scale=1.5, item_scale=0.8)
    rng = np.random.default_rng(1)
    shapes = model.row_shapes(3, 3) | {"intercept": (3,)}
    parameters = {site: rng.normal(size=shape) for site, shape in shapes.items()}
    fit = CategoricalFit.from_point(model, data, parameters, history=None, method="by hand")
    found = fit.predict([("ann", 2), ("eli", 2), ("bob", 5), ("eli", 5)]).probability
    own = {site: value[0, 0] for site, value in fit.samples.items()}

    def average(u: np.ndarray, bias: np.ndarray, v: np.ndarray, mass: Any = None) -> np.ndarray:
        scores = own["intercept"] + bias + u[:, None] * v
        chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return np.average(chance, axis=0, weights=mass)

    bias, v = own["item_bias"], own["item_factors"][:, :, 0]
    known = average(own["user_factors"][0], bias[1], v[1])
    np.testing.assert_allclose(found[0], known, rtol=1e-6)
    grid = np.linspace(-8, 8, 401)
    stranger = average(1.5 * grid, bias[1], v[1], np.exp(-0.5 * grid**2))
    np.testing.assert_allclose(found[1], stranger, atol=1e-3)
    noise = rng.normal(size=(7, 200_000))
    item = average(np.repeat(own["user_factors"][1], 200_000), noise[:3].T, 0.8 * noise[3:6].T)
    both = average(1.5 * noise[6], noise[:3].T, 0.8 * noise[3:6].T)
    np.testing.assert_allclose(found[2:], [item, both], atol=0.01)
    best = fit.recommend("eli", 3, wanted=2, exclude=None)
    np.testing.assert_array_equal(best.score[0], -np.sort(-best.score[0]))
    assert best.score[0, best.item[0].tolist().index(2)] == pytest.approx(found[1, 2])


def test_storage_keeps_everything(tmp_path: Path) -> None:
    FIT.save(tmp_path / "fit")
    back = CategoricalFit.load(tmp_path / "fit")
    assert back.model.labels == LABELS
    assert isinstance(back.model.item_scale, dist.HalfNormal)
    assert isinstance(back.model.intercept, dist.Normal)
    assert back.model.user_scale == 0.5
    assert repr(back) == repr(FIT)
    for site, value in FIT.samples.items():
        np.testing.assert_array_equal(back.samples[site], value)
    np.testing.assert_array_equal(back.predict().probability, FIT.predict().probability)
    manifest = tmp_path / "fit" / MANIFEST
    manifest.write_text(manifest.read_text().replace("item_bias_scale", "item_bias_size"))
    with pytest.raises(ValueError, match="save the fit again"):
        CategoricalFit.load(tmp_path / "fit")


def test_arviz_names_the_classes() -> None:
    tree = FIT.to_arviz(log_likelihood=True, posterior_predictive=True, key=0)
    factors = tree["posterior"]["item_factors"]
    assert factors.dims == ("chain", "draw", "item", "class", "factor")
    assert tree["posterior"]["intercept"].coords["class"].values.tolist() == list(LABELS)
    chosen = factors.sel({"item": 3, "class": "like"}).values
    np.testing.assert_array_equal(chosen, FIT.samples["item_factors"][:, :, 2, 2])
    density = tree["log_likelihood"]["rating"].values.reshape(6, -1)
    for row, (m, n, code) in enumerate(zip(DATA.user, DATA.item, DATA.rating, strict=True)):
        wanted = np.log(by_loops(FIT, m, n)[:, int(code)])
        np.testing.assert_allclose(density[:, row], wanted, rtol=1e-4, atol=1e-5)
    drawn = tree["posterior_predictive"]["rating"].values
    assert drawn.shape == (2, 3, 6)
    assert set(np.unique(drawn)) <= {0, 1, 2}
    with pytest.raises(ValueError, match="draws at random; give key="):
        FIT.to_arviz(posterior_predictive=True)


def test_convergence_is_judged_on_probabilities() -> None:
    text = str(summary(make_fit(2, 20)))
    for name in ("prediction", "intercept", "item_scale"):
        assert name in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.predict([("ann", 1), ("dan", 1)]), "Row 1 has user 'dan', which has no"),
        (lambda fit: fit.predict([("ann", 9)]), "Row 0 has item 9, which has no ratings"),
        (lambda fit: fit.predict(interval=1.5), "interval is 1.5"),
        (lambda fit: fit.recommend("ann", 1, wanted="love"), "wanted holds 'love', which is no"),
        (lambda fit: fit.recommend("ann", 1, wanted=[]), "name one class or several"),
        (lambda fit: fit.recommend("ann", 1, wanted=list(LABELS)), "but not all"),
        (lambda fit: fit.recommend("ann", 9, wanted="like"), "k is 9; expected a whole number"),
        (
            lambda fit: fit.recommend("ann", 1, wanted="like", candidates=[1, 2]),
            "All 2 candidates are excluded for user 'ann'",
        ),
        (lambda fit: fit.recommend("dan", 1, wanted="like"), "dan"),
    ],
)
def test_bad_questions_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(FIT)


def test_a_point_fit_has_no_interval_and_draws_are_checked() -> None:
    model = CategoricalFactorization(0, LABELS, user_bias=False)
    values = {"item_bias": np.zeros((4, 3))}
    fit = CategoricalFit.from_point(model, DATA, values, history=None, method="map")
    np.testing.assert_allclose(fit.predict([("ann", 3)]).probability, 1 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="a point fit does not know how well"):
        fit.predict(interval=0.9)
    with pytest.raises(ValueError, match="samples lacks 'intercept'"):
        CategoricalFit(model, DATA, {"item_bias": np.zeros((1, 1, 4, 3))}, "map")

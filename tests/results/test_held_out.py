"""Predictions beside test responses, of ratings and of mixed models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toys
from rings import slow

from probmf import metrics
from probmf.data import Ratings, rating_table
from probmf.diagnostics.evaluation import evaluation
from probmf.inference.default_fit import default_model
from probmf.inference.gibbs.plan import Plan
from probmf.inference.gibbs.starting_points import start_scales
from probmf.inference.point.als import fit_als
from probmf.inference.starts import prepare_validation
from probmf.likelihoods import Bernoulli, Gaussian, Ordinal, StudentT
from probmf.likelihoods.base import Predicted
from probmf.models import MatrixFactorization, MixedEffects
from probmf.results import MixedFit, RatingsFit
from probmf.results.held_out import held_out

SHAPE = (1, 30)


def table(seed: int, response: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    count = len(response)
    return {"y": response, "x": rng.normal(size=count), "g": np.arange(count) % 4}


def made(model: MixedEffects, data: dict[str, Any]) -> MixedFit:
    """A fit whose draws are numbers near one, its cutpoints in order."""
    rng = np.random.default_rng(0)
    design = model.design(data)
    shapes = model.sites(design).shapes("y")
    samples: dict[str, Any] = {
        site: rng.normal(1, 0.1, (*SHAPE, *shape)) for site, shape in shapes.items()
    }
    if "cutpoints" in samples:
        samples["cutpoints"] = np.sort(samples["cutpoints"], axis=-1)
    return MixedFit(model, design, samples, "made")


def test_errors_and_coverage_of_a_mixed_model() -> None:
    rng = np.random.default_rng(1)
    fit = made(MixedEffects("y ~ x + (1 | g)"), table(2, rng.normal(2, 1, 40)))
    test = table(3, rng.normal(2, 1, 20)) | {"g": [9, *range(4)] * 4}
    found = held_out(fit, test, interval=0.8)
    predicted = fit.predict(test, interval=0.8, unseen="prior", kind="response")
    np.testing.assert_array_equal(found.predicted.mean, predicted.mean)
    rmse = np.sqrt(np.mean((test["y"] - predicted.mean) ** 2))
    assert found.errors()["RMSE"] == pytest.approx(rmse)
    training = np.asarray(fit.design.data.response, np.float64)
    constant = np.sqrt(np.mean((test["y"] - training.mean()) ** 2))
    scores = evaluation(fit, test)
    assert scores.constant["RMSE"] == pytest.approx(constant)
    ends = fit.predict(test, interval=0.5, unseen="prior", kind="response")
    assert ends.lower is not None
    inside = np.mean((ends.lower <= test["y"]) & (test["y"] <= ends.upper))
    assert scores.coverage["0.5"] == pytest.approx(inside)
    assert not scores.ranking


@pytest.mark.parametrize("likelihood", [Gaussian(0.8), Bernoulli(), Ordinal(5)], ids=repr)
def test_errors_stand_beside_those_of_the_means_of_items(likelihood: Any) -> None:
    rng = np.random.default_rng(5)
    most = 1 if isinstance(likelihood, Bernoulli) else 5
    user, item = np.nonzero(rng.random((12, 7)) < 0.6)
    rating = rng.integers(0 if most == 1 else 1, most + 1, len(user)).astype(float)
    weight = None if isinstance(likelihood, Ordinal) else rng.uniform(0.5, 2.0, len(user))
    frame = {"user": user, "item": item, "rating": rating}
    data = Ratings.from_frame(frame | ({} if weight is None else {"w": weight}),
                              weight=None if weight is None else "w")  # fmt: skip
    model = MatrixFactorization(1, likelihood)
    values = {site: np.zeros(shape) for site, shape in model.site_shapes(12, 7).items()}
    if isinstance(likelihood, Ordinal):
        values["cutpoints"] = np.arange(4.0)
    fit = RatingsFit.from_point(model, data, {"intercept": 0.0, **values}, method="made")
    stars = rng.permutation([most, most, most - 1.0, most])
    asked = {"user": [0, 1, 2, 3], "item": [*data.items.ids[:3], 99], "rating": stars}
    test = Ratings.from_frame(asked)
    weights = np.ones(len(user)) if weight is None else weight
    constant = np.average(rating, weights=weights)
    mean = []
    for own in test.items.decode(test.item):
        here = item == own
        total = np.sum(weights[here] * rating[here]) + weights.mean() * constant
        mean.append(total / (np.sum(weights[here]) + weights.mean()))
    found = evaluation(fit, test, (5,))
    name, expected = "RMSE", metrics.rmse(test.rating, mean)
    if most == 1:
        name, expected = "log loss", metrics.log_loss(test.rating, mean)
    assert found.item_means[name] == pytest.approx(expected)
    if isinstance(likelihood, Gaussian):
        codes = np.searchsorted(np.unique(item), item)
        own = np.array([
            (np.sum((weights * rating)[codes == n]) + weights.mean() * constant)
            / (np.sum(weights[codes == n]) + weights.mean()) for n in range(codes.max() + 1)
        ])[codes]  # fmt: skip
        sd = np.sqrt(np.average((rating - own) ** 2, weights=weights))
        score = metrics.log_score(test.rating, mean, np.full(4, sd))
        assert found.item_means["log score"] == pytest.approx(score)
    assert found.error_table.column_names == ["measure", "this fit", "constant", "item mean"]


RESPONSES: dict[str, Any] = {
    "lognormal": lambda rng: rng.lognormal(1.0, 0.7, 40),
    "hurdlepoisson": lambda rng: rng.poisson(4, 40) * (rng.random(40) < 0.6),
    "ordinal": lambda rng: 1 + np.arange(40) % 4,
}


@pytest.mark.parametrize("kind", slow(RESPONSES, "hurdlepoisson"))
def test_coverage_is_that_of_the_intervals_of_skewed_responses(kind: str) -> None:
    rng = np.random.default_rng(4)
    fit = made(MixedEffects("y ~ x + (1 | g)", likelihood=kind), table(2, RESPONSES[kind](rng)))
    test = table(3, RESPONSES[kind](rng)) | {"g": [*range(3), 9] * 10}
    found = held_out(fit, test)
    for level in (0.3, 0.5, 0.9):
        ends = fit.predict(test, interval=level, unseen="prior", kind="response")
        assert ends.lower is not None
        inside = np.mean((ends.lower <= test["y"]) & (test["y"] <= ends.upper))
        assert found.covered(level) == pytest.approx(inside)
    reached = [
        fit.predict(test, interval=None, unseen="prior", at_least=at).probability
        for at in (*test["y"][:8],)
    ]
    for row, chance in enumerate(reached):
        assert chance is not None
        assert 1 - found.below[row] == pytest.approx(chance[row], abs=1e-9)


def test_no_level_reaches_the_threshold() -> None:
    fit = made(MixedEffects("y ~ x + (1 | g)", likelihood="ordinal"), table(2, np.arange(40) % 3))
    with pytest.raises(ValueError, match="at_least is 5, and no rating reaches it: the highest is"):
        fit.predict(at_least=5)


@pytest.mark.parametrize("kind", slow(["gaussian", "yes/no", "levels"], "levels"))
def test_blocks_of_ratings_are_judged_as_all_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory in any order, and opened from files; to rounding, and opened ones bit for bit."""
    own: dict[str, Any] = {"gaussian": Gaussian(0.5), "yes/no": Bernoulli(), "levels": Ordinal(3)}
    train, test = toys.ratings(kind).split_within_users(key=1, test_fraction=0.4)
    fit = fit_als(MatrixFactorization(2, own[kind]), train, key=0, num_sweeps=3)
    # Of a user and an item that the fit does not know.
    more = {"user": [3, 99], "item": [77, 2], "rating": [1.0, 1.0]}
    table = pa.concat_tables([test.to_arrow(), pa.table(more)])
    pq.write_table(table, tmp_path / "test.parquet")
    opened = Ratings.open(tmp_path / "test.parquet")
    by_rows = opened.select(np.arange(len(opened)))
    whole = evaluation(fit, Ratings.from_frame(table), (2, 4), relevant_from=0.5)
    monkeypatch.setattr(rating_table, "BLOCK", 5)
    in_blocks = evaluation(fit, by_rows, (2, 4), relevant_from=0.5)
    found = evaluation(fit, opened, (2, 4), relevant_from=0.5)
    for name, value in vars(in_blocks).items():
        assert getattr(found, name) == value, name
        told = getattr(whole, name)
        if name in ("errors", "constant", "item_means", "coverage"):
            assert told == pytest.approx(value, rel=1e-12), name
        elif name in ("ranking", "popular"):
            for k in ("2", "4"):
                assert told[k] == pytest.approx(value[k], rel=1e-12), name
        else:
            assert told == value, name
    assert (whole.num_unknown_user, whole.num_unknown_item) == (1, 1)


def test_a_bad_rating_is_named_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.ratings("yes/no")
    fit = fit_als(MatrixFactorization(2, Bernoulli()), data, key=0, num_sweeps=1)
    rating = data.rating.copy()
    rating[12] = 0.5
    monkeypatch.setattr(rating_table, "BLOCK", 5)
    with pytest.raises(ValueError, match=r"row 12|\b12\b"):
        evaluation(fit, replace(data, rating=rating))


def test_errors_of_events_alone_are_not_told() -> None:
    ratings = Ratings.from_frame(
        {"user": [0, 0, 1, 2, 2], "item": [0, 1, 1, 0, 2], "rating": np.ones(5)}
    )
    model = MatrixFactorization(1, Gaussian(1.0), intercept=None, unobserved_weight=0.1)
    scores = evaluation(fit_als(model, ratings, key=0, num_sweeps=2), ratings, (2,))
    assert scores.errors == {}
    assert scores.coverage == {}
    assert scores.remarks[0].startswith("All training and test data are 1, as of events")


@pytest.mark.parametrize("kind", ["gaussian", "yes/no", "levels"])
def test_a_weight_counts_a_test_rating_that_many_times(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, Any] = {
        "gaussian": Gaussian(0.5), "yes/no": Bernoulli(), "levels": Ordinal(3, cutpoints=(-1, 1)),
    }  # fmt: skip
    data = toys.ratings(kind)
    model, rng = MatrixFactorization(0, own[kind]), np.random.default_rng(0)
    values = {
        site: rng.normal(0, 0.5, shape)
        for site, shape in model.site_shapes(data.num_users, data.num_items).items()
    }
    fit = RatingsFit.from_point(model, data, {"intercept": 0.0, **values}, method="made")
    times = rng.integers(1, 4, len(data))
    weighted = replace(data, weight=times.astype(float))
    one = held_out(fit, data)
    repeated = Predicted(*(None if x is None else np.repeat(x, times, axis=0) for x in (
        one.predicted.mean, one.predicted.sd, one.predicted.probabilities)))  # fmt: skip
    expected = model.likelihood.errors(np.repeat(one.observed, times), repeated)
    monkeypatch.setattr(rating_table, "BLOCK", 5)
    found = evaluation(fit, weighted, (1,)).errors
    assert found == pytest.approx(expected)
    if kind == "gaussian":
        stop = prepare_validation(model, data, weighted)
        assert stop is not None
        assert found["RMSE"] == pytest.approx(stop.error(fit.point()))  # type: ignore[arg-type]


def test_users_who_have_rated_every_item_are_left_out_of_the_lists() -> None:
    train = {"user": [0, 0, 0, 1, 2, 2], "item": [0, 1, 2, 0, 1, 2], "rating": np.arange(6.0)}
    model = MatrixFactorization(0)
    values = {"intercept": 3.0, "user_bias": np.zeros(3), "item_bias": np.array([0.1, 0.3, 0.2])}
    fit = RatingsFit.from_point(model, Ratings.from_frame(train), values, method="made")
    both, one, none = (
        evaluation(fit, Ratings.from_frame({name: own[rows] for name, own in pairs.items()}), (1,))
        for pairs in [{"user": np.array([0, 1]), "item": np.array([1, 2]), "rating": np.ones(2)}]
        for rows in (slice(2), slice(1, 2), slice(1))
    )
    assert both.num_ranked_users == 1
    assert both.ranking == one.ranking
    told = "1 user with a relevant test item rated every item in training"
    assert [remark.startswith(told) for remark in both.remarks].count(True) == 1
    assert none.ranking == {}
    assert none.remarks[-1].startswith(told)


@pytest.mark.parametrize("words", [False, True])
def test_levels_are_those_of_training(words: bool) -> None:
    """Numbers stand for themselves, words for their places, whatever the test data hold of them."""

    def levels(codes: np.ndarray) -> Any:
        if not words:
            return codes + 1
        return pd.Categorical(
            np.array(["low", "middle", "high"])[codes], ["low", "middle", "high"], ordered=True
        )

    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, 40)
    fit = made(MixedEffects("y ~ x + (1 | g)", likelihood="ordinal"), table(2, levels(codes)))
    tested = np.array([2, 0, 2, 2])
    found = held_out(fit, table(3, levels(tested)))
    np.testing.assert_array_equal(found.observed, tested + (not words))
    np.testing.assert_array_equal(found.training, codes + (not words))
    chance = np.asarray(found.predicted.probabilities)
    expected = np.mean(np.log(chance[np.arange(4), tested]))
    assert found.errors()["log score"] == pytest.approx(expected)


def test_a_level_that_training_lacks() -> None:
    codes = np.arange(40) % 3
    fit = made(MixedEffects("y ~ x + (1 | g)", likelihood="ordinal"), table(2, codes))
    with pytest.raises(ValueError, match=r"'y' is 3.0 in row 1, a level that the training data"):
        held_out(fit, table(3, np.array([0, 3])))


def test_responses_that_do_not_suit() -> None:
    fit = made(MixedEffects("y ~ x + (1 | g)", likelihood="bernoulli"), table(2, np.arange(40) % 2))
    with pytest.raises(ValueError, match="The response 'y' does not suit: A Bernoulli likelihood"):
        held_out(fit, table(3, np.array([0, 3])))
    with pytest.raises(TypeError, match="fit is a str, expected a RatingsFit or a MixedFit"):
        held_out("fit", {})  # type: ignore[arg-type]


def test_levels_and_thresholds_in_single_precision_are_the_levels() -> None:
    """4.4 in single precision lies above 4.4; it is that level all the same."""
    levels = np.array([1.1, 2.2, 3.3, 4.4])
    user, item = np.divmod(np.arange(48), 6)
    rating = levels[np.random.default_rng(0).integers(4, size=48)]
    exact, single = (
        Ratings.from_frame({"user": user, "item": item, "rating": values})
        for values in (rating, rating.astype(np.float32))
    )
    fit = fit_als(MatrixFactorization(0, Ordinal((*levels, 5.5), cutpoints=(-2, -1, 1, 2))), exact,
                  key=0)  # fmt: skip
    found = [held_out(fit, test) for test in (exact, single)]
    np.testing.assert_array_equal(found[0].at_most, found[1].at_most)
    np.testing.assert_array_equal(found[0].below, found[1].below)
    for level in levels:
        wide, narrow = (
            fit.predict(exact, at_least=float(at)).probability for at in (level, np.float32(level))
        )
        np.testing.assert_array_equal(wide, narrow)


def test_ratings_of_weight_zero_are_left_out_of_everything() -> None:
    """Of starts, priors by the data, strengths by row, and what predictions are compared with."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(60), 6)
    weight = (rng.random(60) < 0.7) * rng.uniform(0.5, 2.0, 60)
    rating = np.where(weight > 0, rng.normal(3, 1, 60), 1e4)
    table = {"user": user, "item": item, "rating": rating, "w": weight}
    whole = Ratings.from_frame(table, weight="w", items=range(9))
    kept = whole.select(weight > 0)
    noise = StudentT(dist.HalfNormal(1.0))
    options: Any = {"regularization": 1.0, "per_rating": True, "loss": "mean"}
    of_strength = [MatrixFactorization.from_l2(2, ratings=own, **options) for own in (whole, kept)]
    np.testing.assert_array_equal(of_strength[0].user_scale, of_strength[1].user_scale)
    model = MatrixFactorization(1, noise, user_scale=dist.HalfNormal(1.0))
    bases = [float(model.arguments(own)[0].base_score) for own in (whole, kept)]
    starts = [start_scales(model, own, Plan.of(model)) for own in (whole, kept)]
    widths = [default_model(own, 2).likelihood.noise_scale.scale for own in (whole, kept)]
    assert (bases[0], widths[0], starts[0]) == (bases[1], widths[1], starts[1])
    fits = [fit_als(MatrixFactorization(1), own, key=0, num_sweeps=3) for own in (whole, kept)]
    first, second = (evaluation(fit, kept, (3,)) for fit in fits)
    again = evaluation(fits[0], whole, (3,))
    assert (again.num_ratings, again.errors, again.ranking) == (
        first.num_ratings, first.errors, first.ranking
    )  # fmt: skip
    assert first.constant == second.constant
    assert first.item_means == second.item_means
    spread = np.sqrt(np.average(np.square(kept.rating - kept.mean), weights=kept.weight))
    assert Gaussian().constant(kept.rating, kept.weight, 1).sd[0] == pytest.approx(spread)

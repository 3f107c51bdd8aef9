"""Predictions, storage, fold-in and the command line with ordinal ratings."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from probmf import MatrixFactorization, Ordinal, Ratings, fit_als, load, metrics, plots
from probmf.cli.app import app
from probmf.results import RatingsFit

LEVELS = (0.5, 1.0, 2.0, 3.0)


def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((9, 8)) < 0.7)
    return {"user": user, "item": item, "rating": rng.choice(LEVELS, len(user))}


@pytest.fixture(scope="module")
def fit() -> RatingsFit:
    model = MatrixFactorization(1, Ordinal(LEVELS, cutpoint_scale=3.0, link="probit"))
    return fit_als(model, Ratings.from_frame(table()), key=0, num_sweeps=8)


def test_a_point_fit_adds_the_score_uncertainty(fit: RatingsFit) -> None:
    predicted = fit.predict([(0, 0), (5, 3), (99, 1)], interval=0.8)
    user, item = np.asarray([0, 5, -1]), np.asarray([0, 3, 1])
    score, variance = fit._conditionals.means(user, item), fit._conditionals.variances(user, item)
    ends = np.concatenate([[-np.inf], fit.point()["cutpoints"], [np.inf]])
    below = stats.norm.cdf((ends - score[:, None]) / np.sqrt(1 + variance)[:, None])
    wanted = np.diff(below, axis=1)
    assert predicted.levels == LEVELS
    np.testing.assert_allclose(predicted.probabilities, wanted, rtol=1e-4)
    np.testing.assert_allclose(predicted.mean, wanted @ LEVELS, rtol=1e-4)
    moments = fit.model.likelihood.integrate(
        score, np.sqrt(variance), {"cutpoints": jnp.asarray(fit.point()["cutpoints"])}
    )
    np.testing.assert_allclose(predicted.mean, moments[0], rtol=1e-4)
    np.testing.assert_allclose(predicted.sd, moments[1], rtol=1e-4)
    for line, low, high in zip(below[:, 1:], predicted.lower, predicted.upper, strict=True):
        assert low == LEVELS[int(np.argmax(line >= 0.1))]
        assert high == LEVELS[int(np.argmax(line >= 0.9))]
    assert "probability of 0.5" in predicted.to_arrow().column_names
    quick = fit.predict([(0, 0)], interval=None)
    assert quick.sd is None
    assert quick.probabilities is not None


def test_recommendations_are_ranked_by_mean(fit: RatingsFit) -> None:
    best = fit.recommend(0, k=8, exclude=None, interval=0.9)
    means = fit.predict(([0] * 8, list(range(8))), interval=None).mean
    assert best.code[0].tolist() == np.argsort(-means, kind="stable").tolist()
    np.testing.assert_allclose(best.score[0], np.sort(means)[::-1], rtol=1e-5)
    assert best.lower is not None
    assert set(best.lower[0]) <= set(LEVELS)


def test_cutpoints_that_are_numbers_are_saved(tmp_path: Path) -> None:
    model = MatrixFactorization(1, Ordinal(LEVELS, (-1.0, 0.1, 1 / 3), 4.1))
    rng, ratings = np.random.default_rng(1), Ratings.from_frame(table())
    shapes = model.site_shapes(ratings.num_users, ratings.num_items) | {"intercept": ()}
    values = {site: rng.normal(size=shape) for site, shape in shapes.items()}
    fit = RatingsFit.from_point(model, ratings, values, method="made")
    fit.save(tmp_path / "fit")
    back = load(tmp_path / "fit")
    assert back.model.likelihood == model.likelihood
    pairs = [(0, 1), (2, 2)]
    before, after = (own.predict(pairs, interval=None).probabilities for own in (fit, back))
    np.testing.assert_array_equal(after, before)


def test_a_fit_without_its_cutpoints_is_refused(fit: RatingsFit) -> None:
    parameters = {site: value for site, value in fit.point().items() if site != "cutpoints"}
    with pytest.raises(ValueError, match="cutpoints has shape None"):
        RatingsFit.from_point(fit.model, fit.data, parameters, method="none")


def test_new_users_need_not_use_every_level(fit: RatingsFit) -> None:
    new = Ratings.from_frame({"user": [50, 50], "item": [0, 1], "rating": [3.0, 3.0]})
    grown = fit.fold_in(new)
    assert grown.predict([(50, 2)]).mean > fit.predict([(50, 2)]).mean
    np.testing.assert_array_equal(grown.point()["cutpoints"], fit.point()["cutpoints"])
    with pytest.raises(ValueError, match="none of the levels"):
        fit.fold_in(Ratings.from_frame({"user": [50], "item": [0], "rating": [7.0]}))


def test_log_score_of_levels() -> None:
    chance = np.asarray([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    found = metrics.level_log_score([4, 2, 2], chance, [2, 4], weight=[1, 1, 0])
    assert found == pytest.approx((np.log(0.8) + np.log(0.5)) / 2)
    assert metrics.level_log_score([4], [[1.0, 0.0]], [2, 4]) == -np.inf
    with pytest.raises(ValueError, match="must be one of the levels"):
        metrics.level_log_score([3], [[0.5, 0.5]], [2, 4])
    with pytest.raises(ValueError, match=r"shape \(1, 2\); expected \(2, 2\)"):
        metrics.level_log_score([2, 4], [[0.5, 0.5]], [2, 4])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        metrics.level_log_score([2], [[1.5, -0.5]], [2, 4])


def test_calibration_of_levels(fit: RatingsFit) -> None:
    ax = plots.calibration(fit, fit.data).axes[0]
    assert "rating of at least" in ax.get_xlabel()
    plots.predicted_vs_observed(fit, fit.data)


def test_command_line(tmp_path: Path) -> None:
    path, folder = tmp_path / "ratings.csv", tmp_path / "fit"
    lines = [",".join(map(str, line)) for line in zip(*table().values(), strict=True)]
    path.write_text("user,item,rating\n" + "\n".join(lines))
    given = ["fit", str(path), "--out", str(folder), "--method", "als", "--likelihood", "ordinal"]
    result = CliRunner().invoke(app, [*given, "--num-factors", "1", "--num-sweeps", "3"])
    assert result.exit_code == 0, result.output
    assert load(folder).model.likelihood == Ordinal(LEVELS)
    result = CliRunner().invoke(app, ["evaluate", str(folder), str(path), "--json", "-k", "3"])
    assert result.exit_code == 0, result.output
    errors = json.loads(result.stdout)
    assert errors["errors"]["log score"] > errors["constant"]["log score"]
    assert errors["errors"].keys() == {"RMSE", "MAE", "log score"}
    assert errors["coverage"]["0.9"] >= 0.8

"""Successes among trials: the yes/no answers that they count, and what is refused."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import pytest
import toys
from numpyro.infer.util import log_density
from scipy import special

from probmf import Binomial, MatrixFactorization, MixedEffects, fit_als, load
from probmf.results import MixedFit

RNG = np.random.default_rng(4)
TABLE = toys.mixed() | {"n": RNG.integers(1, 9, 40)}
TABLE["y"] = RNG.binomial(TABLE["n"], 0.4)
MODEL = MixedEffects("y | trials(n) ~ x + (1 | g)", likelihood="binomial")


def test_successes_are_as_likely_as_the_answers_that_they_count() -> None:
    """Up to the number of ways in which they can come."""
    answers: dict[str, list[Any]] = {"y": [], "x": [], "g": []}
    for row, trials in enumerate(TABLE["n"]):
        answers["y"] += [1] * TABLE["y"][row] + [0] * (trials - TABLE["y"][row])
        answers["x"] += [TABLE["x"][row]] * trials
        answers["g"] += [TABLE["g"][row]] * trials
    (data,) = MODEL.arguments(TABLE)
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(MODEL).get_trace(data)
    latent = {
        name: site["value"] for name, site in trace.items()
        if site["type"] == "sample" and name != "y"
    }  # fmt: skip
    each = MixedEffects("y ~ x + (1 | g)", likelihood="bernoulli")
    found = []
    for model, own in ((MODEL, data), (each, each.arguments(answers)[0])):
        own.priors["coefficients"] = data.priors["coefficients"]  # Those of scaled columns differ.
        own.priors["g_scale"] = data.priors["g_scale"]
        density = jax.jit(lambda v, m=model, d=own: log_density(m, (d,), {}, v)[0])
        found.append(float(density(latent)))
    ways = np.sum(np.log(special.binom(TABLE["n"], TABLE["y"])))
    assert found[0] - found[1] == pytest.approx(ways, abs=1e-3)


def test_predictions_are_of_the_trials_asked_for(tmp_path: Path) -> None:
    design = MODEL.design(TABLE)
    samples = {
        site: RNG.normal(1.0, 0.1, (2, 8, *shape))
        for site, shape in MODEL.sites(design).shapes("y").items()
    }
    fit = MixedFit(MODEL, design, samples, "made", data=TABLE)
    new = {"x": [0.0, 0.0], "g": [1, 1], "n": [1, 50]}
    mean = fit.predict(new).mean
    assert mean[1] == pytest.approx(50 * mean[0])
    told = fit.predict(new, kind="response")
    assert told.lower is not None
    assert told.upper is not None
    assert (told.lower >= 0).all()
    assert (told.upper <= new["n"]).all()
    assert told.upper[1] > told.lower[1]
    with pytest.raises(ValueError, match="no column 'n'"):
        fit.predict({"x": [0.0], "g": [1]})
    assert fit.to_arviz(log_likelihood=True)["log_likelihood"]["y"].shape == (2, 8, 40)
    fit.save(tmp_path / "fit")
    np.testing.assert_array_equal(load(tmp_path / "fit").predict().mean, fit.predict().mean)


def test_ratings_of_one_number_of_trials_fit() -> None:
    model = MatrixFactorization(2, Binomial(5), user_scale=0.5, item_scale=0.5)
    ratings = toys.ratings("levels")
    predicted = fit_als(model, ratings, key=0, num_sweeps=4).predict(ratings, interval=0.9)
    assert (predicted.upper <= 5).all()
    assert (np.abs(predicted.mean - 2.0) < 2.0).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": [1, 2, *[9] * 38], "y": [0, 3, *[1] * 38]}, r"row 1 has 3 .* 0, 1 to 2, its trials"),
        ({"n": [1, 0, *[9] * 38]}, "trials of at least 1, but row 1 has 0"),
        ({"n": [1, 2.5, *[9] * 38]}, "whole numbers of trials .* row 1 has 2.5"),
        ({"y": [-1, *[0] * 39]}, "row 0 has -1"),
        ({"y": [0.5, *[0] * 39]}, "row 0 has 0.5"),
    ],
)
def test_bad_successes(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"response 'y' does not suit: .*{message}"):
        MODEL.design(TABLE | columns)


@pytest.mark.parametrize(
    ("formula", "likelihood", "message"),
    [
        ("y ~ x", "binomial", "neither says how many trials"),
        ("y | trials(n) ~ x", Binomial(3), "both say how many trials"),
        ("y | trials(n) ~ x", "poisson", "use likelihood='binomial'"),
        ("y | trials(10) ~ x", "binomial", r"likelihood=Binomial\(10\)"),
        ("y | trials(n + m) ~ x", "binomial", "expected one column within trials"),
        ("y | weights(w) ~ x", "gaussian", "weights='w'"),
    ],
)
def test_bad_formulas(formula: str, likelihood: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedEffects(formula, likelihood=likelihood)
    with pytest.raises(ValueError, match=r"trials is 2.5; expected a whole number"):
        Binomial(2.5)  # type: ignore[arg-type]

"""What a new user is told after one natural mistake."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probmf
from probmf import MatrixFactorization, MixedEffects, Ratings, fit_als, fit_marginal, plots
from probmf.inference.grid_search import grid_search
from probmf.report import write_report

PAIRS = {"user": ["ann", "ann", "bob"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
TEXTS = {"user": [1, 2, 3], "item": [1, 2, 3], "rating": ["5", "3.5", "four"]}
MODEL = MatrixFactorization(1, user_scale=0.5, item_scale=0.5)
POINT = {"x": [0.0, 1.0, 2.0, 4.0], "g": ["a", "a", "b", "b"], "y": [0.0, 2.0, 1.0, 3.0]}
FORMULA = "y ~ x + (1 | g)"


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return Ratings.from_frame(PAIRS)


@pytest.fixture(scope="module")
def fit(ratings: Ratings) -> probmf.results.RatingsFit:
    return fit_als(MODEL, ratings, key=0)


DATA: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Ratings.from_csv("rating.csv"), FileNotFoundError, "There is no file rating.csv."),
    (lambda: Ratings.from_parquet("none"), FileNotFoundError, "There is no file or folder none."),
    (
        lambda: Ratings.from_frame(TEXTS),
        TypeError,
        "Column 'rating' must hold numbers, but row 2 holds 'four' of type str. Correct or drop",
    ),
    (
        lambda: Ratings.from_frame({**TEXTS, "rating": ["5", "3.5", "4"]}),
        TypeError,
        "row 0 holds '5' of type str. Text has to be converted first.",
    ),
    (
        lambda: Ratings.from_frame(PAIRS, item_features={"film": [1], "year": [1979]}),
        ValueError,
        "It holds the items' ids, and has the name that it has in the ratings.",
    ),
    (
        lambda: fit_marginal("y ~ x", POINT),  # type: ignore[arg-type]
        TypeError,
        "model is of type str; expected MixedEffects. Of a formula make one: MixedEffects('y ~ x')",
    ),
    (
        lambda: fit_marginal(POINT, MixedEffects("y ~ x")),  # type: ignore[arg-type]
        TypeError,
        "model is of type dict; expected MixedEffects. The model comes first, then the data.",
    ),
    (
        lambda: fit_marginal(MixedEffects(FORMULA, priors={"x": dist.Normal(0, 1)}), POINT),
        ValueError,
        "priors has the key 'x', a column: write {'coefficients': {'x': ...}} for the prior of its",
    ),
    (
        lambda: fit_marginal(
            MixedEffects("y ~ z + (1 | g)"), {**POINT, "z": ["0.1", "0.2", "0.3", "0"]}
        ),
        ValueError,
        "if a column of text holds numbers, convert it",
    ),
    (
        lambda: probmf.marginalize(None),  # type: ignore[arg-type]
        TypeError,
        "expected a NumPyro model: the function itself, not what a call of it returns.",
    ),
    (
        lambda: write_report("my-fit", "fit.html"),  # type: ignore[arg-type]
        TypeError,
        "fit is the path 'my-fit'; load the fit: probmf.load('my-fit').",
    ),
]


@pytest.mark.parametrize(("call", "kind", "told"), DATA, ids=[told[:40] for *_, told in DATA])
def test_a_mistake_in_the_data_or_the_model(
    call: Callable[[], object], kind: type[Exception], told: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=re.escape(told)):
        call()


def test_an_id_that_the_fit_does_not_know(fit: probmf.results.RatingsFit) -> None:
    told = "items is 7, and the fit has no such item; it has 2, such as 1."
    with pytest.raises(ValueError, match=re.escape(told)):
        fit.similar_items(7)
    with pytest.raises(ValueError, match=r"items holds 7, 8, 9, \.\.\., and the fit has no such"):
        fit.similar_items([1, 7, 8, 9, 10])


def test_other_results_than_a_plot_takes(fit: probmf.results.RatingsFit) -> None:
    told = "recommended is of type Predictions; expected Recommendations, as from fit.recommend("
    with pytest.raises(TypeError, match=re.escape(told)):
        plots.recommendations(fit.predict([("ann", 1)]))  # type: ignore[arg-type]


def test_one_number_of_factors_is_no_search(ratings: Ratings) -> None:
    with pytest.raises(TypeError, match=re.escape("num_factors is 4; expected the numbers to try")):
        grid_search(MODEL, ratings, ratings, key=0, num_factors=4, multiples=[1.0])  # type: ignore[arg-type]


def test_a_group_that_is_out_of_range() -> None:
    def model(group: np.ndarray, y: np.ndarray) -> None:
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("groups", 2):
            effect = numpyro.sample("effect", dist.Normal(0.0, scale))
        numpyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)

    group, y = np.array([0, 1, 2, 1]), np.zeros(4)
    with pytest.raises(ValueError, match="The argument number 1 indexes the site 'effect'"):
        probmf.marginalize(model).prepare(group, y)
    with pytest.raises(ValueError, match=r"The argument group indexes .* and holds 2 in row 2"):
        probmf.marginalize(model).prepare(group=group, y=y)

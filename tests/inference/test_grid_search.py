"""The search over settings: what it tries, compares and says."""

from typing import Any

import numpy as np
import pytest
from numpyro.distributions import HalfNormal

from probmf.data import Ratings
from probmf.datasets import simulate_ratings
from probmf.inference.grid_search import grid_search
from probmf.inference.point.als import fit_als
from probmf.likelihoods import Gaussian
from probmf.models import MatrixFactorization
from probmf.results import History, RatingsFit

MODEL = MatrixFactorization(3, Gaussian(0.5), user_scale=0.4, item_scale=2.0)


def ratings() -> tuple[Ratings, Ratings]:
    found = simulate_ratings(key=0, num_users=20, num_items=15, num_ratings=150, num_factors=2)
    return found.ratings.split(key=1, test_fraction=0.2)


class Method:
    """In place of a fit: errors that are known."""

    def __init__(self, errors: dict[tuple[int, float], float]) -> None:
        self.errors, self.asked = errors, []  # type: ignore[var-annotated]

    def __call__(self, model: MatrixFactorization, data: Ratings, **given: Any) -> RatingsFit:
        self.asked.append((model, data, given))
        error = self.errors[model.num_factors, round(model.user_scale / 0.4, 6)]
        shapes = model.site_shapes(data.num_users, data.num_items)
        values = {site: np.zeros(shape) for site, shape in shapes.items()}
        history = History(np.ones(2), np.array([error, 9.0]), np.array([0.5, 1.0]), 1,
                          "validation", "sweep")  # fmt: skip
        return RatingsFit.from_point(
            model, data, {"intercept": 0.0, **values}, method="made", history=history
        )


def test_every_setting_is_tried_and_the_best_is_first() -> None:
    train, test = ratings()
    errors = {(2, 0.5): 0.9, (2, 1.0): 0.7, (4, 0.5): 0.6, (4, 1.0): 0.8}
    method = Method(errors)
    found = grid_search(
        MODEL, train, test, key=3, num_factors=[2, 4], multiples=[0.5, 1.0, 1.0], method=method,
        patience=5,
    )  # fmt: skip
    assert len(method.asked) == 4
    for model, data, given in method.asked:
        assert data is train
        assert given == {"key": 3, "validation": test, "patience": 5}
        assert model.item_scale / model.user_scale == pytest.approx(5)
        assert model.likelihood == MODEL.likelihood
    assert [row["error"] for row in found.table] == sorted(errors.values())
    assert found.table.rows[0] == {
        "num_factors": 4, "multiple": 0.5, "user_scale": 0.2, "item_scale": 1.0, "error": 0.6,
        "steps": 2, "seconds": 1.0,
    }  # fmt: skip
    assert (found.model.num_factors, found.model.user_scale) == (4, 0.2)
    assert found.to_arrow().num_rows == 4
    assert "The best num_factors, 4, is the largest that was tried" in repr(found).replace(
        "\n", " "
    )
    assert "The best multiple, 0.5, is the smallest" in " ".join(found.table.notes)
    assert "num_factors" in found._repr_html_()


def test_says_nothing_of_an_edge_where_there_is_none() -> None:
    train, test = ratings()
    errors = {(1, 0.5): 0.8, (1, 1.0): 0.5, (1, 2.0): 0.7}
    found = grid_search(
        MODEL, train, test, key=0, num_factors=[1], multiples=[0.5, 1, 2], method=Method(errors)
    )
    assert found.table.notes == ()


def test_errors_are_those_of_the_fits() -> None:
    train, test = ratings()
    found = grid_search(
        MODEL, train, test, key=0, num_factors=[2], multiples=[0.5, 1.0], num_sweeps=5
    )
    for row in found.table:
        own = MatrixFactorization(
            2, Gaussian(0.5), user_scale=row["user_scale"], item_scale=row["item_scale"]
        )
        fit = fit_als(own, train, key=0, validation=test, num_sweeps=5)
        predicted = fit.predict(test, interval=None).mean
        expected = np.sqrt(np.mean((test.rating - predicted) ** 2))
        assert row["error"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"num_factors": []}, ValueError, "There is no setting to try"),
        ({"num_factors": [2.5]}, TypeError, "num_factors is 2.5; expected a whole number"),
        ({"multiples": [0.0]}, ValueError, "multiples holds 0.0; expected positive numbers"),
        (
            {"model": MatrixFactorization(2, user_scale=HalfNormal(1.0))},
            ValueError,
            "user_scale of the model has a prior, and the search tries multiples of numbers",
        ),
        (
            {"method": lambda model, data, **_: None},
            ValueError,
            "tells no held-out error in fit.history",
        ),
    ],
)
def test_bad_arguments(given: dict[str, Any], error: type[Exception], message: str) -> None:
    train, test = ratings()
    options: dict[str, Any] = {"model": MODEL, "num_factors": [2], "multiples": [1.0]} | given
    with pytest.raises(error, match=message):
        grid_search(options.pop("model"), train, test, key=0, **options)

"""Views of results in notebooks, and their tables for other packages."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from probmf import (
    Examples,
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    Network,
    Ratings,
    diagnostics,
    load,
    plots,
)
from probmf.results import History, Maximum, MixedFit, RatingsFit, Sampling
from probmf.results.records import RowMoments
from probmf.results.table import Table, shown

FRAME = {
    "customer_id": [1984, 1984, 2001], "sku": ["a<b", "c", "c"], "stars": [5.0, 3.0, 4.0],
}  # fmt: skip
ROLES = {"user": "customer_id", "item": "sku", "rating": "stars"}


@pytest.fixture(scope="module")
def fit() -> RatingsFit:
    """A point fit whose data have columns of other names, by no search."""
    data = Ratings.from_frame(FRAME, **ROLES)
    model = MatrixFactorization(1, Gaussian(1.0), intercept=4.0)
    shapes = {"intercept": ()} | model.site_shapes(2, 2)
    values = {name: np.ones(shape) for name, shape in shapes.items()}
    history = History(np.array([2.0, 1.0]), None, np.array([0.1, 0.2]), 2, "tol", "sweep")
    return RatingsFit.from_point(model, data, values, method="by hand", history=history)


@pytest.fixture(scope="module")
def mixed() -> MixedFit:
    """Draws of a mixed model, by no sampler."""
    rng = np.random.default_rng(0)
    table = {"y": rng.normal(size=12), "x": rng.normal(size=12), "g": np.arange(12) % 3}
    model = MixedEffects("y ~ x + (1 | g)")
    design = model.design(table)
    draws = {
        "coefficients": rng.normal(size=(2, 20, 2)), "g_scale": rng.gamma(3, size=(2, 20, 1)),
        "g_effects": rng.normal(size=(2, 20, 3, 1)), "noise_scale": rng.gamma(3, size=(2, 20)),
    }  # fmt: skip
    sampling = Sampling({"diverging": np.zeros((2, 20), bool)}, 10, 1.5)
    return MixedFit(model, design, draws, "nuts", sampling=sampling, data=table)


def words(of: Any) -> list[str]:
    """Texts of the cells and paragraphs of a view, which is well-formed and asks for nothing."""
    view = of._repr_html_()
    assert "http" not in view
    return ["".join(part.itertext()) for part in ET.fromstring(view).iter()]


def test_every_result_has_a_view(fit: RatingsFit, mixed: MixedFit) -> None:
    shown = [
        fit, fit.model, fit.data, fit.history, fit.predict([(1984, "c")]), fit.recommend(k=1),
        fit.similar_items("c", k=1), fit.choose_next(2001, k=1),
        fit.rank_posterior(2001, k=1, key=0), mixed, mixed.model, mixed.sampling,
        mixed.summary(), mixed.predict(), diagnostics.summary(mixed), Network(),
        fit.data.summary(), Examples.from_frame({"x": [1.0, 2.0], "y": [0.0, 1.0]}, response="y"),
    ]  # fmt: skip
    for of in shown:
        assert len(words(of)) > 2, type(of)


def test_ids_are_shown_as_they_are_and_escaped(fit: RatingsFit) -> None:
    found = words(fit.predict([(1984, "a<b")]))
    assert {"customer_id", "sku", "1984", "a<b"} <= set(found)


def test_ids_without_an_arrow_type_have_a_line() -> None:
    data = Ratings.from_frame({"user": [(1, "a"), (2, "a")], "item": [1, 2]}, rating=None)
    model = MatrixFactorization(0, Gaussian(1.0), intercept=1.0)
    shapes = {"intercept": ()} | model.site_shapes(2, 2)
    values = {name: np.ones(shape) for name, shape in shapes.items()}
    fit = RatingsFit.from_point(model, data, values, method="by hand")
    assert words(fit.recommend([(1, "a")], k=1))[-1].startswith("Recommendations(1 item for (1, 'a")


def test_results_that_hold_arrays_say_what_they_are(fit: RatingsFit) -> None:
    top = Maximum({"noise_scale": np.ones(())}, 4, 200, -300.0)
    assert repr(top) == f"Maximum({words(top)[0]})"
    assert words(top)[0].startswith("Log likelihood -300, AIC 608, BIC 621.193 (4 parameters, 200")
    assert repr(fit.data.summary()) == str(fit.data.summary())
    assert {"yes", "no"} <= set(words(Table(({"known": True}, {"known": np.bool_(False)}))))
    many = RowMoments({"user_bias": np.ones((2, 3))}, {"user_bias": np.ones((2, 3))}, 50)
    assert repr(many) == "RowMoments(mean and sd of user_bias over 50 sweeps of 2 chains)"


def test_a_long_table_says_how_many_rows_are_left_out(mixed: MixedFit) -> None:
    assert "2 more rows" in words(mixed.predict())


def test_a_page_leaves_empty_columns_out() -> None:
    rows = tuple({"name": f"row {n}", "r_hat": None, "mean": float(n)} for n in range(200))
    for table in (Table(rows), Table(rows[:3])):
        assert "r_hat" in str(table)
        assert "r_hat" not in table.to_html()
        names, cells = shown(table)  # as on the command line
        assert names == ["name", "mean"]
        assert {len(row) for row in cells} == {2}
        assert "mean" in table.to_html()


def test_a_mixed_fit_shows_its_summary(mixed: MixedFit) -> None:
    assert {"nuts", "noise_scale", "g_scale[Intercept]", "1.5 s"} <= set(words(mixed))


def test_tables_have_the_names_of_the_users_columns(fit: RatingsFit) -> None:
    pairs = {"customer_id": [1984, 2001], "sku": ["c", "a<b"]}
    predicted = fit.predict(pairs, interval=None)
    assert predicted.to_arrow().column_names[:3] == ["customer_id", "sku", "mean"]
    named = fit.recommend(k=1).to_arrow().column_names
    assert named == ["customer_id", "sku", "rank", "score"]
    assert fit.similar_items("c", k=1).to_arrow().column_names[:2] == ["sku", "similar sku"]
    assert fit.choose_next(2001, k=1).to_arrow().column_names == ["sku", "information"]
    assert fit.rank_posterior(2001, k=1, key=0).to_arrow().column_names[0] == "sku"
    with pytest.raises(ValueError, match="no column 'customer_id'"):
        fit.predict({"user": [1984], "sku": ["c"]})
    assert len(fit.predict({"user": [1984], "sku": ["c"]}, user="user")) == 1


def test_a_column_of_ids_called_as_another_has_its_role_for_a_name() -> None:
    data = Ratings.from_frame({"score": [1, 2], "item": [1, 1], "rating": [1.0, 2.0]}, user="score")
    model = MatrixFactorization(0, Gaussian(1.0), intercept=1.0)
    shapes = {"intercept": ()} | model.site_shapes(2, 1)
    values = {name: np.ones(shape) for name, shape in shapes.items()}
    fit = RatingsFit.from_point(model, data, values, method="by hand")
    assert fit.recommend(k=1, exclude=None).to_arrow().column_names[:2] == ["user", "item"]


def test_names_of_columns_are_saved_with_the_fit(fit: RatingsFit, tmp_path: Any) -> None:
    fit.save(tmp_path / "fit")
    users = load(tmp_path / "fit").data.users
    assert (users.name, users.column) == ("user", "customer_id")


def test_tables_of_pandas_and_polars(fit: RatingsFit) -> None:
    predicted = fit.predict([(1984, "c"), (2001, "a<b")], interval=None)
    assert predicted.to_pandas()["customer_id"].tolist() == [1984, 2001]
    assert predicted.to_polars()["sku"].to_list() == ["c", "a<b"]
    assert fit.history.to_pandas()["objective"].tolist() == [2.0, 1.0]


def test_a_history_is_one_line(fit: RatingsFit) -> None:
    assert repr(fit.history) == "History(2 sweeps, objective 1, stopped by tol)"


def test_plots_take_a_fit_for_its_history(fit: RatingsFit) -> None:
    drawn = [plots.convergence(given).axes[0] for given in (fit, {"": fit.history})]
    one, other = (ax.get_lines()[0].get_xydata() for ax in drawn)
    np.testing.assert_array_equal(one, other)
    assert len(plots.optimization({"a": fit, "b": fit.history}).axes) == 2

"""Plots: what the axes hold, not how it looks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, plots
from probmf.datasets import Simulation, simulate_ratings
from probmf.plots.factors import leading_directions, place_labels
from probmf.plots.style import figure_of, short_labels
from probmf.results import Estimates, History, RatingsFit, Recommendations


def simulate(likelihood: str = "gaussian") -> tuple[Simulation, RatingsFit]:
    """Ratings and a "fit" that is the truth, so that nothing has to be fitted."""
    simulation = simulate_ratings(
        key=0, num_users=40, num_items=30, num_ratings=500, num_factors=3, likelihood=likelihood
    )
    truth = simulation.truth
    model = MatrixFactorization(
        num_factors=3,
        likelihood=Gaussian(0.5) if likelihood == "gaussian" else Bernoulli(),
        intercept=float(truth["intercept"]),
        **{name: float(value) for name, value in truth.items() if name.endswith(("user_scale",
           "item_scale", "bias_scale"))},
    )  # fmt: skip
    sites = ["intercept", *model.site_shapes(1, 1)]
    values = {site: np.asarray(truth[site], np.float32) for site in sites}
    return simulation, RatingsFit.from_point(model, simulation.ratings, values, method="truth")


@pytest.fixture(scope="module")
def gaussian() -> tuple[Simulation, RatingsFit]:
    return simulate()


@pytest.fixture(scope="module")
def bernoulli() -> tuple[Simulation, RatingsFit]:
    return simulate("bernoulli")


def history(*, steps: int = 4, held_out: bool = True, unit: str = "sweep") -> History:
    objective = 10.0 + 2.0 ** -np.arange(steps)
    return History(
        objective=objective,
        validation=np.linspace(1.0, 0.5, steps) if held_out else None,
        seconds=np.arange(1.0, steps + 1),
        best=steps - 1,
        stopped="tol",
        unit=unit,
    )


def lines(ax: Axes) -> dict[str, np.ndarray]:
    """Points of every labelled line, shape (points, 2)."""
    return {
        str(line.get_label()): np.asarray(line.get_xydata())
        for line in ax.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def test_no_plot_touches_pyplot(gaussian: tuple[Simulation, RatingsFit]) -> None:
    plots.degree_distribution(gaussian[0].ratings)
    # The back end is still to be chosen: nobody has asked for a window.
    assert mpl.rcParams._get_backend_or_none() is None or mpl.get_backend().lower() == "agg"


def test_a_picture_shows_itself_in_a_notebook(gaussian: tuple[Simulation, RatingsFit]) -> None:
    picture = plots.degree_distribution(gaussian[0].ratings)
    data, metadata = picture._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG")
    assert metadata == {"width": round(100 * picture.get_figwidth())}


class TestConvergence:
    def test_one_panel_without_held_out_error(self) -> None:
        figure = plots.convergence(history(held_out=False))
        (ax,) = figure.axes
        assert isinstance(figure, Figure)
        assert ax.get_yscale() == "log"
        assert ax.get_xlabel() == "sweeps"

    def test_objective_is_the_share_above_the_lowest(self) -> None:
        figure = plots.convergence({"a": history(), "b": history(steps=6, unit="epoch")})
        objective, held_out = figure.axes
        lowest = 10 + 2.0**-5
        x, y = lines(objective)["a"].T
        np.testing.assert_allclose(x, [1, 2, 3, 4])
        np.testing.assert_allclose(y, (10 + 2.0 ** -np.arange(4) - lowest) / lowest)
        assert objective.get_xlabel() == "sweeps or epochs"
        assert list(lines(held_out)) == ["a", "b"]
        # The lowest itself has no place on a logarithmic axis.
        assert np.isnan(lines(objective)["b"][-1, 1])

    def test_kept_step_has_a_dot(self) -> None:
        held_out = plots.convergence(history()).axes[1]
        (dot,) = [line for line in held_out.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose(dot.get_xydata(), [[3, 1.0 - 2 * 0.5 / 3]])

    def test_against_seconds(self) -> None:
        figure = plots.convergence({"a": history(held_out=False)}, against="seconds")
        assert "seconds" in figure.axes[0].get_xlabel()

    def test_restarts_are_thin_lines(self) -> None:
        restarts = np.stack([history().objective, history().objective + 1])
        run = replace(history(held_out=False), restarts=restarts)
        assert len(plots.convergence(run).axes[0].get_lines()) == 3

    def test_given_axes_are_drawn_into(self) -> None:
        own = Figure()
        axes = own.subplots(1, 2)
        assert plots.convergence(history(), ax=axes) is own
        assert plots.convergence(history(), ax=axes[0]) is own
        assert len(own.axes) == 2

    def test_a_very_long_run_beside_a_short_one_gets_a_log_axis(self) -> None:
        figure = plots.convergence({"a": history(steps=3), "b": history(steps=30)})
        assert figure.axes[0].get_xscale() == "log"

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: plots.convergence({"a": None}), TypeError, "history of 'a' is a NoneType"),  # type: ignore[dict-item]
            (lambda: plots.convergence({}), ValueError, "nothing to draw"),
            (lambda: plots.convergence(history(), against="x"), ValueError, "against is 'x'"),  # type: ignore[arg-type]
            (
                lambda: plots.convergence(history(), ax=list(Figure().subplots(1, 3))),
                ValueError,
                "ax holds 3 axes",
            ),
        ],
    )
    def test_errors(self, call: Callable[[], object], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            call()


class TestPredictedVsObserved:
    def test_bins_have_the_means_of_their_pairs(
        self, gaussian: tuple[Simulation, RatingsFit]
    ) -> None:
        simulation, fit = gaussian
        ax = plots.predicted_vs_observed(fit, simulation.ratings, num_bins=5).axes[0]
        predicted = fit.predict(simulation.ratings, interval=None).mean
        lowest = np.argsort(predicted, kind="stable")[:100]
        dots = lines(ax)["mean observed rating"]
        assert dots.shape == (5, 2)
        expected = predicted[lowest].mean(), simulation.ratings.rating[lowest].mean()
        np.testing.assert_allclose(dots[0], expected, rtol=1e-5)
        assert "predicted 90% interval" in lines(ax)

    def test_density_counts_every_pair(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        simulation, fit = gaussian
        ax = plots.predicted_vs_observed(fit, simulation.ratings).axes[0]
        (mesh,) = ax.collections
        assert np.nansum(np.ma.filled(mesh.get_array(), np.nan)) == len(simulation.ratings)

    def test_stars_get_one_row_of_cells_each(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        simulation, fit = gaussian
        stars = replace(
            simulation.ratings, rating=np.clip(np.round(simulation.ratings.rating), 1, 5)
        )
        ax = plots.predicted_vs_observed(fit, stars).axes[0]
        assert ax.get_ylim() == (0.5, 5.5)
        (mesh,) = ax.collections
        assert np.shape(mesh.get_array())[0] == 5

    def test_yes_no_data_are_shown_by_outcome(
        self, bernoulli: tuple[Simulation, RatingsFit]
    ) -> None:
        simulation, fit = bernoulli
        ax = plots.predicted_vs_observed(fit, simulation.ratings).axes[0]
        ones = int(simulation.ratings.rating.sum())
        labels = ax.get_legend_handles_labels()[1]
        assert labels == [f"observed no ({500 - ones})", f"observed yes ({ones})"]

    def test_errors(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        simulation, fit = gaussian
        with pytest.raises(TypeError, match="test is a dict, expected Ratings"):
            plots.predicted_vs_observed(fit, {})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="num_bins is 0"):
            plots.predicted_vs_observed(fit, simulation.ratings, num_bins=0)


class TestCalibration:
    def test_coverage_is_the_share_inside(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        simulation, fit = gaussian
        ax = plots.calibration(fit, simulation.ratings).axes[0]
        predicted = fit.predict(simulation.ratings)
        half = ndtri(0.9) * predicted.sd
        inside = np.abs(simulation.ratings.rating - predicted.mean) <= half
        level, share = lines(ax)["this fit"].T
        assert share[np.argmin(np.abs(level - 0.8))] == pytest.approx(inside.mean())
        assert (level[0], share[0], level[-1], share[-1]) == (0, 0, 1, 1)

    def test_band_is_binomial(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        simulation, fit = gaussian
        ax = plots.calibration(fit, simulation.ratings).axes[0]
        (path,) = ax.collections[0].get_paths()
        middle = path.vertices[np.isclose(path.vertices[:, 0], 0.5), 1]
        half = 1.96 * np.sqrt(0.25 / 500)
        np.testing.assert_allclose(sorted(middle), [0.5 - half, 0.5 + half])

    def test_yes_no_data_give_a_reliability_diagram(
        self, bernoulli: tuple[Simulation, RatingsFit]
    ) -> None:
        simulation, fit = bernoulli
        ax = plots.calibration(fit, simulation.ratings, num_bins=4).axes[0]
        (container,) = ax.containers
        x, y = np.asarray(container[0].get_xydata()).T
        predicted = fit.predict(simulation.ratings).mean
        last = np.argsort(predicted, kind="stable")[-125:]
        assert (x[-1], y[-1]) == pytest.approx(
            (predicted[last].mean(), simulation.ratings.rating[last].mean()), rel=1e-5
        )


class TestFactorMap:
    def test_directions_are_the_singular_ones(
        self, gaussian: tuple[Simulation, RatingsFit]
    ) -> None:
        simulation, fit = gaussian
        truth = simulation.truth
        _, size, right = np.linalg.svd(
            truth["user_factors"] @ truth["item_factors"].T, full_matrices=False
        )
        place, share = leading_directions(fit)
        expected = right[:2].T * size[:2] / np.sqrt(40)
        np.testing.assert_allclose(np.abs(place), np.abs(expected), atol=1e-5)
        np.testing.assert_allclose(share, size[:2] ** 2 / np.sum(size**2), rtol=1e-5)

    def test_rotating_the_factors_changes_nothing(
        self, gaussian: tuple[Simulation, RatingsFit]
    ) -> None:
        _, fit = gaussian
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        point = fit.point()
        turned = RatingsFit.from_point(
            fit.model,
            fit.data,
            point | {name: point[name] @ turn for name in ("user_factors", "item_factors")},
            method="turned",
        )
        np.testing.assert_allclose(
            leading_directions(turned)[0], leading_directions(fit)[0], atol=1e-5
        )

    def test_labels_are_titles_of_the_most_rated(
        self, gaussian: tuple[Simulation, RatingsFit]
    ) -> None:
        _, fit = gaussian
        ax = plots.factor_map(fit, num_labels=4).axes[0]
        named = np.argsort(-fit.data.item_degree, kind="stable")[:4]
        written = {text.get_text() for text in ax.texts} - {""}
        assert written <= set(fit.data.item_labels(named))
        assert len(written) >= 2
        assert len(ax.collections[0].get_offsets()) + 4 == fit.data.num_items

    def test_errors(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        _, fit = gaussian
        with pytest.raises(ValueError, match="num_labels is -1"):
            plots.factor_map(fit, num_labels=-1)
        point = {name: value for name, value in fit.point().items() if "factors" not in name}
        biases = RatingsFit.from_point(
            replace(fit.model, num_factors=0), fit.data, point, method="biases"
        )
        with pytest.raises(ValueError, match="num_factors=0; a plane needs at least 2"):
            plots.factor_map(biases)


def test_labels_do_not_overlap() -> None:
    ax = Figure(figsize=(4, 4), dpi=100, layout="constrained").subplots()
    points = np.random.default_rng(0).random((40, 2))
    placed = place_labels(ax, points, np.full(40, 3.0), [f"item {i}" for i in range(40)])
    assert 10 < len(placed) < 40
    boxes = [text.get_window_extent() for text in placed]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_degree_distribution() -> None:
    ratings = Ratings.from_frame({"user": [1, 1, 1, 2, 3], "item": [7, 8, 9, 7, 7]}, rating=None)
    ax = plots.degree_distribution(ratings).axes[0]
    np.testing.assert_allclose(lines(ax)["3 users"], [[1, 3], [2, 1], [3, 1]])
    np.testing.assert_allclose(lines(ax)["3 items"], [[1, 3], [2, 1], [3, 1]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    whole = Ratings.from_frame({"user": [1], "item": [7]}, rating=None)
    ax = plots.degree_distribution(whole).axes[0]
    assert ax.get_title(loc="left") == "1 rating, 100% of all pairs"
    assert [line.get_marker() for line in ax.get_lines()] == ["o", "o"]


def test_long_names_stay_apart_and_within() -> None:
    """Names of levels below an axis, and of items beside one, whose title still has room."""
    names = [f"a school of a very long name in the district, number {n}" for n in range(90)]
    for count, dated in ((1, False), (12, False), (90, False), (12, True)):
        days = np.datetime64("2024-01-01", "ns") + np.arange(12) * np.timedelta64(1, "D")
        levels = days if dated else np.array(names[:count], object)
        found = Estimates(
            what="predictions", response="y", columns={"g": levels}, mean=np.zeros(count)
        )
        figure = plots.estimates(found, "g")
        ax = figure.axes[0]
        figure.draw_without_rendering()
        ticks = ax.get_xticklabels()
        texts = [tick.get_text() for tick in ticks]
        assert len(set(texts)) == len(ticks) <= 60
        assert ax.get_position().height > 0.35
        turned = {tick.get_rotation() for tick in ticks}
        assert turned == ({0.0} if count == 1 else {45.0})
    assert texts[0] == "2024-01-01"
    labels = np.array(names[:3])
    shown = Recommendations(
        np.array(["u"]), labels[None], np.arange(3)[None], np.zeros((1, 3)), None, None,
        np.ones(1, bool),
    )  # fmt: skip
    ax = plots.recommendations(shown).axes[0]
    figure_of(ax).draw_without_rendering()
    assert ax.get_position().width > 0.5
    alike = [f"a school of a very long name, number {n}, in the same district" for n in range(3)]
    assert short_labels(alike) == [f"a school… number {n}, in the same di" for n in range(3)]
    assert short_labels(["a" * 50, "a" * 50]) == [f"{'a' * 22}…{'a' * 11}"] * 2
    assert short_labels(names[:2], 12) == ["a schoo…er 0", "a schoo…er 1"]


class TestRecommendations:
    def test_dots_intervals_and_names(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        _, fit = gaussian
        recommended = fit.recommend([1, 2], k=3, interval=0.9)
        names = fit.data.item_labels(recommended.code[1]).tolist()
        ax = plots.recommendations(
            recommended, row=1, labels=names, reference=[1.0, 2.0, 3.0]
        ).axes[0]
        np.testing.assert_allclose(lines(ax)["prediction"][:, 0], recommended.score[1])
        np.testing.assert_allclose(lines(ax)["true score"][:, 0], [1, 2, 3])
        assert [label.get_text() for label in ax.get_yticklabels()] == names
        # Best on top.
        assert np.all(np.diff(lines(ax)["prediction"][:, 1]) < 0)
        ends = np.asarray([path.vertices[:, 0] for path in ax.collections[0].get_paths()])
        assert recommended.lower is not None
        np.testing.assert_allclose(ends[:, 0], recommended.lower[1])

    def test_ids_stand_in_for_names(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        _, fit = gaussian
        recommended = fit.recommend([1], k=2)
        ax = plots.recommendations(recommended).axes[0]
        assert [label.get_text() for label in ax.get_yticklabels()] == [
            str(item) for item in recommended.item[0]
        ]
        assert not ax.collections

    def test_errors(self, gaussian: tuple[Simulation, RatingsFit]) -> None:
        _, fit = gaussian
        recommended = fit.recommend([1], k=2)
        with pytest.raises(IndexError, match="row is 1, but there are recommendations for 1"):
            plots.recommendations(recommended, row=1)
        with pytest.raises(ValueError, match="labels has 1 entries, but each user has 2 places"):
            plots.recommendations(recommended, labels=["a"])


def test_every_plot_can_be_saved(gaussian: tuple[Simulation, RatingsFit], tmp_path: Path) -> None:
    simulation, fit = gaussian
    drawn = [
        plots.predicted_vs_observed(fit, simulation.ratings),
        plots.calibration(fit, simulation.ratings),
        plots.factor_map(fit),
        plots.degree_distribution(simulation.ratings),
        plots.recommendations(fit.recommend([1], k=3, interval=0.5)),
    ]
    for number, figure in enumerate([*drawn, plots.convergence(history())]):
        figure.savefig(tmp_path / f"{number}.png")
        assert all(figure.axes[0].get_xlabel() for figure in drawn)


# --- optimization -----------------------------------------------------------------------------


def of_restarts(curves: list[list[float]]) -> History:
    restarts = np.asarray(curves)
    return replace(history(steps=3, held_out=False), objective=restarts[0], restarts=restarts)


def test_optimization_counts_who_reached_the_lowest_objective() -> None:
    runs = {
        "a": of_restarts([[9, 5, 4], [9, 6, 4.02], [9, 8, 8], [np.inf, np.nan, np.nan]]),
        "b": of_restarts([[9, 7, 5], [9, 7, 6]]),
    }
    first, second = plots.optimization(runs).axes
    assert labels_of(second) == ["a: 2 of 4 within 1%", "b: 0 of 2 within 1%"]
    assert labels_of(first) == ["a", "b"]
    ends = [line.get_xydata() for line in second.lines if len(line.get_xydata()) > 2]
    # In order, above the lowest of all, as shares of the four restarts.
    np.testing.assert_allclose(ends[0], [[1e-7, 0.25], [0.005, 0.5], [1.0, 0.75]])
    wide = plots.optimization(runs, tolerance=0.3).axes[1]
    assert labels_of(wide) == ["a: 2 of 4 within 30%", "b: 1 of 2 within 30%"]
    alone = plots.optimization(history(steps=3)).axes[1]
    assert labels_of(alone) == ["1 of 1 within 1%"]


def labels_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_optimization_refuses() -> None:
    with pytest.raises(TypeError, match="expected a History"):
        plots.optimization({"a": None})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="tolerance is 0"):
        plots.optimization(history(), tolerance=0)
    with pytest.raises(ValueError, match="ax holds 1 axes; expected two"):
        plots.optimization(history(), ax=[Figure().subplots()])

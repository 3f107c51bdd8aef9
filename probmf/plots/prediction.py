"""Plots of predictions against ratings that the fit has not seen."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from probmf.data.rating_summary import headline_count
from probmf.plots.style import (
    BLUE,
    DENSITY,
    GREY,
    INK,
    ORANGE,
    describe,
    figure_of,
    legend,
    new_axes,
    percent,
    quiet,
    span,
)
from probmf.results import MixedFit, RatingsFit
from probmf.results.held_out import HeldOut, held_out

_SIZE, _SQUARE = (5.2, 4.4), (4.7, 4.7)
_CELLS = 45
#: A shortfall that shows without being enlarged, and whose curve comes where the inset would be.
_PLAIN = 0.1
#: Fewer rows in a bin tell too little.
_BIN_ROWS = 10
#: Shares above this leave no room for a label above.
_HIGH = 0.94
#: Up to so many rows are drawn one by one.
_POINTS = 200


def predicted_vs_observed(
    fit: RatingsFit | MixedFit,
    test: Any,
    *,
    interval: float = 0.9,
    num_bins: int = 12,
    ax: Axes | None = None,
) -> Figure:
    """Observed ratings against their predictions, or predictions by outcome for yes/no data.

    For ratings: the density of all pairs, and in bins of equally many pairs the mean observed
    rating (dots) and the mean of the predicted intervals (band). Dots on the diagonal mean that
    predictions are right on average at every level. For yes/no data: how the predicted
    probabilities of the ones and of the zeros are distributed.

    Args:
        fit: A fit of ratings, or of a mixed model.
        test: Ratings that it was not fitted to, or for a mixed model a table with its columns.
        interval: Probability of the interval that the band shows.
        num_bins: Number of bins, at least 1.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        TypeError: If `test` is not of the fit's type.
        ValueError: If the test responses do not suit the fit, or an argument is out of range.
    """
    _check_bins(num_bins)
    found = held_out(fit, test, interval=interval)
    return draw_observed(found, interval=interval, num_bins=num_bins, ax=ax)


def draw_observed(
    found: HeldOut, *, interval: float = 0.9, num_bins: int = 12, ax: Axes | None = None
) -> Figure:
    """Draw `predicted_vs_observed` of predictions that were made, with intervals as told."""
    ax = new_axes(ax, _SIZE)
    if found.likelihood.binary:
        _draw_outcomes(ax, found)
    else:
        _draw_density(ax, found, interval, num_bins)
    return figure_of(ax)


def calibration(
    fit: RatingsFit | MixedFit, test: Any, *, num_bins: int = 10, ax: Axes | None = None
) -> Figure:
    r"""Calibration: stated probabilities against observed frequencies.

    For ratings: the share of test ratings inside the central intervals of every probability p; for
    yes/no data: the share of ones among pairs of similar predicted probability; for ordinal
    ratings: the same of the events that a rating reaches a level, all levels but the first
    together. The grey band is where a calibrated fit would lie with 95 % probability at each p,
    :math:`p \pm 1.96 \sqrt{p (1 - p) / n}`; for yes/no and ordinal data the dots have such an
    error bar (with the events of one rating counted as one).

    Args:
        fit: A fit of ratings, or of a mixed model.
        test: Ratings that it was not fitted to, or for a mixed model a table with its columns.
        num_bins: Number of bins for yes/no and ordinal data, at least 1.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        TypeError: If `test` is not of the fit's type.
        ValueError: If the test responses do not suit the fit, or an argument is out of range.
    """
    _check_bins(num_bins)
    return draw_calibration(held_out(fit, test), num_bins=num_bins, ax=ax)


def draw_calibration(found: HeldOut, *, num_bins: int = 10, ax: Axes | None = None) -> Figure:
    """Draw `calibration` of predictions that were made."""
    predicted, observed = found.predicted, found.observed
    ax = new_axes(ax, _SQUARE)
    percent(ax, "xy")
    if found.likelihood.binary:
        _draw_reliability(ax, found, predicted.mean, observed, num_bins)
    elif predicted.probabilities is not None:
        _draw_level_reliability(ax, found, num_bins)
    else:
        _draw_coverage(ax, found)
    ax.set_aspect("equal")
    legend(ax, loc="upper left")
    return figure_of(ax)


def _check_bins(num_bins: int) -> None:
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; expected at least 1.")


def _bins(values: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Rows in order of their values, in bins of nearly equal size and at least `_BIN_ROWS`."""
    num_bins = max(1, min(num_bins, len(values) // _BIN_ROWS))
    return np.array_split(np.argsort(values, kind="stable"), num_bins)


def _draw_density(ax: Axes, found: HeldOut, interval: float, num_bins: int) -> None:
    predicted, observed = found.predicted, found.observed
    x_range, y_range = span(predicted.mean), span(observed)
    if len(observed) <= _POINTS:
        ax.plot(predicted.mean, observed, "o", color=BLUE, ms=4, alpha=0.45, mew=0)
    else:
        y_range = _draw_cells(ax, predicted.mean, observed, x_range, y_range)
    ax.axline((x_range[0], x_range[0]), slope=1, color=GREY, lw=1, ls="--")
    bins = _bins(predicted.mean, num_bins)
    x = [predicted.mean[rows].mean() for rows in bins]
    if predicted.lower is not None and predicted.upper is not None:
        for end in (predicted.lower, predicted.upper):
            label = f"predicted {interval:.0%} interval" if end is predicted.lower else None
            ax.plot(x, [end[rows].mean() for rows in bins], color=ORANGE, lw=1.4, label=label)
    ax.plot(
        x, [observed[rows].mean() for rows in bins],
        "o", color=ORANGE, mec="white", ms=6, label=f"mean observed {found.name}",
    )  # fmt: skip
    ax.set_xlim(*x_range)
    ax.set_ylim(*y_range)
    ax.grid(False)
    legend(ax, loc="upper left")
    describe(
        ax,
        title=f"{_rows(found)} against their predictions",
        x=f"predicted {found.name}",
        y=f"observed {found.name}",
    )


def _draw_cells(
    ax: Axes, mean: np.ndarray, observed: np.ndarray, x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> tuple[float, float]:  # fmt: skip
    """Numbers of pairs in cells; the range of these."""
    levels = np.unique(observed)
    # Stars get one row of cells each; what is continuous gets small cells.
    if len(levels) <= 20:
        half = np.diff(levels).min() / 2 if len(levels) > 1 else 0.5
        y_range = (levels[0] - half, levels[-1] + half)
        rows = round((y_range[1] - y_range[0]) / (2 * half))
    else:
        rows = _CELLS
    counts, x_edges, y_edges = np.histogram2d(
        mean, observed, bins=(_CELLS, rows), range=(x_range, y_range)
    )
    mesh = ax.pcolormesh(
        x_edges, y_edges, np.where(counts > 0, counts, np.nan).T, cmap=DENSITY, rasterized=True
    )
    bar = ax.figure.colorbar(
        mesh, ax=ax, fraction=0.05, pad=0.02, label="number in a cell",
        ticks=MaxNLocator(integer=True),
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    return y_range


def _rows(found: HeldOut) -> str:
    return headline_count(len(found.observed), f"test {found.rows.removesuffix('s')}")


def _draw_outcomes(ax: Axes, found: HeldOut) -> None:
    probability, observed = found.predicted.mean, found.observed
    edges = np.linspace(0.0, 1.0, 26).tolist()
    for outcome, color, name in ((0, ORANGE, "observed no"), (1, BLUE, "observed yes")):
        values = probability[observed == outcome]
        if len(values):
            weights = np.full(len(values), 1.0 / len(values))
            ax.hist(values, edges, weights=weights, histtype="stepfilled", color=color, alpha=0.15)
            ax.hist(
                values, edges, weights=weights, histtype="step", color=color, lw=1.8,
                label=f"{name} ({len(values):,})",
            )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
    legend(ax, loc="upper center", ncols=2)
    describe(
        ax,
        title=f"Predicted probabilities of {_rows(found)}",
        x="predicted probability of yes",
        y=f"share of the {found.rows} with this outcome",
    )


def _draw_coverage(ax: Axes, found: HeldOut) -> None:
    observed, level = found.observed, np.linspace(0.0, 1.0, 101)
    inside = np.array([found.covered(own) for own in level])
    _draw_error_band(ax, level, len(observed))
    ax.plot(level, inside, color=BLUE, lw=2, label="this fit")
    for mark in (0.5, 0.9):
        share = inside[np.searchsorted(level, mark)]
        ax.plot(mark, share, "o", color=BLUE, mec="white", ms=7)
        # Above on the left, where the curve does not go, unless that is beyond the frame.
        place: dict[str, Any] = {"xytext": (-8, 6), "ha": "right"}
        if share > _HIGH:
            place = {"xytext": (2, -18), "ha": "center"}
        ax.annotate(
            f"{mark:.0%}: {share:.1%}", (mark, share), textcoords="offset points", fontsize=9,
            color=INK, path_effects=[withStroke(linewidth=2, foreground="white")], **place,
        )  # fmt: skip
    if np.min(inside - level) > -_PLAIN:
        _draw_difference(ax, level, inside, len(observed))
    describe(
        ax,
        title=f"Calibration of intervals, {_rows(found)}",
        x="probability of the predicted interval",
        y=f"share of test {found.rows} inside",
    )


def _draw_difference(ax: Axes, level: np.ndarray, inside: np.ndarray, count: int) -> None:
    """The same as a difference, in a corner that the curve does not reach."""
    inset = quiet(ax.inset_axes((0.56, 0.13, 0.41, 0.3)))
    _draw_error_band(inset, level, count, around=0.0)
    inset.plot(level, inside - level, color=BLUE, lw=1.4)
    inset.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    inset.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
    inset.tick_params(labelsize=7)
    inset.set_title("difference, points", loc="left", fontsize=8, color=INK)


def _draw_reliability(
    ax: Axes,
    found: HeldOut,
    probability: np.ndarray,
    observed: np.ndarray,
    num_bins: int,
    *,
    each: int = 1,
) -> None:
    """Shares of ones in bins of probability; `each` events of a pair count as one for the error."""
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="calibrated")
    bins = _bins(probability, num_bins)
    x = np.array([probability[rows].mean() for rows in bins])
    share = np.array([observed[rows].mean() for rows in bins])
    # The error that a calibrated forecast would have: its own probabilities say how much.
    error = [
        1.96 * np.sqrt(np.mean(probability[rows] * (1 - probability[rows])) * each / len(rows))
        for rows in bins
    ]
    dots = ax.errorbar(
        x, share, yerr=error, fmt="o", color=BLUE, mec="white", ms=7, lw=1.2,
        label="this fit, with 95% error",
    )[0]  # fmt: skip
    dots.set_clip_on(False)  # A share of none or all is whole.
    describe(
        ax,
        title=f"Calibration of probabilities, {_rows(found)}",
        x="predicted probability of yes",
        y="share of yes observed",
    )


def _draw_level_reliability(ax: Axes, found: HeldOut, num_bins: int) -> None:
    """Reliability of the events that a rating is at least each level but the first."""
    chance, levels = np.asarray(found.predicted.probabilities), found.likelihood.levels
    tails = np.clip(np.cumsum(chance[:, :0:-1], axis=1)[:, ::-1], 0.0, 1.0)
    middles = 0.5 * (np.asarray(levels[:-1]) + np.asarray(levels[1:]))
    reached = (found.observed[:, None] > middles).astype(float)
    _draw_reliability(ax, found, tails.ravel(), reached.ravel(), num_bins, each=len(middles))
    describe(
        ax,
        title=f"Calibration of probabilities, {_rows(found)}",
        x=f"predicted probability of a {found.name} of at least some level",
        y=f"share of such {found.rows} observed",
    )


def _draw_error_band(
    ax: Axes, level: np.ndarray, count: int, *, around: float | None = None
) -> None:
    half = 1.96 * np.sqrt(level * (1 - level) / count)
    middle = level if around is None else np.full_like(level, around)
    ax.fill_between(
        level, middle - half, middle + half, color=GREY, alpha=0.3, lw=0,
        label="95% band if calibrated",
    )  # fmt: skip
    ax.plot(level, middle, color=GREY, lw=1, ls="--")

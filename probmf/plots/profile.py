"""A user at a glance: ratings and predictions, recommendations, place among others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.data import Ratings
from probmf.data.column import plain
from probmf.data.rating_summary import headline_count
from probmf.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    describe,
    figure_of,
    legend,
    log_axis,
    new_axes,
    new_figure,
    quiet,
    short,
    short_labels,
)
from probmf.results import RatingsFit, Recommendations
from probmf.results.asked import check_interval, read_some


def user_profile(fit: RatingsFit, user: Any, *, k: int = 8, interval: float = 0.9) -> Figure:
    """Ratings of a user with their predictions, recommendations, bias, and similar users.

    Args:
        fit: A fit of ratings.
        user: The user's id.
        k: How many items are recommended; of the user's ratings the k highest and lowest are shown.
        interval: Probability of the intervals.

    Returns:
        The figure. Of a fit that ranks only there are no intervals.

    Raises:
        TypeError: If `fit` is no fit of ratings.
        ValueError: If the user is unknown to the fit, or an argument is out of range.
    """
    if not isinstance(fit, RatingsFit):
        raise TypeError(f"fit is a {type(fit).__name__}, expected a RatingsFit.")
    check_interval(interval)
    asked = read_some(user, fit.data.users, "user", known=True)
    if len(asked.codes) != 1:
        raise ValueError(f"user holds {len(asked.codes)} ids; give one.")
    code = int(asked.codes[0])
    level = None if fit.ranks_only else interval
    rows = _shown(fit, code, k)
    figure = new_figure((9.6, max(4.2, 1.2 + 0.24 * max(len(rows), 2 * k))))
    grid = figure.add_gridspec(2, 2)
    rated = quiet(figure.add_subplot(grid[:, 0]))
    _draw_rated(rated, fit, code, rows, level)
    if fit.data.user_degree[code] < fit.data.num_items:
        _draw_recommended(quiet(figure.add_subplot(grid[0, 1])), fit, asked.ids, k, level)
    lower = grid[1, 1].subgridspec(1, 2)
    if "user_bias" in fit.samples and fit.data.num_users > 1:
        _draw_bias(quiet(figure.add_subplot(lower[0])), fit, code)
    if fit.model.num_factors and fit.data.num_users > 1:
        _draw_similar(quiet(figure.add_subplot(lower[1])), fit, asked.ids)
    count = int(fit.data.user_degree[code])
    name = short(fit.data.user_labels([code])[0])
    figure.suptitle(
        f"User {name}: {count:,} rating{'s' * (count != 1)}", x=0.01, ha="left", fontsize=12,
        color=INK,
    )  # fmt: skip
    figure.legend(
        *rated.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False,
        fontsize=9,
    )  # fmt: skip
    return figure


def _shown(fit: RatingsFit, code: int, k: int) -> np.ndarray:
    """Rows of the user's ratings, lowest first; of many the k highest and lowest."""
    rows = np.flatnonzero(fit.data.user == code)
    rows = rows[np.argsort(fit.data.rating[rows], kind="stable")]
    return rows if len(rows) <= 2 * k else np.concatenate([rows[:k], rows[-k:]])


def _draw_rated(
    ax: Axes, fit: RatingsFit, code: int, rows: np.ndarray, interval: float | None
) -> None:
    data: Ratings = fit.data
    y = np.arange(len(rows))
    if len(rows):
        pairs = (data.users.decode(data.user[rows]), data.items.decode(data.item[rows]))
        found = fit.predict(pairs, interval=interval)
        if found.lower is not None and found.upper is not None:
            ax.hlines(y, found.lower, found.upper, color=BLUE, lw=2, alpha=0.45)
        ax.plot(found.mean, y, "o", color=BLUE, ms=6, label="predicted")
        ax.plot(data.rating[rows], y, "D", color=ORANGE, mec="white", ms=6, label="rated")
    labels = short_labels(data.item_labels(data.item[rows]))
    _finish(ax, labels, "rating")
    left_out = int(data.user_degree[code]) - len(rows)
    more = f" ({left_out:,} in the middle left out)" if left_out else ""
    if left_out:
        ax.axhline(len(rows) / 2 - 0.5, color=GREY, lw=0.8, ls=":")
    ax.set_title(f"Highest and lowest ratings{more}", loc="left", fontsize=10, color=INK)


def _draw_recommended(
    ax: Axes, fit: RatingsFit, ids: np.ndarray, k: int, interval: float | None
) -> None:
    left = fit.data.num_items - int(fit.data.user_degree[fit.data.users.encode(ids)[0]])
    found = fit.recommend(ids, k=min(k, left), interval=interval)
    labels = fit.data.item_labels(np.maximum(found.code[0], 0)).tolist()
    recommendations(found, labels=labels, x_label="expected rating" if interval else "score", ax=ax)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_title("Recommended", loc="left", fontsize=10, color=INK)


def _draw_bias(ax: Axes, fit: RatingsFit, code: int) -> None:
    bias = fit.samples["user_bias"].mean(axis=(0, 1))
    ax.hist(bias, min(40, max(8, len(bias) // 15)), color=GREY, alpha=0.5)
    ax.axvline(bias[code], color=ORANGE, lw=2)
    ax.set_yticks([])
    ax.set_xlabel("user bias", fontsize=9)
    above = float(np.mean(bias < bias[code]))
    ax.set_title(f"Higher than {above:.0%} of users", loc="left", fontsize=10, color=INK)


def _draw_similar(ax: Axes, fit: RatingsFit, ids: np.ndarray) -> None:
    found = fit.similar_users(ids, k=min(5, fit.data.num_users - 1))
    y = np.arange(found.code.shape[1])[::-1]
    ax.barh(y, found.score[0], height=0.55, color=BLUE, alpha=0.6)
    labels = short_labels(fit.data.user_labels(found.code[0]), 12)
    _finish(ax, labels[::-1], "cosine of factors")
    ax.set_xlim(min(0.0, float(found.score.min())), 1)
    ax.set_title("Most similar users", loc="left", fontsize=10, color=INK)


def _finish(ax: Axes, labels: list[str], x: str) -> None:
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.spines["left"].set_visible(False)
    ax.grid(False, axis="y")
    ax.set_ylim(-0.7, max(len(labels), 1) - 0.3)
    ax.set_xlabel(x, fontsize=9)


def degree_distribution(ratings: Ratings, *, ax: Axes | None = None) -> Figure:
    """Numbers of ratings of users and items: count against rank, both logarithmic.

    A straight line is a power law. Where the lines end is the number of users and of items.

    Args:
        ratings: The ratings.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Example:
        >>> ratings = Ratings.from_frame({"user": [1, 1, 2], "item": [7, 8, 7]}, rating=None)
        >>> [line.get_label() for line in degree_distribution(ratings).axes[0].get_lines()]
        ['2 users', '2 items']
    """
    ax = new_axes(ax, (5.2, 4.0))
    for name, degree, color, style in (
        ("user", ratings.user_degree, BLUE, "-"),
        ("item", ratings.item_degree, ORANGE, "--"),
    ):
        own = np.sort(np.asarray(degree))[::-1]
        own = own[own > 0]
        rank = np.arange(1, len(own) + 1)
        label = headline_count(len(degree), name)
        marker = "o" if len(own) == 1 else ""
        ax.plot(rank, own, style, marker=marker, color=color, lw=2, label=label)
    log_axis(ax, "xy")
    legend(ax, loc="lower left")
    count = headline_count(len(ratings), "rating")
    describe(
        ax,
        title=f"{count}, {100 * ratings.density:.3g}% of all pairs",
        x="rank, from the one with the most ratings",
        y="number of ratings",
    )
    return figure_of(ax)


def recommendations(
    recommended: Recommendations,
    *,
    row: int = 0,
    labels: Sequence[object] | None = None,
    reference: ArrayLike | None = None,
    reference_label: str = "true score",
    x_label: str = "predicted rating",
    ax: Axes | None = None,
) -> Figure:
    """One user's recommendations, best on top: a dot for the score, a line for its interval.

    Args:
        recommended: From `fit.recommend` (with `interval=` for the lines) or `similar_items`.
        row: Which user, by place.
        labels: Names of the k items, such as `fit.data.item_labels(recommended.code[row])`; None
            takes their ids.
        reference: Numbers to compare with, one per item, such as what a simulation knows.
        reference_label: What they are.
        x_label: What the score is, with its unit.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        IndexError: If there is no such row.
        ValueError: If there is nothing in the row, or the numbers of labels or of reference values
            do not match it.

    Example:
        >>> from probmf import MatrixFactorization, fit_als
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
        >>> len(recommendations(fit.recommend("b", interval=0.9)).axes)
        1
    """
    if not isinstance(recommended, Recommendations):
        raise TypeError(
            f"recommended is of type {type(recommended).__name__}; expected Recommendations, as "
            "from fit.recommend(user, interval=0.9)."
        )
    if not -len(recommended) <= row < len(recommended):
        raise IndexError(f"row is {row}, but there are recommendations for {len(recommended)}.")
    found = np.flatnonzero(recommended.code[row] >= 0)
    if not len(found):
        raise ValueError(f"Row {row} (user {recommended.user[row]!r}) has no recommendations.")
    names = list(recommended.item[row] if labels is None else labels)
    truth = None if reference is None else np.asarray(reference, dtype=np.float64)
    places = recommended.code.shape[1]
    for what, values in (("labels", names), ("reference", truth)):
        if values is not None and len(values) != places:
            raise ValueError(
                f"{what} has {len(values)} entries, but each user has {places} places; give one "
                "for each place."
            )
    ax = new_axes(ax, (6.4, 1.1 + 0.32 * len(found)))
    height = -np.arange(len(found))
    if recommended.lower is not None and recommended.upper is not None:
        ends = recommended.lower[row, found], recommended.upper[row, found]
        ax.hlines(height, *ends, color=BLUE, lw=2, alpha=0.45, label="interval")
    ax.plot(recommended.score[row, found], height, "o", color=BLUE, ms=7, label="prediction")
    if truth is not None:
        ax.plot(
            truth[found], height,
            "D", color=ORANGE, mec="white", ms=6, label=reference_label,
        )  # fmt: skip
        legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    ax.set_yticks(height, short_labels(names[place] for place in found))
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_ylim(height[-1] - 0.7, 0.7)
    pad = 24 if truth is not None else 6
    ax.set_title(
        f"Recommended to user {short(plain(recommended.user[row]))}",
        loc="left",
        fontsize=11,
        color=INK,
        pad=pad,
    )
    ax.set_xlabel(x_label, fontsize=10, color=INK)
    return figure_of(ax)

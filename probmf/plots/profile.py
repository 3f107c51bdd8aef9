"""A user at a glance: ratings and predictions, recommendations, place among others."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.data import Ratings
from probmf.plots.style import BLUE, GREY, INK, ORANGE, new_figure, quiet, short, short_labels
from probmf.results import RatingsFit
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
    count = int(np.sum(found.code[0] >= 0))
    y = np.arange(count)[::-1]
    if found.lower is not None and found.upper is not None:
        ax.hlines(y, found.lower[0, :count], found.upper[0, :count], color=BLUE, lw=2, alpha=0.45)
    ax.plot(found.score[0, :count], y, "o", color=BLUE, ms=6)
    labels = short_labels(fit.data.item_labels(found.code[0, :count]))
    _finish(ax, labels[::-1], "expected rating" if interval else "score")
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

"""Pictures of how much users and items have, and of what is recommended."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.data import Ratings
from probmf.data.column import plain
from probmf.data.rating_summary import headline_count
from probmf.plots.style import (
    BLUE,
    INK,
    ORANGE,
    describe,
    figure_of,
    legend,
    log_axis,
    new_axes,
    short,
    short_labels,
)
from probmf.results import Recommendations


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

"""Means and intervals of many numbers, one line each: few with labels, many as a band."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from probmf.plots.style import BLUE, GREY, count_ticks, short_labels
from probmf.results.mixtures import tails

#: More lines than this are not labelled one by one.
LABELLED = 60
#: Lines that are drawn one by one; more than that are a band.
DRAWN = 2_000


def draw_intervals(
    ax: Axes,
    draws: Float[np.ndarray, "draws rows"],
    labels: Sequence[str],
    *,
    interval: float,
    zero: bool = True,
) -> None:
    """Draw a dot for each mean and lines for its intervals, the first row at the bottom.

    `interval` is the probability of the thin intervals; the thick ones are 50 %, and a single draw
    has none. `zero` marks zero where it lies within.
    """
    ends = []
    if len(draws) > 1:
        for share, width, alpha in ((interval, 1.0, 0.25), (0.5, 3.0, 0.5)):
            low, high = np.quantile(draws, tails(share), axis=0)
            ends.append((low, high, width, alpha))
    draw_lines(ax, draws.mean(axis=0), ends, labels, zero=zero)


def draw_lines(
    ax: Axes,
    mean: Float[np.ndarray, " rows"],
    ends: Sequence[tuple[np.ndarray, np.ndarray, float, float]],
    labels: Sequence[str],
    *,
    zero: bool = True,
) -> None:
    """Draw a dot for each mean and lines between ends, the first row at the bottom.

    `ends` are lower and upper ends, with the width of their line and the opacity of their band.
    """
    count = len(mean)
    y, few = np.arange(count), count <= LABELLED
    for low, high, width, alpha in ends:
        if count > DRAWN:
            ax.fill_betweenx(y, low, high, color=BLUE, alpha=alpha, lw=0, rasterized=True)
        else:
            ax.hlines(y, low, high, color=BLUE, lw=width if few else width / 3)
    if count > DRAWN:
        ax.plot(mean, y, color=BLUE, lw=1.0, rasterized=True)
    else:
        ax.plot(mean, y, "o", color="white" if few else BLUE, mec=BLUE, ms=5 if few else 2)
    left, right = ax.get_xlim()
    if zero and left <= 0 <= right:
        ax.axvline(0.0, color=GREY, lw=1, ls="--", zorder=0.5)
    if few:
        ax.set_yticks(y, short_labels(labels))
    else:
        count_ticks(ax)
    ax.set_ylim(-0.7, count - 0.3) if few else ax.set_ylim(-1, count)
    ax.grid(axis="y", visible=False)

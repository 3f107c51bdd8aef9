"""Style of all plots: colours that colour-blind readers can tell apart, and quiet axes."""

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from probmf.results.mixtures import tails

# Okabe and Ito (2008), Color universal design; their yellow is too light for a line on white.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
# Told apart by their dashes too, so that a line shows under another and in grey print.
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)),
)  # fmt: skip
INK, GREY, PALE = "#262626", "#8A8A8A", "#E3E3E3"
DENSITY = LinearSegmentedColormap.from_list("density", ["#EEF4F8", "#7FB3D3", "#0B4F7D"])

#: Letters of a label.
LETTERS = 34

# Dots an inch of a file, and pixels an inch of a notebook's page.
_DPI, _SHOWN_DPI = 150, 100


class Picture(Figure):
    """A figure that shows itself as the last line of a notebook's cell, without pyplot."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture and its width, in pixels of the page."""
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue(), {"width": round(self.get_figwidth() * _SHOWN_DPI)}


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure. Its size is in inches."""
    return quiet(ax if ax is not None else new_figure(size).subplots())


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure outside pyplot: nothing to close, and no display is looked for."""
    return Picture(figsize=size, dpi=_DPI, layout="constrained")


def figure_of(ax: Axes) -> Figure:
    """The whole figure, which shows itself as the last line of a notebook's cell."""
    found = ax.get_figure(root=True)
    if found is None:
        raise ValueError("ax belongs to no figure; draw into axes of one.")
    return found


def quiet(ax: Axes) -> Axes:
    """Take off what carries no information."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=INK, labelsize=9, color=GREY)
    ax.grid(color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def describe(ax: Axes, *, title: str, x: str, y: str) -> None:
    """Title at the left, and labels of both axes."""
    ax.set_title(title, loc="left", fontsize=11, color=INK)
    ax.set_xlabel(x, fontsize=10, color=INK)
    ax.set_ylabel(y, fontsize=10, color=INK)


def legend(ax: Axes, **options: object) -> None:
    """A legend without a frame, if anything has a label."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**({"frameon": False, "fontsize": 9} | options))


def figure_legend(figure: Figure, ax: Axes) -> None:
    """One legend above all panels, of what is in one of them; none for a single entry."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        made = figure.legend(
            handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=9
        )
        for line in made.get_lines():
            line.set(linewidth=2, alpha=1)  # Thin lines of long chains would not be seen there.


def short(label: object, most: int = LETTERS) -> str:
    """A label of so many letters at most, without its middle: numbered names differ at the end."""
    text = str(label)
    end = most // 3
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def short_labels(labels: Iterable[object], most: int = LETTERS) -> list[str]:
    """Labels that stand side by side, short as far as that leaves them different."""
    whole = [str(label) for label in labels]
    head = most // 4
    # Where the ends are alike, too: the beginning, and from shortly before they begin to differ.
    places = enumerate(zip(*whole, strict=False))
    begin = max(head, next((n for n, own in places if len(set(own)) > 1), 0) - head)
    ways = (
        [short(label, most) for label in whole],
        [
            own if len(own) <= most else f"{own[:head]}…{own[begin : begin + most - head - 1]}"
            for own in whole
        ],
    )
    return next((cut for cut in ways if len(set(cut)) == len(set(whole))), whole)


def log_axis(ax: Axes, axes: Iterable[str]) -> None:
    """Make axes of counts or shares logarithmic, with their ticks as plain numbers."""
    for name in axes:
        (ax.set_xscale if name == "x" else ax.set_yscale)("log")
        axis = ax.xaxis if name == "x" else ax.yaxis
        plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
        axis.set_major_formatter(plain)
        low, high = sorted(axis.get_view_interval())
        # Within a few decades powers of ten alone are too few ticks.
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.set_minor_formatter(plain if high < 300 * low else NullFormatter())
        axis.set_tick_params(which="minor", labelsize=9, labelcolor=INK, color=GREY)


def count_ticks(ax: Axes) -> None:
    """Ticks of a vertical axis of counts, such as 100,000."""
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def percent(ax: Axes, axes: Iterable[str]) -> None:
    """Write an axis of shares in percent, over [0, 1]."""
    for name in axes:
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        (ax.set_xlim if name == "x" else ax.set_ylim)(0.0, 1.0)


def span(*values: np.ndarray) -> tuple[float, float]:
    """The range of all values, a little widened."""
    low = min(float(np.min(value)) for value in values)
    high = max(float(np.max(value)) for value in values)
    edge = 0.03 * (high - low) or 0.5
    return low - edge, high + edge


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
    """Draw means, thin intervals and thick ones of 50 %, the first row at the bottom."""
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
    """Draw dots, and lines between ends (lower, upper, width, opacity), first row at the bottom."""
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

"""Labels beside points, none on top of another."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from probmf.plots.style import GREY, INK

#: Offsets in points from the rim of the dot, and the alignment of each: near ones first.
_OFFSETS: list[tuple[float, float, Literal["left", "right", "center"]]] = [
    (reach * dx, reach * dy, "left" if dx > 0 else "right" if dx < 0 else "center")
    for reach in (1, 10, 20)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 1), (-0.7, 1), (0.7, -1), (-0.7, -1))
]
_LED, _MARGIN = 5, 1


def place_labels(
    ax: Axes, points: np.ndarray, radius: np.ndarray, labels: Sequence[str]
) -> list[Annotation]:
    """Write labels beside their dots, each in the first free place; leave out the rest.

    Args:
        ax: Axes with their final limits.
        points: Data coordinates, shape (n, 2), most important first.
        radius: Radii of the dots in points, shape (n,).
        labels: Their labels.

    Returns:
        The labels that found room.
    """
    # Lay the figure out once, so that pixels of points and of text are final.
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    frame = ax.get_window_extent()
    pixels = ax.transData.transform(points) if len(points) else np.empty((0, 2))
    per_point = ax.figure.dpi / 72
    # With a margin, or a label would seem to belong to a dot that is only near.
    dots = [
        Bbox.from_extents(x - r, y - r, x + r, y + r)
        for (x, y), r in zip(pixels, (radius + _MARGIN) * per_point, strict=True)
    ]
    taken: list[Bbox] = []
    placed = []
    for place, (point, label) in enumerate(zip(points, labels, strict=True)):
        others = dots[:place] + dots[place + 1 :]
        text = ax.annotate(
            label, tuple(point), xytext=(0, 0), textcoords="offset points",
            fontsize=8, color=INK, va="center", annotation_clip=True,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        for dx, dy, side in _OFFSETS:
            rim = radius[place] + 1
            half_line = 4 if dx == 0 else 0  # Above and below the text is centred on its offset.
            x, y = dx + rim * np.sign(dx), dy + (rim + half_line) * np.sign(dy)
            text.set_position((x, y))
            text.set_horizontalalignment(side)
            box = text.get_window_extent().padded(1.5)
            if _free(box, [*taken, *others], frame):
                taken.append(box)
                placed.append(text)
                if np.hypot(dx, dy) > _LED:
                    _lead(ax, point, (x, y))
                break
        else:
            text.remove()
    return placed


def _free(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> bool:
    inside = frame.containsx(box.x0) and frame.containsx(box.x1)
    inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
    return inside and not any(box.overlaps(other) for other in taken)


def _lead(ax: Axes, point: np.ndarray, offset: tuple[float, float]) -> None:
    """A thin line from a point to a label that stands off."""
    ax.annotate(
        "", tuple(point), xytext=(0.85 * offset[0], 0.85 * offset[1]),
        textcoords="offset points", arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6},
    )  # fmt: skip

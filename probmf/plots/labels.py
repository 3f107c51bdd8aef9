"""Labels beside points, none on top of another."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from probmf.plots.style import GREY, INK

#: Offsets in points, and the alignment that goes with each: near ones first.
_OFFSETS: list[tuple[float, float, Literal["left", "right", "center"]]] = [
    (reach * dx, reach * dy, "left" if dx > 0 else "right" if dx < 0 else "center")
    for reach in (6, 14, 24)
    for dx, dy in ((1, 0), (-1, 0), (0.7, 1), (-0.7, 1), (0.7, -1), (-0.7, -1), (0, 1.2), (0, -1.2))
]


def place_labels(ax: Axes, points: np.ndarray, labels: Sequence[str]) -> list[Annotation]:
    """Write labels beside their points, each in the first free place; leave out the rest.

    Args:
        ax: Axes with their final limits.
        points: Data coordinates, shape (n, 2), most important first.
        labels: Their labels.

    Returns:
        The labels that found room.
    """
    # Lay the figure out once, so that pixels of points and of text are final.
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    frame = ax.get_window_extent()
    pixels = ax.transData.transform(points) if len(points) else np.empty((0, 2))
    taken = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in pixels]
    placed = []
    for point, label in zip(points, labels, strict=True):
        text = ax.annotate(
            label, tuple(point), xytext=(0, 0), textcoords="offset points",
            fontsize=8, color=INK, va="center", annotation_clip=True,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        for dx, dy, side in _OFFSETS:
            text.set_position((dx, dy))
            text.set_horizontalalignment(side)
            # The text alone, without the arrow that an annotation may have.
            box = text.get_window_extent().padded(1.5)
            if _free(box, taken, frame):
                taken.append(box)
                placed.append(text)
                if np.hypot(dx, dy) > 12:
                    _lead(ax, point, (dx, dy))
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

"""Pictures of factors: items in the plane of taste, and how much each direction counts for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from probmf.diagnostics.alignment import align
from probmf.diagnostics.quantities import singular_values
from probmf.plots.style import BLUE, GREY, INK, describe, figure_of, new_axes, short_labels, span
from probmf.results import RatingsFit
from probmf.results.draws import Draws
from probmf.results.mixtures import tails

#: Draws that a map is made from at most.
MOST_DRAWS = 200
#: Distance at which an ellipse holds 90 % of a plane's Normal.
REACH = float(np.sqrt(-2 * np.log(0.1)))
#: Items whose ellipse is drawn at most.
_ELLIPSES = 5
#: Of more items than this the dots are smaller, and one picture.
_MANY = 2_000


def factor_map(
    fit: RatingsFit,
    *,
    titles: Sequence[object] | None = None,
    num_labels: int = 15,
    ax: Axes | None = None,
) -> Figure:
    r"""Items in the plane in which users' tastes differ most.

    .. math:: U V^\top = A S B^\top, \qquad
       \text{item } n \text{ lies at } (S_1 B_{n1}, S_2 B_{n2}) / \sqrt{M}

    Unlike columns of V these directions do not depend on how the factors happen to be rotated
    (only their signs do, and each is turned so that its longer tail points up or right). A
    coordinate is what that direction adds to or takes from the item's score, as the root mean
    square over the M users; items that lie near each other please the same people.

    With many draws each draw is turned to match the others (`diagnostics.align`); dots are means,
    and ellipses about the five most rated items hold 90 % of a Normal with the draws' covariance.

    Args:
        fit: A fit with at least two factors.
        titles: One for each item, in the order of their codes; None takes those of the fit.
        num_labels: The most-rated items get their title (column "title" of the item features) or
            their id; those that find no room get none.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure. The area of a dot grows with the item's number of ratings.

    Raises:
        ValueError: If the model has fewer than two factors, `num_labels` is negative, or there is
            not one title for each item.
    """
    if fit.model.num_factors < 2:
        raise ValueError(
            f"The fit has num_factors={fit.model.num_factors}; a plane needs at least 2."
        )
    if num_labels < 0:
        raise ValueError(f"num_labels is {num_labels}; expected 0 or more.")
    if titles is not None and len(titles) != fit.data.num_items:
        raise ValueError(
            f"titles has {len(titles):,} entries; give one for each of the "
            f"{fit.data.num_items:,} items, in the order of fit.data.items.ids."
        )
    if fit.is_point:
        place, share = leading_directions(fit)
        cloud = place[None]
    else:
        cloud, share = _leading_draws(fit)
        place = cloud.mean(axis=0)
    degree = np.asarray(fit.data.item_degree)
    ax = new_axes(ax, (7.0, 5.6))
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=GREY, lw=0.8)
    size = 6 + 90 * degree / max(degree.max(), 1)
    named = np.argsort(-degree, kind="stable")[:num_labels]
    rest = np.setdiff1d(np.arange(len(degree)), named)
    small = min(1.0, _MANY / max(len(rest), 1))
    ax.scatter(
        place[rest, 0], place[rest, 1], s=small * size[rest], color=GREY, alpha=0.45, lw=0,
        rasterized=len(rest) > _MANY,
    )  # fmt: skip
    ax.scatter(place[named, 0], place[named, 1], s=size[named], color=BLUE, alpha=0.85, lw=0)
    # Ellipses of some items say how well places are known; of all, nothing could be told.
    ends = [_ellipse(ax, cloud[:, item]) for item in named[:_ELLIPSES]] if len(cloud) > 1 else []
    everything = np.concatenate([place, np.zeros((1, 2)), *ends])
    ax.set_xlim(*span(everything[:, 0]))
    ax.set_ylim(*span(everything[:, 1]))
    describe(
        ax,
        title="Items where tastes differ most (blue: the most rated)",
        x=f"first direction of taste, {share[0]:.0%} of the factors' variance (score units)",
        y=f"second direction, {share[1]:.0%}",
    )
    told = fit.data.item_labels(named) if titles is None and len(named) else titles
    labels = short_labels(told[n if titles is None else item] for n, item in enumerate(named))  # type: ignore[index]
    place_labels(ax, place[named], np.sqrt(size[named]) / 2, labels)
    return figure_of(ax)


def leading_directions(fit: RatingsFit) -> tuple[np.ndarray, np.ndarray]:
    r"""Item coordinates in the two leading directions of :math:`U V^\top`, and their shares.

    Coordinates are in score units; shares are of the sum of squares of :math:`U V^\top`. Cost O((M
    + N) k^2): the product is never formed.
    """
    point = fit.point()
    _, user_triangle = np.linalg.qr(np.asarray(point["user_factors"], dtype=np.float64))
    basis, item_triangle = np.linalg.qr(np.asarray(point["item_factors"], dtype=np.float64))
    _, size, right = np.linalg.svd(user_triangle @ item_triangle.T)
    place = basis @ right[:2].T * size[:2] / np.sqrt(fit.data.num_users)
    place *= np.where(np.sum(place**3, axis=0) < 0, -1.0, 1.0)
    return place, size[:2] ** 2 / max(float(np.sum(size**2)), np.finfo(float).tiny)


def _leading_draws(fit: RatingsFit) -> tuple[Float[np.ndarray, "draws items 2"], np.ndarray]:
    """The same coordinates at draws that are turned alike, and the directions' mean shares."""
    total = fit.num_chains * fit.num_draws
    chosen = np.linspace(0, total - 1, min(total, MOST_DRAWS)).astype(int)
    few = {name: value.reshape(1, total, *value.shape[2:])[:, chosen]
           for name, value in fit.samples.items() if not name.endswith("_scale")}  # fmt: skip
    turned = align(replace(fit, samples=few, sampling=None)).samples
    coordinates = []
    for users, items in zip(turned["user_factors"][0], turned["item_factors"][0], strict=True):
        # V (U'U / M)^1/2 has the products of U V' and turns as V does.
        value, vector = np.linalg.eigh(users.T.astype(np.float64) @ users / len(users))
        root = vector * np.sqrt(np.maximum(value, 0.0)) @ vector.T
        coordinates.append(items @ root)
    whole = np.stack(coordinates)
    axes = np.linalg.svd(whole.mean(axis=0), full_matrices=False)[2][:2].T
    place = whole @ axes
    place *= np.where(np.sum(place.mean(axis=0) ** 3, axis=0) < 0, -1.0, 1.0)
    share = np.square(place).sum(axis=(0, 1)) / max(np.square(whole).sum(), np.finfo(float).tiny)
    return place, share


def _ellipse(ax: Axes, cloud: Float[np.ndarray, "draws 2"]) -> Float[np.ndarray, "2 2"]:
    """Draw the ellipse, and tell the corners of the box around it."""
    covariance = np.cov(cloud.T)
    value, vector = np.linalg.eigh(covariance)
    width, height = 2 * REACH * np.sqrt(np.maximum(value[::-1], 0.0))
    angle = np.degrees(np.arctan2(vector[1, 1], vector[0, 1]))
    center = cloud.mean(axis=0)
    ax.add_patch(
        Ellipse(
            (float(center[0]), float(center[1])), width, height, angle=angle,
            facecolor="none", edgecolor=BLUE, alpha=0.6, lw=0.9, zorder=1.5,
        )
    )  # fmt: skip
    half = REACH * np.sqrt(np.diagonal(covariance))
    return np.stack([center - half, center + half])


def spectrum(fit: RatingsFit, *, interval: float = 0.9, ax: Axes | None = None) -> Figure:
    r"""Singular values of :math:`U V^\top`, largest first: how many factors the data speak for.

    Each is in units of the score, as the root mean square that its direction adds over all pairs:
    divided by :math:`\sqrt{M N}`. With many draws dots are medians, lines intervals.

    Args:
        fit: A fit with factors.
        interval: Probability of the intervals.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: If the model has no factors, or the interval is not in (0, 1).
    """
    if not fit.model.num_factors:
        raise ValueError("The fit has num_factors=0; without factors there is no spectrum.")
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval}; expected a probability such as 0.9.")
    value = singular_values(Draws(fit.model, fit.data, fit.samples))
    value = value / np.sqrt(fit.data.num_users * fit.data.num_items)
    ax = new_axes(ax, (5.6, 3.8))
    place = np.arange(1, value.shape[1] + 1)
    if len(value) > 1:
        low, high = np.quantile(value, tails(interval), axis=0)
        ax.vlines(place, low, high, color=BLUE, lw=2, alpha=0.45)
    ax.plot(place, np.median(value, axis=0), "o", color=BLUE, ms=6)
    ax.set_ylim(0, 1.08 * float(value.max()) or 1.0)
    ax.set_xlim(0.5, len(place) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    intervals = f" ({interval:.0%} intervals)" if len(value) > 1 else ""
    describe(
        ax,
        title=f"Directions of taste by size{intervals}",
        x="direction, the largest first",
        y="singular value (score units)",
    )
    return figure_of(ax)


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
    """Write labels beside their dots, each in the first free place; gives those that found room."""
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
                    ax.annotate(
                        "", tuple(point), xytext=(0.85 * x, 0.85 * y), textcoords="offset points",
                        arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6},
                    )  # fmt: skip
                break
        else:
            text.remove()
    return placed


def _free(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> bool:
    inside = frame.containsx(box.x0) and frame.containsx(box.x1)
    inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
    return inside and not any(box.overlaps(other) for other in taken)

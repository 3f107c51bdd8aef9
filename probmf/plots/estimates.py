"""Predictions, comparisons and slopes of mixed models."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.data.column import python_values
from probmf.plots.style import (
    CYCLE,
    DASHES,
    GREY,
    LABELLED,
    describe,
    draw_lines,
    figure_of,
    legend,
    new_axes,
    short_labels,
)
from probmf.results import Estimates
from probmf.results.estimates import texts_of

#: Places on the axis from which on a column of numbers is drawn as a curve.
CURVE = 6
#: Letters of all names of levels that stand beside each other.
_ROOM = 50
#: Width over which intervals of several colours at one place are spread.
_SPREAD = 0.4


def estimates(
    found: Estimates, x: str | None = None, *, color: str | None = None, ax: Axes | None = None
) -> Figure:
    """Predictions, comparisons or slopes with their intervals, along a column or one by one.

    Args:
        found: From `fit.predictions`, `fit.comparisons` or `fit.slopes`.
        x: A column of theirs for the axis. Numbers at six places or more make a curve with a band,
            if nothing else varies within a colour; others dots with intervals. None lists the
            estimates one below the other.
        color: Another column, whose values have a colour each; None takes "level" of probabilities.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        TypeError: If it is none of these results.
        ValueError: If there is no such column, there are more colours than can be told apart, or a
            colour would stand for several comparisons or slopes.
    """
    if not isinstance(found, Estimates):
        raise TypeError(
            f"found is a {type(found).__name__}, expected what fit.predictions, fit.comparisons or "
            "fit.slopes return."
        )
    for name in (x, color):
        if name is not None and name not in found.columns:
            raise ValueError(
                f"There is no column {name!r}; there are: "
                f"{', '.join(map(repr, found.columns)) or 'none'}."
            )
    told = "" if found.lower is None else f", {found.interval:.0%} intervals"
    title = f"{found.what.capitalize()} of {found.response}{told}"
    if x is None:
        return _listed(found, title, ax)
    if color is None and x != "level" and "level" in found.columns:
        color = "level"
    ax = new_axes(ax, (5.6 if color is None else 6.6, 3.8))
    numbers, names = _axis(found.columns[x])
    parts = _colours(found, color)
    others = [own for name, own in found.columns.items() if name not in (x, color)]
    for place, (name, rows) in enumerate(parts.items()):
        _refuse_mixtures(found, rows, x)
        order = rows[np.argsort(numbers[rows], kind="stable")]
        alone = all(_is_constant(own[rows]) for own in others)
        if names is None and alone and len(rows) >= CURVE:
            _draw_curve(ax, found, numbers, order, name, place)
        else:
            gaps = np.diff(np.unique(numbers)) if names is None else np.ones(1)
            gap = float(gaps.min()) if len(gaps) else 1.0
            shift = _SPREAD * gap * ((place + 0.5) / len(parts) - 0.5)
            _draw_dots(ax, found, numbers + shift, order, name, place)
    if names is not None:
        _name_places(ax, names)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.grid(axis="x", visible=False)
    if found.what != "predictions":
        low, high = ax.get_ylim()
        # The value of no effect.
        null = 1.0 if found.comparison == "ratio" else 0.0
        if low <= null <= high:
            ax.axhline(null, color=GREY, lw=1, ls="--", zorder=0.5)
    # Beside the axes, since bands and intervals leave no room within.
    legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=color, title_fontsize=9)
    describe(ax, title=title, x=x, y=_words(found))
    return figure_of(ax)


def _words(found: Estimates) -> str:
    """Name of what is estimated, with the term if there is one only."""
    what = {"predictions": "expected", "comparisons": "change of", "slopes": "slope of"}[found.what]
    words = f"{what} {found.response}"
    if "level" in found.columns:  # One line of each level, about its probability.
        predicted = found.what == "predictions"
        words = f"probability of {found.response}" if predicted else f"{what} P({found.response})"
    for name in ("term", "contrast") if found.what == "comparisons" else ("term",):
        own = found.columns.get(name)
        if own is not None and _is_constant(own):
            link = {"term": ", ", "contrast": " "}[name] if found.what == "comparisons" else " by "
            words += f"{link}{own[0]}"
    return words


def _is_constant(values: np.ndarray) -> bool:
    return len(set(values.tolist())) < 2


def _refuse_mixtures(found: Estimates, rows: np.ndarray, x: str) -> None:
    """Refuse several comparisons, slopes or levels in one colour."""
    apart = [name for name in ("term", "contrast", "level") if name in found.columns and name != x]
    kinds = {tuple(str(found.columns[name][row]) for name in apart) for row in rows}
    if len(kinds) > 1:
        first, second = sorted(kinds)[:2]
        raise ValueError(
            f"The {found.what} are of {' '.join(first)!r} and {' '.join(second)!r}, among others, "
            "in one colour; choose one with variables=, or give color= one of these: "
            f"{', '.join(map(repr, apart))}."
        )


def _listed(found: Estimates, title: str, ax: Axes | None) -> Figure:
    few = len(found) <= LABELLED
    ax = new_axes(ax, (5.6, 1.1 + 0.26 * len(found)) if few else (5.6, 6.0))
    # Without labels what can be seen is the order.
    order = np.arange(len(found))[::-1] if few else np.argsort(found.mean, kind="stable")
    ends = []
    if found.lower is not None and found.upper is not None:
        ends = [(found.lower[order], found.upper[order], 2.0, 0.4)]
    labels = [found.labels()[place] for place in order] if few else []
    draw_lines(ax, found.mean[order], ends, labels)
    told = [name for name, own in found.columns.items() if not _is_constant(own)]
    y = told[0] if len(told) == 1 and told[0] not in ("term", "contrast") else ""
    describe(ax, title=title, x=_words(found), y=y if few else f"{len(found):,} in order")
    return figure_of(ax)


def _axis(values: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """Places on an axis; with their names where they are no numbers."""
    if values.dtype.kind in "iuf":
        return values.astype(float), None
    codes: dict[Any, int] = {}
    own = python_values(values)
    for value in own:
        codes.setdefault(value, len(codes))
    return np.array([codes[value] for value in own], float), texts_of(list(codes))


def _name_places(ax: Axes, names: list[str]) -> None:
    """Ticks of levels: aslant where their names would run into each other, of many some."""
    places = range(0, len(names), -(-len(names) // LABELLED))
    texts = short_labels(names[place] for place in places)
    aslant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, texts, **(aslant if sum(map(len, texts)) > _ROOM else {}))


def _colours(found: Estimates, color: str | None) -> dict[str, np.ndarray]:
    """Lines of each colour."""
    if color is None:
        return {"": np.arange(len(found))}
    values = python_values(found.columns[color])
    kinds = list(dict.fromkeys(values))
    parts = {
        name: np.array([place for place, value in enumerate(values) if value == own])
        for name, own in zip(texts_of(kinds), kinds, strict=True)
    }
    if len(parts) > len(CYCLE):
        raise ValueError(
            f"{color!r} has {len(parts):,} values; at most {len(CYCLE)} colours can be told apart. "
            "Choose some of them, as with datagrid."
        )
    return parts


def _ends(found: Estimates, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    if found.lower is None or found.upper is None:
        return None
    return found.lower[rows], found.upper[rows]


def _draw_curve(
    ax: Axes, found: Estimates, numbers: np.ndarray, rows: np.ndarray, name: str, place: int
) -> None:
    hue, ends = CYCLE[place], _ends(found, rows)
    if ends is not None:
        ax.fill_between(numbers[rows], *ends, color=hue, alpha=0.18, lw=0)
    dash = DASHES[place % len(DASHES)]
    ax.plot(numbers[rows], found.mean[rows], color=hue, ls=dash, lw=1.8, label=name or None)


def _draw_dots(
    ax: Axes, found: Estimates, numbers: np.ndarray, rows: np.ndarray, name: str, place: int
) -> None:
    hue, ends, many = CYCLE[place], _ends(found, rows), len(rows) > LABELLED
    if ends is not None:
        width, alpha = (0.6, 0.25) if many else (2.0, 0.5)
        ax.vlines(numbers[rows], *ends, color=hue, lw=width, alpha=alpha)
    size = 2.5 if many else 5
    ax.plot(numbers[rows], found.mean[rows], "o", color=hue, ms=size, label=name or None)

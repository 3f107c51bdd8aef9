"""Ends of restarts: the share that reaches the deepest minimum found."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.plots.history import FLOOR, Searched, check_histories, share_above, unit_of
from probmf.plots.style import (
    CYCLE,
    DASHES,
    GREY,
    describe,
    legend,
    log_axis,
    new_figure,
    percent,
    quiet,
)
from probmf.results import History

#: Ends of so many restarts are marked one by one.
_MARKED = 20


def optimization(
    history: Searched | Mapping[str, Searched],
    *,
    tolerance: float = 0.01,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    r"""Objective of every restart by step, and where the restarts of each optimizer ended.

    Both panels show how far an objective lies above the lowest value :math:`f^*` that any restart
    of any optimizer reached, :math:`(f - f^*) / |f^*|`. In the first, thin lines are restarts and a
    thick one their median. The second has the share of the restarts whose lowest objective is at
    most that; the legend counts those within `tolerance`, in the best basin.

    Args:
        history: A fit of a search, or its `history`; or several by name, of one and the same
            objective.
        tolerance: Share above the lowest objective up to which a restart counts as having reached
            it.
        ax: Axes of the two panels, or None for a new figure.

    Returns:
        The figure.

    Raises:
        TypeError: If a history is None or of another type.
        ValueError: If there is nothing to draw, the tolerance is not positive, or there are not two
            axes.

    Example:
        >>> import numpy as np
        >>> history = History(
        ...     objective=np.array([5.0, 4.0]), validation=None, seconds=np.array([0.1, 0.2]),
        ...     best=2, stopped="num_epochs", unit="epoch",
        ...     restarts=np.array([[5.0, 4.0], [9.0, 6.0]]),
        ... )
        >>> [text.get_text() for text in optimization(history).axes[1].get_legend().get_texts()]
        ['1 of 2 within 1%']
    """
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance is {tolerance!r}; expected a positive share such as 0.01.")
    runs = check_histories(history)
    panels = list(new_figure((10.4, 3.8)).subplots(1, 2)) if ax is None else list(ax)
    if len(panels) != 2:
        raise ValueError(f"ax holds {len(panels)} axes; expected two.")
    curves = {name: _restarts(run) for name, run in runs.items()}
    finite = [np.nanmin(np.where(np.isfinite(curve), curve, np.nan)) for curve in curves.values()]
    lowest = float(min(finite))
    unit = abs(lowest) or 1.0
    for place, (name, curve) in enumerate(curves.items()):
        color, dash = CYCLE[place % len(CYCLE)], DASHES[place % len(DASHES)]
        above = share_above(curve, lowest, unit)
        steps = np.arange(1, curve.shape[1] + 1)
        panels[0].plot(steps, above.T, color=color, lw=0.5, alpha=0.25)
        panels[0].plot(steps, _median(above), color=color, ls=dash, lw=2, label=name or None)
        ends = np.sort((lowest_of_each(curve) - lowest) / unit)
        # Those that diverged at once lie beyond the axis.
        there = np.maximum(ends[np.isfinite(ends)], FLOOR)
        reached = int(np.sum(ends <= tolerance))
        label = f"{reached} of {len(ends)} within {tolerance:.0%}"
        panels[1].step(
            there, np.arange(1, len(there) + 1) / len(ends), where="post", color=color, ls=dash,
            lw=2, marker="o" if len(ends) <= _MARKED else "", ms=4,
            label=f"{name}: {label}" if name else label,
        )  # fmt: skip
    panels[1].axvline(tolerance, color=GREY, lw=1)
    for panel in panels:
        quiet(panel)
    log_axis(panels[0], "y")
    log_axis(panels[1], "x")
    percent(panels[1], "y")
    share = "share above the lowest objective reached"
    describe(panels[0], title="Objective of every restart", x=unit_of(runs), y=share)
    describe(panels[1], title="Where the restarts end", x=share, y="restarts at most that far")
    legend(panels[0], loc="upper right")
    legend(panels[1], loc="center left")
    return cast(Figure, panels[0].get_figure(root=True))


def lowest_of_each(curve: Float[np.ndarray, "restarts steps"]) -> Float[np.ndarray, " restarts"]:
    """The lowest objective of each restart; infinite where it has none."""
    return np.min(np.where(np.isfinite(curve), curve, np.inf), axis=1)


def _restarts(run: History) -> Float[np.ndarray, "restarts steps"]:
    curves = run.objective[None] if run.restarts is None else run.restarts
    return np.asarray(curves, np.float64)


def _median(above: np.ndarray) -> Float[np.ndarray, " steps"]:
    """Median over the restarts that are still running."""
    there = np.isfinite(above).any(axis=0)
    median = np.full(above.shape[1], np.nan)
    median[there] = np.nanmedian(above[:, there], axis=0)
    return median

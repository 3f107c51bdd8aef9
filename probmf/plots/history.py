"""Histories of fits: objective and held-out error by step or by time."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probmf.diagnostics.quantities import AnyFit
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

#: A fit of a search, or its history.
type Searched = AnyFit | History
#: Below this share two objectives are the same number in float32.
FLOOR = 1e-7
#: Runs whose lengths differ by more than this factor are drawn on a logarithmic axis.
_LONG = 5


def convergence(
    history: Searched | Mapping[str, Searched],
    *,
    against: Literal["steps", "seconds"] = "steps",
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    r"""Objective, and held-out error where there is one, of one or several fits.

    The first panel shows how far the objective lies above the lowest value :math:`f^*` that any of
    the fits reached, :math:`(f - f^*) / |f^*|`, on a logarithmic axis. The second shows the
    held-out error, with a dot at the step that was kept.

    Args:
        history: A fit of a search, or its `history`; or several by name.
        against: What the horizontal axis is: "steps" (sweeps or epochs) or "seconds" (compilation
            included).
        ax: Axes of the panels: one for the objective only, two for both, or None for a new figure.

    Returns:
        The figure.

    Raises:
        TypeError: If a history is None or of another type.
        ValueError: If there is nothing to draw, or the number of axes is neither 1 nor 2.

    Example:
        >>> import numpy as np
        >>> history = History(
        ...     objective=np.array([9.0, 5.0, 4.0]), validation=None,
        ...     seconds=np.array([0.1, 0.2, 0.3]), best=3, stopped="tol", unit="sweep",
        ... )
        >>> len(convergence({"ALS": history}).axes)
        1
    """
    if against not in ("steps", "seconds"):
        raise ValueError(f"against is {against!r}; expected 'steps' or 'seconds'.")
    runs = check_histories(history)
    held_out = any(run.validation is not None for run in runs.values())
    panels = _panels(ax, 1 + held_out)
    x_label = "seconds, compilation included" if against == "seconds" else unit_of(runs)
    _draw_objective(panels[0], runs, against)
    describe(
        panels[0],
        title="Distance from the lowest objective",
        x=x_label,
        y="share above the lowest objective reached",
    )
    if held_out and len(panels) > 1:
        _draw_held_out(panels[1], runs, against)
        describe(panels[1], title="Held-out error (dot: kept)", x=x_label, y="held-out error")
    for panel in panels:
        lengths = [len(run) for run in runs.values()]
        if against == "steps" and max(lengths) > _LONG * min(lengths):
            log_axis(panel, "x")
        elif against == "steps":
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(runs) > 1:
        legend(panels[0])
    return cast(Figure, panels[0].get_figure(root=True))


def check_histories(history: Searched | Mapping[str, Searched]) -> dict[str, History]:
    """One or several histories by name, those without a step left out."""
    given = dict(history) if isinstance(history, Mapping) else {"": history}
    runs: dict[str, Any] = {name: getattr(of, "history", of) for name, of in given.items()}
    for name, run in runs.items():
        if not isinstance(run, History):
            whose = f"The history of {name!r}" if name else "history"
            raise TypeError(
                f"{whose} is a {type(run).__name__}, expected a History; give a fit that an "
                "optimizer made."
            )
    runs = {name: run for name, run in runs.items() if len(run)}
    if not runs:
        raise ValueError("There is nothing to draw: no history has a step.")
    return runs


def _panels(ax: Axes | Sequence[Axes] | None, wanted: int) -> list[Axes]:
    if ax is None:
        figure = new_figure((5.2 * wanted, 3.8))
        return [quiet(panel) for panel in figure.subplots(1, wanted, squeeze=False)[0]]
    panels = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(panels) not in (1, 2):
        raise ValueError(f"ax holds {len(panels)} axes; give one (objective) or two (both panels).")
    return [quiet(panel) for panel in panels]


def unit_of(runs: Mapping[str, History]) -> str:
    """Name of a step."""
    return " or ".join(dict.fromkeys(f"{run.unit}s" for run in runs.values()))


def _x(run: History, against: str) -> np.ndarray:
    return np.asarray(run.seconds) if against == "seconds" else np.arange(1, len(run) + 1)


def _draw_objective(ax: Axes, runs: Mapping[str, History], against: str) -> None:
    lowest = min(float(np.nanmin(run.objective)) for run in runs.values())
    unit = abs(lowest) or 1.0
    for place, (name, run) in enumerate(runs.items()):
        if run.restarts is not None:
            for line in run.restarts:
                above = share_above(line, lowest, unit)
                x = _x(run, against)[: len(above)]
                ax.plot(x, above, color=CYCLE[place % len(CYCLE)], lw=0.6, alpha=0.35)
        above = share_above(run.objective, lowest, unit)
        ax.plot(_x(run, against), above, **_line(place), label=name or None)
    log_axis(ax, "y")


def share_above(objective: np.ndarray, lowest: float, unit: float) -> np.ndarray:
    """The share above the lowest; what is equal to it in float32 is not drawn."""
    share = (np.asarray(objective, dtype=np.float64) - lowest) / unit
    return np.where(share > FLOOR, share, np.nan)


def _draw_held_out(ax: Axes, runs: Mapping[str, History], against: str) -> None:
    for place, (name, run) in enumerate(runs.items()):
        if run.validation is None:
            continue
        x = _x(run, against)[: len(run.validation)]
        ax.plot(x, run.validation, **_line(place), label=name or None)
        if 1 <= run.best <= len(run.validation):
            kept = run.best - 1
            color = CYCLE[place % len(CYCLE)]
            ax.plot(x[kept], run.validation[kept], "o", color=color, ms=7, mec="white")


def _line(place: int) -> dict[str, Any]:
    """Colour and dashes of the run in a place."""
    return {"color": CYCLE[place % len(CYCLE)], "ls": DASHES[place % len(DASHES)], "lw": 2}


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
    curves = {
        name: np.asarray(run.objective[None] if run.restarts is None else run.restarts, np.float64)
        for name, run in runs.items()
    }
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


def _median(above: np.ndarray) -> Float[np.ndarray, " steps"]:
    """Median over the restarts that are still running."""
    there = np.isfinite(above).any(axis=0)
    median = np.full(above.shape[1], np.nan)
    median[there] = np.nanmedian(above[:, there], axis=0)
    return median

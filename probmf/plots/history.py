"""Histories of fits: objective and held-out error by step or by time."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probmf.diagnostics.quantities import AnyFit
from probmf.plots.style import CYCLE, DASHES, describe, legend, log_axis, new_figure, quiet
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
            ax.plot(
                x[kept],
                run.validation[kept],
                "o",
                color=CYCLE[place % len(CYCLE)],
                ms=7,
                mec="white",
            )


def _line(place: int) -> dict[str, Any]:
    """Colour and dashes of the run in a place."""
    return {"color": CYCLE[place % len(CYCLE)], "ls": DASHES[place % len(DASHES)], "lw": 2}

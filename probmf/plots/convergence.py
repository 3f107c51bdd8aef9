"""Convergence diagnostics of a sampler's draws in one picture."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.diagnostics import Diagnosis, summary
from probmf.diagnostics.judgement import ESS_PER_CHAIN, R_HAT
from probmf.diagnostics.quantities import AnyFit
from probmf.plots.style import BLUE, GREY, ORANGE, describe, legend, new_figure, quiet


def diagnostics(fit: AnyFit, *, probes: int = 200) -> Figure:
    """R-hat and effective sample sizes of each quantity, and the energies if there are any.

    The dashed lines are the limits of `diagnostics.summary`; what lies beyond them is orange. That
    function gives the numbers and says what to do.

    Args:
        fit: A fit of a sampler.
        probes: As in `diagnostics.summary`.

    Returns:
        The figure, of two panels or three.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it has fewer than four draws per chain, or independent draws, which are no
            chains.
    """
    found = summary(fit, probes=probes)
    if fit.sampling is not None and fit.sampling.is_independent:
        raise ValueError(
            "plots.diagnostics shows how chains agree, and these are independent draws. See "
            "diagnostics.summary, and of an approximation plots.history for how the search went."
        )
    energy = None if fit.sampling is None else fit.sampling.stats.get("energy")
    count = 2 if energy is None else 3
    figure = new_figure((3.9 * count, max(3.4, 1.0 + 0.24 * len(found.table))))
    panels = [quiet(ax) for ax in figure.subplots(1, count, squeeze=False)[0]]
    _draw_r_hat(panels[0], found)
    _draw_sizes(panels[1], found, ESS_PER_CHAIN * fit.num_chains)
    if energy is not None:
        draw_energy(panels[2], energy)
    return figure


def _draw_r_hat(ax: Axes, found: Diagnosis) -> None:
    values = np.array([row["r_hat"] for row in found.table])
    finite = np.isfinite(values)
    # What is not finite stands at the edge.
    shown = np.where(finite, values, np.max(values, initial=1.1, where=finite))
    y = np.arange(len(values))
    for bad, color in ((False, BLUE), (True, ORANGE)):
        some = (values <= R_HAT) != bad
        ax.plot(shown[some], y[some], "o", color=color, mec="white", ms=7)
    ax.axvline(R_HAT, color=GREY, lw=1, ls="--")
    _label(ax, found)
    describe(ax, title="R-hat (worst of each)", x="R-hat", y="")


def _draw_sizes(ax: Axes, found: Diagnosis, least: float) -> None:
    y = np.arange(len(found.table))
    for name, mark, shift in (("ess_bulk", "o", 0.12), ("ess_tail", "D", -0.12)):
        values = np.nan_to_num(np.array([row[name] for row in found.table]))
        colors = np.where(values >= least, BLUE, ORANGE)
        ax.scatter(values, y + shift, c=colors, marker=mark, s=32, label=name.removeprefix("ess_"))
    ax.axvline(least, color=GREY, lw=1, ls="--")
    ax.set_xlim(left=0)
    _label(ax, found)
    ax.set_yticklabels([])
    legend(ax, loc="best")
    describe(ax, title="Effective sample size (least)", x="draws", y="")


def _label(ax: Axes, found: Diagnosis) -> None:
    names = [
        row["name"] + (f" ({row['count']:,})" if row["count"] > 1 else "") for row in found.table
    ]
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def draw_energy(ax: Axes, energy: np.ndarray) -> None:
    """Draw the distributions of energies and of their changes."""
    marginal = (energy - energy.mean(axis=1, keepdims=True)).ravel()
    change = np.diff(energy, axis=1).ravel()
    span = float(np.max(np.abs(np.quantile(np.r_[marginal, change], [0.001, 0.999]))))
    edges = np.linspace(-span, span, 41).tolist()
    for values, color, name in ((marginal, BLUE, "energy"), (change, ORANGE, "its changes")):
        ax.hist(values, edges, density=True, histtype="stepfilled", color=color, alpha=0.15)
        ax.hist(values, edges, density=True, histtype="step", color=color, lw=1.6, label=name)
    ax.set_yticks([])
    legend(ax, loc="upper right")
    describe(ax, title="Energy", x="about the mean of its chain", y="")

"""Pictures of draws: traces, ranks, energies."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from probmf.diagnostics import Diagnosis, summary
from probmf.diagnostics.judgement import ESS_PER_CHAIN, R_HAT, statistics
from probmf.diagnostics.quantities import AnyFit, check_fit, chosen, of_fit
from probmf.plots.style import (
    BLUE,
    CYCLE,
    DASHES,
    GREY,
    ORANGE,
    describe,
    figure_legend,
    figure_of,
    legend,
    new_axes,
    new_figure,
    quiet,
)
from probmf.results.measures import fewest_draws, measure

#: Quantities that a picture of chains shows at most if none are named.
MOST = 12
#: Points of a trace that are drawn one by one; of longer chains the range within equal pieces.
_POINTS = 2_000
#: Places at which distributions of ranks are compared, and simulations of their band.
_PLACES, _SIMULATIONS = 100, 400


def trace(fit: AnyFit, *, var_names: Collection[str] | None = None) -> Figure:
    """Draws of each chain in their order, beside their distributions, of what the data identify.

    Chains that have converged lie on top of each other and look like noise without a trend.

    Args:
        fit: A fit of a sampler.
        var_names: Which quantities, as in the table of `diagnostics.summary`; None for the first
            12 that are single numbers.

    Returns:
        The figure, one line of panels for each quantity. Of chains longer than 2,000 draws each
        line shows the range of the draws within pieces of the chain.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit, or there is no such quantity.
    """
    found = _quantities(fit, var_names)
    figure = new_figure((8.4, 0.5 + 1.15 * len(found)))
    grid = figure.subplots(
        len(found), 2, squeeze=False, width_ratios=(1, 3.2), sharex="col", sharey="row"
    )
    for (name, draws), (left, right) in zip(found.items(), grid, strict=True):
        edges = np.histogram_bin_edges(draws, bins=min(40, max(10, draws.size // 50)))
        for chain, values in enumerate(draws):
            color, dash = CYCLE[chain % len(CYCLE)], DASHES[chain % len(DASHES)]
            count, _ = np.histogram(values, edges)
            left.stairs(count, edges, orientation="horizontal", color=color, ls=dash, lw=1.2)
            _draw_chain(right, values, color, f"chain {chain + 1}")
        for panel in (left, right):
            quiet(panel)
        left.set_xticks([])
        right.tick_params(axis="y", left=False)
        right.set_xlim(0, draws.shape[1])
        right.set_title(name, loc="left", fontsize=10)
    grid[0][0].invert_xaxis()
    grid[-1][1].set_xlabel("draw", fontsize=10)
    grid[-1][1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure_legend(figure, grid[0][1])
    return figure


def _draw_chain(ax: Axes, values: Float[np.ndarray, " draws"], color: str, name: str) -> None:
    size = -(-len(values) // _POINTS)
    if size == 1:
        ax.plot(np.arange(len(values)), values, color=color, lw=0.5, alpha=0.8, label=name)
        return
    starts = np.arange(0, len(values), size)
    low, high = (of.reduceat(values, starts) for of in (np.minimum, np.maximum))
    ax.fill_between(starts, low, high, color=color, alpha=0.5, lw=0, label=name)


def ranks(fit: AnyFit, *, var_names: Collection[str] | None = None) -> Figure:
    """Distributions of ranks by chain, for each quantity that the data identify.

    Each panel shows how the share of a chain's draws below each rank differs from what it would
    be if all chains explored the same distribution. A chain that leaves the grey band did not: if
    all do, it lies within with 95 % probability. The band is that of as many independent draws as
    the chains, each by itself, are worth.

    Args:
        fit: A fit of a sampler with several chains.
        var_names: Which quantities, as in the table of `diagnostics.summary`; None for the first
            12 that are single numbers.

    Returns:
        The figure.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit or has one chain only, or there is no such quantity.

    References:
        Saeilynoja, Buerkner and Vehtari (2022), Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison.
    """
    found = _quantities(fit, var_names)
    if fit.num_chains < 2:
        raise ValueError(
            "The fit has one chain, and ranks compare chains; sample several, or see plots.trace."
        )
    wide = min(3, len(found))
    high = -(-len(found) // wide)
    figure = new_figure((1.2 + 2.9 * wide, 0.9 + 2.0 * high))
    panels = figure.subplots(high, wide, squeeze=False, sharex=True)
    share = np.linspace(0.0, 1.0, _PLACES)
    half = _rank_band(share, fit.num_chains)
    for (name, draws), ax in zip(found.items(), panels.flat, strict=False):
        quiet(ax)
        rank = rankdata(draws, axis=None).reshape(draws.shape) / draws.size
        width = half / np.sqrt(_size_by_itself(draws))
        ax.fill_between(share, -width, width, color=GREY, alpha=0.3, lw=0)
        for chain, values in enumerate(rank):
            below = np.searchsorted(np.sort(values), share, side="right") / len(values)
            ax.plot(
                share, below - share, color=CYCLE[chain % len(CYCLE)],
                ls=DASHES[chain % len(DASHES)], lw=1.5, label=f"chain {chain + 1}",
            )  # fmt: skip
        ax.set_title(name, loc="left", fontsize=10)
    for ax in panels.flat[len(found) :]:
        ax.set_visible(False)
    figure.supxlabel("rank among all draws, as a share", fontsize=10)
    figure.supylabel("draws below it: excess", fontsize=10)
    figure_legend(figure, panels[0][0])
    return figure


def _rank_band(share: Float[np.ndarray, " p"], num_chains: int) -> Float[np.ndarray, " p"]:
    """Half width of the simultaneous 95 % band, times the root of the number of draws."""
    rng, count = np.random.default_rng(0), 200
    at = np.sort(rng.random((_SIMULATIONS, count)), axis=1)
    below = np.stack([np.searchsorted(values, share, side="right") for values in at]) / count
    sd = np.sqrt(share * (1 - share) / count)
    far = np.divide(np.abs(below - share), sd, out=np.zeros_like(below), where=sd > 0).max(axis=1)
    # A chain is a share of the draws that it is compared with.
    return np.quantile(far, 0.95) * np.sqrt(share * (1 - share) * (1 - 1 / num_chains))


def _size_by_itself(draws: Float[np.ndarray, "chain draw"]) -> float:
    """Mean effective number of draws of a chain, whatever the others do."""
    if draws.shape[1] < fewest_draws(1):
        return float(draws.shape[1])
    sizes = [float(measure(own[None, :, None]).ess_bulk[0]) for own in draws]
    return float(np.clip(np.nanmean(sizes), 1.0, draws.shape[1]))


def energy(fit: AnyFit, *, ax: Axes | None = None) -> Figure:
    """The distribution of the energy beside that of its changes, and E-BFMI of each chain.

    Changes that are much narrower mean that the sampler moves slowly into the tails; E-BFMI below
    0.3 says so, too.

    Args:
        fit: A fit of a Hamiltonian sampler.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        TypeError: If it is no fit.
        ValueError: If there are no energies.
    """
    check_sampled(fit)
    if fit.sampling is None or "energy" not in fit.sampling.stats:
        raise ValueError(
            f"The fit by {fit.method!r} has no energies; only Hamiltonian samplers, such as "
            "sample_nuts, have them."
        )
    ax = new_axes(ax, (5.2, 3.4))
    draw_energy(ax, fit.sampling.stats["energy"])
    known = statistics(fit.sampling).get("e_bfmi")
    told = "" if known is None else f"; E-BFMI {', '.join(f'{own:.2f}' for own in known)}"
    describe(ax, title=f"Energy{told}", x="energy about the mean of its chain", y="density")
    return figure_of(ax)


def _quantities(
    fit: AnyFit, names: Collection[str] | None
) -> dict[str, Float[np.ndarray, "chain draw"]]:
    """Draws of single numbers by name; of the predictions of pairs or rows the first."""
    check_sampled(fit)
    found: dict[str, np.ndarray] = {}
    for quantity in of_fit(fit, 1, np.random.default_rng(0)):
        varies = np.ptp(quantity.draws) > 0
        if varies and (not quantity.grouped or quantity.name == "prediction"):
            found[quantity.name] = np.asarray(quantity.draws[:, :, 0], np.float64)
    return {name: found[name] for name in chosen(found, names, MOST)}


def check_sampled(fit: AnyFit) -> None:
    """Refuse what has no draws."""
    check_fit(fit)
    if fit.is_point:
        raise ValueError(
            f"The fit by {fit.method!r} is a point without draws; this picture needs those of a "
            "sampler."
        )


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

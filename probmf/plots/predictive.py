"""Predictive checks: responses that a fitted model would make, beside those that were observed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.data import as_generator
from probmf.diagnostics.quantities import AnyFit
from probmf.plots.posterior import check_sampled
from probmf.plots.style import (
    BLUE,
    DRAWN,
    INK,
    LABELLED,
    count_ticks,
    describe,
    figure_of,
    legend,
    new_axes,
    short_labels,
)
from probmf.results import MixedFit, RatingsFit
from probmf.results.asked import check_choice
from probmf.results.mixtures import tails
from probmf.settings import own_settings

type Statistic = Literal["mean", "sd"]
type Group = Literal["posterior", "prior"]
#: Values that are looked at one by one; of more there is a histogram.
_VALUES = 25
#: Replicated responses that are so many times larger than all observed need a logarithmic axis.
_FAR = 20
#: Probability of the intervals of replications.
_LEVEL = 0.9


@own_settings()
def predictive_check(
    fit: AnyFit,
    *,
    key: ArrayLike,
    num_samples: int = 50,
    by: str | Sequence[Any] | None = None,
    statistic: Statistic = "mean",
    group: Group = "posterior",
    ax: Axes | None = None,
) -> Figure:
    """Predictive check: responses that the fitted model would make, beside those observed.

    At each of some draws a data set is made; the band is where 90 % of them lie. With `by` the
    check is one of each group: whether its observed mean lies where replicated means do. With
    group="prior" the draws are those of the prior: whether it takes data like ours for possible.

    Args:
        fit: A fit of a sampler; for the prior any.
        key: JAX key or int.
        num_samples: How many data sets to make, each at a draw of its own.
        by: Groups to check one by one: "user" or "item" of ratings, a grouping factor of a mixed
            model, or one label for each training row. None checks the distribution of all.
        statistic: What is compared by group, "mean" or "sd".
        group: Draws of which parameters, "posterior" or "prior".
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure. Up to 60 groups are labelled; all are in the order of what was observed.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit, `num_samples` is less than one, there is no such grouping
            or statistic, a prior is flat, or some responses are bounds.

    Memory: `num_samples` numbers for each training row.
    """
    fit._refuse_bounds()
    check_choice("group", group, get_args(Group.__value__))
    if group == "posterior":
        check_sampled(fit)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1.")
    check_choice("statistic", statistic, get_args(Statistic.__value__))
    groups = None if by is None else _groups(fit, by)
    told = "" if group == "posterior" else ", by the prior"
    made = _replicated(fit, as_generator(key), num_samples, group)
    observed = np.asarray(fit._observed(), np.float64).ravel()
    name = fit._response_name
    if groups is not None:
        source = f"{by if isinstance(by, str) else 'group'}{told}"
        return _draw_groups(ax, made, observed, *groups, statistic, name, source)
    ax = new_axes(ax, (5.6, 3.8))
    values = np.unique(observed)
    if len(values) <= _VALUES and np.isin(made[:1], values).mean() > 0.5:
        _draw_values(ax, made, observed, np.unique(np.concatenate([values, made.ravel()])))
    else:
        _draw_histogram(ax, made, observed, wide=group == "prior")
    legend(ax, loc="best")
    describe(ax, title=f"{len(made)} replicated data sets{told}", x=name, y="share of rows")
    return figure_of(ax)


def _replicated(
    fit: AnyFit, rng: np.random.Generator, count: int, group: Group
) -> Float[np.ndarray, "samples n"]:
    """Data sets at draws that are equally far apart, or at draws of the prior."""
    if group == "prior":
        found = fit._prior_draws(rng, count)[fit._response_name]
        return np.asarray(found[0], np.float64).reshape(count, -1)
    total = fit.num_chains * fit.num_draws
    at = np.linspace(0, total - 1, min(count, total)).astype(int)
    samples = {
        name: value.reshape(1, total, *value.shape[2:])[:, at]
        for name, value in fit.samples.items()
    }
    run = None if fit.sampling is None else replace(fit.sampling, stats={})
    few = replace(fit, samples=samples, sampling=run)
    return np.asarray(few._at_draws(rng)[0], np.float64).reshape(len(at), -1)


def _draw_values(ax: Axes, made: np.ndarray, observed: np.ndarray, values: np.ndarray) -> None:
    """Shares of the rows at each of a few values."""
    shares = np.stack([(made == value).mean(axis=1) for value in values])
    low, high = np.quantile(shares, tails(_LEVEL), axis=1)
    ax.vlines(
        values, low, high, color=BLUE, lw=6, alpha=0.45, label=f"{_LEVEL:.0%} of replications"
    )
    seen = [(observed == value).mean() for value in values]
    ax.plot(values, seen, "o", color=INK, ms=5, label="observed")
    if len(values) <= _VALUES:
        ax.set_xticks(values)
    ax.set_ylim(0, 1.25 * max(high.max(), *seen))  # Room for the legend.


def _draw_histogram(
    ax: Axes, made: np.ndarray, observed: np.ndarray, *, wide: bool = False
) -> None:
    """Shares of the rows in bins that hold all observed responses, and some beyond.

    If it is wide, they hold 98 % of the replicated responses, too; on a logarithmic axis where
    these are positive, or zero, and much larger.
    """
    values = np.unique(observed)
    if wide:
        ends = [*np.quantile(made, [0.01, 0.99]), observed.min(), observed.max()]
        edges = np.linspace(min(ends), max(ends), 41)
        if made.min() >= 0 and max(ends) > _FAR * observed.max():
            least = np.quantile(made[made > 0], 0.01)
            edges = np.concatenate([[0.0], np.geomspace(least, max(ends), 31)])
            if np.all(made % 1 == 0):
                edges = np.unique(np.ceil(edges))
            ax.set_xscale("symlog", linthresh=least, linscale=0.3)
        step, beyond = edges[1] - edges[0], 0
    elif 1 < len(values) <= _VALUES:  # Such as stars: each in a bin of its own.
        step, beyond = float(np.diff(values).min()), 2
        inner = 0.5 * (values[:-1] + values[1:])
        edges = np.concatenate([[values[0] - step / 2], inner, [values[-1] + step / 2]])
    else:
        edges = np.histogram_bin_edges(observed, bins=min(60, max(10, len(observed) // 20)))
        step, beyond = edges[1] - edges[0], 6
    outer = step * np.arange(1, beyond + 1)
    edges = np.concatenate([edges[0] - outer[::-1], edges, edges[-1] + outer])
    shares = np.stack([np.histogram(own, edges)[0] for own in made]) / len(observed)
    low, high = np.quantile(shares, tails(_LEVEL), axis=0)
    ax.stairs(
        high, edges, baseline=low, fill=True, color=BLUE, alpha=0.35, lw=0,
        label=f"{_LEVEL:.0%} of replications",
    )  # fmt: skip
    ax.stairs(np.histogram(observed, edges)[0] / len(observed), edges, color=INK, lw=1.4,
              label="observed")  # fmt: skip
    ax.set_ylim(bottom=0)


def _groups(fit: AnyFit, by: Any) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Group of each training row, and names of the groups."""
    if isinstance(by, str):
        known = _groupings(fit)
        if by not in known:
            raise ValueError(
                f"by is {by!r}; expected {' or '.join(map(repr, known)) or 'None'}, or one label "
                "for each training row."
            )
        return known[by]
    labels, codes = np.unique(np.asarray(by), return_inverse=True)
    if len(codes) != len(fit._observed()):
        raise ValueError(
            f"by has {len(codes):,} labels; give one for each of the {len(fit._observed()):,} "
            "training rows."
        )
    return codes, [str(label) for label in labels]


def _groupings(fit: AnyFit) -> dict[str, tuple[Int[np.ndarray, " n"], list[str]]]:
    """Groups of the training rows by the name of the grouping, and their labels."""
    found: dict[str, tuple[np.ndarray, list[str]]] = {}
    if isinstance(fit, RatingsFit):
        data = fit.data
        users = data.user_labels(np.arange(data.num_users))
        items = data.item_labels(np.arange(data.num_items))
        return {"user": (data.user, [*map(str, users)]), "item": (data.item, [*map(str, items)])}
    if isinstance(fit, MixedFit):
        for name, codes in fit.design.group_codes.items():
            found[name] = codes, [str(label) for label in fit.design.levels[name]]
    return found


def _draw_groups(
    ax: Axes | None, made: np.ndarray, observed: np.ndarray, codes: np.ndarray, names: list[str],
    statistic: Statistic, response: str, source: str,
) -> Figure:  # fmt: skip
    size = np.bincount(codes, minlength=len(names))
    there = np.flatnonzero(size > (statistic == "sd"))

    def told(values: np.ndarray) -> np.ndarray:
        mean = np.bincount(codes, values, len(names))[there] / size[there]
        if statistic == "mean":
            return mean
        square = np.bincount(codes, np.square(values - values.mean()), len(names))[there]
        return np.sqrt(np.maximum(square / size[there] - np.square(mean - values.mean()), 0.0))

    seen, replicated = told(observed), np.stack([told(own) for own in made])
    order = np.argsort(seen, kind="stable")
    low, high = np.quantile(replicated[:, order], tails(_LEVEL), axis=0)
    few, x = len(there) <= LABELLED, np.arange(len(there))
    inside = float(np.mean((low <= seen[order]) & (seen[order] <= high)))
    ax = new_axes(ax, (5.6, 1.3 + 0.22 * len(there)) if few else (5.6, 6.0))
    band = f"{_LEVEL:.0%} of replications"
    if len(there) > DRAWN:
        ax.fill_betweenx(x, low, high, color=BLUE, alpha=0.4, lw=0, rasterized=True, label=band)
    else:
        ax.hlines(x, low, high, color=BLUE, lw=5 if few else 1, alpha=0.45, label=band)
    ax.plot(
        seen[order], x, "o", color=INK, ms=4 if few else 1, rasterized=not few, label="observed"
    )
    if few:
        ax.set_yticks(x, short_labels(names[there[place]] for place in order))
    else:
        count_ticks(ax)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-1, len(there))
    describe(
        ax,
        title=f"{statistic} of {response} by {source}: {inside:.0%} of {len(there):,} within",
        x=f"{statistic} of {response}",
        y="" if few else f"{len(there):,} groups in order",
    )
    # Above the lines, which leave no corner free.
    ax.set_title(ax.get_title(loc="left"), loc="left", fontsize=11, color=INK, pad=24)
    legend(ax, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2,
           markerscale=1 if few else 4)  # fmt: skip
    return figure_of(ax)

"""Effects of the groups of a mixed model."""

from collections.abc import Collection, Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.plots.intervals import DRAWN, LABELLED, draw_intervals
from probmf.plots.style import new_figure, quiet
from probmf.results import MixedFit
from probmf.results.asked import check_interval


def effects(
    fit: MixedFit,
    term: str,
    *,
    column: str | Collection[str] | None = None,
    interval: float = 0.9,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Effects of groups in order of their means, with intervals (a caterpillar plot).

    Args:
        fit: The fit.
        term: A group term, such as "school", or the site of its effects, "school_effects".
        column: Which effects, such as "Intercept" or ["Intercept", "hours"], side by side; None
            for all. Groups are in the order of the first one; more than 2,000 of them in that
            of each.
        interval: Probability of the thin intervals; the thick ones are 50 %. A point fit has none.
        ax: Axes to draw into, one for each column; None makes a figure.

    Returns:
        The figure. Up to 60 groups are labelled.

    Raises:
        TypeError: If `fit` is no fit of a mixed model.
        ValueError: If there is no such term or column, the fit has no draws of the effects, the
            interval is not in (0, 1), or there are not as many axes as columns.
    """
    if not isinstance(fit, MixedFit):
        raise TypeError(f"fit is a {type(fit).__name__}, expected a MixedFit.")
    check_interval(interval)
    site, names = _find(fit, term)
    places = _places(names, column, term)
    draws = fit.samples[site].reshape(-1, *fit.samples[site].shape[2:])
    order = np.argsort(draws[:, :, places[0]].mean(axis=0), kind="stable")
    sites = fit.model.sites(fit.design)
    group = sites.dims[site][0]
    labels = [str(sites.coords[group][place]) for place in order]
    panels = _panels(ax, len(places), len(order))
    for place, panel in zip(places, panels, strict=True):
        shown = draws[:, order, place]
        if len(order) > DRAWN:  # In another order they would fill the panel.
            shown = shown[:, np.argsort(shown.mean(axis=0), kind="stable")]
        draw_intervals(quiet(panel), shown, labels, interval=interval)
        panel.set_title(names[place], loc="left", fontsize=10)
        panel.set_xlabel("effect", fontsize=10)
    if len(order) > LABELLED:
        panels[0].set_ylabel(f"{len(order):,} groups in order", fontsize=10)
    told = f", {interval:.0%} and 50% intervals" if len(draws) > 1 else ""
    panels[0].set_title(f"{names[places[0]]} by {group}{told}", loc="left", fontsize=10)
    return cast(Figure, panels[0].get_figure(root=True))


def _panels(ax: Axes | Sequence[Axes] | None, count: int, num_groups: int) -> list[Axes]:
    if ax is None:
        high = 0.9 + 0.22 * num_groups if num_groups <= LABELLED else 6.0
        figure = new_figure((1.2 + 4.0 * count, high))
        return list(figure.subplots(1, count, squeeze=False, sharey=True)[0])
    panels = [ax] if isinstance(ax, Axes) else list(ax)
    if len(panels) != count:
        raise ValueError(f"ax holds {len(panels)} axes; give one for each of {count} columns.")
    return panels


def _places(names: tuple[str, ...], column: str | Collection[str] | None, term: str) -> list[int]:
    """Places of the columns that were asked for."""
    if column is None:
        return list(range(len(names)))
    wanted = [column] if isinstance(column, str) else list(column)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise ValueError(
            f"The term {term.removesuffix('_effects')!r} has no effect "
            f"{(unknown or [''])[0]!r}; its effects are {', '.join(map(repr, names))}."
        )
    return [names.index(name) for name in wanted]


def _find(fit: MixedFit, term: str) -> tuple[str, tuple[str, ...]]:
    """The site of a term's effects, and their columns."""
    terms = {own.name: own for coding in fit.design.codings for own in coding.terms}
    name = str(term).removesuffix("_effects")
    if name not in terms:
        raise ValueError(
            f"The model has no group term {term!r}; its terms are "
            f"{', '.join(map(repr, terms)) or 'none'}."
        )
    site = f"{name}_effects"
    if site not in fit.samples:
        raise ValueError(
            f"The fit has no draws of {site}: the sampler integrated them out and did not draw "
            "them afterwards. Sample again and have them recovered."
        )
    return site, terms[name].names

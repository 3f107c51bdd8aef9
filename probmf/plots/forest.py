"""Parameters one below the other: of draws, and of best fits with confidence intervals."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.diagnostics.quantities import AnyFit, chosen
from probmf.models.sites import Sites
from probmf.plots.posterior import check_sampled
from probmf.plots.style import BLUE, DRAWN, LABELLED, draw_intervals, draw_lines, new_figure, quiet
from probmf.results import MixedFit
from probmf.results.asked import check_interval
from probmf.results.mixed_summary import is_effect, scalars
from probmf.results.table import Table

#: Columns of the table that `confint` returns.
_CONFIDENCE = ["name", "estimate", "lower", "upper"]


def forest(
    fit: AnyFit,
    *,
    var_names: Collection[str] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    interval: float = 0.9,
) -> Figure:
    """Means and intervals of parameters, one line each, with the user's own labels.

    Args:
        fit: A fit of a sampler.
        var_names: Names of sites, such as "coefficients" or "school_effects"; None for those
            without effects, factors and biases of single rows.
        coords: Labels to choose, by dimension, as in ArviZ: {"school": ["north", "lake"]}.
        interval: Probability of the thin intervals; the thick ones are 50 %.

    Returns:
        The figure, with a panel for each site, as their units may differ, and for an intercept,
        whose unit is that of the response. Of a site with more than 60 numbers these are in their
        order and without labels.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit, there is no such site or label, or the interval is not
            in (0, 1).
    """
    check_sampled(fit)
    check_interval(interval)
    sites = fit._sites()
    single = [
        site for site in fit.samples
        if not is_effect(site) and not {"user", "item"} & {*sites.dims.get(site, ())}
    ]  # fmt: skip
    parts: list[tuple[str, dict[str, np.ndarray]]] = []
    for site in chosen(dict.fromkeys(fit.samples if var_names else single), var_names):
        draws = dict(scalars(site, *_selected(site, fit.samples[site], sites, coords or {})))
        parts += _parts(site, {name: own.ravel() for name, own in draws.items() if np.ptp(own) > 0})
    if not parts:
        raise ValueError("There is nothing to draw: these parameters are the same at every draw.")

    def draw(ax: Axes, own: Mapping[str, np.ndarray], labels: list[str]) -> None:
        values = np.stack([*own.values()], axis=1)
        if len(own) > LABELLED:  # Without labels what can be seen is the order.
            values = values[:, np.argsort(-values.mean(axis=0), kind="stable")]
        draw_intervals(ax, values, labels, interval=interval)

    return _panels(parts, f"means, {interval:.0%} and 50% intervals", draw)


def confidence_intervals(found: Table, *, var_names: Collection[str] | None = None) -> Figure:
    """Estimates of a best fit with their confidence intervals, one line each.

    Intervals by profile likelihood are longer to the side on which the likelihood falls slowly;
    one without an end has an arrow, and a parameter without an interval its dot alone.

    Args:
        found: The table of `confint`.
        var_names: Names of sites or parameters, such as "coefficients" or "school_scale"; None for
            all.

    Returns:
        The figure, with a panel for each site, and for an intercept, as in `forest`.

    Raises:
        TypeError: If it is no such table.
        ValueError: If there is no such site or parameter.

    Example:
        >>> from probmf.results.table import Table
        >>> row = {"name": "noise_scale", "estimate": 1.1, "lower": 0.8, "upper": 1.7}
        >>> len(confidence_intervals(Table((row,))).axes)
        1
    """
    if getattr(found, "column_names", None) != _CONFIDENCE:
        raise TypeError(
            f"found is a {type(found).__name__}, expected the table that confint(fit) returns, of "
            "a fit of fit_marginal. Draws have their intervals in plots.forest(fit)."
        )
    rows = {row["name"]: row for row in found}
    sites: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in chosen(rows, var_names):
        sites.setdefault(name.partition("[")[0], {})[name] = rows[name]
    parts = [part for site, own in sites.items() for part in _parts(site, own)]
    return _panels(parts, "estimates and confidence intervals", _draw_confidence)


def _draw_confidence(ax: Axes, own: Mapping[str, Mapping[str, Any]], labels: list[str]) -> None:
    rows = [[row[name] for name in _CONFIDENCE[1:]] for row in own.values()]
    mean, lower, upper = np.array(rows, dtype=np.float64).T
    ends = [np.where(np.isfinite(end), end, mean) for end in (lower, upper)]
    draw_lines(ax, mean, [(ends[0], ends[1], 2.0, 0.4)], labels)
    edges = ax.get_xlim()
    for end, edge, mark in ((lower, edges[0], "<"), (upper, edges[1], ">")):
        for y in np.flatnonzero(np.isinf(end)):
            ax.hlines(y, *sorted((mean[y], edge)), color=BLUE, lw=2.0)
            ax.plot(edge, y, mark, color=BLUE, ms=6, clip_on=False)
    ax.set_xlim(edges)


def _parts[T](site: str, own: Mapping[str, T]) -> list[tuple[str, dict[str, T]]]:
    """Numbers of a site that share a panel: an intercept has the unit of the response."""
    intercept = f"{site}[Intercept]"
    alone = {name: value for name, value in own.items() if name == intercept}
    others = {name: value for name, value in own.items() if name != intercept}
    return [(site, part) for part in (alone, others) if part]


def _panels[T](
    parts: Sequence[tuple[str, dict[str, T]]],
    told: str,
    draw: Callable[[Axes, Mapping[str, T], list[str]], None],
) -> Figure:
    sizes = [len(own) if len(own) <= LABELLED else 20 for _, own in parts]
    figure = new_figure((6.0, 0.6 + 0.3 * sum(sizes) + 0.62 * len(sizes)))
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[n + 1 for n in sizes])
    shown: set[str] = set()
    for (site, own), ax in zip(parts, panels[:, 0], strict=True):
        labels = [name.removeprefix(site).strip("[]") or site for name in own]
        draw(quiet(ax), own, labels)
        if len(own) > LABELLED:
            ax.set_ylabel(f"{len(own):,} in order", fontsize=10)
        ax.invert_yaxis()
        title = "" if labels == [site] or site in shown else site
        shown.add(site)
        ax.set_title(title, loc="left", fontsize=10)
    first = panels[0, 0]
    first.set_title(f"{first.get_title(loc='left')}  ({told})".strip(), loc="left", fontsize=10)
    return figure


def _selected(
    site: str, value: np.ndarray, sites: Sites, coords: Mapping[str, Sequence[Any]]
) -> tuple[np.ndarray, Sites]:
    """Draws of a site at the labels that were chosen, and what they are called."""
    value = sites.named({site: value})[site]
    kept = dict(sites.coords)
    for axis, dim in enumerate(sites.dims.get(site, [])):
        if dim not in coords:
            continue
        wanted = [coords[dim]] if isinstance(coords[dim], str) else list(coords[dim])
        known = [str(label) for label in sites.coords[dim]]
        missing = [label for label in wanted if str(label) not in known]
        if missing:
            raise ValueError(
                f"coords has {missing[0]!r} for {dim!r}, whose labels are "
                f"{', '.join(known[:5])}{', ...' * (len(known) > 5)}."
            )
        places = [known.index(str(label)) for label in wanted]
        value, kept[dim] = np.take(value, places, axis=2 + axis), wanted
    return value, sites._replace(coords=kept)


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
    panels = _effect_panels(ax, len(places), len(order))
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


def _effect_panels(ax: Axes | Sequence[Axes] | None, count: int, num_groups: int) -> list[Axes]:
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

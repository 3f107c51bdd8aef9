"""Effects of the groups of a mixed model."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmf.plots.style import BLUE, GREY, describe, figure_of, new_axes
from probmf.results import MixedFit
from probmf.results.mixtures import tails

#: More groups than this are not labelled one by one.
_LABELLED = 60


def effects(
    fit: MixedFit,
    term: str,
    *,
    column: str | None = None,
    interval: float = 0.9,
    ax: Axes | None = None,
) -> Figure:
    """Effects of groups in order of their means, with intervals (a caterpillar plot).

    Args:
        fit: The fit.
        term: A group term, such as "school", or the site of its effects, "school_effects".
        column: Which effect, such as "Intercept" or "hours"; None for the first one.
        interval: Probability of the thin intervals; the thick ones are 50 %. A point fit has none.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The figure.

    Raises:
        TypeError: If `fit` is no fit of a mixed model.
        ValueError: If there is no such term or column, the fit has no draws of the effects, or the
            interval is not in (0, 1).
    """
    if not isinstance(fit, MixedFit):
        raise TypeError(f"fit is a {type(fit).__name__}, expected a MixedFit.")
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval!r}; expected a probability between 0 and 1.")
    site, place, names = _find(fit, term, column)
    draws = fit.samples[site][..., place].reshape(-1, fit.samples[site].shape[2])
    order = np.argsort(draws.mean(axis=0), kind="stable")
    draws = draws[:, order]
    sites = fit.model.sites(fit.design)
    dims = sites.dims[site]
    labels = sites.coords[dims[0]]
    few = len(order) <= _LABELLED
    ax = new_axes(ax, (5.2, 0.8 + 0.22 * len(order)) if few else (5.2, 6.0))
    y = np.arange(len(order))
    if len(draws) > 1:
        for share, width in ((interval, 1.0), (0.5, 3.0)):
            low, high = np.quantile(draws, tails(share), axis=0)
            ax.hlines(y, low, high, color=BLUE, lw=width if few else width / 3)
    ax.plot(
        draws.mean(axis=0), y, "o", color="white" if few else BLUE, mec=BLUE, ms=5 if few else 2
    )
    ax.axvline(0.0, color=GREY, lw=1, ls="--")
    if few:
        ax.set_yticks(y, [str(labels[group]) for group in order])
    ax.set_ylim(-1, len(order))
    ax.grid(axis="y", visible=False)
    told = f", {interval:.0%} and 50% intervals" if len(draws) > 1 else ""
    describe(
        ax,
        title=f"{names[place]} by {dims[0]}{told}",
        x="effect",
        y="" if few else f"{len(order):,} groups in order",
    )
    return figure_of(ax)


def _find(fit: MixedFit, term: str, column: str | None) -> tuple[str, int, tuple[str, ...]]:
    """The site of a term's effects, the column's place in it, and the columns."""
    terms = {own.name: own for coding in fit.design.codings for own in coding.terms}
    name = str(term).removesuffix("_effects")
    if name not in terms:
        raise ValueError(
            f"The model has no group term {term!r}; its terms are "
            f"{', '.join(map(repr, terms)) or 'none'}."
        )
    names = terms[name].names
    if column is not None and column not in names:
        raise ValueError(
            f"The term {name!r} has no effect {column!r}; its effects are "
            f"{', '.join(map(repr, names))}."
        )
    site = f"{name}_effects"
    if site not in fit.samples:
        raise ValueError(
            f"The fit has no draws of {site}: the sampler integrated them out and did not draw "
            "them afterwards. Sample again and have them recovered."
        )
    return site, 0 if column is None else names.index(column), names

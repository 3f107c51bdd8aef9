"""Means and intervals of a mixed model's parameters, one row per number."""

from collections.abc import Iterator, Mapping
from itertools import batched
from typing import Any

import numpy as np
from jaxtyping import Float

from probmf.models.sites import Sites
from probmf.results.maximum import Maximum
from probmf.results.measures import (
    fewest_draws,
    independent_errors,
    is_varying,
    measure,
    sd_errors,
)
from probmf.results.mixtures import tails
from probmf.results.records import Sampling
from probmf.results.table import Table

#: ArviZ's names, in its order.
CONVERGENCE = ("ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd")


#: Numbers that are measured at once.
BLOCK = 64


def summarize_sites(
    samples: Mapping[str, np.ndarray],
    sites: Sites,
    *,
    sampling: Sampling | None,
    interval: float,
    effects: bool,
    notes: tuple[str, ...] = (),
    maximum: Maximum | None = None,
) -> Table:
    """The table; see `MixedFit.summary`."""
    errors = {} if maximum is None else _named_errors(maximum, sites)
    if maximum is not None and maximum.note:
        notes = (maximum.note, *notes)
    rows: list[dict[str, Any]] = []
    low, high = tails(interval)
    numbers = (
        found
        for site, value in samples.items()
        if effects or not is_effect(site)
        for found in scalars(site, value, sites)
    )
    for some in batched(numbers, BLOCK):
        told: list[dict[str, float | None]] = [{} for _ in some]
        if some[0][1].size > 1:
            told = convergence(np.stack([draws for _, draws in some], axis=2), sampling)
        for (name, draws), measured in zip(some, told, strict=True):
            row = {"name": name, "mean": float(draws.mean())}
            if draws.size > 1:
                ends = np.quantile(draws, [low, high])
                row |= {
                    "sd": float(draws.std()), f"{low:.4g}": float(ends[0]),
                    f"{high:.4g}": float(ends[1]),
                }  # fmt: skip
            elif maximum is not None:
                row["se"] = errors.get(name)
            rows.append(row | measured)
    return Table(tuple(rows), notes)


def _named_errors(maximum: Maximum, sites: Sites) -> dict[str, float | None]:
    """Standard errors by the names of numbers."""
    found: dict[str, float | None] = {}
    for site, errors in maximum.errors.items():
        if site.endswith("_correlation"):
            names = [name for name, _ in scalars(site, np.eye(len(errors))[None, None], sites)]
            values = errors[np.tril_indices(len(errors), -1)]
        else:
            values = np.ravel(errors)
            names = [name for name, _ in scalars(site, np.asarray(errors)[None, None], sites)]
        for name, value in zip(names, values, strict=True):
            found[name] = float(value) if np.isfinite(value) else None
    return found


def convergence(
    draws: Float[np.ndarray, "chain draw m"], sampling: Sampling | None
) -> list[dict[str, float | None]]:
    """ArviZ's columns of convergence for each quantity.

    Args:
        draws: Draws of the quantities.
        sampling: How they came about.

    Returns:
        For each "ess_bulk", "ess_tail", "r_hat", "mcse_mean" and "mcse_sd"; None where a quantity
        is the same at every draw, where there are too few draws, and for R-hat of independent ones.
    """
    places = np.flatnonzero(is_varying(draws))
    columns: dict[str, np.ndarray | None] = dict.fromkeys(CONVERGENCE)
    own = draws[:, :, places]
    if sampling is not None and sampling.is_independent:
        count = sampling.num_effective(draws.shape[0] * draws.shape[1])
        columns["ess_bulk"] = columns["ess_tail"] = np.full(len(places), count)
        columns["mcse_mean"], columns["mcse_sd"] = independent_errors(own, count)
    elif len(places) and draws.shape[1] >= fewest_draws(len(draws)):
        found = measure(own)
        columns = {
            "ess_bulk": found.ess_bulk, "ess_tail": found.ess_tail, "r_hat": found.r_hat,
            "mcse_mean": found.mcse, "mcse_sd": sd_errors(own),
        }  # fmt: skip
    told: list[dict[str, float | None]] = [dict.fromkeys(CONVERGENCE) for _ in draws[0, 0]]
    for name, values in columns.items():
        for place, value in zip(places, () if values is None else values, strict=False):
            told[place][name] = float(value)
    return told


def is_effect(site: str) -> bool:
    """True if a site holds effects of groups, as such or standardized."""
    return site.removesuffix("_raw").endswith("_effects")


def scalars(
    site: str,
    value: Float[np.ndarray, "chain draw ..."],
    sites: Sites,
) -> Iterator[tuple[str, Float[np.ndarray, "chain draw"]]]:
    """Single numbers of a site with their names, such as "school_scale[hours]".

    Of a correlation's Cholesky factor they are the correlations.
    """
    labels = [sites.coords[dim] for dim in sites.dims.get(site, [])]
    if site.endswith("_correlation"):
        matrix = value @ np.swapaxes(value, -1, -2)
        for row in range(matrix.shape[-1]):
            for column in range(row):
                yield f"{site}[{labels[0][column]}, {labels[0][row]}]", matrix[..., column, row]
        return
    for place in np.ndindex(*value.shape[2:]):
        names = [str(of[at]) for of, at in zip(labels, place, strict=True)]
        yield f"{site}[{', '.join(names)}]" if names else site, value[(..., *place)]

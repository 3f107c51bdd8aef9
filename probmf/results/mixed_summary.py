"""Means and intervals of a mixed model's parameters, one row per number."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from probmf.results.mixtures import tails
from probmf.results.table import Table


def summarize_sites(
    samples: Mapping[str, np.ndarray],
    dims: Mapping[str, list[str]],
    coords: Mapping[str, list[Any]],
    *,
    interval: float,
    effects: bool,
    notes: tuple[str, ...] = (),
) -> Table:
    """The table; see `MixedFit.summary`."""
    rows: list[dict[str, Any]] = []
    low, high = tails(interval)
    for site, value in samples.items():
        if is_effect(site) and not effects:
            continue
        for name, draws in scalars(site, value, dims, coords):
            row = {"name": name, "mean": float(draws.mean())}
            if draws.size > 1:
                ends = np.quantile(draws, [low, high])
                row |= {
                    "sd": float(draws.std()), f"{low:.4g}": float(ends[0]),
                    f"{high:.4g}": float(ends[1]),
                }  # fmt: skip
            rows.append(row)
    return Table(tuple(rows), notes)


def is_effect(site: str) -> bool:
    """Whether a site holds effects of groups, as such or standardized."""
    return site.removesuffix("_raw").endswith("_effects")


def scalars(
    site: str,
    value: Float[np.ndarray, "chain draw ..."],
    dims: Mapping[str, list[str]],
    coords: Mapping[str, list[Any]],
) -> Iterator[tuple[str, Float[np.ndarray, "chain draw"]]]:
    """Single numbers of a site with their names, such as "school_scale[hours]".

    Args:
        site: The site.
        value: Its draws.
        dims: Dimensions by site.
        coords: Labels by dimension.

    Yields:
        Names and draws; of a correlation's Cholesky factor the correlations themselves.
    """
    labels = [coords[dim] for dim in dims.get(site, [])]
    if site.endswith("_correlation"):
        matrix = value @ np.swapaxes(value, -1, -2)
        for row in range(matrix.shape[-1]):
            for column in range(row):
                yield f"{site}[{labels[0][column]}, {labels[0][row]}]", matrix[..., column, row]
        return
    for place in np.ndindex(*value.shape[2:]):
        names = [str(of[at]) for of, at in zip(labels, place, strict=True)]
        yield f"{site}[{', '.join(names)}]" if names else site, value[(..., *place)]

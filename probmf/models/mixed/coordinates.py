"""Dimensions and coordinates of a mixed model's sites, for ArviZ."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from probmf.models.mixed.design import Design
from probmf.models.mixed.grouping import joined


def dims(design: Design, raw: Collection[str] = ()) -> dict[str, list[str]]:
    """Dimensions of each site, chain and draw left out.

    Args:
        design: A formula applied to data.
        raw: Sites of effects that are not centred; `{name}_effects_raw` goes with them.

    Returns:
        Names of dimensions by site. `{name}_correlation` is the Cholesky factor of the
        correlations, with `{name}_coefficient_other` as its second dimension.
    """
    found: dict[str, list[str]] = {design.data.response_name: ["observation"]}
    for coding in design.codings:
        if coding.names:
            found[coding.site] = [_single(coding.site)]
        if coding is design.mean and design.data.mixing is not None:
            found[design.data.mixing.site] = ["coefficient_mixing"]
        for term in coding.terms:
            own = f"{term.name}_coefficient"
            found[f"{term.name}_scale"] = [own]
            if len(term.names) > 1 and term.correlated:
                found[f"{term.name}_correlation"] = [own, f"{own}_other"]
            site = f"{term.name}_effects"
            found[site] = [term.groups.name, own]
            if site in raw:
                found[f"{site}_raw"] = [term.groups.name, own]
    return found


def coords(design: Design) -> dict[str, list[Any]]:
    """Coordinates of each dimension.

    Args:
        design: A formula applied to data.

    Returns:
        Labels by dimension: names of columns, levels of grouping factors as the user has them,
        rows counted from 0, and "a|b" for the cutpoint between levels a and b.
    """
    found: dict[str, list[Any]] = {"observation": list(range(design.data.num_observations))}
    for coding in design.codings:
        if coding.names:
            found[_single(coding.site)] = list(coding.names)
        if coding is design.mean and (mixing := design.data.mixing) is not None:
            found["coefficient_mixing"] = [coding.names[place] for place in mixing.place]
        for term in coding.terms:
            own = f"{term.name}_coefficient"
            found[own] = list(term.names)
            if len(term.names) > 1 and term.correlated:
                found[f"{own}_other"] = list(term.names)
    found |= {factor: labels.tolist() for factor, labels in design.levels.items()}
    levels = design.response_levels
    if levels:
        found["cutpoint"] = [joined(pair, "|") for pair in pairwise(levels)]
    return found


def _single(site: str) -> str:
    return site.removesuffix("s")

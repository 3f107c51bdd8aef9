"""Draws as an ArviZ DataTree, with named dimensions and the user's own coordinates."""

from collections.abc import Mapping
from typing import Any

import arviz_base
import numpy as np

from probmf.models.sites import Sites
from probmf.results.records import Sampling


def arviz_tree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    observed: Mapping[str, np.ndarray],
    sites: Sites,
    sampling: Sampling | None,
    method: str,
    log_prior: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """The tree of some groups of draws.

    `groups` are arrays by group and name with leading (chain, draw) axes; statistics of `sampling`
    make a group, too; `log_prior` has one number for each draw and site.
    """
    known = dict(groups)
    if sampling is not None and sampling.stats:
        known["sample_stats"] = dict(sampling.stats)
    found: dict[str, Any] = {**_laid_out(known, sampling), "observed_data": dict(observed)}
    tree = arviz_base.from_dict(
        found, coords=sites.labels, dims=dict(sites.dims), attrs={"/": {"method": method}}
    )
    if log_prior is not None:  # Of other shapes than the sites that it is called after.
        given = _laid_out({"log_prior": log_prior}, sampling)
        tree["log_prior"] = arviz_base.from_dict(given)["log_prior"]
    return tree


def _laid_out(
    groups: Mapping[str, Mapping[str, np.ndarray]], sampling: Sampling | None
) -> dict[str, dict[str, np.ndarray]]:
    """Independent draws as four chains, or as many fewer as divide them evenly, four draws or more.

    They are of no chain, so that any division of them is as good as another, and measures that
    compare chains have something to compare.

    Draws of chains stay as they are.
    """
    plain = {group: dict(values) for group, values in groups.items()}
    if sampling is None or not sampling.is_independent:
        return plain
    for group, values in plain.items():
        for name, value in values.items():
            size = value.shape[0] * value.shape[1]
            even = (count for count in (4, 3, 2) if size % count == 0 and size >= 4 * count)
            count = next(even, 1)
            plain[group][name] = value.reshape(count, size // count, *value.shape[2:])
    return plain

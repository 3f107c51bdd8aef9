"""Fits as ArviZ DataTrees with the user's own ids as coordinates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import arviz_base
import numpy as np

from probmf.data import Ratings

if TYPE_CHECKING:
    from xarray import DataTree

DIMS = {
    "user_bias": ["user"],
    "item_bias": ["item"],
    "user_factors": ["user", "factor"],
    "item_factors": ["item", "factor"],
    "rating": ["rating_row"],
}


def to_datatree(samples: Mapping[str, np.ndarray], data: Ratings) -> "DataTree":
    """A DataTree with the groups `point` and `observed_data`.

    Args:
        samples: Parameters with leading (chain, draw) axes.
        data: The ratings; their ids become coordinates.

    Returns:
        The tree. Coordinates `rated_user` and `rated_item` of `observed_data` say whose rating
        each is.
    """
    coords: dict[str, Any] = {"user": _labels(data.users.ids), "item": _labels(data.items.ids)}
    if "user_factors" in samples:
        coords["factor"] = np.arange(samples["user_factors"].shape[-1])
    tree = arviz_base.from_dict(
        {"point": dict(samples), "observed_data": {"rating": data.rating}},
        coords=coords | {"rating_row": np.arange(len(data.rating))},
        dims={name: dims for name, dims in DIMS.items() if name in samples or name == "rating"},
    )
    observed = tree["observed_data"].to_dataset().assign_coords(
        rated_user=("rating_row", coords["user"][data.user]),
        rated_item=("rating_row", coords["item"][data.item]),
    )
    tree["observed_data"] = type(tree)(dataset=observed)
    return tree


def _labels(ids: np.ndarray) -> np.ndarray:
    """Ids as coordinates: numbers and strings as they are, other kinds as text."""
    return ids if ids.dtype.kind in "iuUM" else np.asarray([str(value) for value in ids])

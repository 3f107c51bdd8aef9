"""Fits as ArviZ DataTrees with the user's own ids as coordinates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import arviz_base
import numpy as np

from probmf.data import Ratings, Vocabulary

if TYPE_CHECKING:
    from xarray import DataTree

DIMS = {
    "user_bias": ["user"],
    "item_bias": ["item"],
    "user_factors": ["user", "factor"],
    "item_factors": ["item", "factor"],
    "rating": ["rating_row"],
}


def to_datatree(samples: Mapping[str, np.ndarray], data: Ratings, method: str) -> "DataTree":
    """A DataTree with the groups `point` and `observed_data`.

    A point fit is no sample of a posterior, so it is not called one: plots take it with
    `group="point"`.

    Args:
        samples: Parameters with leading (chain, draw) axes.
        data: The ratings; their ids become coordinates.
        method: How they were fitted, kept as an attribute.

    Returns:
        The tree. Coordinates `rated_user` and `rated_item` of `observed_data` say whose rating
        each is.
    """
    user, item = _labels(data.users), _labels(data.items)
    coords = {"user": user, "item": item}
    if "user_factors" in samples:
        coords["factor"] = np.arange(samples["user_factors"].shape[-1])
    tree = arviz_base.from_dict(
        {"point": dict(samples), "observed_data": {"rating": data.rating}},
        coords=coords | {"rating_row": np.arange(len(data))},
        dims=DIMS,
        attrs={"/": {"method": method}},
    )
    rated = {"rated_user": ("rating_row", user[data.user]),
             "rated_item": ("rating_row", item[data.item])}  # fmt: skip
    tree["observed_data"].dataset = tree["observed_data"].to_dataset().assign_coords(rated)
    return tree


def _labels(vocabulary: Vocabulary) -> np.ndarray:
    """Ids as coordinates: numbers and dates as they are, other kinds as text."""
    ids = vocabulary.ids
    return ids if ids.dtype.kind in "iumM" else np.asarray([str(value) for value in ids])

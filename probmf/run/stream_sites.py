"""Sites that a stream holds of each family's draws, with the names and dimensions of `to_arviz`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probmf.data import Ratings
from probmf.models import MatrixFactorization, MixedEffects, Network
from probmf.models.mixed import Design
from probmf.models.ordinal import Ordinal
from probmf.results import network_arviz
from probmf.results.arviz import DIMS, FACTOR_SCALES, labels_of, weight_dims
from probmf.results.draw_store import POSTERIOR, STATS
from probmf.results.mixed_arviz import labels
from probmf.run.draw_stream import StreamSite

Shapes = Mapping[str, tuple[int, ...]]
Coords = dict[str, np.ndarray]


def sites_and_coords(
    model: Any, data: Any, design: Design | None, shapes: Shapes
) -> tuple[tuple[StreamSite, ...], Coords]:
    """The arrays of a stream, and the labels of their dimensions.

    Args:
        model: A model of any family.
        data: Its data.
        design: The design, of a mixed model.
        shapes: Shapes of one draw by site.

    Returns:
        Both.
    """
    if isinstance(model, MatrixFactorization):
        model = model.with_encoders(data)
        return factorization_sites(model, shapes), factorization_coords(model, data)
    if isinstance(model, MixedEffects) and design is not None:
        return mixed_sites(model, design, shapes), mixed_coords(model, design)
    if isinstance(model, Network):
        return _plain(shapes, network_arviz.dims(model, data)), network_arviz.coords(model, data)
    raise TypeError(f"model is of type {type(model).__name__}, whose draws can't be streamed.")


def factorization_sites(model: MatrixFactorization, shapes: Shapes) -> tuple[StreamSite, ...]:
    """The arrays of a factorization's draws.

    Args:
        model: The factorization, which knows its features.
        shapes: Shapes of one draw by site; "lp" counts as a statistic.

    Returns:
        The arrays.
    """
    mean_dims, _ = weight_dims(model)
    dims, squeezed = {**DIMS, **mean_dims}, dict(shapes)
    for name, shape in shapes.items():
        if name in FACTOR_SCALES and len(shape) == 2:
            squeezed[name], dims[name] = shape[1:], ["factor"]
        elif name.endswith("_scale") and len(shape) == 1:
            dims[name] = [name.split("_")[0]]
    return _plain(squeezed, dims)


def factorization_coords(model: MatrixFactorization, data: Ratings) -> Coords:
    """Ids of users and items, and what else labels a factorization's dimensions."""
    factor = np.arange(model.num_factors)
    coords = {
        "user": labels_of(data.users), "item": labels_of(data.items), "factor": factor,
        "other_factor": factor,
    }  # fmt: skip
    if isinstance(model.likelihood, Ordinal):
        coords["cutpoint"] = np.asarray(model.likelihood.cutpoint_names)
    return coords | weight_dims(model)[1]


def mixed_sites(model: MixedEffects, design: Design, shapes: Shapes) -> tuple[StreamSite, ...]:
    """The arrays of a mixed model's draws; see `factorization_sites`."""
    return _plain(shapes, model.dims(design))


def mixed_coords(model: MixedEffects, design: Design) -> Coords:
    """Levels of the groups and names of columns."""
    return {name: labels(values) for name, values in model.coords(design).items()}


def _plain(shapes: Shapes, dims: Mapping[str, Any]) -> tuple[StreamSite, ...]:
    """Dimensions that have no name are called as ArviZ calls them."""
    found = []
    for name, shape in shapes.items():
        own = tuple(dims.get(name, ()))
        if len(own) != len(shape):
            own = tuple(f"{name}_dim_{axis}" for axis in range(len(shape)))
        found.append(StreamSite(name, STATS if name == "lp" else POSTERIOR, tuple(shape), own))
    return tuple(found)

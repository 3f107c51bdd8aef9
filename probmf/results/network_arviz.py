"""Fits of networks as ArviZ DataTrees."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import arviz_base
import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro.infer import Predictive
from numpyro.infer.util import log_likelihood as log_densities

from probmf.data import as_generator, as_key
from probmf.data.examples import Examples
from probmf.models.categorical import Categorical
from probmf.models.likelihood import Gaussian
from probmf.models.network import NAME, Network
from probmf.models.ordinal import Ordinal
from probmf.numpyro_setup import run_alone
from probmf.results.mixed_arviz import labels
from probmf.results.samples import laid_out
from probmf.results.sampling import Sampling

if TYPE_CHECKING:
    from xarray import DataTree


def to_datatree(
    model: Network,
    data: Examples,
    samples: Mapping[str, np.ndarray],
    method: str,
    sampling: Sampling | None,
    *,
    is_point: bool,
    log_likelihood: bool,
    key: ArrayLike | None,
) -> "DataTree":
    """The tree; see `NetworkFit.to_arviz`."""
    (arrays,) = model.arguments(data)
    # Standardized numbers go back to their own units; codes and levels stay.
    center, unit = np.zeros((), np.int32), np.ones((), np.int32)
    if isinstance(model.likelihood, Gaussian):
        single = len(data.responses) == 1
        center, unit = data.response_center, data.response_scale
        center, unit = (center[0], unit[0]) if single else (center, unit)
    groups: dict[str, Any] = {"point" if is_point else "posterior": dict(samples)}
    if sampling is not None and sampling.stats:
        groups["sample_stats"] = dict(sampling.stats)
    if key is not None:
        seed = as_key(int(as_generator(key).integers(2**31)))
        predictive = Predictive(model, dict(samples), batch_ndims=2, parallel=True)
        with run_alone():
            drawn = predictive(jax.random.key_data(seed), arrays.without_response())["response"]
        groups["posterior_predictive"] = {"response": center + unit * np.asarray(drawn)}
    if log_likelihood:
        with run_alone():
            found = log_densities(model, dict(samples), arrays, batch_ndims=2, parallel=True)
        groups["log_likelihood"] = {"response": np.asarray(found["response"]) - np.log(unit)}
    groups = laid_out(groups, sampling)
    groups["observed_data"] = {"response": center + unit * np.asarray(arrays.response)}
    return arviz_base.from_dict(
        groups, coords=coords(model, data), dims=dims(model, data), attrs={"/": {"method": method}}
    )


def dims(model: Network, data: Examples) -> dict[str, list[str]]:
    """Dimensions of the sites, without chain and draw.

    Args:
        model: The network.
        data: The training examples.

    Returns:
        Site name to names of dimensions.
    """
    last = model.layers.num_layers - 1
    ends = ["feature", *(f"unit_{place}" for place in range(last)), "output"]
    several = len(data.responses) > 1
    found = {"response": ["example", *(["output"] if several else [])], "cutpoints": ["cutpoint"]}
    for place in range(last + 1):
        found[f"{NAME}_weight_{place}"] = ends[place : place + 2]
        found[f"{NAME}_bias_{place}"] = [ends[place + 1]]
    return found


def coords(model: Network, data: Examples) -> dict[str, Any]:
    """Coordinates of those dimensions: names of features, classes or responses; numbers of units.

    Args:
        model: The network.
        data: The training examples.

    Returns:
        Dimension to labels.
    """
    outputs: Any = data.responses
    if isinstance(model.likelihood, Categorical):
        outputs = model.classes(data)
    found = {"feature": labels(data.features), "output": labels(outputs)}
    for place, width in enumerate(model.hidden):
        found[f"unit_{place}"] = np.arange(width)
    if isinstance(model.likelihood, Ordinal):
        found["cutpoint"] = np.asarray(model.likelihood.cutpoint_names)
    found["example"] = np.arange(len(data))
    return found

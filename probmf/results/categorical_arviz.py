"""Fits of categorical factorizations as ArviZ DataTrees."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import arviz_base
import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro.infer import Predictive
from numpyro.infer.util import log_likelihood as log_densities

from probmf.data import Ratings, as_generator, as_key
from probmf.models.categorical_factorization import CategoricalFactorization
from probmf.numpyro_setup import run_alone
from probmf.results.mixed_arviz import labels
from probmf.results.samples import laid_out
from probmf.results.sampling import Sampling

if TYPE_CHECKING:
    from xarray import DataTree

#: Dimensions of the sites, without chain and draw.
DIMS = {
    "intercept": ["class"],
    "user_bias": ["user", "class"],
    "item_bias": ["item", "class"],
    "user_factors": ["user", "factor"],
    "item_factors": ["item", "class", "factor"],
    "rating": ["rating_row"],
}


def to_datatree(
    model: CategoricalFactorization,
    data: Ratings,
    samples: Mapping[str, np.ndarray],
    method: str,
    sampling: Sampling | None,
    *,
    is_point: bool,
    log_likelihood: bool,
    key: ArrayLike | None,
) -> "DataTree":
    """The tree; see `CategoricalFit.to_arviz`."""
    (arrays,) = model.arguments(data)
    groups: dict[str, Any] = {"point" if is_point else "posterior": dict(samples)}
    if sampling is not None and sampling.stats:
        groups["sample_stats"] = dict(sampling.stats)
    if key is not None:
        seed = as_key(int(as_generator(key).integers(2**31)))
        predictive = Predictive(model, dict(samples), batch_ndims=2, parallel=True)
        with run_alone():
            drawn = predictive(jax.random.key_data(seed), arrays.without_ratings())["rating"]
        groups["posterior_predictive"] = {"rating": np.asarray(drawn)}
    if log_likelihood:
        with run_alone():
            found = log_densities(model, dict(samples), arrays, batch_ndims=2, parallel=True)
        groups["log_likelihood"] = {"rating": np.asarray(found["rating"])}
    groups = laid_out(groups, sampling)
    groups["observed_data"] = {"rating": np.asarray(arrays.rating)}
    return arviz_base.from_dict(
        groups, coords=coords(model, data), dims=DIMS, attrs={"/": {"method": method}}
    )


def coords(model: CategoricalFactorization, data: Ratings) -> dict[str, np.ndarray]:
    """Coordinates of those dimensions.

    Args:
        model: The factorization.
        data: The training ratings.

    Returns:
        Dimension to labels.
    """
    return {
        "class": labels(model.labels),
        "user": labels(data.users.ids),
        "item": labels(data.items.ids),
        "factor": np.arange(model.num_factors),
        "rating_row": np.arange(len(data)),
    }

"""Fits of mixed models as ArviZ DataTrees, with the user's own levels as coordinates."""

from typing import TYPE_CHECKING, Any

import arviz_base
import jax
import jax.numpy as jnp
import numpy as np

from probmf.data import wrap_words
from probmf.models.mixed import Design, Encoded, MixedEffects
from probmf.results.mixed_predict import SiteDraws, blocks
from probmf.results.samples import laid_out
from probmf.results.sampling import Sampling

if TYPE_CHECKING:
    from xarray import DataTree


def to_datatree(
    model: MixedEffects,
    design: Design,
    draws: SiteDraws,
    rows: Encoded,
    method: str,
    sampling: Sampling | None,
    *,
    is_point: bool,
    log_likelihood: bool,
    rng: np.random.Generator | None,
) -> "DataTree":
    """The tree; see `MixedFit.to_arviz`."""
    response = design.data.response_name
    groups: dict[str, Any] = {"point" if is_point else "posterior": dict(draws.samples)}
    if sampling is not None and sampling.stats:
        groups["sample_stats"] = dict(sampling.stats)
    if rng is not None:
        groups["posterior_predictive"] = {response: _by_law(model, draws, rows, rng)}
    if log_likelihood:
        groups["log_likelihood"] = {response: _by_law(model, draws, rows, None)}
    groups = laid_out(groups, sampling)
    groups["observed_data"] = {response: np.asarray(design.data.response)}
    coords = {name: labels(values) for name, values in model.coords(design).items()}
    return arviz_base.from_dict(
        groups, coords=coords, dims=model.dims(design), attrs={"/": {"method": method}}
    )


def labels(values: Any) -> np.ndarray:
    """Labels as a coordinate: numbers and dates as they are, other kinds as text."""
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "iufMb":
        return array
    return np.asarray([str(value) for value in values])


def _by_law(
    model: MixedEffects, draws: SiteDraws, rows: Encoded, rng: np.random.Generator | None
) -> np.ndarray:
    """Draws of the responses, or without a generator the log density of those observed."""
    response = np.asarray(draws.design.data.response)
    first = next(iter(draws.samples.values()))
    whole = rng is not None and response.dtype.kind == "i"
    found = np.empty((draws.num_draws, len(response)), np.int32 if whole else np.float32)
    site = model.response.site

    def one(predictor: Any, own: Any, key: Any, observed: Any) -> Any:
        law = model.response.law(predictor, {} if site is None else {site: own})
        return law.sample(key) if rng is not None else law.log_prob(observed)

    apply = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))
    dtype = jnp.result_type(float)
    for part, given in blocks(draws, rows):
        predictor, own = given.mean, given.own
        words = np.zeros((draws.num_draws, 2), np.uint32)
        if rng is not None:
            words = rng.integers(2**32, size=(draws.num_draws, 2), dtype=np.uint32)
        if own is None:
            own = np.zeros((draws.num_draws, 1))
        elif site == "noise_scale":
            own = np.broadcast_to(own, predictor.shape)
        values = apply(
            jnp.asarray(predictor, dtype), jnp.asarray(own, dtype),
            wrap_words(jnp.asarray(words)),
            jnp.asarray(response[part]),
        )  # fmt: skip
        found[:, part] = np.asarray(values)
    return found.reshape(*first.shape[:2], -1)

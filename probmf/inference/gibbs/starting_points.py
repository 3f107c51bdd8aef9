"""Starting points of Gibbs chains."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution, biject_to

from probmf.data import Ratings
from probmf.data.keys import as_generator
from probmf.inference.gibbs.plan import GibbsState, Plan
from probmf.inference.starts import initial_parameters
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.parameter_table import ParameterTable
from probmf.results import RatingsFit

#: Of the ratings' standard deviation: what starting scales of the noise, the biases and all
#: factors' products together are.
NOISE_SHARE, BIAS_SHARE, PRODUCT_SHARE = 0.8, 0.4, 0.4
#: Standard deviation of random starting factors, as a share of their scale.
JITTER = 0.3


def start_scales(model: MatrixFactorization, data: Ratings, plan: Plan) -> dict[str, Array]:
    """Scales to start from: the fixed ones as they are, the sampled ones at moderate values.

    Where a prior does not allow such a value, one that it does: a slice of a density of zero says
    nothing of where to go.
    """
    dtype = jnp.result_type(float)
    data = data.counted
    spread = float(np.std(model.likelihood.place(data.rating)))
    spread = spread if spread > 0 else 1.0
    k = max(model.num_factors, 1)
    # k products of two factors of scale s have the standard deviation s^2 sqrt(k).
    factor = np.sqrt(PRODUCT_SHARE * spread / np.sqrt(k))
    scales: dict[str, Array] = {}
    own: dict[str, Any] = model.likelihood.scale_sites()
    learned = model.likelihood.start(data.rating, data.weight, 0.0)
    for name, given in own.items():
        moderate = learned.get(name, NOISE_SHARE * spread)
        if name in plan.random:
            scales[name] = allowed(given, jnp.asarray(moderate, dtype))
        else:
            scales[name] = jnp.asarray(given, dtype)
    for site in plan.sites:
        given = getattr(model, site.scale)
        if site.kind == "wishart":
            scales[f"{site.side}_mean"] = jnp.zeros(k, dtype)
            scales[f"{site.side}_precision"] = jnp.eye(k, dtype=dtype) / factor**2
        elif site.kind == "random":
            shape = tuple(given.batch_shape)
            start = BIAS_SHARE * spread if site.is_bias else factor
            scales[site.scale] = allowed(given, jnp.full(shape, start, dtype))
        else:
            scales[site.scale] = jnp.asarray(given, dtype)
    return scales


def allowed(law: Distribution, start: Array) -> Array:
    """Starting values, or where the prior does not allow them others; joint ones stay."""
    if law.event_shape:
        return start
    return jnp.where(law.support(start), start, biject_to(law.support)(jnp.zeros_like(start)))


def start_states(
    model: MatrixFactorization,
    observations: Observations,
    scales: dict[str, Array],
    key: Array,
    num_chains: int,
    start: RatingsFit | None,
) -> list[GibbsState]:
    """A state for each chain: at a given fit, or small random factors and no biases."""
    packing = ParameterTable(model, observations.num_users, observations.num_items)
    means = model.row_means(observations.features)
    weights = {name: shape for mean in means.values() for name, shape in mean.shapes.items()}
    sweep = jnp.zeros((), jnp.int32)
    if start is not None:
        values = initial_parameters(model, observations, start)(key)
        scales = scales | {name: values[name] for name in weights}
        state = GibbsState(packing.pack(values), values["intercept"], scales, sweep)
        return [state] * num_chains
    rng = as_generator(key)
    intercept = model.fixed_intercept(observations.base_score)
    dtype = jnp.result_type(float)
    scales = scales | {name: jnp.zeros(shape, dtype) for name, shape in weights.items()}
    states = []
    for _ in range(num_chains):
        parameters: dict[str, Any] = {}
        shapes = model.site_shapes(observations.num_users, observations.num_items)
        for site, shape in shapes.items():
            parameters[site] = np.zeros(shape)
            if len(shape) == 2:
                spread = JITTER * np.sqrt(PRODUCT_SHARE / np.sqrt(shape[1]))
                parameters[site] = rng.normal(0.0, spread, shape)
        states.append(GibbsState(packing.pack(parameters), intercept, scales, sweep))
    return states

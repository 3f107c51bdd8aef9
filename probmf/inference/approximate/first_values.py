"""Starting values of an approximation, and what has no mode to start towards."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array
from numpyro.distributions import Distribution
from numpyro.distributions.transforms import biject_to

from probmf.inference.gibbs.plan import Plan
from probmf.inference.gibbs.starting_points import start_scales, start_states
from probmf.inference.marginal.density import median
from probmf.inference.marginal_rows import RowsMarginal
from probmf.inference.marginal_rows.integrated_rows import LEVEL
from probmf.inference.potential import Potential
from probmf.inference.target import Target
from probmf.models import MatrixFactorization, Network
from probmf.models.parameter_table import ParameterTable

#: Standard deviation of the noise about the starting values, on the unconstrained scale: where it
#: has no unit, and what is symmetric is to be left.
JITTER = 0.1


def first_values(target: Target, potential: Potential, key: Array) -> dict[str, Array]:
    """Starting point of a search.

    Small random factors and moderate scales for factorizations, else about the prior's medians.
    """
    first, model_key = jax.random.split(key)
    values: dict[str, Array] = {}
    if isinstance(target.source, MatrixFactorization):
        values = _of_factorization(target.source, target.data, first)
        if isinstance(target.model, RowsMarginal):
            rows = target.model.num_rows[target.model.other]
            values[LEVEL] = jnp.full(rows, values["intercept"])
    words = jax.random.key_data(model_key)
    jitter = jnp.asarray(JITTER if target.design is None else 0.0)
    return potential.compiled(_begun, values, words, jitter)(potential, values, words, jitter)


def _of_factorization(model: MatrixFactorization, data: Any, key: Array) -> dict[str, Array]:
    """Of a factorization: no biases, small factors, moderate scales that their priors allow."""
    (observations,) = model.arguments(data)
    users, items = observations.num_users, observations.num_items
    scales = start_scales(model, data, Plan.of(model))
    (state,) = start_states(model, observations, scales, key, 1, None)
    values = {
        **ParameterTable(model, users, items).unpack(state.table),
        "intercept": state.intercept,
    }
    own: dict[str, Any] = model.likelihood.scale_sites()
    for name in model.random_scales():
        law = own[name] if name in own else getattr(model, name)
        if isinstance(law, Distribution):
            # A joint prior of several scales has one number for all of them to start with.
            value = jnp.broadcast_to(jnp.asarray(scales[name]), law.shape())
            if bool(jnp.all(law.support(value))):
                values[name] = value
    return values


def _begun(
    potential: Potential, values: dict[str, Array], words: Array, jitter: Array
) -> dict[str, Array]:
    """Values of all sites, some of which are given."""
    seeded = numpyro.handlers.seed(potential.model, words)
    first = partial(_first_value, values=values, jitter=jitter)
    begun = numpyro.handlers.substitute(seeded, substitute_fn=first)
    trace = numpyro.handlers.trace(begun).get_trace(*potential.args, **potential.kwargs)
    return {name: trace[name]["value"] for name in potential.sites}


def _first_value(site: Any, values: Mapping[str, Array], jitter: Array) -> Array | None:
    if site["type"] != "sample" or site["is_observed"]:
        return None
    if site["name"] in values:
        return values[site["name"]]
    return _about_median(site["fn"], site["kwargs"]["rng_key"], jitter)


@jax.jit
def _about_median(law: Distribution, key: Array, jitter: Array) -> Array:
    """A value beside the median; as one program, since quantiles are dozens of operations."""
    transform = biject_to(law.support)
    shape = transform.inverse_shape(tuple(law.batch_shape) + tuple(law.event_shape))
    middle = transform.inv(median(law, transform(jnp.zeros(shape))))
    # Off the middle, where the hidden units of a network would all be alike.
    return transform(middle + jitter * jax.random.normal(key, shape, middle.dtype))


def scales_without_mode(target: Target) -> list[str]:
    """Unknown scales whose joint density with what they govern has no highest point."""
    source = target.source
    if isinstance(source, MatrixFactorization):
        names = [name for name in source.random_scales() if name not in source.learned_shapes]
        # The noise is governed by the ratings, which do not move.
        return [name for name in names if name != "noise_scale" or source.num_factors]
    if isinstance(source, Network):
        return [name for name in source.random_scales() if name != "noise_scale"]
    names = []
    if target.design is not None:
        data = target.design.data
        for term in (term for part in data.predictors for term in part.groups):
            fixed = not isinstance(data.priors[f"{term.name}_scale"], Distribution)
            raw = f"{term.effects_site}_raw" in source.effect_sites(target.design)
            if not fixed and not raw and term.effects_site not in target.sites:
                names.append(f"{term.name}_scale")
    return names

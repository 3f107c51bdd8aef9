"""Draws from a model's prior, and log densities of the prior at draws of a posterior."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jaxtyping import Array, Float
from numpyro import handlers

from probmf.settings import in_precision


def draw_prior(
    model: Callable[..., Any], arguments: tuple[Any, ...], count: int, key: Array
) -> dict[str, np.ndarray]:
    """Draws of all sites of a NumPyro model, of its responses too.

    Each with leading (chain, draw) axes, one chain. A flat prior is refused by its name.
    """

    def one(key: Array) -> dict[str, Array]:
        blank = handlers.substitute(handlers.uncondition(model), substitute_fn=_refuse_flat)
        seeded = handlers.seed(blank, key)
        traced = handlers.trace(seeded).get_trace(*arguments)
        return {
            name: site["value"]
            for name, site in traced.items()
            if site["type"] in ("sample", "deterministic") and not _is_factor(site)
        }

    found = jax.jit(lambda keys: lax.map(one, keys))(jax.random.split(key, count))
    return {name: np.asarray(value)[None] for name, value in found.items()}


def log_prior(
    model: Callable[..., Any], arguments: tuple[Any, ...], samples: Mapping[str, np.ndarray]
) -> dict[str, Float[np.ndarray, "chain draw"]]:
    """Log densities of the priors of a NumPyro model's sites, given their parents, at draws.

    One number for each draw, by site; what the model computes from other sites has none.
    """
    lead = next(iter(samples.values())).shape[:2]

    def one(values: Mapping[str, Array]) -> dict[str, Array]:
        # The key draws nothing: sites without values are refused.
        seeded = handlers.seed(handlers.substitute(model, dict(values)), jax.random.key(0))
        found = {}
        for name, site in handlers.trace(seeded).get_trace(*arguments).items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            if name not in values:
                raise ValueError(
                    f"The fit has no draws of {name}, which have no log density of their prior "
                    "then. Sample again and have them recovered."
                )
            found[name] = jnp.sum(site["fn"].log_prob(site["value"]))
        return found

    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in samples.items()}
    found = jax.jit(lambda draws: lax.map(one, draws))(in_precision(flat))
    return {name: np.asarray(value).reshape(lead) for name, value in found.items()}


def _is_factor(site: Mapping[str, Any]) -> bool:
    """True for a `numpyro.factor`, which has no value."""
    return site["type"] == "sample" and isinstance(site["fn"], dist.Unit)


def _refuse_flat(site: Mapping[str, Any]) -> None:
    """Refuse a prior that has no draws."""
    law: Any = site["fn"] if site["type"] == "sample" else None
    while hasattr(law, "base_dist"):
        law = law.base_dist
    if isinstance(law, dist.ImproperUniform):
        raise ValueError(
            f"The prior of {site['name']} is flat, so that nothing can be drawn from it; give it a "
            "distribution, such as numpyro.distributions.Normal(0.0, 10.0)."
        )

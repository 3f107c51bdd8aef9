"""Draws as an ArviZ DataTree, with named dimensions and the user's own coordinates."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import arviz_base
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jaxtyping import Array, Float, Shaped
from numpyro import handlers

from probmf.data import wrap_words
from probmf.likelihoods.base import BaseLikelihood
from probmf.models.sites import Sites
from probmf.results.prediction_intervals import Mixtures
from probmf.results.records import Sampling
from probmf.settings import in_precision


def arviz_tree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    observed: Mapping[str, np.ndarray],
    sites: Sites,
    sampling: Sampling | None,
    method: str,
    log_prior: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """The tree of groups of draws, by group and name with leading (chain, draw) axes."""
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


def at_draws(
    likelihood: BaseLikelihood,
    mixtures: Mixtures,
    response: Shaped[np.ndarray, "n ..."],
    *,
    weight: Float[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Shaped[np.ndarray, "draws n ..."]:
    """Log densities of responses at each draw, or with a generator draws of responses.

    `mixtures` are places of rows and their scores at the draws. The log density of a response of
    weight zero is 0, and it is drawn as if it weighed one. In double precision, as the response may
    lie far from zero, unless that is given in single precision; draws of codes are whole.
    """
    counts = np.ones(len(response)) if weight is None else weight
    own = np.where(counts > 0, counts, 1.0)
    dtype = np.dtype(np.float32 if response.dtype == np.float32 else np.float64)
    if rng is not None and response.dtype.kind == "i":
        dtype = np.dtype(np.int32)
    found = np.empty((0, *response.shape), dtype)
    for rows, scores in mixtures:
        num_draws = len(scores.mean)
        if not len(found):
            found = np.empty((num_draws, *response.shape), dtype)
        words = None
        if rng is not None:
            words = rng.integers(2**32, size=(num_draws, 2), dtype=np.uint32)
        given = (scores.mean, dict(scores.scales), response[rows], own[rows], words)
        with jax.enable_x64(True):
            values = _at_draws(*in_precision(given), likelihood=likelihood.canonical())
        found[:, rows] = np.asarray(values)
    if rng is None:
        found[:, counts == 0] = 0.0
    return found


@partial(jax.jit, static_argnames="likelihood")
def _at_draws(
    scores: Array, scales: Mapping[str, Array], response: Array, weight: Array,
    words: Array | None,
    *, likelihood: BaseLikelihood,
) -> Array:  # fmt: skip
    weight = weight.reshape(-1, *[1] * (response.ndim - 1))

    def one(scores: Array, scales: Mapping[str, Array], words: Array | None) -> Array:
        if words is None:
            return likelihood.log_density(scores, response, weight, scales)
        return likelihood.draw(wrap_words(words), scores, weight, scales)

    return jax.vmap(one)(scores, scales, words)


def draw_prior(
    model: Callable[..., Any], arguments: tuple[Any, ...], count: int, key: Array
) -> dict[str, np.ndarray]:
    """Draws of all sites of a NumPyro model, (chain, draw, ...), and of its responses."""

    def one(key: Array) -> dict[str, Array]:
        blank = handlers.substitute(handlers.uncondition(model), substitute_fn=_refuse_flat)
        seeded = handlers.seed(blank, key)
        traced = handlers.trace(seeded).get_trace(*arguments)
        return {
            name: site["value"]
            for name, site in traced.items()
            # A `numpyro.factor` has no value.
            if site["type"] in ("sample", "deterministic")
            and not isinstance(site.get("fn"), dist.Unit)
        }

    found = jax.jit(lambda keys: lax.map(one, keys))(jax.random.split(key, count))
    return {name: np.asarray(value)[None] for name, value in found.items()}


def log_prior(
    model: Callable[..., Any], arguments: tuple[Any, ...], samples: Mapping[str, np.ndarray]
) -> dict[str, Float[np.ndarray, "chain draw"]]:
    """Log densities of the priors of a NumPyro model's sites, given their parents, by draw."""
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

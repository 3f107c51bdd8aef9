"""Log densities of the responses of a mixed model at each draw, and responses drawn there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probmf.data import wrap_words
from probmf.models.mixed import Encoded, MixedEffects
from probmf.results.mixed_predict import SiteDraws, blocks


def by_distribution(
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

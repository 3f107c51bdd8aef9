"""Log densities of the responses of a mixed model at each draw, and responses drawn there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probmf.data import wrap_words
from probmf.models.mixed import Encoded, MixedEffects
from probmf.models.mixed.model import response_distribution
from probmf.results.mixed_predict import SiteDraws, blocks


def by_distribution(
    model: MixedEffects, draws: SiteDraws, rows: Encoded, rng: np.random.Generator | None
) -> np.ndarray:
    """Draws of the responses, or without a generator the log density of those observed."""
    response = np.asarray(draws.design.data.response)
    first = next(iter(draws.samples.values()))
    whole = rng is not None and response.dtype.kind == "i"
    found = np.empty((draws.num_draws, len(response)), np.int32 if whole else np.float32)

    def one(predictor: Any, own: Any, key: Any, observed: Any) -> Any:
        given = response_distribution(model.likelihood, predictor, own)
        return given.sample(key) if rng is not None else given.log_prob(observed)

    apply = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))
    dtype = jnp.result_type(float)
    for part, given in blocks(draws, rows):
        predictor = given.mean
        own = {name: jnp.asarray(value, dtype) for name, value in given.own.items()}
        if "noise_scale" in own:
            own["noise_scale"] = jnp.broadcast_to(own["noise_scale"], predictor.shape)
        words = np.zeros((draws.num_draws, 2), np.uint32)
        if rng is not None:
            words = rng.integers(2**32, size=(draws.num_draws, 2), dtype=np.uint32)
        values = apply(
            jnp.asarray(predictor, dtype), own,
            wrap_words(jnp.asarray(words)),
            jnp.asarray(response[part]),
        )  # fmt: skip
        found[:, part] = np.asarray(values)
    return found.reshape(*first.shape[:2], -1)

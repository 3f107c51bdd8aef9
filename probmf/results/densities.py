"""Responses at each draw: their log densities, and responses drawn there."""

from collections.abc import Mapping
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from probmf.data import wrap_words
from probmf.likelihoods.base import BaseLikelihood
from probmf.results.prediction_intervals import Mixtures
from probmf.settings import in_precision


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

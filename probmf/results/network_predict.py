"""Predictions of networks, averaged over draws."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.data.examples import Examples
from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.models.network import Network
from probmf.results.mixtures import row_blocks
from probmf.results.prediction_intervals import (
    Kind,
    Mixtures,
    ScoreMixture,
    Summary,
    joined,
    over_draws,
    summarize,
)
from probmf.results.predictions import Predictions


def predict_network(
    model: Network,
    data: Examples,
    samples: Mapping[str, np.ndarray],
    x: Float[np.ndarray, "n features"],
    *,
    interval: float | None,
    kind: Kind,
) -> Predictions:
    """Predict rows of standardized features; see `NetworkFit.predict`."""
    if model.likelihood.by_class and kind == "response" and interval is not None:
        raise ValueError(
            "Classes have no order, so a response has no interval; see probabilities, or use "
            "kind='mean' for how well each probability is known."
        )
    # Of a kind that has `level_probabilities`, by class or for one score.
    likelihood: Any = model.likelihood
    parts = []
    for part, scores in mixtures(model, data, samples, x):
        if likelihood.by_class:
            each = np.asarray(likelihood.level_probabilities(jnp.asarray(scores.mean), {}))
            found = Summary(*over_draws(each.astype(np.float64), interval))
            found = found._replace(probabilities=found.mean)
        else:
            found = _summary(likelihood, scores, interval, kind)
        parts.append((part, found))
    found = joined(parts, len(x))
    if found.probabilities is None:
        return Predictions(**found._asdict())
    classes = model.classes(data)
    labels = np.empty(len(classes), object)
    labels[:] = classes
    label = np.asarray(labels[np.argmax(found.probabilities, axis=-1)].tolist())
    return Predictions(**found._asdict(), label=label, levels=classes)


def mixtures(
    model: Network, data: Examples, samples: Mapping[str, np.ndarray], x: Float[np.ndarray, "n p"]
) -> Mixtures:
    """Scores of rows at every draw, in the user's own units.

    Args:
        model: The network.
        data: The training examples, whose units these are.
        samples: Draws by site, with leading (chain, draw) axes.
        x: Standardized features.

    Yields:
        Places of some rows, and their scores, with a last axis of responses or classes where there
        are several. Memory is bounded.
    """
    likelihood: Any = model.likelihood
    values = {site: value.reshape(-1, *value.shape[2:]) for site, value in samples.items()}
    count = len(next(iter(values.values())))
    fixed = likelihood_scales(likelihood, {}).items()
    own = {name: np.broadcast_to(value, (count, *value.shape)) for name, value in fixed}
    own |= {name: values[name] for name in likelihood.scale_sites() if name in values}
    own = {name: np.asarray(value, np.float64) for name, value in own.items()}
    dtype = jnp.result_type(float)
    weights = {
        site: jnp.asarray(value, dtype) for site, value in values.items() if "_scale" not in site
    }
    widest = max([1, *model.hidden, *(np.shape(v)[-1] for v in weights.values())])
    for part in row_blocks(len(x), count * widest):
        found = _scores(weights, jnp.asarray(x[part], dtype), network=model.canonical())
        scores = np.asarray(found, np.float64)
        between = [1] * (scores.ndim - 1)
        scales = {name: v.reshape(count, *between, *v.shape[1:]) for name, v in own.items()}
        if likelihood.has("in_units"):
            center, unit = (data.response_center, data.response_scale)
            if scores.ndim == 2:
                center, unit = center[0], unit[0]
            scores, scales = likelihood.in_units(scores, scales, center, unit)
        yield np.arange(part.start, part.stop), ScoreMixture(scores, None, scales)


@partial(jax.jit, static_argnames="network")
def _scores(values: dict[str, Array], x: Array, *, network: Network) -> Array:
    return jax.vmap(lambda own: network.scores(own, x))(values)


def _summary(
    likelihood: Likelihood, scores: ScoreMixture, interval: float | None, kind: Kind
) -> Summary:
    """Summary of one response or several, each a row of its own."""
    shape = scores.mean.shape
    scales = dict(scores.scales)
    if len(shape) == 3:
        scales = {name: np.broadcast_to(v, shape) for name, v in scales.items()}
        scales = {name: v.reshape(shape[0], -1) for name, v in scales.items()}
    flat = ScoreMixture(scores.mean.reshape(shape[0], -1), None, scales)
    found = summarize(likelihood, flat, interval, kind)
    columns: list[Any] = [
        None if values is None else values.reshape(*shape[1:], *values.shape[1:])
        for values in found
    ]
    return Summary(*columns)

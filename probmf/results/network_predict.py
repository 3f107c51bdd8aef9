"""Predictions of networks, averaged over draws."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.data.examples import Examples
from probmf.likelihoods import Categorical, Gaussian, Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.models.network import Network
from probmf.results.mixtures import row_blocks
from probmf.results.predictions import Predictions
from probmf.results.summaries import Kind, ScoreMixture, Summary, joined, over_draws, summarize


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
    if isinstance(model.likelihood, Categorical) and kind == "response" and interval is not None:
        raise ValueError(
            "Classes have no order, so a response has no interval; see probabilities, or use "
            "kind='mean' for how well each probability is known."
        )
    likelihood, parts = model.likelihood, []
    for part, scores in mixtures(model, data, samples, x):
        if isinstance(likelihood, Categorical):
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
) -> Iterator[tuple[Int[np.ndarray, " part"], ScoreMixture]]:
    """Scores of rows at every draw in the user's own units, by blocks of rows."""
    start = 0
    for scores, own in score_blocks(model, samples, x):
        part = np.arange(start, start + scores.shape[1])
        start += scores.shape[1]
        between = [1] * (scores.ndim - 1)
        scales = {name: v.reshape(len(v), *between, *v.shape[1:]) for name, v in own.items()}
        if isinstance(model.likelihood, Gaussian):
            # One of each for a single response, whose scores have no axis for it.
            center, unit = (
                value if scores.ndim == 3 else value[0]
                for value in (data.response_center, data.response_scale)
            )
            scores, scales = center + unit * scores, {"noise_scale": unit * scales["noise_scale"]}
        yield part, ScoreMixture(scores, None, scales)


def score_blocks(
    model: Network, samples: Mapping[str, np.ndarray], x: Float[np.ndarray, "n features"]
) -> Iterator[tuple[Float[np.ndarray, "draws part ..."], dict[str, np.ndarray]]]:
    """Scores of rows at every draw, and the likelihood's own parameters, by blocks of rows.

    Yields:
        The scores, and parameters with a leading axis over the draws. Memory is bounded.
    """
    values = {site: value.reshape(-1, *value.shape[2:]) for site, value in samples.items()}
    count = len(next(iter(values.values())))
    sites = model.likelihood.scale_sites()
    own = {name: values[name] for name in sites if name in values}
    fixed = likelihood_scales(model.likelihood, {})
    for name, value in fixed.items():
        own.setdefault(name, np.broadcast_to(np.asarray(value), (count, *value.shape)))
    dtype = jnp.result_type(float)
    weights = {
        site: jnp.asarray(value, dtype) for site, value in values.items() if "_scale" not in site
    }
    widest = max([1, *model.hidden, *(np.shape(v)[-1] for v in weights.values())])
    for part in row_blocks(len(x), count * widest):
        scores = _scores(weights, jnp.asarray(x[part], dtype), network=model.canonical())
        yield np.asarray(scores, np.float64), {k: np.asarray(v, np.float64) for k, v in own.items()}


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

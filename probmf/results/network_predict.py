"""Predictions of networks, averaged over draws."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.data.examples import Examples
from probmf.likelihoods import Categorical, Gaussian, Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.models.network import Network
from probmf.results.mixtures import row_blocks
from probmf.results.predictions import SUMMARY, Predictions
from probmf.results.summaries import Kind, ScoreMixture, over_draws, summarize


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
    likelihood = model.likelihood
    parts = []
    for scores, scales in score_blocks(model, samples, x):
        if isinstance(likelihood, Categorical):
            each = np.asarray(likelihood.level_probabilities(jnp.asarray(scores), {}), np.float64)
            parts.append((*over_draws(each, interval), each.mean(axis=0)))
        else:
            parts.append(_summarize(likelihood, scores, scales, data, interval, kind))
    *summary, probability = [
        None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)
    ]
    given: dict[str, Any] = dict(zip(SUMMARY, summary, strict=False))
    if probability is None:
        return Predictions(**given)
    classes = model.classes(data)
    labels = np.empty(len(classes), object)
    labels[:] = classes
    label = np.asarray(labels[np.argmax(probability, axis=-1)].tolist())
    return Predictions(probabilities=probability, label=label, levels=classes, **given)


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


def _summarize(
    likelihood: Likelihood,
    scores: Float[np.ndarray, "draws part ..."],
    scales: dict[str, np.ndarray],
    data: Examples,
    interval: float | None,
    kind: Kind,
) -> tuple[Any, ...]:
    """Mean, sd, ends and probabilities of one response or several, in the user's own units."""
    several = scores.ndim == 3
    columns = []
    for place in range(scores.shape[2] if several else 1):
        column = scores[:, :, place] if several else scores
        own = {name: value[:, None] for name, value in scales.items()}
        if isinstance(likelihood, Gaussian):
            unit = data.response_scale[place]
            column = data.response_center[place] + unit * column
            own = {"noise_scale": unit * own["noise_scale"]}
        columns.append(summarize(likelihood, ScoreMixture(column, None, own), interval, kind))
    if not several:
        return tuple(columns[0])
    return tuple(
        None if parts[0] is None else np.stack(parts, axis=1)
        for parts in zip(*columns, strict=True)
    )

"""Fits of networks: draws of weights and biases, and predictions by them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.data.examples import Examples
from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import BaseLikelihood, likelihood_scales
from probmf.models.network import NAME, Network
from probmf.models.sites import Sites
from probmf.results.asked import check_choice, check_interval
from probmf.results.fit import Fit
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
from probmf.results.records import History, Sampling
from probmf.settings import own_settings


@dataclass(frozen=True, eq=False, repr=False)
class NetworkFit(Fit):
    """A fitted network.

    Attributes:
        model: The network that was fitted.
        data: The training examples.
        samples: Draws by site name, each with leading (chain, draw) axes; a point fit has one
            chain of one draw. Read-only.
        method: How it was fitted, such as "map/full-batch".
        sampling: How the sampler's run went; None for a point fit.
        history: How an optimizer's search went, or None.

    Raises:
        ValueError: If there are no draws, a site is none of the model's, has another shape than
            the model gives it, or is not finite.
    """

    model: Network
    data: Examples
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    sampling: Sampling | None = None
    history: History | None = None

    @classmethod
    def from_point(
        cls,
        model: Network,
        data: Examples,
        parameters: Mapping[str, Any],
        *,
        history: History | None,
        method: str,
    ) -> "NetworkFit":
        """A point fit from parameters by site name."""
        samples = {site: np.asarray(value)[None, None] for site, value in parameters.items()}
        return cls(model, data, samples, method, history=history)

    @cached_property
    def site_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all sites but the response, without chain and draw."""
        (arrays,) = self.model.arguments(self.data)
        scales: dict[str, tuple[int, ...]] = dict.fromkeys(self.model.random_scales(), ())
        return self.model.site_shapes(arrays) | scales

    @property
    def _model_words(self) -> str:
        sizes = len(self.data.features), self.model.targets(self.data)[1]
        shapes = self.model.layers.shapes(NAME, *sizes)
        widths = [shapes[f"{NAME}_weight_0"][0]]
        widths += [shapes[f"{NAME}_weight_{i}"][1] for i in range(self.model.layers.num_layers)]
        return f"{'-'.join(map(str, widths))}, {type(self.model.likelihood).__name__}"

    @property
    def _data_words(self) -> str:
        return f"{len(self.data):,} examples"

    @own_settings()
    def predict(
        self, data: Any = None, *, interval: float | None = 0.9, kind: Kind = "mean"
    ) -> Predictions:
        """Predict the responses of rows, averaged over the draws.

        With kind="mean" the interval says how well the expected response is known, with
        kind="response" where a response will lie, its noise put in.

        Args:
            data: A table with the columns of the features, an array of shape (rows, features), or
                Examples; they need no response. None for the training examples.
            interval: Probability of the central interval; None for means only.
            kind: "mean" or "response".

        Returns:
            The predictions, in the order of the rows. A point fit knows no uncertainty of the
            mean: `sd`, `lower` and `upper` are then None with kind="mean", and of the noise alone
            with kind="response".

        Raises:
            TypeError: If `data` is none of these.
            ValueError: If an option is unknown, or a column or value is missing.

        Cost: O(draws x rows x number of weights); memory is bounded.
        """
        if interval is not None:
            check_interval(interval)
        check_choice("kind", kind, get_args(Kind.__value__))
        x = self.data.inputs() if data is None else self.data.encode(data)
        return predict_network(
            self.model, self.data, self.samples, x, kind=kind,
            interval=None if self.is_point and kind == "mean" else interval,
        )  # fmt: skip

    def to_equinox(self) -> eqx.nn.Sequential:
        """The network of a point fit as an Equinox module of one row of standardized features.

        Raises:
            ValueError: If there are several draws.
        """
        return self.model.layers.to_equinox(NAME, self.point())

    _response_name = "response"

    def _sites(self) -> Sites:
        return self.model.sites(self.data)

    def _observed(self) -> np.ndarray:
        (arrays,) = self.model.arguments(self.data)
        return self._in_units(np.asarray(arrays.response))

    def _prior_draws(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        found = super()._prior_draws(rng, count)
        name = self._response_name
        return found | {name: self._in_units(found[name], lead=2)}

    def _in_units(self, response: np.ndarray, lead: int = 0) -> np.ndarray:
        """Responses of the model in their own units, with leading axes of draws."""
        if not self.model.likelihood.has("in_units"):
            return response
        # Numbers were standardized, codes and levels not.
        center, unit = self.data.response_center, self.data.response_scale
        several = response.ndim == lead + 2
        return response * (unit if several else unit[0]) + (center if several else center[0])

    def _training_scores(self) -> tuple[BaseLikelihood, Mixtures, None]:
        found = mixtures(self.model, self.data, self.samples, self.data.inputs())
        return self.model.likelihood, found, None


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
    """Scores of rows of standardized features at every draw, in the user's units, by blocks."""
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

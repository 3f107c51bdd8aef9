"""Multilayer perceptrons as NumPyro models; without a hidden layer, generalized linear models."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float, Int, Shaped
from numpyro.distributions import Distribution

from probmf import html
from probmf.data.examples import Examples
from probmf.likelihoods import BaseLikelihood, Gaussian
from probmf.likelihoods.base import likelihood_scales
from probmf.models.l2 import Loss, prior_scale
from probmf.models.layers import MLP, LayerScale
from probmf.models.normal_wishart import normal_loss
from probmf.models.sites import Sites


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "response"],
    meta_fields=["num_outputs"],
)
@dataclass(frozen=True)
class NetworkData:
    """Data of a network: a pytree of arrays.

    Attributes:
        x: Standardized features.
        response: Responses, shape (n,), or (n, outputs) for several; codes of classes for a
            Categorical likelihood. None to simulate them.
        num_outputs: Number of outputs of the last layer.
    """

    x: Float[Array, "n features"]
    response: Shaped[Array, "n ..."] | None
    num_outputs: int

    @property
    def num_rows(self) -> int:
        """Number of examples."""
        return len(self.x)

    def take(self, places: Int[Array, " batch"]) -> "NetworkData":
        """Some of the examples."""
        return jax.tree.map(lambda array: array[places], self)

    def without_response(self) -> "NetworkData":
        """The same rows with the responses left open, for NumPyro's `Predictive`."""
        return replace(self, response=None)


Parameters = Mapping[str, Array]

#: What the sites' names begin with.
NAME = "network"


@dataclass(frozen=True)
class Network:
    r"""A response given features, through a multilayer perceptron of any depth.

    .. math::
        h_0 = x, \quad h_{l+1} = a(h_l W_l + c_l), \quad \eta = h_L W_L + c_L, \quad
        y \sim p(y \mid \eta), \qquad W_l \sim N(0, s_l^2),\ c_l \sim N(0, t_l^2)

    The minus log likelihood is the squared error (Gaussian), the binary cross-entropy (Bernoulli)
    or the cross-entropy (Categorical), and the priors are its weight decay. Without a hidden layer
    this is linear, logistic, ordinal or softmax regression. The object is itself a NumPyro
    model of :class:`~probmf.models.NetworkData`.

    Args:
        hidden: Widths of the hidden layers, such as (64, 32); () leaves none.
        activation: Of the hidden layers: "tanh", "relu", "logistic", "identity", "step" (can't be
            trained), or another elementwise function of `jax.nn`.
        likelihood: `Gaussian(noise_scale)`, its scale in standard deviations of the response where
            `Examples` standardize it; `Bernoulli(link)`; `Categorical(num_levels)`;
            `Ordinal(levels)`, whose learned cutpoints take the place of the last bias; or another,
            which takes the response as it is.
        weight_scale: Prior standard deviation of the weights: None for
            :math:`1/\sqrt{\text{inputs of the layer}}`, a number, "flat", a NumPyro distribution
            (then it is sampled, one for each layer), or a tuple with one of these for each layer.
        bias_scale: The same for the biases; None is 1.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a width or scale is not positive, or the activation is unknown.

    Example:
        >>> from probmf import Examples, Network, fit_map
        >>> table = {"x": [0.0, 1.0, 2.0, 3.0], "y": [1.0, 3.0, 5.0, 7.0]}
        >>> line = Network(hidden=(), weight_scale="flat", bias_scale="flat")
        >>> fit = fit_map(line, Examples.from_frame(table), key=0, num_epochs=500, tol=0)
        >>> fit.predict({"x": [4.0]}).mean.round(2)
        array([9.])

    References:
        Bishop (2006), Pattern recognition and machine learning, sections 4.3 and 5.1-5.2.
    """

    hidden: tuple[int, ...] = (16,)
    activation: str = "tanh"
    likelihood: BaseLikelihood = field(default_factory=Gaussian)
    weight_scale: LayerScale = None
    bias_scale: LayerScale = None

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        if not isinstance(self.likelihood, BaseLikelihood):
            raise TypeError(
                f"likelihood is {self.likelihood!r}; expected one such as Gaussian(), Bernoulli(), "
                "Categorical(3) or Ordinal(5)."
            )
        self.likelihood.require_levels()
        for name in ("hidden", "weight_scale", "bias_scale"):
            object.__setattr__(self, name, getattr(self.layers, name))

    @classmethod
    def from_l2(
        cls,
        hidden: tuple[int, ...] = (),
        *,
        regularization: float | None = None,
        bias: float | None = None,
        loss: Loss = "sum",
        data: Examples | None = None,
        likelihood: BaseLikelihood | None = None,
        activation: str = "tanh",
    ) -> "Network":
        r"""The network whose MAP minimizes a loss with weight decay.

        .. math::
            \text{sum: } \tfrac12 \sum e^2 + \tfrac{\lambda}{2} |W|^2 , \qquad
            \text{mean: } \tfrac1n \sum e^2 + \lambda |W|^2

        For other responses the log loss stands in place of :math:`\tfrac12 e^2` (sum) and of
        :math:`e^2` (mean), as in `MatrixFactorization.from_l2`. With loss="sum", lambda is `alpha`
        of scikit-learn's `Ridge`, 1 / `C` of its `LogisticRegression`, and `alpha` of its
        `MLPClassifier` times the number of batches, in each of which it counts in full there.

        Args:
            hidden: Widths of the hidden layers.
            regularization: Strength lambda of the weights' penalty; None has none.
            bias: Strength of the biases' penalty; None, the usual, has none.
            loss: "sum" or "mean".
            data: The training examples, needed for "mean".
            likelihood: As in the class; Gaussian with noise scale 1 by default.
            activation: As in the class.

        Returns:
            The network.

        Raises:
            ValueError: If a strength is not positive, or `data` is missing.

        Example:
            >>> Network.from_l2((), regularization=4.0).weight_scale
            0.5
        """
        likelihood = Gaussian() if likelihood is None else likelihood
        if loss == "mean" and data is None:
            raise ValueError(
                "The averaged loss depends on the number of examples: give data=, the training "
                "examples."
            )
        scales: dict[str, Any] = {}
        for name, strength in (("regularization", regularization), ("bias", bias)):
            known: Any = likelihood
            scales[name] = "flat" if strength is None else prior_scale(
                strength, known, loss=loss, name=name,
                num_ratings=None if data is None else len(data),
            )  # fmt: skip
        return cls(hidden, activation, likelihood, scales["regularization"], scales["bias"])

    @property
    def layers(self) -> MLP:
        """The layers; with learned cutpoints the last one has no bias, which would shift them."""
        bias: Any = True
        if self.likelihood.learned:
            bias = (*([True] * len(tuple(self.hidden))), False)
        return MLP(self.hidden, self.activation, self.weight_scale, self.bias_scale, bias)

    def canonical(self) -> "Network":
        """The network without its scales: compiled programs are keyed by it."""
        return Network(self.hidden, self.activation, self.likelihood.canonical())

    def arguments(self, data: Examples) -> tuple[NetworkData]:
        """Arguments of the model: `MCMC(NUTS(model)).run(key, *model.arguments(data))`.

        Args:
            data: The examples.

        Returns:
            The arrays, as the model's only argument.

        Raises:
            TypeError: If `data` are no Examples.
            ValueError: If the responses do not suit the likelihood.
        """
        if not isinstance(data, Examples):
            raise TypeError(
                f"data is of type {type(data).__name__}; expected Examples. Make them with "
                "Examples.from_frame(frame, response=...) or Examples.from_arrays(x, y)."
            )
        return (self._arrays(data, *self.targets(data)),)

    def held_out(self, training: Examples, data: Any) -> NetworkData:
        """Other examples, coded as the training ones."""
        if self.likelihood.by_class:
            training = training.with_classes()
        other = training.matching(data)
        return self._arrays(other, *self.targets(other, complete=False))

    def _arrays(self, data: Examples, values: np.ndarray, num_outputs: int) -> NetworkData:
        dtype = jnp.result_type(float)
        kind = jnp.int32 if self.likelihood.by_class else dtype
        return NetworkData(
            jnp.asarray(data.inputs(), dtype), jnp.asarray(values, kind), num_outputs
        )

    def classes(self, data: Examples) -> tuple[Any, ...]:
        """The classes that predictions name, by code; () for responses without levels."""
        if self.likelihood.by_class:
            return data.class_codes()[0]
        levels = self.likelihood.levels
        return data.classes or tuple(int(x) if x.is_integer() else x for x in levels)

    def targets(self, data: Examples, *, complete: bool = True) -> tuple[np.ndarray, int]:
        """Responses as the likelihood takes them, and the number of outputs.

        `complete` says whether every level has to occur whose cutpoints are learned.
        """
        values = self.likelihood.read_examples(data, complete=complete)
        count = values.shape[1]
        if self.likelihood.by_class:
            return values[:, 0], len(self.likelihood.levels)
        return values if count > 1 else values[:, 0], count

    def _repr_html_(self) -> str:
        """The arguments, for notebooks."""
        return html.fields(self)

    def __call__(self, data: NetworkData) -> Array:
        """Sample the model in NumPyro's sense.

        Args:
            data: Features and responses; without responses these are sampled.

        Returns:
            The value of the site `response`.
        """
        values = self.layers.sample(NAME, data.x.shape[1], data.num_outputs)
        scales = {
            name: numpyro.sample(name, scale) if isinstance(scale, Distribution)
            else jnp.asarray(scale, jnp.result_type(float))
            for name, scale in self.likelihood.scale_sites().items()
        }  # fmt: skip
        scores = self.scores(values, data.x)
        several = scores.ndim == 2 and not self.likelihood.by_class
        with ExitStack() as plates:
            plates.enter_context(numpyro.plate("example", len(data.x), dim=-1 - several))
            if several:
                plates.enter_context(numpyro.plate("output", data.num_outputs, dim=-1))
            return self.likelihood.observe(scores, data.response, None, scales, site="response")

    def scores(self, values: Parameters, x: Float[Array, "n features"]) -> Float[Array, "n ..."]:
        """Outputs of the network: shape (n,), or (n, outputs) for several responses or classes.

        Args:
            values: Weights and biases by site name.
            x: Standardized features.

        Returns:
            The scores.
        """
        outputs = self.layers.apply(NAME, values, x)
        if outputs.shape[-1] == 1 and not self.likelihood.by_class:
            return outputs[..., 0]
        return outputs

    def site_shapes(self, data: NetworkData) -> dict[str, tuple[int, ...]]:
        """Shapes of weights and biases, and of what the likelihood learns."""
        shapes = self.layers.shapes(NAME, data.x.shape[1], data.num_outputs)
        laws: Mapping[str, Any] = self.likelihood.scale_sites()
        return shapes | {name: tuple(laws[name].event_shape) for name in self.likelihood.learned}

    def sites(self, data: Examples) -> Sites:
        """Names of the sites' dimensions; features, classes or responses, and units along them."""
        last = self.layers.num_layers - 1
        ends = ["feature", *(f"unit_{place}" for place in range(last)), "output"]
        several = len(data.responses) > 1
        labels = self.likelihood.labels
        dims = {"response": ["example", *["output"] * several]}
        dims |= {site: list(names) for site, names in labels.items()}
        for place in range(last + 1):
            dims[f"{NAME}_weight_{place}"] = ends[place : place + 2]
            dims[f"{NAME}_bias_{place}"] = [ends[place + 1]]
        outputs = self.classes(data) if self.likelihood.by_class else data.responses
        coords: dict[str, Any] = {
            "feature": data.features, "output": outputs, "example": range(len(data)),
        }  # fmt: skip
        coords |= {f"unit_{place}": range(width) for place, width in enumerate(self.hidden)}
        for names in labels.values():
            coords |= names
        return Sites(dims, coords)

    def random_scales(self) -> list[str]:
        """Names of the scales that have a prior distribution instead of a value."""
        own = [
            name for name, scale in self.likelihood.scale_sites().items()
            if isinstance(scale, Distribution) and name not in self.likelihood.learned
        ]  # fmt: skip
        return [*self.layers.random_scales(NAME), *own]

    def prior_precisions(self, data: NetworkData) -> dict[str, float]:
        """Prior precision of every site, 0 where it is flat; all scales must be fixed."""
        scales = self.layers.scales(NAME, data.x.shape[1], data.num_outputs)
        found = {site: 0.0 if scale == "flat" else scale**-2.0 for site, scale in scales.items()}
        return found | self.likelihood.prior_precisions()

    def start(self, key: Array, data: NetworkData) -> dict[str, Array]:
        """Random starting values; learned cutpoints fit the levels' shares at score zero."""
        values = self.layers.start(NAME, key, data.x.shape[1], data.num_outputs)
        first = self.likelihood.start(np.asarray(data.response), None, 0.0)
        own = {name: jnp.asarray(value, jnp.result_type(float)) for name, value in first.items()}
        return values | own

    def objective(self, parameters: Parameters, data: NetworkData) -> Float[Array, ""]:
        r"""Minus log posterior density up to a constant.

        .. math:: \sum \ell(y, \eta) + \tfrac12 \sum_l (|W_l|^2 / s_l^2 + |c_l|^2 / t_l^2)

        It equals minus NumPyro's log density of the model up to a constant (tested). All scales
        must be fixed.

        Args:
            parameters: Values by site name.
            data: From `arguments`.

        Returns:
            The objective, a scalar.
        """
        total = normal_loss(parameters, self.prior_precisions(data))
        scales = likelihood_scales(self.likelihood, parameters)
        return total + jnp.sum(self.losses(parameters, data, scales))

    def losses(
        self, parameters: Parameters, data: NetworkData, scales: Mapping[str, Array]
    ) -> Float[Array, "n ..."]:
        """Minus log likelihood of each response, up to a constant."""
        scores = self.scores(parameters, data.x)
        return jnp.asarray(self.likelihood.loss(scores, data.response, scales))

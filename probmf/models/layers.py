r"""Layers of networks: which sites they have, their priors, and what they do to inputs.

A layer says nothing of what its outputs are for: they may be scores of observations, or the prior
mean of the rows of a factorization.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

#: A prior standard deviation: a number, "flat" for no prior, a distribution (then it is sampled,
#: one for each layer), None for the default, or a tuple with one of these for each layer.
type LayerScale = float | Literal["flat"] | Distribution | tuple[Any, ...] | None


def step(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """One where x is at least zero, else zero: the perceptron's threshold."""
    return jnp.where(x >= 0, 1.0, 0.0)


#: Activations that have a name of their own here; any other is looked up in `jax.nn`.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x, "step": step, "logistic": jax.nn.sigmoid, "tanh": jnp.tanh,
    "relu": jax.nn.relu,
}  # fmt: skip
#: What `jax.nn` has that acts on each number by itself.
ELEMENTWISE = (
    "celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus",
    "sparse_plus", "sparse_sigmoid", "squareplus", "swish",
)  # fmt: skip


@dataclass(frozen=True)
class MLP:
    r"""A multilayer perceptron: affine maps with an activation between them.

    .. math::
        h_0 = x, \quad h_{l+1} = a(h_l W_l + c_l), \quad \text{the last without } a, \quad
        W_l \sim N(0, s_l^2),\ c_l \sim N(0, t_l^2)

    Its sites are `{name}_weight_0`, of shape (inputs, outputs), `{name}_bias_0`, and so on; a
    scale with a distribution is the site `{name}_weight_scale_0` or `{name}_bias_scale_0`.

    Args:
        hidden: Widths of the hidden layers; () leaves one affine map.
        activation: "identity", "step", "logistic", "tanh", "relu", or the name of another
            elementwise function of `jax.nn`. Networks with "step" can be evaluated, not trained.
        weight_scale: Prior standard deviation of the weights, by default
            :math:`1/\sqrt{\text{number of inputs of the layer}}`: a number, "flat", a NumPyro
            distribution, or a tuple of one for each layer.
        bias_scale: The same for the biases, by default 1.
        bias: Whether there are biases; a tuple says so of each layer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a width or a scale is not positive, or the activation is unknown.

    Example:
        >>> layers = MLP(hidden=(3,))
        >>> layers.shapes("net", 2, 1)["net_weight_0"]
        (2, 3)
        >>> values = layers.start("net", jax.random.key(0), 2, 1)
        >>> layers.apply("net", values, jnp.ones((5, 2))).shape
        (5, 1)

    References:
        Rosenblatt (1958); Rumelhart, Hinton and Williams (1986); Neal (1996), Bayesian learning
        for neural networks, chapter 2, for scales that fall with the number of inputs.
    """

    hidden: tuple[int, ...] = (16,)
    activation: str = "tanh"
    weight_scale: LayerScale = None
    bias_scale: LayerScale = None
    bias: bool | tuple[bool, ...] = True

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        object.__setattr__(self, "hidden", _widths(self.hidden))
        find_activation(self.activation)
        for name in ("weight_scale", "bias_scale"):
            given = getattr(self, name)
            if isinstance(given, list | np.ndarray):
                given = tuple(given)
                object.__setattr__(self, name, given)
            for place, scale in enumerate(self._each(name, given)):
                where = f"{name}[{place}]" if isinstance(given, tuple) else name
                _check_layer_scale(where, scale)
        if isinstance(self.bias, list):
            object.__setattr__(self, "bias", tuple(self.bias))
        for has in self._each("bias", self.bias):
            if not isinstance(has, bool | np.bool_):
                raise TypeError(
                    f"bias is {self.bias!r}; expected True, False, or one of them for each layer. "
                    "The size of the biases is bias_scale."
                )

    @property
    def num_layers(self) -> int:
        """Number of affine maps."""
        return len(self.hidden) + 1

    @property
    def differentiable(self) -> bool:
        """True where the outputs have a gradient that training can use."""
        return not (self.hidden and self.activation == "step")

    def check_trainable(self) -> None:
        """Refuse to train what has no gradient.

        Raises:
            ValueError: If the activation is "step" and there is a hidden layer.
        """
        if not self.differentiable:
            raise ValueError(
                "A network with activation='step' can't be trained: the step is flat on both "
                "sides of zero, so the gradient of the weights below it is zero almost everywhere. "
                "Use 'logistic', which is a smooth step, or 'tanh' or 'relu'; evaluate a step "
                "network of given weights with apply."
            )

    def shapes(self, name: str, num_inputs: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights and biases.

        Args:
            name: What the sites' names begin with.
            num_inputs: Number of inputs.
            num_outputs: Number of outputs.

        Returns:
            Site name to shape, in the order in which they are sampled.
        """
        found: dict[str, tuple[int, ...]] = {}
        for place, (fan_in, fan_out) in enumerate(self._fans(num_inputs, num_outputs)):
            found[f"{name}_weight_{place}"] = (fan_in, fan_out)
            if self._each("bias", self.bias)[place]:
                found[f"{name}_bias_{place}"] = (fan_out,)
        return found

    def scales(self, name: str, num_inputs: int, num_outputs: int) -> dict[str, Any]:
        """The prior scale of each weight and bias site: a number, "flat" or a distribution.

        Args:
            name: What the sites' names begin with.
            num_inputs: Number of inputs.
            num_outputs: Number of outputs.

        Returns:
            Scales by the name of the site that they govern; see `scale_site`.
        """
        weights = self._each("weight_scale", self.weight_scale)
        biases = self._each("bias_scale", self.bias_scale)
        found = {}
        for site, shape in self.shapes(name, num_inputs, num_outputs).items():
            place = int(site.rpartition("_")[2])
            if len(shape) == 2:
                found[site] = shape[0] ** -0.5 if weights[place] is None else weights[place]
            else:
                found[site] = 1.0 if biases[place] is None else biases[place]
        return found

    def random_scales(self, name: str) -> list[str]:
        """Sites of the scales that have a prior distribution instead of a value."""
        scales = self.scales(name, 1, 1).items()
        return [scale_site(site) for site, scale in scales if isinstance(scale, Distribution)]

    def sample(self, name: str, num_inputs: int, num_outputs: int) -> dict[str, Array]:
        """Sample scales, weights and biases in NumPyro's sense.

        Args:
            name: What the sites' names begin with.
            num_inputs: Number of inputs.
            num_outputs: Number of outputs.

        Returns:
            Weights and biases by site name.
        """
        shapes = self.shapes(name, num_inputs, num_outputs)
        values = {}
        for site, scale in self.scales(name, num_inputs, num_outputs).items():
            shape = shapes[site]
            if isinstance(scale, str):
                law = dist.ImproperUniform(dist.constraints.real, (), shape)
            else:
                if isinstance(scale, Distribution):
                    scale = numpyro.sample(scale_site(site), scale)
                wide = jnp.broadcast_to(jnp.asarray(scale, jnp.result_type(float)), shape)
                law = dist.Normal(jnp.zeros(shape), wide).to_event(len(shape))
            values[site] = numpyro.sample(site, law)
        return values

    def apply(
        self, name: str, values: Mapping[str, Array], x: Float[Array, "n inputs"]
    ) -> Float[Array, "n outputs"]:
        """Outputs for rows of inputs; a pure function.

        Args:
            name: What the sites' names begin with.
            values: Weights and biases by site name.
            x: Inputs.

        Returns:
            Outputs. Cost O(n x number of weights).
        """
        x = _affine(name, values, 0, x)
        activation = find_activation(self.activation)
        for place in range(1, self.num_layers):
            x = _affine(name, values, place, activation(x))
        return x

    def start(
        self, name: str, key: Array, num_inputs: int, num_outputs: int, *, small: bool = False
    ) -> dict[str, Array]:
        r"""Random starting values, uniform within :math:`\pm \sqrt{6 / (inputs + outputs)}`.

        Of a layer's weights and biases alike, as in scikit-learn.

        Args:
            name: What the sites' names begin with.
            key: JAX key.
            num_inputs: Number of inputs.
            num_outputs: Number of outputs.
            small: Within :math:`\pm 1 / \sqrt{inputs}` instead, as in Equinox.

        Returns:
            Weights and biases by site name; scales are not among them.

        References:
            Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward
            neural networks, equation 16.
        """
        values: dict[str, Array] = {}
        shapes = self.shapes(name, num_inputs, num_outputs)
        for place, (fan_in, fan_out) in enumerate(self._fans(num_inputs, num_outputs)):
            has_bias = f"{name}_bias_{place}" in shapes
            layer = eqx.nn.Linear(fan_in, fan_out, has_bias, key=jax.random.fold_in(key, place))
            spread = 1.0 if small else (6.0 * fan_in / (fan_in + fan_out)) ** 0.5
            values[f"{name}_weight_{place}"] = spread * layer.weight.T
            if layer.bias is not None:
                values[f"{name}_bias_{place}"] = spread * layer.bias
        return values

    def to_equinox(self, name: str, values: Mapping[str, Any]) -> eqx.nn.Sequential:
        """The network as an Equinox module of one row of inputs.

        Args:
            name: What the sites' names begin with.
            values: Weights and biases by site name, without leading axes of draws.

        Returns:
            A module; `jax.vmap` it over rows.
        """
        parts: list[Callable[..., Any]] = []
        for place in range(self.num_layers):
            weight = jnp.asarray(values[f"{name}_weight_{place}"])
            bias = values.get(f"{name}_bias_{place}")
            fan_in, fan_out = weight.shape
            blank = eqx.nn.Linear(fan_in, fan_out, bias is not None, key=jax.random.key(0))
            linear = eqx.tree_at(lambda layer: layer.weight, blank, weight.T)
            if bias is not None:
                linear = eqx.tree_at(lambda layer: layer.bias, linear, jnp.asarray(bias))
            parts.append(linear)
            if place < self.num_layers - 1:
                parts.append(eqx.nn.Lambda(find_activation(self.activation)))
        return eqx.nn.Sequential(parts)

    def _fans(self, num_inputs: int, num_outputs: int) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer."""
        return list(pairwise((num_inputs, *self.hidden, num_outputs)))

    def _each(self, name: str, given: Any) -> tuple[Any, ...]:
        """One entry for each layer."""
        if not isinstance(given, tuple):
            return (given,) * self.num_layers
        if len(given) != self.num_layers:
            raise ValueError(
                f"{name} has {len(given)} entries for {self.num_layers} layers (the hidden ones "
                "and the last); give one number for all, or one for each layer."
            )
        return given


@dataclass(frozen=True)
class Linear(MLP):
    r"""One affine map, :math:`x W + c`: a perceptron without hidden layers.

    Args:
        weight_scale: Prior standard deviation of the weights, as for `MLP`.
        bias_scale: The same for the bias.
        bias: Whether there is one.

    Example:
        >>> Linear(bias=False).shapes("user", 4, 2)
        {'user_weight_0': (4, 2)}
    """

    hidden: tuple[int, ...] = field(default=(), init=False)
    activation: str = field(default="identity", init=False)


def _affine(
    name: str, values: Mapping[str, Array], place: int, x: Float[Array, "... inputs"]
) -> Float[Array, "... outputs"]:
    """One layer without its activation."""
    x = x @ values[f"{name}_weight_{place}"]
    if f"{name}_bias_{place}" in values:
        x = x + jnp.broadcast_to(values[f"{name}_bias_{place}"], x.shape)
    return x


def scale_site(site: str) -> str:
    """Site of the scale of a weight or bias site: `net_weight_0` -> `net_weight_scale_0`."""
    stem, _, place = site.rpartition("_")
    return f"{stem}_scale_{place}"


def find_activation(name: str) -> Callable[[Array], Array]:
    """One of `ACTIVATIONS`, or an elementwise function of `jax.nn`, by its name."""
    if not isinstance(name, str):
        raise TypeError(
            f"activation is {name!r} of type {type(name).__name__}; expected a name such as 'tanh'."
        )
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if name in ELEMENTWISE and hasattr(jax.nn, name):
        found: Callable[[Array], Array] = getattr(jax.nn, name)
        return found
    raise ValueError(
        f"activation is {name!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}, or another "
        "elementwise function of jax.nn, such as 'gelu' or 'softplus'."
    )


def _widths(hidden: Any) -> tuple[int, ...]:
    if isinstance(hidden, int | np.integer) and not isinstance(hidden, bool):
        raise TypeError(f"hidden is {hidden!r}; expected a tuple of widths, such as ({hidden},).")
    try:
        widths = tuple(hidden)
    except TypeError:
        widths = (None,)
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int | np.integer):
            raise TypeError(
                f"hidden is {hidden!r}; expected a tuple of whole numbers such as (64, 32), or () "
                "for no hidden layer."
            )
        if width < 1:
            raise ValueError(f"hidden has a layer of width {width}; expected 1 or more.")
    return tuple(int(width) for width in widths)


def _check_layer_scale(name: str, scale: Any) -> None:
    if scale is None or isinstance(scale, Distribution) or scale == "flat":
        if isinstance(scale, Distribution) and scale.batch_shape + scale.event_shape != ():
            raise ValueError(
                f"{name} has a distribution of shape {scale.batch_shape + scale.event_shape}; "
                "expected one of a single number."
            )
        return
    number = isinstance(scale, int | float | np.number) and not isinstance(scale, bool)
    if not number:
        raise TypeError(
            f"{name} is {scale!r}; expected a positive number, 'flat' (no prior), None (the "
            "default) or a NumPyro distribution."
        )
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(
            f"{name} is {scale:g}; a scale is a standard deviation and must be positive and "
            "finite. For no prior, give 'flat'."
        )

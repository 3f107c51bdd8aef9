r"""Coordinates in which no direction is much wider than the others.

A common shift of the levels, or of one column of the factors, is made up for by the biases that
are integrated out; only their prior holds it. In units of the single coordinates' widths that
direction is wider by about :math:`\alpha = \sqrt{1 + \bar n s_b^2 / \sigma^2}`, with the mean
number of ratings of a row, and no diagonal mass matrix can tell. So the sampler moves z, and

.. math:: x_n = z_n + (\alpha - 1) \sum_i w_i z_i, \quad w_i \propto 1 / \mathrm{width}_i^2 ,

which stretches the weighted mean by :math:`\alpha` and leaves all else alone. It is linear, so the
density has no Jacobian but a constant, which is left out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.inference.marginal_rows.integrated_rows import LEVEL, RowsMarginal
from probmf.inference.potential import Place, Potential

#: Guesses where a scale is sampled: variance of a row's biases, and of the scores' product part,
#: divided by that of the noise.
BIAS_SHARE, FACTORS_SHARE = 0.25, 0.25


@jax.tree_util.register_pytree_node_class
class Stretched(Potential):
    """The density of `RowsMarginal` over stretched coordinates.

    Args:
        target: The model with one side's rows integrated out.
    """

    def __init__(self, target: RowsMarginal) -> None:
        """Find the weights."""
        alpha, weights = _shape_of(target)
        self._hold(target, (), {}, None, jnp.asarray(alpha), weights)

    def on(self, place: Place) -> Self:
        """The same elsewhere."""
        if not isinstance(place, NamedSharding):
            return super().on(place)
        model, *rest = self._parts
        found = object.__new__(type(self))
        model = replace(model, layout=model.layout.on(place.mesh))
        found._hold(model, *jax.device_put(rest, place))
        return found

    def log_density(self, vector: Float[Array, " d"]) -> Float[Array, ""]:
        """Log density at a vector, to be traced."""
        return super().log_density(self._stretch(vector, self.alpha))

    @property
    def alpha(self) -> Array:
        """Stretch of the weighted means."""
        found: Array = self._parts[4]
        return found

    @property
    def weights(self) -> dict[str, Array]:
        """Weights of the rows by site."""
        found: dict[str, Array] = self._parts[5]
        return found

    def constrain(self, vector: Array) -> dict[str, Array]:
        """Sites, and what they determine, at a vector, to be traced."""
        return super().constrain(self._stretch(vector, self.alpha))

    def invert(self, values: Mapping[str, Array]) -> Array:
        """The vector of values given by site, to be traced; the inverse of `constrain`."""
        return self._stretch(super().invert(values), 1.0 / self.alpha)

    def _stretch(self, vector: Array, alpha: Array) -> Array:
        """The weighted means of the sites' columns, times alpha."""
        parts = self._split(vector)
        for name, weights in self.weights.items():
            table = parts[name].reshape(len(weights), -1)
            mean = weights.astype(vector.dtype)[None] @ table
            parts[name] = table + (alpha - 1.0).astype(vector.dtype) * mean
        return jnp.concatenate([part.ravel() for part in parts.values()])


def _shape_of(target: RowsMarginal) -> tuple[float, dict[str, np.ndarray]]:
    """Alpha, and the weights of the rows by site; alpha is 1 where rows have no bias."""
    scales = target.scales()
    own, other = target.side, target.other
    data = target.observations
    codes = np.asarray(data.item if other == "item" else data.user)
    degree = np.bincount(codes, minlength=target.num_rows[other])
    noise = scales["noise_scale"]

    def share(name: str, guess: float) -> float:
        law = scales[name]
        if isinstance(law, Distribution) or isinstance(noise, Distribution):
            return guess
        return float(np.mean(np.square(np.asarray(law) / np.asarray(noise))))

    weights = {}
    if f"{other}_bias" in target.sites_of(other):
        weights[LEVEL] = degree + 1.0 / share(f"{other}_bias_scale", BIAS_SHARE)
    if target.model.num_factors:
        product = FACTORS_SHARE / target.model.num_factors
        laws = (scales["user_scale"], scales["item_scale"], noise)
        if not any(isinstance(law, Distribution) for law in laws):
            product = float(
                np.mean(np.square(laws[0])) * np.mean(np.square(laws[1])) / np.square(noise)
            )
        weights[f"{other}_factors"] = degree + 1.0 / product
    weights = {name: weight / weight.sum() for name, weight in weights.items()}
    if f"{own}_bias" not in target.sites_of(own):
        return 1.0, weights
    ratings = len(codes) / max(target.num_rows[own], 1)
    return float((1.0 + ratings * share(f"{own}_bias_scale", BIAS_SHARE)) ** 0.5), weights

"""Prior means of rows from features of their users or items."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.data import Encoder, Features
from probmf.models.layers import MLP
from probmf.models.normal_wishart import normal_loss
from probmf.rows.store import Side


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["features"],
    meta_fields=["layers", "side", "has_bias", "num_factors"],
)
@dataclass(frozen=True)
class RowMean:
    """Prior means f(x) of one side's rows (bias, factors) as a pytree; f is a network."""

    features: Float[Array, "rows p"]
    layers: MLP
    side: Side
    has_bias: bool
    num_factors: int

    @property
    def name(self) -> str:
        """Prefix of the sites' names."""
        return f"{self.side}_mean"

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of inputs and outputs."""
        return int(self.features.shape[1]), int(self.has_bias) + self.num_factors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights and biases of the layers, by site."""
        return self.layers.shapes(self.name, *self.sizes)

    @property
    def precision(self) -> dict[str, float]:
        """Prior precision of each weight and bias site whose scale is fixed, 0 if it is flat."""
        scales = self.layers.scales(self.name, *self.sizes)
        return {
            site: 0.0 if isinstance(scale, str) else float(scale) ** -2
            for site, scale in scales.items()
            if not isinstance(scale, Distribution)
        }

    def sample(self) -> dict[str, Array]:
        """Sample the weights in NumPyro's sense."""
        return self.layers.sample(self.name, *self.sizes)

    def start(self, key: Array) -> dict[str, Array]:
        """Random starting values of the weights; small, as the factors start small too."""
        return self.layers.start(self.name, key, *self.sizes, small=True)

    def at(self, rows: Int[Array, " n"]) -> "RowMean":
        """The same of some rows."""
        return replace(self, features=self.features[rows])

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Prior means by site of the rows, from values of the weights by site."""
        outputs = self.layers.apply(self.name, values, self.features)
        means = {}
        if self.has_bias:
            means[f"{self.side}_bias"] = outputs[:, 0]
        if self.num_factors:
            means[f"{self.side}_factors"] = outputs[:, int(self.has_bias) :]
        return means

    def loss(self, values: Mapping[str, Array]) -> Float[Array, ""]:
        """Minus log prior density of the weights up to a constant."""
        return normal_loss(values, self.precision)


def prior_means(means: Mapping[Side, RowMean], values: Mapping[str, Array]) -> dict[str, Array]:
    """Prior means of all rows that have one, by site."""
    return {site: mean for own in means.values() for site, mean in own(values).items()}


def check_mean(side: str, mean: Any, features: Any, has_rows: bool) -> None:
    """Refuse what is no network, no choice of features, or has nothing to be the mean of."""
    if mean is not None and not isinstance(mean, MLP):
        raise TypeError(
            f"{side}_mean is {mean!r} of type {type(mean).__name__}; expected Linear(), MLP(...), "
            "or None."
        )
    if features is not None and not isinstance(features, Features | Encoder):
        raise TypeError(
            f"{side}_features is of type {type(features).__name__}; expected Features(...), which "
            f"names columns. The table itself belongs to the ratings: Ratings.from_frame(..., "
            f"{side}_features=table)."
        )
    if mean is None:
        if isinstance(features, Features):
            raise ValueError(
                f"{side}_features names features, but nothing uses them; give {side}_mean=Linear() "
                "or an MLP."
            )
        return
    if not has_rows:
        raise ValueError(
            f"{side}_mean is the prior mean of {side}s' biases and factors, and the model has "
            "neither."
        )
    mean.check_trainable()

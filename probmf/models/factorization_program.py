"""A factorization apart from its data and the numbers of its priors: a NumPyro model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array
from numpyro.distributions import Distribution

from probmf.likelihoods import Likelihood
from probmf.models.layers import MLP
from probmf.models.linear_predictor import linear_predictor, unobserved_loss
from probmf.models.normal_wishart import NormalWishart, sample_scale
from probmf.models.observations import Observations
from probmf.models.row_means import RowMean
from probmf.rows.store import SIDES, Side

#: Prior scale of each kind of parameter.
PRIOR_SCALES = {
    "user_bias": "user_bias_scale",
    "item_bias": "item_bias_scale",
    "user_factors": "user_scale",
    "item_factors": "item_scale",
}


class FactorTerms:
    """Terms of a factorization, by its settings; a base class."""

    num_factors: int
    intercept: Any
    user_bias: bool
    item_bias: bool
    user_mean: MLP | None
    item_mean: MLP | None

    def site_shapes(self, num_users: int, num_items: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the per-row sites of this model, in the order in which it samples them."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.user_bias:
            shapes["user_bias"] = (num_users,)
        if self.item_bias:
            shapes["item_bias"] = (num_items,)
        if self.num_factors:
            shapes["user_factors"] = (num_users, self.num_factors)
            shapes["item_factors"] = (num_items, self.num_factors)
        return shapes

    @property
    def mean_sides(self) -> tuple[Side, ...]:
        """Sides whose rows have a prior mean that is a function of features."""
        return tuple(side for side in SIDES if getattr(self, f"{side}_mean") is not None)

    def row_means(self, features: Mapping[Side, ArrayLike]) -> dict[Side, RowMean]:
        """The prior means of the sides that have one, as functions of their weights."""
        means: dict[Side, RowMean] = {}
        for side in self.mean_sides:
            has_bias = bool(getattr(self, f"{side}_bias"))
            rows = jnp.asarray(features[side], jnp.result_type(float))
            layers = getattr(self, f"{side}_mean")
            means[side] = RowMean(rows, layers, side, has_bias, int(self.num_factors))
        return means

    @property
    def learns_intercept(self) -> bool:
        """True where the intercept is a parameter rather than a constant."""
        if isinstance(self.intercept, str):
            return self.intercept == "learned"
        return isinstance(self.intercept, Distribution | tuple)

    def fixed_intercept(self, base_score: ArrayLike) -> Array:
        """The intercept when it is a constant; where a learned one starts otherwise."""
        if isinstance(self.intercept, int | float | np.number):
            return jnp.asarray(self.intercept, jnp.result_type(float))
        if self.intercept is None:
            return jnp.zeros((), jnp.result_type(float))
        return jnp.asarray(base_score, jnp.result_type(float))

    def intercept_prior(self) -> tuple[float, float]:
        """Mean and precision of a learned intercept's prior (precision 0 when flat)."""
        given = self.intercept
        if isinstance(given, dist.Normal):
            given = (float(given.loc), float(given.scale))
        return (given[0], given[1] ** -2) if isinstance(given, tuple) else (0.0, 0.0)


@partial(
    jax.tree_util.register_dataclass, data_fields=["scales"],
    meta_fields=[
        "wishart", "num_factors", "likelihood", "intercept", "user_bias", "item_bias",
        "unobserved_weight", "user_mean", "item_mean",
    ],
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class FactorizationProgram(FactorTerms):
    """The NumPyro model of all factorizations of one form; a pytree.

    `scales` are numbers, arrays or distributions by name, the likelihood's own parameters among
    them; factors have a full covariance in place of those in `wishart`. The likelihood is in
    canonical form, the intercept as in `MatrixFactorization`, or the mean and scale of a Normal.
    """

    scales: Mapping[str, ArrayLike | Distribution]
    wishart: tuple[tuple[str, NormalWishart], ...]
    num_factors: int
    likelihood: Likelihood
    intercept: str | float | tuple[float, float] | None
    user_bias: bool
    item_bias: bool
    unobserved_weight: float
    user_mean: MLP | None
    item_mean: MLP | None

    def __call__(self, observations: Observations) -> Array:
        """Sample the model in NumPyro's sense, without ratings these too; the value of `rating`."""
        parameters, scales = self._sample(observations)
        scores = linear_predictor(parameters, observations.user, observations.item)
        if self.unobserved_weight > 0:
            zeros = unobserved_loss(parameters, observations, self.unobserved_weight, scores)
            numpyro.factor("unobserved", -zeros / jnp.square(scales["noise_scale"]))
        with numpyro.plate("rating_row", observations.user.shape[0]):
            return self.likelihood.observe(scores, observations.rating, observations.weight, scales)

    def _sample(self, observations: Observations) -> tuple[dict[str, Array], dict[str, Array]]:
        """Sample all but the ratings in NumPyro's sense; the likelihood's scales apart."""
        shapes = self.site_shapes(observations.num_users, observations.num_items)
        rows = [PRIOR_SCALES[site] for site in shapes]
        own = {name: scale for name, scale in self.scales.items() if name not in rows}
        scales = {name: sample_scale(name, scale) for name, scale in own.items()}
        parameters = {"intercept": self._sample_intercept(observations.base_score)}
        means: dict[str, Array] = {}
        for mean_of in self.row_means(observations.features).values():
            means |= mean_of(mean_of.sample())
        for site, shape in shapes.items():
            side, name = site.split("_")[0], PRIOR_SCALES[site]
            mean = means.get(site, 0.0)
            if name in dict(self.wishart):
                law: Distribution = dict(self.wishart)[name].sample(side, self.num_factors, mean)
            else:
                scale = sample_scale(name, self.scales[name])
                if len(shape) == 2:
                    # One scale for all, one per row, or (1, k): one per factor.
                    scale = scale if scale.ndim == 2 else jnp.expand_dims(scale, -1)
                    law = dist.Normal(mean, jnp.broadcast_to(scale, shape)).to_event(1)
                else:
                    law = dist.Normal(mean, scale)
            with numpyro.plate(side, shape[0]):
                parameters[site] = numpyro.sample(site, law)
        return parameters, scales

    def _sample_intercept(self, base_score: Array) -> Array:
        if isinstance(self.intercept, tuple):
            return numpyro.sample("intercept", dist.Normal(*self.intercept))
        if self.learns_intercept:
            flat = dist.ImproperUniform(dist.constraints.real, (), ())
            return numpyro.sample("intercept", flat)
        return numpyro.deterministic("intercept", self.fixed_intercept(base_score))

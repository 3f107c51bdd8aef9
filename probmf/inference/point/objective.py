"""Terms of the gradient methods' objective, besides the ratings.

Compiled programs get all of it as arrays, so that models that differ only in their scales share
them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions.transforms import OrderedTransform

from probmf.likelihoods import Ordinal
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.row_means import RowMean, prior_means
from probmf.models.scores import Parameters
from probmf.rows.layout import SIDES, Side


class Terms(NamedTuple):
    """The parts of the objective that are not ratings; a pytree.

    Attributes:
        scales: The likelihood's own scales.
        precision: Prior precision of each row of each site, of a learned intercept, and of learned
            cutpoints, whose prior is Normal about zero on the increasing vectors.
        center: Prior mean of a learned intercept.
        constants: Sites that are not optimized: a fixed intercept.
        counts: Number of ratings of each row of each side.
        means: Prior means of the sides that have one. Of these sides the optimizer moves the rows
            less their means, so that the means move all rows at once.
    """

    scales: dict[str, Array]
    precision: dict[str, Array]
    center: Float[Array, ""]
    constants: dict[str, Array]
    counts: dict[str, Array]
    means: dict[Side, RowMean]

    @classmethod
    def build(cls, model: MatrixFactorization, observations: Observations) -> "Terms":
        """The terms of a model whose scales are fixed."""
        shapes = model.site_shapes(observations.num_users, observations.num_items)
        dtype = jnp.result_type(float)
        precision = {
            site: jnp.asarray(model.prior_precision(site, shape[0]))
            for site, shape in shapes.items()
        }
        constants = {"intercept": model.fixed_intercept(observations.base_score)}
        center, spread = model.intercept_prior()
        if model.learns_intercept:
            constants = {}
            precision["intercept"] = jnp.asarray(spread, dtype)
        if isinstance(model.likelihood, Ordinal) and model.likelihood.learned:
            precision["cutpoints"] = jnp.asarray(model.likelihood.cutpoint_scale**-2, dtype)
        codes = {"user": observations.user, "item": observations.item}
        sizes = {"user": observations.num_users, "item": observations.num_items}
        counts: dict[str, Array] = {
            side: jnp.asarray(np.bincount(codes[side], minlength=sizes[side]), dtype)
            for side in SIDES
        }
        means = model.row_means(observations.features)
        for mean in means.values():
            precision |= {name: jnp.asarray(x, dtype) for name, x in mean.precision.items()}
        middle = jnp.asarray(center, dtype)
        return cls(model.fixed_scales(), precision, middle, constants, counts, means)

    def shares(self) -> dict[str, Array]:
        """Prior precision spread over the ratings of each row (what has no rows, over all)."""
        total = jnp.sum(self.counts["user"])
        return {
            site: precision / jnp.maximum(self.counts[side] if side in SIDES else total, 1.0)
            for site, precision in self.precision.items()
            for side in [side_of(site)]
        }


def side_of(site: str) -> str:
    """Whose rows a site has: "user" or "item"; the intercept, cutpoints and weights have none."""
    return site if "_mean_" in site else site.split("_")[0]


def add_means(sites: dict[str, Array], terms: Terms) -> dict[str, Array]:
    """Rows from what they are more than their prior means."""
    return sites | {
        site: sites[site] + mean for site, mean in prior_means(terms.means, sites).items()
    }


def to_sites(moved: Parameters) -> dict[str, Array]:
    """Sites from what an optimizer moves: cutpoints are the ordered transform of what it moves.

    The objective stays that of the sites, without a Jacobian: its minimum is their joint mode.
    """
    sites = dict(moved)
    if "cutpoints" in sites:
        sites["cutpoints"] = OrderedTransform()(sites["cutpoints"])
    return sites


def own_parameters(sites: Parameters) -> dict[str, Array]:
    """Those sites that are the likelihood's own parameters."""
    return {name: value for name, value in sites.items() if name == "cutpoints"}


def prior_loss(parameters: Parameters, terms: Terms) -> Float[Array, ""]:
    """Half the sum of squares times the prior precisions."""
    total = jnp.zeros((), jnp.result_type(float))
    for site, precision in terms.precision.items():
        values = parameters[site]
        if site == "intercept":
            values = values - terms.center
        squares = jnp.square(values) if values.ndim < 2 else jnp.sum(jnp.square(values), axis=-1)
        total = total + 0.5 * jnp.sum(precision * squares)
    return total


def starting_values(
    start: Callable[[Array], dict[str, Array]], model: MatrixFactorization, terms: Terms
) -> Callable[[Array], dict[str, Array]]:
    """From a key to what is optimized (see `to_sites`); rows without ratings start at their mode.

    Args:
        start: Gives values of all sites.
        model: The factorization.
        terms: Its terms.

    Returns:
        The function. A row without ratings is zero (more than its prior mean), where its prior has
        its mode and where no minibatch would ever move it (with weak zeros every row has data, and
        is left alone).
    """

    def draw(key: Array) -> dict[str, Array]:
        values = {site: value for site, value in start(key).items() if site in terms.precision}
        if "cutpoints" in values:
            values["cutpoints"] = OrderedTransform().inv(values["cutpoints"])
        for site, mean in prior_means(terms.means, values).items():
            values[site] = values[site] - mean
        if model.unobserved_weight > 0:
            return values
        for site, value in values.items():
            if side_of(site) in SIDES:
                rated = terms.counts[side_of(site)] > 0
                values[site] = jnp.where(rated if value.ndim == 1 else rated[:, None], value, 0.0)
        return values

    return draw

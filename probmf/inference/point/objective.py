"""Objective of a factorization besides the ratings: priors, constants, and the values to move.

Compiled programs get all of it as arrays, so that models that differ only in their scales share
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.linear_predictor import Parameters
from probmf.models.normal_wishart import normal_loss
from probmf.models.observations import Observations
from probmf.models.row_means import RowMean, prior_means
from probmf.rows.store import SIDES, Side


class ObjectiveTerms(NamedTuple):
    """The parts of the objective that are not ratings; a pytree.

    Attributes:
        precision: Prior precision of each row of each site, of a learned intercept, and of learned
            parameters of the likelihood.
        scales: The likelihood's own scales.
        center: Prior mean of a learned intercept.
        constants: Sites that are not optimized: a fixed intercept.
        shares: Prior precision spread over the ratings of each row (what has no rows, over all).
        has_data: Rows of each side with ratings; with weak zeros, all.
        means: Prior means of the sides that have one. Of these sides the optimizer moves the rows
            less their means, so that the means move all rows at once.
    """

    precision: dict[str, Array]
    scales: dict[str, Array]
    center: Float[Array, ""]
    constants: dict[str, Array]
    shares: dict[str, Array]
    has_data: dict[str, Bool[Array, " rows"]]
    means: dict[Side, RowMean]

    @classmethod
    def build(cls, model: MatrixFactorization, observations: Observations) -> "ObjectiveTerms":
        """The terms of a model whose scales are fixed."""
        dtype = jnp.result_type(float)
        sizes = {"user": observations.num_users, "item": observations.num_items}
        means = model.row_means(observations.features)
        own = model.prior_precisions(*sizes.values())
        for mean in means.values():
            own |= mean.precision
        codes = {"user": observations.user, "item": observations.item}
        counts: dict[str, np.ndarray] = {
            side: np.bincount(codes[side], minlength=sizes[side]) for side in SIDES
        }
        weak = model.unobserved_weight > 0
        fixed = model.fixed_intercept(observations.base_score)
        total = len(observations.user)
        return cls(
            precision={site: jnp.asarray(value, dtype) for site, value in own.items()},
            scales=model.fixed_scales(),
            center=jnp.asarray(model.intercept_prior()[0], dtype),
            constants={} if model.learns_intercept else {"intercept": fixed},
            shares={
                site: jnp.asarray(value / np.maximum(counts.get(side_of(site), total), 1), dtype)
                for site, value in own.items()
            },
            has_data={side: jnp.asarray((count > 0) | weak) for side, count in counts.items()},
            means=means,
        )

    def prior_loss(self, sites: Parameters, precision: Mapping[str, Any]) -> Float[Array, ""]:
        """Half the squares (of an intercept, less its prior mean) times the precisions."""
        apart = dict(sites)
        if "intercept" in apart:
            apart["intercept"] = apart["intercept"] - self.center
        return normal_loss(apart, precision)


def side_of(site: str) -> str:
    """Whose rows a site has: "user" or "item"; all else has none."""
    return site if "_mean_" in site else site.split("_")[0]


def add_means(sites: Parameters, terms: ObjectiveTerms) -> dict[str, Array]:
    """Rows from what they are more than their prior means, and what is fixed."""
    means = prior_means(terms.means, sites)
    return terms.constants | dict(sites) | {site: sites[site] + means[site] for site in means}


@dataclass(frozen=True)
class RatingObjective:
    """Base class of a factorization's objectives, for `Descent`.

    Its data begin with `ObjectiveTerms`.

    Attributes:
        likelihood: In canonical form.
    """

    likelihood: Likelihood

    def sites(self, moved: dict[str, Array], given: tuple[ObjectiveTerms, Any]) -> dict[str, Array]:
        """Rows with their prior means, and what is fixed."""
        return add_means(self.likelihood.constrain(moved), given[0])

    def moved(self, sites: dict[str, Array], given: tuple[ObjectiveTerms, Any]) -> dict[str, Array]:
        """The inverse, for a start: rows without data are zero (more than their prior mean).

        There the prior has its mode, and no minibatch would ever move them.
        """
        terms = given[0]
        own = {site: value for site, value in sites.items() if site in terms.precision}
        moved = self.likelihood.unconstrain(own)
        for site, mean in prior_means(terms.means, moved).items():
            moved[site] = moved[site] - mean
        for site, value in moved.items():
            if side_of(site) in SIDES:
                kept = terms.has_data[side_of(site)]
                moved[site] = jnp.where(kept if value.ndim == 1 else kept[:, None], value, 0.0)
        return moved

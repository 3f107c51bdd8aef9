"""Parts of a Gibbs chain: its state, the sites that are drawn, and the constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.inference.point.feature_weights import Regression
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.models.normal_wishart import NormalWishart
from probmf.models.row_means import RowMean, prior_means
from probmf.rows.store import Side
from probmf.rows.values import Rows


class GibbsState(NamedTuple):
    """State of a chain; a pytree.

    Attributes:
        table: Rows of each side.
        intercept: The intercept.
        scales: Scales, cutpoints, means and precisions of factors, weights of prior means; fixed or
            sampled.
        sweep: Sweeps done.
    """

    table: Rows
    intercept: Float[Array, ""]
    scales: dict[str, Array]
    sweep: Int[Array, ""]


@dataclass(frozen=True)
class RowPrior:
    """Kind of prior that the rows of one site have; hashable."""

    name: str
    side: Side
    scale: str
    kind: Literal["fixed", "random", "wishart"]
    wishart: NormalWishart | None = None

    @property
    def is_bias(self) -> bool:
        """True for a bias."""
        return self.name.endswith("bias")


@dataclass(frozen=True)
class Plan:
    """Static arguments of the sweep's compiled programs.

    Attributes:
        sites: Sites of rows.
        num_factors: Factors.
        random: Names of scales of the likelihood and of the rows that are sampled.
        learns_intercept: Whether the intercept is.
        likelihood: In its canonical form.
        draws_cutpoints: Whether it has cutpoints and they are drawn.
        weights: Names of the weights of prior means.
    """

    sites: tuple[RowPrior, ...]
    num_factors: int
    random: tuple[str, ...]
    learns_intercept: bool
    likelihood: Likelihood
    draws_cutpoints: bool
    weights: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: MatrixFactorization) -> "Plan":
        """The plan for a model."""
        sites = []
        for name in model.site_shapes(1, 1):
            given = getattr(model, PRIOR_SCALES[name])
            side: Side = "user" if name.startswith("user") else "item"
            if isinstance(given, NormalWishart):
                sites.append(RowPrior(name, side, PRIOR_SCALES[name], "wishart", given))
            else:
                kind: Any = "random" if isinstance(given, Distribution) else "fixed"
                sites.append(RowPrior(name, side, PRIOR_SCALES[name], kind))
        random = tuple(
            name for name in model.random_scales()
            if not isinstance(getattr(model, name, None), NormalWishart)
        )  # fmt: skip
        return cls(
            tuple(sites), model.num_factors, random, model.learns_intercept,
            model.likelihood.canonical(), "cutpoints" in random,
            tuple(name for side in model.mean_sides
                  for name in getattr(model, f"{side}_mean").shapes(f"{side}_mean", 1, 1)),
        )  # fmt: skip

    def values(self, site: RowPrior, table: Rows) -> Array:
        """Rows of a site."""
        rows = table[site.side]
        return rows.bias if site.is_bias else rows.factors[:, : self.num_factors]

    def replace(self, site: RowPrior, table: Rows, values: Array) -> Rows:
        """The table with other rows of a site."""
        rows = table[site.side]
        if site.is_bias:
            return table | {site.side: rows._replace(bias=values)}
        factors = rows.factors.at[:, : self.num_factors].set(values)
        return table | {site.side: rows._replace(factors=factors)}


class RatedPairs(NamedTuple):
    """The rated pairs in the table's order; a pytree.

    Attributes:
        user: Codes of the users.
        item: Codes of the items.
        rating: Ratings.
        scale: Scale of the cutpoints' prior, where they are drawn.
    """

    user: Int[Array, " n"]
    item: Int[Array, " n"]
    rating: Float[Array, " n"]
    scale: Float[Array, ""]


class GibbsConstants(NamedTuple):
    """Constants of a run; a pytree.

    Attributes:
        laws: Priors of the random scales.
        intercept: Mean and precision of a learned intercept's prior.
        num_ratings: Number of ratings, for the noise.
        rated: The ratings, unless the likelihood is quadratic and its loss comes with the rows.
        means: Prior means of the sides that have one.
        regressions: Regressions of rows on features by the site of the rows.
    """

    laws: Mapping[str, Distribution]
    intercept: tuple[Float[Array, ""], Float[Array, ""]]
    num_ratings: Float[Array, ""]
    rated: RatedPairs | None
    means: dict[Side, RowMean]
    regressions: dict[str, Regression]

    def centers(self, scales: Mapping[str, Array]) -> dict[str, Array]:
        """Prior means of the rows by site, of those that have one."""
        return prior_means(self.means, scales)


def by_column(scale: Array) -> Array:
    """One number, one per row or (1, k), to multiply with rows of factors."""
    return scale[:, None] if scale.ndim == 1 else scale


def log_prior(law: Distribution, value: Array) -> Array:
    """Log density, minus infinity outside of the support (which NumPyro doesn't look at)."""
    return jnp.where(law.support(value), law.log_prob(value), -jnp.inf)

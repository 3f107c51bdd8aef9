"""Data of a mixed model: checked arrays, without labels.

A dense matrix of observations by groups never exists: a group term is a code and a short row of
coefficients' columns for each observation. A design holds NumPy arrays; a model's arguments are
JAX's, in its present precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.likelihoods.base import Likelihood


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["group", "z"],
    meta_fields=["name", "plate", "names", "num_groups", "correlated"],
)
@dataclass(frozen=True)
class GroupTerm:
    """One group term `(left | factor)`; a pytree whose names and sizes are static.

    Attributes:
        group: Group of each observation, in 0..num_groups-1.
        z: Columns of the left side.
        name: What its sites are called by: `{name}_scale`, `{name}_effects`, ...
        plate: Name of the plate, that of the grouping factor.
        names: Names of the columns of `z`.
        num_groups: Number of groups.
        correlated: Whether the effects of one group have correlations of their own.
    """

    group: Int[Array | np.ndarray, " n"]
    z: Float[Array | np.ndarray, "n d"]
    name: str
    plate: str
    names: tuple[str, ...]
    num_groups: int
    correlated: bool

    @property
    def effects_site(self) -> str:
        """Name of the site of the effects, of shape (num_groups, d)."""
        return f"{self.name}_effects"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["population", "groups", "offset"],
    meta_fields=["names", "site"],
)
@dataclass(frozen=True)
class Predictor:
    """A linear predictor: population columns and group terms.

    Attributes:
        population: Columns whose coefficients all observations share.
        groups: The group terms.
        names: Names of the population columns.
        site: Name of the site of the coefficients.
        offset: What is added without a coefficient, or None.
    """

    population: Float[Array | np.ndarray, "n p"]
    groups: tuple[GroupTerm, ...]
    names: tuple[str, ...]
    site: str
    offset: Float[Array | np.ndarray, " n"] | None = None

    def __call__(self, values: Mapping[str, Array]) -> Float[Array, " n"]:
        r"""Its value, :math:`x_n \cdot \beta + \sum_k z_{kn} \cdot u_{k, g_k(n)}`, and the offset.

        Args:
            values: Coefficients and effects by site name.

        Returns:
            One number per observation. Cost O(n (p + sum of the d)).
        """
        n = self.population.shape[0]
        total = jnp.zeros((n,), jnp.result_type(float))
        if self.offset is not None:
            total = total + self.offset
        if self.names:
            total = total + self.population @ values[self.site]
        for term in self.groups:
            rows = values[term.effects_site][term.group]
            total = total + jnp.sum(term.z * rows, axis=-1)
        return total


@partial(
    jax.tree_util.register_dataclass, data_fields=["count", "within", "jacobian"], meta_fields=[]
)
@dataclass(frozen=True)
class Cells:
    """Sums of squares of the rows of each cell about its mean; a pytree. See `models.mixed.cells`.

    Attributes:
        count: Number of rows n.
        within: Sum of squares about the mean.
        jacobian: Logarithms of a log-normal response, those of the means less those of the rows.
    """

    count: Float[Array | np.ndarray, " cells"]
    within: Float[Array | np.ndarray, " cells"]
    jacobian: Float[Array | np.ndarray, ""]

    def log_factor(self, scale: Float[Array, " cells"]) -> Float[Array, ""]:
        """The logarithm of all but the density of the means, at the noise scales of the rows."""
        normalizer = (self.count - 1) * (jnp.log(scale) + 0.5 * np.log(2 * np.pi))
        rest = normalizer + 0.5 * jnp.log(self.count) + 0.5 * self.within / jnp.square(scale)
        return jnp.asarray(self.jacobian - jnp.sum(rest))


@partial(
    jax.tree_util.register_dataclass, data_fields=["place", "factor", "power"],
    meta_fields=["site"],
)  # fmt: skip
@dataclass(frozen=True)
class Mixing:
    r"""Priors of coefficients with heavy tails as mixtures of Normals; a pytree.

    .. math:: \beta_j \mid g_j \sim N(m_j, s_j^2 a_j g_j^{b_j}), \quad
       g_j \sim \mathrm{Gamma}(c_j, 1)

    A Student-t distribution has :math:`c = a = \nu / 2, b = -1`, a Laplace distribution
    :math:`c = 1, a = 2, b = 1`.

    Attributes:
        place: Which of the coefficients have such a prior.
        factor: a.
        power: b.
        site: Name of the site of g.

    References:
        Andrews and Mallows (1974), Scale mixtures of normal distributions.
    """

    place: Int[Array | np.ndarray, " k"]
    factor: Float[Array | np.ndarray, " k"]
    power: Float[Array | np.ndarray, " k"]
    site: str

    @property
    def each(self) -> list[tuple[int, float, float]]:
        """Place, a and b of each."""
        arrays = (np.asarray(own).tolist() for own in (self.place, self.factor, self.power))
        return list(zip(*arrays, strict=True))

    def widths(self, scale: Float[Array, " p"], mixing: Float[Array, " k"]) -> Float[Array, " p"]:
        """Standard deviations of all coefficients given g, from their scales s."""
        factor, power = (jnp.asarray(own, mixing.dtype) for own in (self.factor, self.power))
        width = jnp.ones(scale.shape, mixing.dtype)
        own = jnp.sqrt(factor * mixing**power)
        return scale * width.at[jnp.asarray(self.place)].set(own, unique_indices=True)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "noise", "response", "priors", "cells", "weight", "mixing"],
    meta_fields=["response_name", "num_observations", "num_levels"],
)
@dataclass(frozen=True)
class MixedData:
    """Arguments of a mixed model; a pytree whose names and sizes are static.

    Attributes:
        mean: The linear predictor.
        noise: The predictor of the logarithm of the noise scale, or None if it is one number.
        response: The observed response, or None to simulate it.
        priors: Prior of each site, resolved against the data. An array is a fixed value.
        response_name: Name of the response's column and site.
        num_observations: Number of rows.
        num_levels: Number of levels of the response, whose codes it then is; else 0.
        cells: What the rows stood for where each is the mean of several, or None; see `join_rows`.
        weight: Weights of the rows, None for one each.
        mixing: Priors of the coefficients with heavy tails, None where all are Normal.
    """

    mean: Predictor
    noise: Predictor | None
    response: Array | np.ndarray | None
    priors: dict[str, Distribution | Array]
    response_name: str
    num_observations: int
    num_levels: int = 0
    cells: Cells | None = None
    weight: Float[Array | np.ndarray, " n"] | None = None
    mixing: Mixing | None = None

    @property
    def population(self) -> Float[Array | np.ndarray, "n p"]:
        """Population columns of the linear predictor."""
        return self.mean.population

    @property
    def groups(self) -> tuple[GroupTerm, ...]:
        """Group terms of the linear predictor."""
        return self.mean.groups

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """The linear predictor, and that of the noise if there is one."""
        return (self.mean,) if self.noise is None else (self.mean, self.noise)

    def without_mixing(self) -> "MixedData":
        """The same with Normal priors, for what takes no account of priors."""
        if self.mixing is None:
            return self
        priors = {site: own for site, own in self.priors.items() if site != self.mixing.site}
        return replace(self, mixing=None, priors=priors)

    def coefficient_priors(self) -> dict[str, Distribution]:
        """Prior of each coefficient of the linear predictor by its name; of mixtures their law."""
        prior: Any = self.priors[self.mean.site]
        # Numbers of Python, which have every precision.
        numbers = (np.asarray(own).tolist() for own in (prior.loc, prior.scale))
        laws: list[Any] = [dist.Normal(*own) for own in zip(*numbers, strict=True)]
        for place, factor, power in () if self.mixing is None else self.mixing.each:
            own = laws[place].loc, laws[place].scale
            laws[place] = dist.StudentT(2.0 * factor, *own) if power < 0 else dist.Laplace(*own)
        return dict(zip(self.mean.names, laws, strict=True))

    def without_response(self) -> "MixedData":
        """The same rows with the response left open, for NumPyro's `Predictive`."""
        return replace(self, response=None)


#: Rows are joined when that leaves at most this share of them.
WORTHWHILE = 0.5


class _Alike(NamedTuple):
    """Rows that are alike: the first of each cell, the cell of each row, and how many there are."""

    first: Int[np.ndarray, " cells"]
    cell: Int[np.ndarray, " n"]
    number: Int[np.ndarray, " cells"]


def join_rows(data: MixedData, likelihood: Likelihood) -> MixedData:
    """The same model of fewer rows, where many are alike.

    Normal responses are joined where the noise has a predictor, to means by cell; without one the
    number of rows plays no part. Other responses are counted, but Normal ones with bounds.

    Gives `data` itself where joining does not pay. Cost O(n log n), on the host.
    """
    if data.response is None:
        return data
    if not likelihood.normal:
        if likelihood.uncensored.normal:
            return data  # Weights of these rows are of their precision, and count none.
        # Trials, or which responses are bounds, by row.
        known = {site: data.priors[site] for site in likelihood.known if site in data.priors}
        known = {site: column for site, column in known.items() if np.ndim(column)}
        alike = _alike([data.predictors, data.response, known], data.num_observations)
        if alike is None:
            return data
        weight = np.ones(data.num_observations) if data.weight is None else data.weight
        # Rows that count nothing, as other responses in the same design make a few cells more or
        # less, and programs are for numbers of rows.
        size = min(_round_number(len(alike.first)), data.num_observations)
        rows = np.resize(alike.first, size)
        count = np.bincount(alike.cell, np.asarray(weight, np.float64), size)
        own = {site: np.asarray(column)[rows] for site, column in known.items()}
        return replace(
            _taken(data, rows), response=data.response[rows], weight=count,
            priors={**data.priors, **own},
        )  # fmt: skip
    if data.noise is None or data.weight is not None:
        return data
    alike = _alike([data.predictors], data.num_observations)
    if alike is None:
        return data
    values = likelihood.place(np.asarray(data.response, np.float64))
    mean = np.bincount(alike.cell, values) / alike.number
    within = np.bincount(alike.cell, np.square(values - mean[alike.cell]))
    law: Any = likelihood
    jacobian = np.sum(law.log_slope(mean)) - np.sum(law.log_slope(values))
    return replace(
        _taken(data, alike.first), response=law.from_score(mean),
        cells=Cells(alike.number.astype(np.float64), within, np.asarray(jacobian)),
    )  # fmt: skip


def _alike(parts: Sequence[Any], num_rows: int) -> _Alike | None:
    """Rows that have the same numbers in all parts, unless they are few."""
    arrays = [np.asarray(one, np.float64) for one in jax.tree.leaves(parts)]
    columns = np.concatenate([one.reshape(num_rows, -1) for one in arrays], axis=1)
    # One number for each row, the same for those that are alike: a tenth of the cost.
    marks = np.zeros(num_rows)
    for column, share in zip(columns.T, _shares(columns.shape[1]), strict=True):
        marks += share * column
    if len(np.unique(marks)) > WORTHWHILE * num_rows:
        return None
    _, first, cell, count = np.unique(
        columns, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return None if len(first) > WORTHWHILE * num_rows else _Alike(first, cell.ravel(), count)


def _round_number(count: int) -> int:
    """The next of eight numbers from each power of two to the next."""
    step = max(1, 2 ** (count.bit_length() - 4))
    return -(-count // step) * step


def _shares(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=size)


def _taken(data: MixedData, rows: Int[np.ndarray, " cells"]) -> MixedData:
    """Some of the rows, the response left as it was."""

    def taken(predictor: Predictor) -> Predictor:
        groups = tuple(
            replace(term, group=term.group[rows], z=term.z[rows]) for term in predictor.groups
        )
        offset = None if predictor.offset is None else predictor.offset[rows]
        population = predictor.population[rows]
        return replace(predictor, population=population, groups=groups, offset=offset)

    noise = None if data.noise is None else taken(data.noise)
    return replace(data, mean=taken(data.mean), noise=noise, num_observations=len(rows))

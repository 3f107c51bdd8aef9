r"""Errors of functions of a best fit's numbers, by the delta method, and those of its effects.

With loadings :math:`\Lambda` of what was searched for (and of effects whose modes follow it), and
the covariance V of what was integrated out given it, a function f of all of it has the variance

.. math:: |J_f \Lambda|^2 + \nabla_u f^\top V \nabla_u f .

What is integrated out has the joint Normal distribution about its mode, which is exact where the
responses are Normal: see `probmf.effects.conditional_errors`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Array, Float, Int

from probmf.effects import standardize
from probmf.effects.conditional_errors import ConditionalErrors, Halves, spread_columns
from probmf.effects.row_densities import Rows
from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import Scores
from probmf.memory import require_memory
from probmf.models import MixedEffects
from probmf.models.mixed import Encoded
from probmf.models.mixed.arrays import GroupTerm, MixedData
from probmf.results.mixed_predict import SiteDraws, training_rows

#: Numbers of one block of sums' vectors.
BLOCK = 1 << 22
#: Bytes for the square of the number of effects besides the leading ones, at the peak.
PEAK = 32
#: Step of a derivative, in standard errors.
ERROR_STEP = 1e-2
#: An imaginary part whose square is nothing, for derivatives without rounding.
TINY = 1e-100


class _Block(NamedTuple):
    """Whitened effects of all terms of one grouping, or coefficients, which have no widths."""

    root: Float[np.ndarray, "d d"]
    num: int = 1
    widths: Mapping[str, int] | None = None

    @property
    def size(self) -> int:
        """Number of effects of all groups."""
        return self.num * len(self.root)

    def columns(self, rows: Encoded, part: Int[np.ndarray, " m"]) -> Any:
        """Whitened columns of some rows, sparse (m, effects)."""
        if self.widths is None:
            return scipy.sparse.csr_array(rows.population[part] @ self.root)
        kept = [rows.groups[name] for name in self.widths if name in rows.groups]
        if not kept:
            return scipy.sparse.csr_array((len(part), self.size))
        z = [
            rows.groups[name].z[part] if name in rows.groups else np.zeros((len(part), width))
            for name, width in self.widths.items()
        ]
        # The terms have the same groups.
        return spread_columns(kept[0].group[part], np.hstack(z) @ self.root, self.num)


def _term_root(draws: SiteDraws, name: str) -> Float[np.ndarray, "d d"]:
    """Lower factor of the covariance of a term's effects."""
    scale = np.asarray(draws[f"{name}_scale"][0], np.float64)
    if f"{name}_correlation" not in draws.design.data.priors:
        return np.diag(scale)
    return scale[:, None] * np.asarray(draws[f"{name}_correlation"][0], np.float64)


def _coefficients_root(data: MixedData, flat: bool) -> Float[np.ndarray, "p p"]:
    """Matrix that makes the columns' sums well-conditioned, or whitens the prior."""
    _, standard = standardize(np.asarray(data.population, np.float64))
    size = len(data.mean.names)
    backward = np.eye(size) if standard is None else standard.backward
    if flat:
        return backward
    prior: Any = data.priors[data.mean.site]
    forward = np.eye(size) if standard is None else standard.forward
    sd = np.sqrt(np.broadcast_to(np.asarray(prior.variance, np.float64), (size,)))
    return np.asarray(backward @ np.linalg.qr((forward * sd).T)[1].T)


def _weights(model: MixedEffects, draws: SiteDraws) -> Float[np.ndarray, " n"]:
    """Minus the second derivative of each row's log density by its predictor."""
    program, data = model.program, draws.design.data
    with jax.enable_x64(True):
        values = {site: jnp.asarray(draws[site][0], np.float64) for site in draws.samples}
        weight = 1.0 if data.weight is None else np.asarray(data.weight, np.float64)
        found = _curvature(
            program.likelihood.coded(data.num_levels), np.asarray(data.response), weight,
            np.asarray(data.mean(values), np.float64), program.parameters_at(data, values),
        )  # fmt: skip
    return np.broadcast_to(np.asarray(found), (data.num_observations,))


@partial(jax.jit, static_argnums=0)
def _curvature(
    likelihood: Likelihood, response: Scores, weight: Scores, predictor: Array,
    parameters: dict[str, Array],
) -> Array:  # fmt: skip
    def density(at: Array, own: Any) -> Array:
        return jnp.asarray(likelihood.log_density(at, response, weight, own))

    return Rows(density, parameters).differentiate(predictor).weight


@dataclass(frozen=True, eq=False)
class PointErrors:
    """Errors of a best fit of a mixed model; `flat` without a prior of integrated coefficients."""

    model: MixedEffects
    draws: SiteDraws
    loadings: Mapping[str, Float[np.ndarray, "... k"]]
    flat: bool

    @cached_property
    def beside(self) -> SiteDraws:
        """The point, and points to both sides of it along each loading."""
        if not self.loadings:
            return self.draws
        width = 1 + 2 * next(iter(self.loadings.values())).shape[-1]
        samples = {
            name: np.broadcast_to(value, (1, width, *value.shape[2:]))
            for name, value in self.draws.samples.items()
        }
        for site, own in self.loadings.items():
            shift = ERROR_STEP * np.moveaxis(own, -1, 0)
            moved = np.concatenate([np.zeros_like(shift[:1]), shift, -shift])
            samples[site] = np.asarray(samples[site], np.float64) + moved
        return SiteDraws(self.draws.design, samples, self.draws.likelihood)

    @cached_property
    def blocks(self) -> list[_Block]:
        """The blocks of effects, that of the grouping with most first, and of coefficients."""
        data = self.draws.design.data
        terms: dict[str, list[GroupTerm]] = {}
        for term in data.groups:
            terms.setdefault(term.plate, []).append(term)
        blocks = [
            _Block(
                scipy.linalg.block_diag(*(_term_root(self.draws, term.name) for term in own)),
                own[0].num_groups, {term.name: term.z.shape[1] for term in own},
            )
            for own in terms.values()
        ]  # fmt: skip
        blocks.sort(key=lambda block: -block.size)
        if data.mean.names and data.mean.site not in self.loadings:
            blocks.append(_Block(_coefficients_root(data, self.flat)))
        return blocks

    @cached_property
    def joint(self) -> ConditionalErrors | None:
        """The joint errors; None where the precision at the fit is not positive definite."""
        first, last = self.blocks[0], self.blocks[-1]
        lead = (0, 1) if first.widths is None else (first.num, len(first.root))
        width = sum(block.size for block in self.blocks) - math.prod(lead)
        require_memory(
            PEAK * width**2,
            f"The joint covariance of {width:,} effects besides those of the grouping with most",
            "interval=None asks for estimates without errors.",
        )
        rows = training_rows(self.draws.design)
        columns = self.columns(rows, np.arange(len(rows.population)))
        num_flat = last.size if last.widths is None and self.flat else 0
        try:
            return ConditionalErrors.of(columns, _weights(self.model, self.draws), lead, num_flat)
        except np.linalg.LinAlgError:
            return None

    def columns(self, rows: Encoded, part: Int[np.ndarray, " m"]) -> Any:
        """Whitened columns of some rows, sparse (m, effects); zero for terms that are left out."""
        own = [block.columns(rows, part) for block in self.blocks]
        return scipy.sparse.hstack([scipy.sparse.csr_array((len(part), 0)), *own], format="csr")

    def covariances(self, sums: list[Any]) -> Float[np.ndarray, "m k k"]:
        """Covariances of k sums of each of m lines, from their coefficients by sum."""
        count = sums[0].shape[0]
        found = np.zeros((count, len(sums), len(sums)))
        if not any(own.count_nonzero() for own in sums):
            return found
        if self.joint is None:
            return np.full_like(found, np.nan)
        width = len(self.joint.factor)
        step = max(1, BLOCK // max(1, width))
        for start in range(0, count, step):
            part = slice(start, start + step)
            halves: list[Halves] = [self.joint.halves(own[part]) for own in sums]
            for i, one in enumerate(halves):
                for j, other in enumerate(halves[: i + 1]):
                    found[part, i, j] = found[part, j, i] = one.dot(other)
        return found

    def variances(
        self,
        combine: Callable[[list[np.ndarray]], np.ndarray],
        values: list[Float[np.ndarray, "1 lines k"]],
        sums: list[Any],
    ) -> Float[np.ndarray, " m"]:
        """Variances of functions of linear predictors by what was integrated out.

        `combine` gives the function of some numbers of each line, which are `values`; `sums` are
        their derivatives by the effects, sparse (lines x k, effects).
        """
        covariance = self.covariances(sums)
        slopes = np.empty((len(values), values[0].size))
        for place, own in enumerate(values):
            step = ERROR_STEP * np.sqrt(covariance[:, place, place]).reshape(own.shape)
            up, down = (
                combine([*values[:place], own + way * step, *values[place + 1 :]])
                for way in (1.0, -1.0)
            )
            rise = (up - down).ravel()
            slopes[place] = np.divide(rise, 2 * step.ravel(), np.zeros_like(rise), where=rise != 0)
        found = np.einsum("km,mkl,lm->m", slopes, covariance, slopes)
        return np.asarray(np.maximum(found, 0.0))


def derivatives(
    function: Callable[[list[np.ndarray], slice], list[np.ndarray]],
    part: slice,
    values: list[Float[np.ndarray, "1 rows k"]],
    slopes: list[Float[np.ndarray, "1 rows k"]],
) -> list[Any]:
    """Derivatives of numbers of rows by the linear predictors of several copies of the rows.

    `function` is analytic, of expectations under each copy and their places; `slopes` are the
    derivatives of these by their own linear predictors. For each number a sparse matrix (rows x k,
    copies x rows).
    """
    _, rows, width = values[0].shape
    each = rows * width
    moved = [
        function([*values[:copy], value + TINY * 1j * slope, *values[copy + 1 :]], part)
        for copy, (value, slope) in enumerate(zip(values, slopes, strict=True))
    ]
    place = np.arange(each), np.repeat(np.arange(rows), width)
    return [
        scipy.sparse.hstack(
            [
                scipy.sparse.csr_array((np.imag(own[k]).ravel() / TINY, place), (each, rows))
                for own in moved
            ],
            format="csr",
        )
        for k in range(len(moved[0]))
    ]

r"""Errors of a best fit's coefficients and effects, given all that was searched for.

What is integrated out has the joint Normal distribution about its mode, which is exact where the
responses are Normal: see `probmf.effects.conditional_errors`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from probmf.effects import standardize
from probmf.effects.conditional_errors import ConditionalErrors, Halves, spread_columns
from probmf.effects.rows import Rows
from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import Scores
from probmf.models import MixedEffects
from probmf.models.mixed import Encoded
from probmf.models.mixed.arrays import MixedData
from probmf.results.mixed_predict import SiteDraws, training_rows

#: Numbers of one block of sums' vectors.
BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class EffectErrors:
    """Errors of what is integrated out, whitened.

    Attributes:
        roots: Whitening of each term's effects, the leading one's first, and of the coefficients
            by their site if they are integrated out, too.
        sizes: Number of groups of each term.
        site: That of the coefficients.
        joint: The joint errors; None where the precision at the fit is not positive definite.
    """

    roots: dict[str, Float[np.ndarray, "d d"]]
    sizes: dict[str, int]
    site: str
    joint: ConditionalErrors | None

    @classmethod
    def of(
        cls, model: MixedEffects, draws: SiteDraws, found: Collection[str], *, flat: bool
    ) -> "EffectErrors":
        """Factor the precision of coefficients and effects at a best fit.

        Args:
            model: The model.
            draws: The fit, of one draw.
            found: Sites that were searched for, and what follows them.
            flat: Whether coefficients that are integrated out have no prior.

        Returns:
            The errors.
        """
        design, data = draws.design, draws.design.data
        terms = sorted(data.groups, key=lambda term: -term.num_groups * term.z.shape[1])
        roots = {term.name: _term_root(draws, term.name) for term in terms}
        inside = bool(data.mean.names) and data.mean.site not in found
        if inside:
            roots[data.mean.site] = _coefficients_root(data, flat)
        sizes = {term.name: term.num_groups for term in terms}
        lead = (terms[0].num_groups, terms[0].z.shape[1]) if terms else (0, 1)
        columns = _columns(training_rows(design), roots, sizes, data.mean.site)
        num_flat = len(data.mean.names) if inside and flat else 0
        try:
            joint = ConditionalErrors.of(columns, _weights(model, draws), lead, num_flat)
        except np.linalg.LinAlgError:
            joint = None
        return cls(roots, sizes, data.mean.site, joint)

    def columns(self, rows: Encoded, part: Int[np.ndarray, " m"]) -> Any:
        """Whitened columns of some rows, sparse (m, effects); zero for terms that are left out."""
        groups = {
            name: own._replace(group=own.group[part], z=own.z[part])
            for name, own in rows.groups.items()
        }
        own = rows._replace(population=rows.population[part], groups=groups)
        return _columns(own, self.roots, self.sizes, self.site)

    def covariances(self, sums: list[Any]) -> Float[np.ndarray, "m k k"]:
        """Covariances of k sums of each of m lines, from their coefficients by sum."""
        count = sums[0].shape[0]
        found = np.full((count, len(sums), len(sums)), np.nan)
        if self.joint is None:
            return found
        width = len(self.joint.factor)
        step = max(1, BLOCK // max(1, width))
        for start in range(0, count, step):
            part = slice(start, start + step)
            halves: list[Halves] = [self.joint.halves(own[part]) for own in sums]
            for i, one in enumerate(halves):
                for j, other in enumerate(halves[: i + 1]):
                    found[part, i, j] = found[part, j, i] = one.dot(other)
        return found


def _columns(rows: Encoded, roots: dict[str, np.ndarray], sizes: dict[str, int], site: str) -> Any:
    """Whitened columns in the order of their roots."""
    num = len(rows.population)
    parts: list[Any] = [scipy.sparse.csr_array((num, 0))]
    for name, root in roots.items():
        if name == site:
            parts.append(scipy.sparse.csr_array(rows.population @ root))
        elif name in rows.groups:
            own = rows.groups[name]
            parts.append(spread_columns(own.group, own.z @ root, sizes[name]))
        else:
            parts.append(scipy.sparse.csr_array((num, sizes[name] * len(root))))
    return scipy.sparse.hstack(parts, format="csr")


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

r"""Errors of functions of a best fit's numbers, by the delta method.

With loadings :math:`\Lambda` of what was searched for (and of effects whose modes follow it), and
the covariance V of what was integrated out given it, a function f of all of it has the variance

.. math:: |J_f \Lambda|^2 + \nabla_u f^\top V \nabla_u f .
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from probmf.models import MixedEffects
from probmf.models.mixed import Encoded
from probmf.results.effect_errors import EffectErrors
from probmf.results.mixed_predict import SiteDraws

#: Step of a derivative, in standard errors.
ERROR_STEP = 1e-2
#: An imaginary part whose square is nothing, for derivatives without rounding.
TINY = 1e-100


@dataclass(frozen=True, eq=False)
class PointErrors:
    """Errors of a best fit of a mixed model.

    Attributes:
        model: The model.
        draws: The fit.
        loadings: Those of `Maximum`.
        flat: Whether coefficients that were integrated out have no prior.
    """

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
        return SiteDraws(self.draws.design, samples)

    @cached_property
    def effects(self) -> EffectErrors:
        """Errors of what was integrated out, given what was searched for."""
        return EffectErrors(self.model, self.draws, self.loadings, self.flat)

    def columns(self, rows: Encoded, part: Int[np.ndarray, " m"]) -> Any:
        """Columns of some rows for what was integrated out, sparse."""
        return self.effects.columns(rows, part)

    def variances(
        self,
        combine: Callable[[list[np.ndarray]], np.ndarray],
        values: list[Float[np.ndarray, "1 lines k"]],
        sums: list[Any],
    ) -> Float[np.ndarray, " m"]:
        """Variances of functions of linear predictors by what was integrated out.

        Args:
            combine: From some numbers of each line the function's.
            values: The numbers.
            sums: Their derivatives by the effects, sparse (lines x k, effects).

        Returns:
            One variance for each line and level.
        """
        covariance = self.effects.covariances(sums)
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

    Args:
        function: From expectations under each copy, and which rows they are, the numbers; analytic.
        part: Which rows they are.
        values: The expectations.
        slopes: Their derivatives by their own linear predictors.

    Returns:
        For each number a sparse matrix (rows x k, copies x rows).
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

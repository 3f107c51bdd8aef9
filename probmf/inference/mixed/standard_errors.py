r"""Standard errors of a best fit, from the curvature of its objective.

With C the inverse of minus the second derivatives by the unconstrained parameters a number of
slope j has the variance :math:`j^\top C j`. Coefficients that are not searched for have the
covariance that they have given the scales, as in lme4.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from probmf.inference.mixed.search_end import End


class Problem(Protocol):
    """An objective whose top has been found."""

    def slopes(self, vector: np.ndarray) -> Mapping[str, np.ndarray]:
        """Derivatives of each site, on the last axis."""

    def covariances(self, vector: np.ndarray) -> Mapping[str, np.ndarray]:
        """Covariances of sites that the vector does not hold, given it."""

    def following(self, vector: np.ndarray, steps: np.ndarray) -> Mapping[str, np.ndarray]:
        """Derivatives of modes of effects along steps of the vector, on the last axis."""


def shown(slopes: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Derivatives of what is shown: correlations in place of their Cholesky factors.

    Args:
        slopes: Derivatives of each site, on the last axis.
        values: The sites.
    """
    found = dict(slopes)
    for site, own in slopes.items():
        if site.endswith("_correlation"):
            half = np.einsum("ikv,jk->ijv", own, np.asarray(values[site], np.float64))
            found[site] = half + np.swapaxes(half, 0, 1)
    return found


def standard_errors(
    problem: Problem, vector: np.ndarray, values: Mapping[str, Any], end: End
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Standard errors of all sites but effects.

    Args:
        problem: The objective.
        vector: Its top.
        values: The sites there.
        end: The objective about it.

    Returns:
        Errors by site, correlations as such; NaN of what lies on the boundary or depends on it, and
        of everything searched for where the curvature has a direction without a top. Loadings by
        site, as `Maximum` has them.
    """
    held = np.flatnonzero(~end.inside)
    root = np.full((len(vector), int(end.inside.sum())), np.nan)
    if not end.flat and not end.rising and np.all(np.isfinite(end.curvature)):
        root[:] = 0.0
        root[end.inside] = _root(np.linalg.inv(end.curvature))
    slopes = problem.slopes(vector)
    errors: dict[str, np.ndarray] = {}
    for site, own in shown(slopes, values).items():
        on_boundary = np.any(own[..., held] != 0, axis=-1)
        errors[site] = np.where(on_boundary, np.nan, np.linalg.norm(own @ root, axis=-1))
    for site, own in problem.covariances(vector).items():
        errors[site] = np.linalg.norm(_root(own), axis=-1)
    loadings = {site: own @ root for site, own in slopes.items()}
    if np.all(np.isfinite(root)):
        loadings |= problem.following(vector, root.T)
    return errors, loadings


def _root(covariance: np.ndarray) -> np.ndarray:
    """A root R of a covariance R R'; NaN where it is none."""
    if not np.all(np.isfinite(covariance)) or np.any(np.diag(covariance) < 0):
        return np.full(covariance.shape, np.nan)
    # As correlations, so that units of columns are of no consequence.
    size = np.sqrt(np.diag(covariance))
    size[size == 0] = 1.0
    values, axes = np.linalg.eigh(covariance / np.outer(size, size))
    # What rounding leaves of an eigenvalue of zero may be below it; more is no covariance.
    if np.any(values < -1e-8):
        return np.full(covariance.shape, np.nan)
    return np.asarray(size[:, None] * axes * np.sqrt(np.maximum(values, 0.0)))

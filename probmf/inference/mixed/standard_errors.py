r"""Standard errors of a best fit, from the curvature of its objective.

With C the inverse of minus the second derivatives by the unconstrained parameters a number of
slope j has the variance :math:`j^\top C j`. Coefficients that are not searched for have the
covariance that they have given the scales, as in lme4.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.inference.mixed.search_end import End


class Problem(Protocol):
    """An objective whose top has been found."""

    def slopes(self, vector: np.ndarray) -> Mapping[str, np.ndarray]:
        """Derivatives of the shown values of each site, on the last axis."""

    def covariances(self, vector: np.ndarray) -> Mapping[str, np.ndarray]:
        """Covariances of sites that the vector does not hold, given it."""


def shown(latents: Mapping[str, Array]) -> dict[str, Array]:
    """Values of sites, correlations in place of their Cholesky factors; to be traced."""
    return {
        site: value @ jnp.swapaxes(value, -1, -2) if site.endswith("_correlation") else value
        for site, value in latents.items()
    }


def standard_errors(
    problem: Problem, vector: np.ndarray, end: End
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Standard errors of all sites but effects.

    Args:
        problem: The objective.
        vector: Its top.
        end: The objective about it.

    Returns:
        Errors by site; NaN of what lies on the boundary or depends on it, and of everything where
        the curvature has a direction without a top. Covariances of the errors of sites that are
        vectors.
    """
    held = np.flatnonzero(~end.inside)
    covariance = np.full((len(vector), len(vector)), np.nan)
    if not end.flat and not end.rising and np.all(np.isfinite(end.curvature)):
        covariance[:] = 0.0
        covariance[np.ix_(end.inside, end.inside)] = np.linalg.inv(end.curvature)
    found: dict[str, Any] = {}
    joint: dict[str, np.ndarray] = {}
    for site, slopes in problem.slopes(vector).items():
        variance = np.einsum("...i,ij,...j->...", slopes, covariance, slopes)
        on_boundary = np.any(slopes[..., held] != 0, axis=-1)
        found[site] = np.sqrt(np.where(on_boundary, np.nan, variance))
        if slopes.ndim == 2:
            joint[site] = slopes @ covariance @ slopes.T
    given = dict(problem.covariances(vector))
    found |= {site: np.sqrt(np.diag(own)) for site, own in given.items()}
    return found, joint | given

"""The top of a likelihood: its height, and standard errors from its curvature."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from probmf import html
from probmf.results.records import Pickled, frozen


@dataclass(frozen=True, eq=False, repr=False)
class Maximum(Pickled):
    r"""A best fit's likelihood and standard errors.

    Attributes:
        errors: Standard errors by site, from the inverse of the curvature there; of correlations
            those of the correlations themselves, a square matrix. NaN where there is none, as on
            the boundary of what variances can be.
        num_parameters: Number k of scales, correlations, coefficients and the likelihood's own.
        num_observations: Number n of rows.
        log_likelihood: Logarithm of the maximized likelihood, or restricted likelihood; None where
            priors count.
        loadings: The joint distribution of the errors: for each site that was searched for, what k
            independent standard Normal numbers add to it, k on the last axis (for correlations,
            to their Cholesky factors); for effects whose modes follow such sites, what they add
            to the modes. Zero for what is held on the boundary, NaN where the curvature has no
            inverse. A site that is missing was integrated out, and has errors of its own given
            these. Empty where nothing was searched for; None where the errors are not known.

    Example:
        >>> top = Maximum({}, 3, 60, -100.0)
        >>> top.aic, round(top.bic, 2)
        (206.0, 212.28)
    """

    errors: Mapping[str, Float[np.ndarray, "..."]]
    num_parameters: int
    num_observations: int
    log_likelihood: float | None = None
    loadings: Mapping[str, Float[np.ndarray, "... k"]] | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        object.__setattr__(self, "errors", frozen(self.errors))
        if self.loadings is not None:
            object.__setattr__(self, "loadings", frozen(self.loadings))

    @property
    def aic(self) -> float | None:
        r"""Akaike's criterion, :math:`2 k - 2 \log L`."""
        return self._penalized(2.0)

    @property
    def bic(self) -> float | None:
        r"""The Bayesian criterion, :math:`k \log n - 2 \log L`."""
        return self._penalized(float(np.log(self.num_observations)))

    def _penalized(self, price: float) -> float | None:
        if self.log_likelihood is None:
            return None
        return price * self.num_parameters - 2.0 * self.log_likelihood

    def __repr__(self) -> str:
        """The likelihood, its criteria, and how many parameters and observations there are."""
        return f"Maximum({self.note or self._sizes})"

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return html.lines([self.note or f"{self._sizes}."])

    @property
    def _sizes(self) -> str:
        return f"{self.num_parameters:,} parameters, {self.num_observations:,} observations"

    @property
    def note(self) -> str:
        """All of it in a sentence; empty without a likelihood."""
        if self.log_likelihood is None:
            return ""
        return (
            f"Log likelihood {self.log_likelihood:.6g}, AIC {self.aic:.6g}, BIC {self.bic:.6g} "
            f"({self._sizes})."
        )

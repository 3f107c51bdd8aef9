"""Rows and groups of a mixed model given all others, at each draw of a fit, without refits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probmf.effects.quadrature import NUM_NODES
from probmf.inference.marginal import MarginalModel
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.inference.mixed.quadrature_sampler import NoGroupingError, largest_grouping
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.numpyro_setup import run_unchecked
from probmf.results import MixedFit
from probmf.run.compilation import count_numbers, quick_jit
from probmf.settings import own_settings


def leave_one_out(
    fit: MixedFit, *, by: str | ArrayLike | None = None
) -> Float[np.ndarray, "chain draw parts"]:
    r"""Log density of each training row given all others and each draw, effects integrated out.

    .. math:: \log p(y_n \mid y_{-n}, \theta_s)

    In place of the densities given the effects these make Pareto-smoothed importance sampling
    (ArviZ's `loo`) steady: `fit.to_arviz(log_likelihood=leave_one_out(fit))`. No draw of an effect
    is used that is integrated out, and nothing is fitted again.

    Args:
        fit: A fit of a mixed model.
        by: None for each row; name of a grouping factor, or a label for each row, for all rows of a
            group given those of all other groups.

    Returns:
        The logarithms; groups in the order of their sorted labels, or of the factor's levels. For a
        Gaussian or log-normal response all effects and coefficients are integrated out exactly, for
        others the effects of the largest grouping with one or two for each group, by quadrature;
        without group terms there is nothing to integrate out.

    Raises:
        TypeError: If `fit` is no fit of a mixed model.
        ValueError: If `by` is no grouping factor or has not a label for each row, or there are no
            effects that a quadrature serves.

    Example:
        >>> from probmf import MixedEffects, sample_marginal
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
        >>> fit = sample_marginal(MixedEffects("y ~ 1 + (1 | g)"), table, key=0, num_samples=100)
        >>> leave_one_out(fit).shape, leave_one_out(fit, by="g").shape
        ((1, 100, 6), (1, 100, 3))

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC. Merkle, Furr and Rabe-Hesketh (2019), Bayesian comparison of
        latent variable models: conditional versus marginal likelihoods.

    Cost at each draw, with exact integrals: for rows one factorization, and an evaluation more for
    each row that holds nearly all of what is known of a coefficient (at most as many as there are
    coefficients and effects beside the largest grouping's); for groups an evaluation each, and a
    second for such ones. With a quadrature: for rows one pass over the data for each row of the
    largest group, for groups one pass.
    """
    if not isinstance(fit, MixedFit):
        raise TypeError(f"fit is of type {type(fit).__name__}; expected a fit of a mixed model.")
    with own_settings(True):
        model = fit.model.centred
        (data,) = model.arguments(fit.design)
        part = None if by is None else _labels(data, by)
        if model.likelihood.normal:
            marginal = MarginalModel(model.program, model.effect_sites(fit.design))
            if part is None:
                found = marginal.leave_one_out(fit.samples, data)
            else:
                found = marginal.leave_group_out(part, fit.samples, data)
            return np.asarray(found)
        return _by_quadrature(fit, model.program, data, part)


def _labels(data: MixedData, by: str | ArrayLike) -> np.ndarray:
    """A label for each row."""
    if not isinstance(by, str):
        labels = np.asarray(by)
        if labels.shape != (data.num_observations,):
            raise ValueError(
                f"by has shape {labels.shape}; expected a label for each of "
                f"{data.num_observations:,} rows, or the name of a grouping factor."
            )
        return np.unique(labels, return_inverse=True)[1]
    factors = {term.plate: term for term in data.groups}
    if by not in factors:
        known = ", ".join(map(repr, factors)) or "none"
        raise ValueError(f"by is {by!r}; the grouping factors are: {known}.")
    return np.asarray(factors[by].group)


def _by_quadrature(
    fit: MixedFit, program: MixedProgram, data: MixedData, part: np.ndarray | None
) -> Float[np.ndarray, "chain draw parts"]:
    integral = Integral.of(program, data, [])
    if data.groups:
        whole = Integral.of(program, data, [term.name for term in data.groups], coefficients=True)
        try:
            integral = Integral.of(program, data, largest_grouping(whole))
        except NoGroupingError as error:
            raise ValueError(f"{error}. Use to_arviz(log_likelihood=True).") from error
        used = 0 if fit.sampling is None else int(fit.sampling.info.get("num_nodes", 0))
        integral = replace(integral, num_nodes=max(used, NUM_NODES[integral.blocks[0].dim]))
    density = IntegralDensity.of_integral(integral)
    lacking = [site for site in density.sites if site not in fit.samples]
    if lacking:
        raise ValueError(f"The fit has no draws of {lacking[0]!r}, which stays in the model.")
    lead = fit.num_chains, fit.num_draws
    latents = {
        site: jnp.asarray(fit.samples[site]).reshape(-1, *fit.samples[site].shape[2:])
        for site in density.sites
    }

    def one(own: dict[str, Array]) -> Array:
        integrand = integral.integrand(density.rest(own))
        if not data.groups:
            # Given all parameters rows are independent.
            rows = integrand.system.rows(integrand.system.offset)
            return rows if part is None else jax.ops.segment_sum(rows, part, int(part.max()) + 1)
        if part is None:
            return integrand.rows_left_out()
        return integrand.parts_left_out(part, int(part.max()) + 1)

    run: Callable[..., Any] = quick_jit(lambda own: jax.lax.map(one, own), count_numbers(data))
    with run_unchecked():
        found = np.asarray(run(latents))
    return found.reshape(*lead, found.shape[-1])

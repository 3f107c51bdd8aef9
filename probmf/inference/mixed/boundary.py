"""Best fits on the boundary of what variances can be: a scale of zero, a correlation of one."""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float
from numpyro.distributions import Distribution

from probmf.models.mixed.arrays import GroupTerm, MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.results import MixedFit

#: Effects smaller than this share of the noise are reported as lying on the boundary. The search
#: ends where the likelihood is flat to its accuracy, not at zero itself.
BOUNDARY = 3e-3


class Boundary(NamedTuple):
    """The scales and correlations of one group term that a fit puts on the boundary.

    Attributes:
        term: The term.
        zero: Which of its scales are zero.
        names: What is on the boundary, in words.
    """

    term: GroupTerm
    zero: Bool[np.ndarray, " d"]
    names: tuple[str, ...]


def boundary(fit: MixedFit) -> list[str]:
    r"""Scales and correlations of a point fit on the boundary, in the sense of lme4's `isSingular`.

    A group term with columns z and effects of covariance :math:`\Sigma` moves rows by
    :math:`z^\top u`. Where some combination of its effects moves them by less than 0.3 % of the
    noise, its covariance is not of full rank: a scale is zero, a correlation is one, or several
    effects depend on each other.

    Args:
        fit: A point fit, as from `fit_marginal`.

    Returns:
        Names such as "school_scale[hours]" of scales at zero, "school_correlation[Intercept,
        hours]" of correlations at one or minus one, and "school_effects" of a covariance that is
        not of full rank otherwise. They do not depend on the units of columns.

    Raises:
        ValueError: If the fit has more than one draw: a posterior tells by itself.

    Example:
        >>> from probmf import MixedEffects, fit_marginal
        >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
        >>> boundary(fit_marginal(MixedEffects("y ~ x + (1 | g)"), table))
        []
    """
    if not fit.is_point:
        raise ValueError(
            f"The fit has {fit.num_chains} chains of {fit.num_draws:,} draws, which tell by "
            "themselves how near to zero a scale may be; boundary(fit) is for fits of one point, "
            "such as of fit_marginal."
        )
    return [name for found in find_boundary(fit) for name in found.names]


def find_boundary(fit: MixedFit) -> list[Boundary]:
    """The same, by group term: of those with a scale that was not given."""
    least = BOUNDARY * _noise_level(fit)
    data = fit.design.data
    free = [t for t in data.groups if isinstance(data.priors[f"{t.name}_scale"], Distribution)]
    found = [_of_term(fit, term, least) for term in free]
    return [one for one in found if one.names]


def _of_term(fit: MixedFit, term: GroupTerm, least: float) -> Boundary:
    scale = np.asarray(fit.samples[f"{term.name}_scale"][0, 0], np.float64)
    z = np.asarray(term.z, np.float64) / np.sqrt(len(term.z))
    zero = scale * np.linalg.norm(z, axis=0) < least
    names = [f"{term.name}_scale[{name}]" for name in np.asarray(term.names)[zero]]
    if not term.correlated:
        return Boundary(term, zero, tuple(names))
    tril = scale[:, None] * np.asarray(fit.samples[f"{term.name}_correlation"][0, 0], np.float64)

    def is_singular(places: list[int]) -> bool:
        """True if a combination of the effects of these columns moves no row."""
        root = scipy.linalg.qr(z[:, places], mode="r")[0][: len(places)]
        return bool(np.linalg.svd(root @ tril[places], compute_uv=False)[len(places) - 1] < least)

    rest = np.flatnonzero(~zero).tolist()
    pairs = [pair for pair in combinations(rest, 2) if is_singular(list(pair))]
    names += [f"{term.name}_correlation[{term.names[a]}, {term.names[b]}]" for a, b in pairs]
    if not pairs and len(rest) > 2 and is_singular(rest):
        names.append(f"{term.name}_effects")
    return Boundary(term, zero, tuple(names))


def _noise_level(fit: MixedFit) -> float:
    """The noise scale, or the typical one of the rows."""
    noise = fit.design.data.noise
    if noise is not None and fit.model.likelihood.normal:
        with jax.enable_x64(True):
            values = {name: jnp.asarray(value[0, 0]) for name, value in fit.samples.items()}
            return float(np.exp(np.mean(np.asarray(noise(values)))))
    if not fit.model.likelihood.normal:
        return _score_level(fit)
    if "noise_scale" in fit.samples:
        return float(np.min(fit.samples["noise_scale"]))
    fixed = fit.design.data.priors["noise_scale"]
    return float(np.asarray(fixed))


def _score_level(fit: MixedFit) -> float:
    """The error with which one row tells its linear predictor, typically."""
    values = {name: value[0, 0] for name, value in fit.samples.items()}
    information = row_information(fit.model.program, fit.design.data, values)
    return float(1.0 / np.sqrt(np.mean(information)))


def row_information(
    program: MixedProgram, data: MixedData, values: Mapping[str, np.ndarray]
) -> Float[np.ndarray, " n"]:
    """Fisher information of the linear predictor of each row.

    Args:
        program: The model.
        data: Its data.
        values: All sites.
    """
    likelihood = program.likelihood.coded(data.num_levels)
    with jax.enable_x64(True):
        own = {name: jnp.asarray(value, float) for name, value in values.items()}
        given = program.parameters_at(data, own)
        scores = data.mean(own)
        information = jnp.broadcast_to(likelihood.information(scores, given), scores.shape)
        if data.weight is not None:
            information = information * data.weight
    return np.asarray(information, np.float64)

r"""Variances by the method of moments, where a search may begin.

The residuals r of least squares have :math:`E[r r^\top] \approx \sum_i \theta_i M_i`, with the
matrices of `identifiability`. The least squares of that to :math:`r r^\top` solve

.. math:: \sum_j \operatorname{tr}(M_i M_j)\, \theta_j = r^\top M_i r ,

the minimum norm quadratic unbiased estimates (MINQUE(0)) of Rao (1970), but for the residuals'.
"""

from collections.abc import Mapping

import numpy as np
import scipy.linalg

from probmf.inference.mixed.identifiability import CovarianceTerms
from probmf.models import MixedEffects
from probmf.models.mixed.arrays import GroupTerm
from probmf.models.mixed.design import Design

#: Share of the residuals' variance that the noise has at least.
LEAST_NOISE = 0.05
#: Least eigenvalue of the cosines between the matrices.
APART = 1e-6


def moment_estimates(
    model: MixedEffects, design: Design, terms: CovarianceTerms
) -> Mapping[str, np.ndarray] | None:
    """Scales and correlations of a Gaussian or log-normal response, by site.

    Args:
        model: The model, with one noise scale.
        design: Its design.
        terms: The covariance's matrices.

    Returns:
        The estimates; variances that would be next to nothing, or negative, are what rows begin to
        tell. None where the matrices are nearly dependent.
    """
    size = np.sqrt(np.diag(terms.gram))
    if not np.all(size > 0) or np.linalg.eigvalsh(terms.gram / np.outer(size, size))[0] < APART:
        return None
    data = design.data
    response = model.likelihood.uncensored.to_score(np.asarray(data.response, np.float64))
    if data.mean.offset is not None:
        response = response - np.asarray(data.mean.offset, np.float64)
    columns = np.asarray(data.population, np.float64)
    residual = response - columns @ np.linalg.lstsq(columns, response, rcond=None)[0]
    squares = []
    for one in terms.matrices:
        left, right = one.left * residual, one.right * residual
        if one.term is None:
            squares.append(left @ right)
        else:
            of_groups = (np.bincount(one.term.group, side) for side in (left, right))
            squares.append(np.multiply(*of_groups).sum())
    variances = np.linalg.solve(terms.gram, squares)
    whole = float(np.mean(np.square(residual)))
    of_noise = [v for v, own in zip(variances, terms.matrices, strict=True) if own.term is None]
    noise = max([LEAST_NOISE * whole, *of_noise])
    found = {"noise_scale": np.asarray(np.sqrt(noise))}
    for term in data.groups:
        own = [v for v, m in zip(variances, terms.matrices, strict=True) if m.term is term]
        if own:
            least = noise * term.num_groups / len(residual)
            found |= _of_term(term, np.asarray(own), least)
    return found


def _of_term(term: GroupTerm, variances: np.ndarray, least: float) -> dict[str, np.ndarray]:
    """Scales and correlations of a term whose effects add at least some variance to each row."""
    z = np.asarray(term.z, np.float64)
    if not term.correlated:
        spread = np.maximum(variances, least / np.mean(np.square(z), axis=0))
        return {f"{term.name}_scale": np.sqrt(spread)}
    upper = scipy.linalg.qr(z, mode="r")[0][: z.shape[1]]
    own = np.zeros(2 * (z.shape[1],))
    own[np.triu_indices(len(own))] = variances
    values, axes = np.linalg.eigh((own + own.T) / 2)
    # Columns of the basis have a sum of squares of one.
    root = axes * np.sqrt(np.maximum(values, least * len(z)))
    root = np.linalg.qr(scipy.linalg.solve_triangular(upper, root).T, mode="r").T
    root = root * np.where(np.diag(root) < 0, -1.0, 1.0)
    scale = np.linalg.norm(root, axis=1)
    return {f"{term.name}_scale": scale, f"{term.name}_correlation": root / scale[:, None]}

r"""Shares of variance: R squared and intraclass correlations of mixed models.

On the scale of the linear predictor the variance has three parts,

.. math::
    \sigma_f^2 = \mathrm{Var}_n(x_n \cdot \beta), \quad
    \sigma_k^2 = \frac1N \sum_n z_{kn}^\top \Sigma_k z_{kn}, \quad
    \sigma_\varepsilon^2,

of the population's predictor over the rows, of the effects of each grouping, and what the
response's distribution adds. The effects of a grouping with a group for each row are part of what
is left.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from probmf.likelihoods import Likelihood
from probmf.models.mixed.arrays import GroupTerm
from probmf.results.mixed_predict import SiteDraws, given_rows, training_rows
from probmf.results.mixtures import row_blocks, tails
from probmf.results.table import Table


def partition(
    draws: SiteDraws, likelihood: Likelihood
) -> tuple[
    Float[np.ndarray, " draws"],
    dict[str, Float[np.ndarray, " draws"]],
    Float[np.ndarray, " draws"],
]:
    """Variances by the population's predictor, by each grouping, and of what is left."""
    design, count = draws.design, draws.num_draws
    mean = design.data.mean
    x = np.asarray(mean.population, np.float64)
    fixed = np.zeros(count)
    if mean.names:
        beta = np.asarray(draws[mean.site], np.float64)
        apart = x - x.mean(axis=0)
        fixed = np.einsum("si,ij,sj->s", beta, apart.T @ apart / (len(x) - 1), beta)
    groups: dict[str, np.ndarray] = {}
    own_rows = np.zeros(count)
    for term in mean.groups:
        z, root = np.asarray(term.z, np.float64), _root(draws, term)
        own = np.einsum("sij,ik,skj->s", root, z.T @ z / len(z), root)
        if len(np.unique(term.group)) == len(z):
            own_rows = own_rows + own
        else:
            groups[term.plate] = groups.get(term.plate, 0.0) + own
    coded = likelihood.coded(len(design.response_levels))
    return fixed, groups, own_rows + _left(draws, coded, _log_rate(draws, coded))


def _root(draws: SiteDraws, term: GroupTerm) -> Float[np.ndarray, "draws d d"]:
    """Factors of the covariance of a term's effects."""
    scale = np.asarray(draws[f"{term.name}_scale"], np.float64)[:, :, None]
    size = scale.shape[1]
    return scale * (draws[f"{term.name}_correlation"] if term.correlated else np.eye(size))


def _log_rate(draws: SiteDraws, likelihood: Likelihood) -> Float[np.ndarray, " draws"]:
    """Logarithm of the mean over rows and effects of exp(linear predictor), or of the response."""
    mean, count = draws.design.data.mean, draws.num_draws
    roots = [_root(draws, term) for term in mean.groups]
    total = np.full(count, -np.inf)
    for part in row_blocks(len(mean.population), count):
        score = np.zeros((count, part.stop - part.start))
        variance = np.zeros_like(score)
        if mean.names:
            score += draws[mean.site] @ np.asarray(mean.population[part], np.float64).T
        if mean.offset is not None:
            score += np.asarray(mean.offset[part], np.float64)
        for term, root in zip(mean.groups, roots, strict=True):
            z = np.asarray(term.z[part], np.float64)
            variance += np.square(np.einsum("ni,sij->snj", z, root)).sum(axis=2)
        found = logsumexp(likelihood.log_expected(score, variance), axis=1)
        total = np.logaddexp(total, found)
    return np.asarray(total - np.log(len(mean.population)))


def _left(
    draws: SiteDraws, likelihood: Likelihood, log_rate: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, " draws"]:
    """Variance of what is left; its mean over the rows where a parameter of it has a formula."""
    design = draws.design
    sites = set(likelihood.scale_sites()) - {*likelihood.known, *likelihood.labels}
    if design.noise is None:
        scales = {site: np.asarray(draws[site], np.float64) for site in sites}
        return np.asarray(likelihood.latent_variance(log_rate, scales))
    rows, total = training_rows(design), np.zeros(draws.num_draws)
    for part in row_blocks(len(rows.population), draws.num_draws):
        given = given_rows(draws, rows, np.arange(part.start, part.stop), likelihood)
        scales = {n: own for n, own in given.parameters(likelihood).items() if n in sites}
        own = likelihood.latent_variance(log_rate[:, None], scales)
        total += own.sum(axis=1)
    return total / len(rows.population)


def table(
    shares: Mapping[str, Float[np.ndarray, " draws"]], interval: float, *, is_point: bool
) -> Table:
    """Means of shares, with sds and intervals of draws."""
    low, high = tails(interval)
    rows = []
    for name, own in shares.items():
        row = {"name": name, "mean": float(own.mean())}
        if not is_point:
            ends = np.quantile(own, [low, high])
            row |= {"sd": float(own.std())}
            row |= {f"{low:.4g}": float(ends[0]), f"{high:.4g}": float(ends[1])}
        rows.append(row)
    return Table(tuple(rows))

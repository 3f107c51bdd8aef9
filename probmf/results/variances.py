r"""Shares of variance: R squared and intraclass correlations of mixed models.

On the scale of the linear predictor the variance has three parts,

.. math::
    \sigma_f^2 = \mathrm{Var}_n(x_n \cdot \beta), \quad
    \sigma_k^2 = \frac1N \sum_n z_{kn}^\top \Sigma_k z_{kn}, \quad
    \sigma_\varepsilon^2,

of the population's predictor over the rows, of the effects of each grouping, and what the
response's distribution adds.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from probmf.likelihoods import Likelihood
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
    """Variances by the population's predictor, by each grouping, and of what is left.

    Args:
        draws: Draws of the sites.
        likelihood: The model's.

    Returns:
        Numbers by draw.

    Raises:
        ValueError: If the response's distribution has no variance on this scale.
    """
    design, count = draws.design, draws.num_draws
    mean = design.data.mean
    x = np.asarray(mean.population, np.float64)
    center, fixed = np.zeros(count), np.zeros(count)
    if mean.names:
        beta = np.asarray(draws[mean.site], np.float64)
        center = beta @ x.mean(axis=0)
        apart = x - x.mean(axis=0)
        fixed = np.einsum("si,ij,sj->s", beta, apart.T @ apart / (len(x) - 1), beta)
    if mean.offset is not None:
        center = center + float(np.mean(mean.offset))
    groups: dict[str, np.ndarray] = {}
    for term in mean.groups:
        z = np.asarray(term.z, np.float64)
        root = np.asarray(draws[f"{term.name}_scale"], np.float64)[:, :, None] * np.eye(z.shape[1])
        if term.correlated:
            root = root @ draws[f"{term.name}_correlation"]
        own = np.einsum("sij,ik,skj->s", root, z.T @ z / len(z), root)
        groups[term.plate] = groups.get(term.plate, 0.0) + own
    effects = np.sum([np.zeros(count), *groups.values()], axis=0)
    return (
        fixed,
        groups,
        _left(draws, likelihood.coded(len(design.response_levels)), center, effects),
    )


def _left(
    draws: SiteDraws,
    likelihood: Likelihood,
    center: Float[np.ndarray, " draws"],
    effects: Float[np.ndarray, " draws"],
) -> Float[np.ndarray, " draws"]:
    """Variance of what is left; its mean over the rows where a parameter of it has a formula."""
    design = draws.design
    sites = set(likelihood.scale_sites()) - {*likelihood.known, *likelihood.labels}
    if design.noise is None:
        scales = {site: np.asarray(draws[site], np.float64) for site in sites}
        return np.asarray(likelihood.latent_variance(center, effects, scales))
    rows, total = training_rows(design), np.zeros(draws.num_draws)
    for part in row_blocks(len(rows.population), draws.num_draws):
        given = given_rows(draws, rows, np.arange(part.start, part.stop), likelihood)
        scales = {n: own for n, own in given.parameters(likelihood).items() if n in sites}
        own = likelihood.latent_variance(center[:, None], effects[:, None], scales)
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

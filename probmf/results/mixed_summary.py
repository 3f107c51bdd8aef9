"""Means and intervals of a mixed model's parameters, one row per number."""

from collections.abc import Iterator, Mapping
from itertools import batched
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from probmf.models.mixed.arrays import GroupTerm
from probmf.models.sites import Sites
from probmf.results.measures import (
    fewest_draws,
    independent_errors,
    is_varying,
    measure,
    sd_errors,
)
from probmf.results.mixed_predict import SiteDraws, given_rows, training_rows
from probmf.results.mixtures import row_blocks, tails
from probmf.results.records import Maximum, Sampling
from probmf.results.table import Table

#: ArviZ's names, in its order.
CONVERGENCE = ("ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd")


#: Numbers that are measured at once.
BLOCK = 64


def summarize_sites(
    samples: Mapping[str, np.ndarray],
    sites: Sites,
    *,
    sampling: Sampling | None,
    interval: float,
    effects: bool,
    notes: tuple[str, ...] = (),
    maximum: Maximum | None = None,
) -> Table:
    """The table; see `MixedFit.summary`."""
    errors = {} if maximum is None else _named_errors(maximum, sites)
    if maximum is not None and maximum.note:
        notes = (maximum.note, *notes)
    rows: list[dict[str, Any]] = []
    low, high = tails(interval)
    numbers = (
        found
        for site, value in samples.items()
        if effects or not is_effect(site)
        for found in scalars(site, value, sites)
    )
    for some in batched(numbers, BLOCK):
        told: list[dict[str, float | None]] = [{} for _ in some]
        if some[0][1].size > 1:
            told = convergence(np.stack([draws for _, draws in some], axis=2), sampling)
        for (name, draws), measured in zip(some, told, strict=True):
            row = {"name": name, "mean": float(draws.mean())}
            if draws.size > 1:
                ends = np.quantile(draws, [low, high])
                row |= {
                    "sd": float(draws.std()), f"{low:.4g}": float(ends[0]),
                    f"{high:.4g}": float(ends[1]),
                }  # fmt: skip
            elif maximum is not None:
                row["se"] = errors.get(name)
            rows.append(row | measured)
    return Table(tuple(rows), notes)


def _named_errors(maximum: Maximum, sites: Sites) -> dict[str, float | None]:
    """Standard errors by the names of numbers."""
    found: dict[str, float | None] = {}
    for site, errors in maximum.errors.items():
        if site.endswith("_correlation"):
            names = [name for name, _ in scalars(site, np.eye(len(errors))[None, None], sites)]
            values = errors[np.tril_indices(len(errors), -1)]
        else:
            values = np.ravel(errors)
            names = [name for name, _ in scalars(site, np.asarray(errors)[None, None], sites)]
        for name, value in zip(names, values, strict=True):
            found[name] = float(value) if np.isfinite(value) else None
    return found


def convergence(
    draws: Float[np.ndarray, "chain draw m"], sampling: Sampling | None
) -> list[dict[str, float | None]]:
    """ArviZ's columns of convergence for each quantity.

    Args:
        draws: Draws of the quantities.
        sampling: How they came about.

    Returns:
        For each "ess_bulk", "ess_tail", "r_hat", "mcse_mean" and "mcse_sd"; None where a quantity
        is the same at every draw, where there are too few draws, and for R-hat of independent ones.
    """
    places = np.flatnonzero(is_varying(draws))
    columns: dict[str, np.ndarray | None] = dict.fromkeys(CONVERGENCE)
    own = draws[:, :, places]
    if sampling is not None and sampling.is_independent:
        count = sampling.num_effective(draws.shape[0] * draws.shape[1])
        columns["ess_bulk"] = columns["ess_tail"] = np.full(len(places), count)
        columns["mcse_mean"], columns["mcse_sd"] = independent_errors(own, count)
    elif len(places) and draws.shape[1] >= fewest_draws(len(draws)):
        found = measure(own)
        columns = {
            "ess_bulk": found.ess_bulk, "ess_tail": found.ess_tail, "r_hat": found.r_hat,
            "mcse_mean": found.mcse, "mcse_sd": sd_errors(own),
        }  # fmt: skip
    told: list[dict[str, float | None]] = [dict.fromkeys(CONVERGENCE) for _ in draws[0, 0]]
    for name, values in columns.items():
        for place, value in zip(places, () if values is None else values, strict=False):
            told[place][name] = float(value)
    return told


def is_effect(site: str) -> bool:
    """True if a site holds effects of groups, as such or standardized."""
    return site.removesuffix("_raw").endswith("_effects")


def scalars(
    site: str,
    value: Float[np.ndarray, "chain draw ..."],
    sites: Sites,
) -> Iterator[tuple[str, Float[np.ndarray, "chain draw"]]]:
    """Single numbers of a site with their names, such as "school_scale[hours]"."""
    labels = [sites.coords[dim] for dim in sites.dims.get(site, [])]
    if site.endswith("_correlation"):
        matrix = value @ np.swapaxes(value, -1, -2)
        for row in range(matrix.shape[-1]):
            for column in range(row):
                yield f"{site}[{labels[0][column]}, {labels[0][row]}]", matrix[..., column, row]
        return
    for place in np.ndindex(*value.shape[2:]):
        names = [str(of[at]) for of, at in zip(labels, place, strict=True)]
        yield f"{site}[{', '.join(names)}]" if names else site, value[(..., *place)]


def partition(
    draws: SiteDraws,
) -> tuple[
    Float[np.ndarray, " draws"],
    dict[str, Float[np.ndarray, " draws"]],
    Float[np.ndarray, " draws"],
]:
    """Variances by the population's predictor, by each grouping, and of what is left."""
    count, mean = draws.num_draws, draws.design.data.mean
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
    return fixed, groups, own_rows + _left(draws, _log_rate(draws))


def _root(draws: SiteDraws, term: GroupTerm) -> Float[np.ndarray, "draws d d"]:
    """Factors of the covariance of a term's effects."""
    scale = np.asarray(draws[f"{term.name}_scale"], np.float64)[:, :, None]
    size = scale.shape[1]
    return scale * (draws[f"{term.name}_correlation"] if term.correlated else np.eye(size))


def _log_rate(draws: SiteDraws) -> Float[np.ndarray, " draws"]:
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
        found = logsumexp(draws.likelihood.log_expected(score, variance), axis=1)
        total = np.logaddexp(total, found)
    return np.asarray(total - np.log(len(mean.population)))


def _left(draws: SiteDraws, log_rate: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
    """Variance of what is left; its mean over the rows where a parameter of it has a formula."""
    design, likelihood = draws.design, draws.likelihood
    sites = set(likelihood.scale_sites()) - {*likelihood.known, *likelihood.labels}
    if design.noise is None:
        scales = {site: np.asarray(draws[site], np.float64) for site in sites}
        return np.asarray(likelihood.latent_variance(log_rate, scales))
    rows, total = training_rows(design), np.zeros(draws.num_draws)
    for part in row_blocks(len(rows.population), draws.num_draws):
        given = given_rows(draws, rows, np.arange(part.start, part.stop))
        scales = {n: own for n, own in given.parameters().items() if n in sites}
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

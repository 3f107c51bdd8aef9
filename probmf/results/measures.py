"""R-hat, effective sample sizes and Monte Carlo errors of many quantities at once."""

from typing import NamedTuple

import numpy as np
from arviz_stats.base.array import array_stats
from jaxtyping import Bool, Float, Int


class Measures(NamedTuple):
    """Mean and sd of all draws, Monte Carlo error of the mean, effective sizes and R-hat.

    The effective size of the tail is that of the 5 % and 95 % quantiles, the lesser of the two;
    R-hat is rank-normalized and split.
    """

    mean: Float[np.ndarray, " m"]
    sd: Float[np.ndarray, " m"]
    mcse: Float[np.ndarray, " m"]
    ess_bulk: Float[np.ndarray, " m"]
    ess_tail: Float[np.ndarray, " m"]
    r_hat: Float[np.ndarray, " m"]


def measure(draws: Float[np.ndarray, "chain draw m"]) -> Measures:
    """Measure each quantity.

    Draws are at least four per chain (eight of a single one), finite and not constant. As
    arviz-stats computes the measures; some milliseconds per quantity.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC.
    """
    draws = np.asarray(draws, np.float64)
    axes = {"chain_axis": 0, "draw_axis": 1}
    half = draws.shape[1] // 2
    # ArviZ has no R-hat of one chain; its halves may disagree as two chains may.
    compared = draws if len(draws) > 1 else np.concatenate([draws[:, :half], draws[:, -half:]])
    with np.errstate(invalid="ignore", divide="ignore"):
        return Measures(
            mean=draws.mean(axis=(0, 1)),
            sd=draws.std(axis=(0, 1)),
            mcse=np.asarray(array_stats.mcse(draws, method="mean", **axes)),
            ess_bulk=np.asarray(array_stats.ess(draws, method="bulk", **axes)),
            ess_tail=np.asarray(array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **axes)),
            r_hat=np.asarray(array_stats.rhat(compared, method="rank", **axes)),
        )


def independent_errors(
    draws: Float[np.ndarray, "chain draw m"], effective: float
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Monte Carlo standard errors of mean and sd of independent draws, worth `effective` ones."""
    centered = np.asarray(draws, np.float64) - draws.mean(axis=(0, 1))
    variance = np.square(centered).mean(axis=(0, 1))
    fourth = np.square(np.square(centered)).mean(axis=(0, 1))
    of_variance = np.sqrt(np.maximum(fourth - np.square(variance), 0.0) / effective)
    sd = np.sqrt(variance)
    of_sd = np.divide(of_variance, 2 * sd, out=np.zeros_like(sd), where=sd > 0)
    return sd / np.sqrt(effective), of_sd


def sd_errors(draws: Float[np.ndarray, "chain draw m"]) -> Float[np.ndarray, " m"]:
    """Monte Carlo standard errors of the standard deviations of chains."""
    own = np.asarray(draws, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(array_stats.mcse(own, method="sd", chain_axis=0, draw_axis=1))


def fewest_draws(num_chains: int) -> int:
    """The fewest draws per chain that can be measured."""
    return 4 if num_chains > 1 else 8


def varying(draws: Float[np.ndarray, "chain draw m"]) -> Float[np.ndarray, "chain draw m"]:
    """The quantities that are not the same number at every draw."""
    return draws[:, :, is_varying(draws)]


def is_varying(draws: Float[np.ndarray, "chain draw m"]) -> Bool[np.ndarray, " m"]:
    """Mask of quantities that are not the same number at every draw."""
    return np.any(draws != draws[:1, :1], axis=(0, 1))


def most_suspect(
    draws: Float[np.ndarray, "chain draw m"], count: int
) -> Float[np.ndarray, "chain draw count"]:
    """The quantities whose chains differ or drift most; see `suspects`."""
    return draws if draws.shape[2] <= count else draws[:, :, suspects(draws, count)]


def suspects(draws: Float[np.ndarray, "chain draw m"], count: int) -> Int[np.ndarray, " count"]:
    """Places of the quantities whose chains differ or drift most, by measures that cost little.

    Half of them are those with the largest split R-hat from means and variances, half those
    with the largest correlation of neighbouring draws.

    In order. Cost O(chains draws m), some thousand times less than `measure`.
    """
    half = draws.shape[1] // 2
    # Two halves of each chain, as in split R-hat.
    split = np.concatenate([draws[:, :half], draws[:, -half:]], axis=0)
    within = split.var(axis=1).mean(axis=0)
    between = split.mean(axis=1).var(axis=0)
    centered = draws - draws.mean(axis=1, keepdims=True)
    lagged = np.mean(centered[:, 1:] * centered[:, :-1], axis=(0, 1))
    spread = np.where(within > 0, within, np.inf)
    # A chain that never moves is the most suspect of all.
    differing = np.where(within > 0, between / spread, np.inf)
    first = np.argsort(-differing, kind="stable")[: count // 2]
    others = np.argsort(-lagged / spread, kind="stable")
    rest = others[~np.isin(others, first)][: count - len(first)]
    return np.sort(np.concatenate([first, rest]))


def energy_fractions(energy: Float[np.ndarray, "chain draw"]) -> Float[np.ndarray, " chain"]:
    """Estimated Bayesian fraction of missing information of each chain (E-BFMI)."""
    return np.atleast_1d(np.asarray(array_stats.bfmi(np.asarray(energy, np.float64))))

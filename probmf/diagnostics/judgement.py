"""What is wrong with a run, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from probmf.diagnostics.measures import energy_fractions
from probmf.results import Sampling

#: Limits of Vehtari et al. (2021), Betancourt (2016) and Vehtari et al. (2024, Pareto k).
R_HAT, ESS_PER_CHAIN, E_BFMI, K_HAT = 1.01, 100, 0.3, 0.7
#: NumPyro's default.
MAX_TREE_DEPTH = 10


class DiagnosticWarning(UserWarning):
    """The draws should not be relied upon as they are."""


def statistics(sampling: Sampling | None) -> dict[str, Any]:
    """What a sampler's statistics say of the whole run.

    Args:
        sampling: How the run went, or None.

    Returns:
        "num_divergent", "share_saturated" (of trees as deep as allowed), "e_bfmi" (one number per
        chain), "k_hat", "elbo" and "log_evidence", as far as they are known.
    """
    found: dict[str, Any] = {}
    if sampling is None:
        return found
    stats, info = sampling.stats, sampling.info
    # A fit whose draws were streamed may keep some of them; divergences count in all.
    if "diverging" in stats:
        found["num_divergent"] = int(info.get("num_divergent", np.sum(stats["diverging"])))
    depth = stats.get("tree_depth")
    if depth is None and "n_steps" in stats:
        depth = np.ceil(np.log2(np.asarray(stats["n_steps"]) + 1.0))
    if depth is not None:
        most = float(info.get("max_tree_depth", MAX_TREE_DEPTH))
        found["share_saturated"] = float(np.mean(depth >= most))
    # E-BFMI is of consecutive draws.
    if "energy" in stats and stats["energy"].shape[1] > 1 and info.get("thin", 1) == 1:
        found["e_bfmi"] = energy_fractions(stats["energy"])
    for name in ("k_hat", "elbo", "log_evidence"):
        if name in info:
            found[name] = float(info[name])
    return found


def is_approximation(sampling: Sampling | None) -> bool:
    """Whether the draws are independent draws of an approximation, and of no chain."""
    return sampling is not None and "approximation" in sampling.info


def remarks(sampling: Sampling | None, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Of draws of an approximation: what was judged and what was not, in words."""
    if sampling is None or not is_approximation(sampling):
        return ()
    judged = "whether the search converged"
    missed = "how far the approximation is from the posterior, which a sampler would tell"
    if "k_hat" in known:
        judged += ", and how far the approximation is from the posterior, by Pareto k-hat"
        missed = "single quantities"
    return (
        "These are independent draws of an approximation "
        f"({sampling.info['approximation']}), not of a chain: R-hat and effective sample sizes do "
        f"not apply. Judged: {judged}. Not judged: {missed}.",
    )


def complaints_of_approximation(sampling: Sampling, known: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about what is wrong with an approximation.

    Args:
        sampling: How the fit went.
        known: From `statistics`.

    Yields:
        The sentences.
    """
    if not sampling.complete:
        yield "The search was interrupted before its end."
    elif sampling.info.get("converged") == "no":
        yield (
            "The search had not converged when it ended: see the fit's history, and allow for more "
            "steps."
        )
    k_hat = known.get("k_hat", 0.0)
    if not k_hat <= K_HAT:
        yield (
            f"The Pareto k-hat of the importance weights is {k_hat:.2f} (above {K_HAT}): the "
            "approximation misses parts of the posterior that matter, and its intervals are "
            "likely too narrow. Use a richer family (guide='multivariate'), integrate effects out "
            "(marginalize=), or use a sampler."
        )


def complaints(
    sampling: Sampling | None,
    known: Mapping[str, Any],
    rows: tuple[Mapping[str, Any], ...],
    num_chains: int,
    num_draws: int,
) -> Iterator[str]:
    """Sentences about what is wrong, each with what to do about it.

    Args:
        sampling: How the run went, or None.
        known: From `statistics`.
        rows: Rows of the table, with "name", "r_hat", "ess_bulk" and "ess_tail".
        num_chains: Number of chains.
        num_draws: Draws per chain.

    Yields:
        The sentences.
    """
    if sampling is not None and is_approximation(sampling):
        yield from complaints_of_approximation(sampling, known)
        return
    if sampling is not None and not sampling.complete:
        yield (
            f"The run was interrupted: there are {num_draws:,} draws per chain, fewer than were "
            "asked for."
        )
    divergent = known.get("num_divergent", 0)
    if divergent:
        yield (
            f"{divergent:,} of {num_chains * num_draws:,} transitions diverged: parts of the "
            "posterior were not reached, and estimates may be biased. Use smaller steps (a higher "
            "target acceptance rate), or another parametrization (centered=False)."
        )
    yield from _about_rows(rows, num_chains)
    low = np.asarray(known.get("e_bfmi", []))
    low = low[low < E_BFMI]
    if low.size:
        yield (
            f"E-BFMI is {low.min():.2f} in {low.size} of {num_chains} chains (below {E_BFMI}): "
            "the sampler moves slowly between regions of different density, so tails are "
            "explored poorly. Warm up for longer, or use another parametrization."
        )
    k_hat = known.get("k_hat", 0.0)
    if not k_hat <= K_HAT:
        yield (
            f"The Pareto k-hat of the importance weights is {k_hat:.2f} (above {K_HAT}): few draws "
            "carry most of the weight, and estimates are unreliable. Use a sampler such as "
            "sample_nuts."
        )


def _about_rows(rows: tuple[Mapping[str, Any], ...], num_chains: int) -> Iterator[str]:
    mixed = [row for row in rows if not row["r_hat"] <= R_HAT]
    if mixed:
        worst = max(mixed, key=lambda row: np.nan_to_num(row["r_hat"], nan=np.inf))
        yield (
            f"R-hat is {worst['r_hat']:.3f} for {worst['name']} (above {R_HAT} in {len(mixed)} of "
            f"{len(rows)} rows): the chains disagree. Run them for longer."
        )
    least = ESS_PER_CHAIN * num_chains
    few = [row for row in rows if not min(row["ess_bulk"], row["ess_tail"]) >= least]
    if few:
        worst = min(few, key=lambda row: np.nan_to_num(min(row["ess_bulk"], row["ess_tail"])))
        which = "bulk" if worst["ess_bulk"] <= worst["ess_tail"] else "tail"
        yield (
            f"The {which} effective sample size is {worst[f'ess_{which}']:,.0f} for "
            f"{worst['name']} (below {ESS_PER_CHAIN} per chain in {len(few)} of {len(rows)} "
            "rows): means and intervals are imprecise. Draw more."
        )

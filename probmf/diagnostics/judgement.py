"""Faults of a run, in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from probmf.results import Sampling
from probmf.results.measures import energy_fractions

#: Limits of Vehtari et al. (2021), which Stan warns at, too, Betancourt (2016) and Vehtari et al.
#: (2024, Pareto k).
R_HAT, ESS_PER_CHAIN, E_BFMI, K_HAT = 1.01, 100, 0.3, 0.7
#: What makes chains longer.
_LONGER = "raise num_warmup and num_samples, or num_sweeps of probmf.fit"
#: NumPyro's default.
MAX_TREE_DEPTH = 10


class DiagnosticWarning(UserWarning):
    """Warning that draws should not be relied upon as they are."""


class FallbackWarning(UserWarning):
    """Warning that NUTS took the place of importance sampling, and why."""


class Complaint(NamedTuple):
    """Something that is wrong, in a few words and in a sentence that says what to do about it."""

    short: str
    sentence: str


def statistics(sampling: Sampling | None) -> dict[str, Any]:
    """Faults that a sampler's statistics show for the whole run.

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


def remarks(sampling: Sampling | None, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Of independent draws: what was judged and what was not, in words."""
    if sampling is None or not sampling.is_independent:
        return ()
    if "approximation" not in sampling.info:
        return (
            "These are independent draws by importance sampling, not of a chain: R-hat does not "
            "apply, and the effective sample size is that of the weights. Judged: the Pareto k-hat "
            "of the weights, and their effective number.",
        )
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


def complaints(
    sampling: Sampling | None,
    known: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    num_chains: int,
    num_draws: int,
) -> Iterator[Complaint]:
    """Complaints about a run, each with its remedy, from `statistics` and a table's rows."""
    if sampling is not None and "approximation" in sampling.info:
        yield from _about_approximation(sampling, known)
        return
    if sampling is not None and not sampling.complete:
        yield Complaint(
            "interrupted",
            f"The run was interrupted: there are {num_draws:,} draws per chain, fewer than were "
            "asked for.",
        )
    divergent = known.get("num_divergent", 0)
    if divergent:
        transitions = num_chains * num_draws
        if sampling is not None:
            transitions *= int(sampling.info.get("thin", 1))
        yield Complaint(
            f"{divergent:,} divergent",
            f"{divergent:,} of {transitions:,} transitions diverged: parts of the "
            "posterior were not reached, and estimates may be biased. Use smaller steps (a higher "
            "target acceptance rate), or another parametrization (centered=False).",
        )
    if sampling is None or not sampling.is_independent:
        yield from _about_rows(rows, num_chains)
    low = np.asarray(known.get("e_bfmi", []))
    low = low[low < E_BFMI]
    if low.size:
        yield Complaint(
            f"E-BFMI {low.min():.2f}",
            f"E-BFMI is {low.min():.2f} in {low.size} of {num_chains} chains (below {E_BFMI}): "
            "the sampler moves slowly between regions of different density, so tails are "
            "explored poorly. Warm up for longer, or use another parametrization.",
        )
    if sampling is not None and "effective" in sampling.info:
        effective = float(sampling.info["effective"])
        if not effective >= ESS_PER_CHAIN:
            yield Complaint(
                f"{effective:,.0f} effective",
                f"The importance weights are worth {effective:,.0f} draws (below {ESS_PER_CHAIN}): "
                "means and intervals are imprecise. Raise num_samples and max_densities.",
            )
    yield from _about_weights(
        known, "few draws carry most of the weight, and estimates are unreliable. Use a sampler "
        "such as sample_nuts.",
    )  # fmt: skip


def _about_weights(known: Mapping[str, Any], told: str) -> Iterator[Complaint]:
    k_hat = known.get("k_hat", 0.0)
    if not k_hat <= K_HAT:
        yield Complaint(
            f"k-hat {k_hat:.2f}",
            f"The Pareto k-hat of the importance weights is {k_hat:.2f} (above {K_HAT}): {told}",
        )


def _about_approximation(sampling: Sampling, known: Mapping[str, Any]) -> Iterator[Complaint]:
    if not sampling.complete:
        yield Complaint("interrupted", "The search was interrupted before its end.")
    elif sampling.info.get("converged") == "no":
        yield Complaint(
            "not converged",
            "The search had not converged when it ended: see the fit's history, and allow for more "
            "steps.",
        )
    yield from _about_weights(
        known,
        "the approximation misses parts of the posterior that matter, and its intervals are "
        "likely too narrow. Use a richer family (guide='multivariate'), integrate effects out "
        "(marginalize=), or use a sampler.",
    )


def _about_rows(rows: Sequence[Mapping[str, Any]], num_chains: int) -> Iterator[Complaint]:
    mixed = [row for row in rows if row["r_hat"] is not None and not row["r_hat"] <= R_HAT]
    if mixed:
        worst = max(mixed, key=lambda row: np.nan_to_num(row["r_hat"], nan=np.inf))
        yield Complaint(
            f"R-hat {worst['r_hat']:.2f}",
            f"R-hat is {worst['r_hat']:.3f} for {worst['name']!r} (above {R_HAT} in "
            f"{len(mixed)} of {len(rows)} quantities): the chains disagree. "
            f"Run them for longer: {_LONGER}.",
        )
    least = ESS_PER_CHAIN * num_chains
    few = [row for row in rows if row["ess_bulk"] is not None and not _least(row) >= least]
    if few:
        worst = min(few, key=lambda row: np.nan_to_num(_least(row)))
        which = "bulk" if worst["ess_bulk"] <= worst["ess_tail"] else "tail"
        yield Complaint(
            f"{worst[f'ess_{which}']:,.0f} effective",
            f"The {which} effective sample size is {worst[f'ess_{which}']:,.0f} for "
            f"{worst['name']!r} (below {ESS_PER_CHAIN} per chain in {len(few)} of {len(rows)} "
            f"quantities): means and intervals are imprecise. Draw more: {_LONGER}.",
        )


def _least(row: Mapping[str, Any]) -> float:
    return min(row["ess_bulk"], row["ess_tail"])

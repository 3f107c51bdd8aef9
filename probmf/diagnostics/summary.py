"""One table that says whether a fit's draws can be relied upon."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from probmf import html
from probmf.data import as_generator
from probmf.data.rating_summary import headline_count
from probmf.diagnostics.judgement import complaints, remarks, statistics
from probmf.diagnostics.quantities import AnyFit, Quantity, check_fit, chosen, of_fit
from probmf.results.measures import (
    Measures,
    fewest_draws,
    independent_errors,
    measure,
    most_suspect,
    varying,
)
from probmf.results.records import Sampling
from probmf.results.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """Findings of `summary`.

    Attributes:
        table: A row per quantity: "name", "count" (how many numbers it stands for), "mean" and
            "sd" (None if there are several), "mcse", "ess_bulk", "ess_tail", "r_hat" (the
            worst of them). Of independent draws "r_hat" is None; of those of an approximation the
            effective sizes are, too.
        statistics: "num_divergent", "share_saturated", "e_bfmi", "k_hat", "elbo", "log_evidence",
            where they are known.
        warnings: What is wrong, a sentence or two each; empty if nothing is.
        remarks: What was and was not judged, where that depends on the fit.
    """

    table: Table
    statistics: Mapping[str, Any]
    warnings: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.warnings

    def _sentences(self) -> list[str]:
        """Statistics, remarks and warnings, below the table."""
        told = []
        for name, value in self.statistics.items():
            number = float(np.min(value))
            told.append(f"{name} {number:,.3g}{' (least)' if np.size(value) > 1 else ''}")
        return [*([", ".join(told)] if told else []), *self.remarks,
                *(self.warnings or ("No warnings.",))]  # fmt: skip

    def __repr__(self) -> str:
        """The table, the statistics, and the warnings."""
        return "\n".join([repr(self.table), *self._sentences()])

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return html.together(self.table._repr_html_(), html.lines(self._sentences()))


def summary(
    fit: AnyFit,
    *,
    var_names: Collection[str] | None = None,
    probes: int = 200,
    key: ArrayLike = 0,
) -> Diagnosis:
    """Measure convergence of what the data identify.

    For factorizations these are predictions of probe pairs, the singular values of U V', biases,
    scales and the intercept; never single factors, which may be rotated at will. For mixed models
    they are all parameters and the effects of groups, for networks scores of training rows, scales
    and, without hidden units, the weights. Numbers that come in large groups
    (predictions, biases, effects) are told of by their worst.

    Independent draws are no chain. Of those of an approximation (`fit_variational`, `fit_svi`,
    `fit_laplace`) the search is judged, and the approximation by its k-hat where it is known; of
    those by importance sampling (`sample_marginal`) k-hat and the effective number of the weights.

    Samplers judge some of these quantities themselves when they end, and warn; this measures all,
    and says what is wrong in the table that it returns.

    Args:
        fit: A fit of many draws.
        var_names: Names of sites, or "prediction" and "singular_value", to look at only.
        probes: How many pairs to predict, and of how many biases and effects to compute the
            measures; of effects those that look worst by a quick measure.
        key: Chooses the pairs. Always the same ones by default, so that two calls agree.

    Returns:
        The table, and in `warnings` what is wrong: divergences, R-hat above 1.01, effective sample
        sizes below 100 per chain, E-BFMI below 0.3, a Pareto k-hat above 0.7, an interrupted run.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it has fewer than four draws per chain (eight of a single one), a name is
            unknown, or `probes` is less than one.

    Example:
        >>> import numpy as np
        >>> from probmf import MatrixFactorization, Ratings
        >>> from probmf.results import RatingsFit
        >>> table = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> rng = np.random.default_rng(0)
        >>> draws = {"intercept": rng.normal(4, 1, (4, 500)),
        ...          "user_bias": rng.normal(0, 1, (4, 500, 2))}
        >>> model = MatrixFactorization(0, item_bias=False, intercept="learned")
        >>> fit = RatingsFit(model, Ratings.from_frame(table), draws, "by hand")
        >>> summary(fit, var_names=["intercept"]).ok
        True

    Cost: some ten milliseconds for each of the numbers measured, at 4,000 draws.
    """
    check_fit(fit)
    if probes < 1:
        raise ValueError(f"probes is {probes}; expected at least 1.")
    independent = fit.sampling is not None and fit.sampling.is_independent
    least = 2 if independent else fewest_draws(fit.num_chains)
    if fit.num_draws < least:
        raise ValueError(
            f"The fit has {headline_count(fit.num_chains, 'chain')} of "
            f"{headline_count(fit.num_draws, 'draw')}; whether draws have "
            f"converged can't be told from fewer than {least} per chain. A point fit has "
            "nothing to diagnose: see its history."
        )
    rng = as_generator(key)
    measured = list(of_fit(fit, probes, rng))
    names = chosen([quantity.name for quantity in measured], var_names)
    measured = [quantity for quantity in measured if quantity.name in names]
    if fit.sampling is not None and independent:
        table = Table(tuple(_plain_rows(measured, fit.sampling)))
    else:
        table = Table(tuple(measured_rows(measured, probes)))
    known = statistics(fit.sampling)
    wrong = complaints(fit.sampling, known, table.rows, fit.num_chains, fit.num_draws)
    told = tuple(complaint.sentence for complaint in wrong)
    return Diagnosis(table, known, told, remarks(fit.sampling, known))


def _row(quantity: Quantity, count: int, mean: Any, sd: Any) -> dict[str, Any]:
    known = (
        {"mean": None, "sd": None} if quantity.grouped else {"mean": float(mean), "sd": float(sd)}
    )
    return {"name": quantity.name, "count": count, **known}


def _plain_rows(quantities: list[Quantity], sampling: Sampling) -> list[dict[str, Any]]:
    """Rows of the table of independent draws, whose Monte Carlo error is known."""
    rows = []
    for quantity in quantities:
        draws = varying(np.asarray(quantity.draws)).astype(np.float64)
        if not draws.shape[2]:
            continue
        flat = draws.reshape(-1, draws.shape[2])
        effective = sampling.num_effective(len(flat))
        size = None if "approximation" in sampling.info else effective
        rows.append(
            _row(quantity, draws.shape[2], flat[:, 0].mean(), flat[:, 0].std())
            | {"mcse": float(independent_errors(draws, effective)[0].max())}
            | {"ess_bulk": size, "ess_tail": size, "r_hat": None}
        )
    return rows


def measured_rows(quantities: list[Quantity], probes: int) -> list[dict[str, Any]]:
    """Rows of the table of chains, of `probes` numbers of each quantity that varies."""
    kept, arrays = [], []
    for quantity in quantities:
        draws = varying(np.asarray(quantity.draws))
        if draws.shape[2]:
            kept.append((quantity, draws.shape[2]))
            arrays.append(most_suspect(draws, probes))
    if not arrays:
        return []
    rows = []
    for (quantity, count), own in zip(kept, _measure_all(arrays), strict=True):
        least = {"ess_bulk": float(own.ess_bulk.min()), "ess_tail": float(own.ess_tail.min())}
        rows.append(
            _row(quantity, count, own.mean[0], own.sd[0])
            | {"mcse": float(own.mcse.max()), **least, "r_hat": float(own.r_hat.max())}
        )
    return rows


def _measure_all(arrays: list[np.ndarray]) -> list[Measures]:
    """Measures of every array, those with the same number of draws at once."""
    found: dict[int, Measures] = {}
    for length in {array.shape[1] for array in arrays}:
        places = [place for place, array in enumerate(arrays) if array.shape[1] == length]
        measures = measure(np.concatenate([arrays[place] for place in places], axis=2))
        ends = np.cumsum([arrays[place].shape[2] for place in places])
        for place, end in zip(places, ends, strict=True):
            start = end - arrays[place].shape[2]
            found[place] = Measures(*(values[start:end] for values in measures))
    return [found[place] for place in range(len(arrays))]

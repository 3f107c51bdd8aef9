"""End of a run: what the data left open and the judgement of the draws, in one warning."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from probmf.diagnostics.judgement import Complaint, DiagnosticWarning, complaints, statistics
from probmf.diagnostics.quantities import AnyFit, Quantity, of_fit
from probmf.diagnostics.summary import measured_rows
from probmf.inference.mixed.identifiability import confounded_variances
from probmf.results import MixedFit
from probmf.results.measures import fewest_draws, is_varying, suspects
from probmf.run.driver import FitWarning
from probmf.settings import own_settings

#: Probe pairs or rows, and effects of each group term, that are looked at.
PROBES = 20
#: Numbers that are measured: those that look worst by a quick measure.
MEASURED = 12
#: How every warning of this kind begins.
OPENING = "The draws should not be relied upon as they are."


def judged[F: AnyFit](fit: F) -> tuple[F, tuple[str, ...]]:
    """The fit with its verdict in `sampling.info`, and what is wrong with its draws, in sentences.

    There are sentences after divergences, R-hat above 1.01, an effective sample size below 100 per
    chain, E-BFMI below 0.3, k-hat above 0.7, or too few draws to tell; none of a point fit, and
    none of an interrupted run, which has been told of already. Takes some tens of milliseconds for
    4,000 draws, besides the predictions of the probes.
    """
    sampling = fit.sampling
    if sampling is None:
        return fit, ()
    known = statistics(sampling)
    rows: list[dict[str, Any]] = []
    found: list[Complaint] = []
    if not sampling.is_independent:
        with own_settings():
            quantities = list(of_fit(fit, PROBES, np.random.default_rng(0), quick=True))
        rows = list(_worst(quantities, _is_thinned(fit), fit.num_draws))
        least = fewest_draws(fit.num_chains)
        if fit.num_draws < least and not rows:
            found.append(_too_short(fit.num_chains, fit.num_draws, least))
    found += complaints(
        replace(sampling, complete=True), known, rows, fit.num_chains, fit.num_draws
    )
    verdict = ", ".join(complaint.short for complaint in found) or _approval(known, sampling.info)
    info = dict(sampling.info) | ({"verdict": verdict} if verdict else {})
    sentences: tuple[str, ...] = ()
    if found and sampling.complete:
        sentences = (OPENING, *(complaint.sentence for complaint in found))
    return replace(fit, sampling=replace(sampling, info=info)), sentences


def _approval(known: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Verdict where nothing is wrong; empty for an approximation that nobody has compared."""
    if "k_hat" in known:
        return f"k-hat {known['k_hat']:.2f}"
    return "" if "approximation" in info else "diagnostics ok"


def _is_thinned(fit: AnyFit) -> bool:
    return fit.sampling is not None and int(fit.sampling.info.get("thin", 1)) > 1


def _too_short(num_chains: int, num_draws: int, least: int) -> Complaint:
    chains = "The only chain" if num_chains == 1 else "Each chain"
    return Complaint(
        "too short to judge",
        f"{chains} has {num_draws} draws, and whether draws have converged can't be told from "
        f"fewer than {least}. Draw more.",
    )


def _worst(quantities: list[Quantity], thinned: bool, num_draws: int) -> Iterator[dict[str, Any]]:
    """Measures of the numbers that look worst.

    Of a run that keeps some of its draws only, those kept tell nothing of the effective number.
    """
    for length in sorted({quantity.draws.shape[1] for quantity in quantities}):
        some = [quantity for quantity in quantities if quantity.draws.shape[1] == length]
        if length < fewest_draws(len(some[0].draws)):
            continue
        columns = np.concatenate([np.asarray(quantity.draws) for quantity in some], axis=2)
        names = [quantity.name for quantity in some for _ in range(quantity.draws.shape[2])]
        places = np.flatnonzero(is_varying(columns))
        if len(places) > MEASURED:
            places = places[suspects(columns[:, :, places].astype(np.float64), MEASURED)]
        chosen = [Quantity(names[place], columns[:, :, [place]], False) for place in places]
        for row in measured_rows(chosen, 1):
            if thinned and length == num_draws:
                row |= {"ess_bulk": None, "ess_tail": None}
            yield row


#: Warnings are about the line that called the package.
PACKAGE = str(Path(__file__).parents[1])


def concluded[F: AnyFit](fit: F, trouble: str = "", *, lost_digits: str = "") -> F:
    """The fit with its verdict and notes, after one warning if something is wrong.

    `trouble` says how the search ended, if not as it should: draws from there are not judged aloud.
    `lost_digits` says what rounding left too little of. Variances of a mixed model that the rows do
    not tell apart are in the fit's notes.

    Warns:
        FitWarning: If the rows do not tell variances apart, digits were lost, or there is trouble.
        DiagnosticWarning: Otherwise, if the draws should not be relied upon.
    """
    findings = confounded_variances(fit.design, prior=True) if isinstance(fit, MixedFit) else []
    notes = [text for text in (*(one.text for one in findings), lost_digits, trouble) if text]
    fit, complaints = judged(_noted(fit, notes))
    sentences = [*notes, *(() if trouble else complaints)]
    if sentences:
        category = FitWarning if notes else DiagnosticWarning
        warnings.warn(" ".join(sentences), category, skip_file_prefixes=(PACKAGE,))
    return fit


def _noted[F: AnyFit](fit: F, notes: Sequence[str]) -> F:
    """The fit with sentences in its search's history, or in the record of its sampler."""
    if not notes:
        return fit
    if fit.history is not None:
        history = replace(fit.history, notes=(*fit.history.notes, *notes))
        return replace(fit, history=history)
    if fit.sampling is None:
        return fit
    info = {**fit.sampling.info, "note": " ".join(notes)}
    return replace(fit, sampling=replace(fit.sampling, info=info))

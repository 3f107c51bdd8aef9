"""End of a run: what the data left open and the judgement of the draws, in one warning."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.diagnostics.quantities import AnyFit
from probmf.diagnostics.verdict import judged
from probmf.inference.mixed.identifiability import confounded_variances
from probmf.results import MixedFit
from probmf.run.driver import FitWarning

#: Warnings are about the line that called the package.
PACKAGE = str(Path(__file__).parents[1])


class FallbackWarning(UserWarning):
    """Warning that NUTS took the place of importance sampling, and why."""


def concluded[F: AnyFit](fit: F, trouble: str = "", *, lost_digits: str = "") -> F:
    """The fit with its verdict and notes, after one warning if something is wrong.

    Args:
        fit: A sampler's, or an approximation's.
        trouble: How the search ended, if not as it should: draws from there are not judged aloud.
        lost_digits: What rounding left too little of, if anything.

    Returns:
        The fit. Variances of a mixed model that the rows do not tell apart are in its notes.

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

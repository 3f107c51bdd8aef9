"""Reliability of draws, alignment of the factors of all draws, and what a run has cost."""

from probmf.diagnostics.alignment import align
from probmf.diagnostics.judgement import DiagnosticWarning, FallbackWarning
from probmf.diagnostics.summary import Diagnosis, summary
from probmf.memory import resources
from probmf.run.driver import FitWarning

__all__ = [
    "Diagnosis",
    "DiagnosticWarning",
    "FallbackWarning",
    "FitWarning",
    "align",
    "resources",
    "summary",
]

"""Reliability of draws, and alignment of the factors of all draws."""

from probmf.diagnostics.alignment import align
from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.diagnostics.summary import Diagnosis, summary

__all__ = ["Diagnosis", "DiagnosticWarning", "align", "summary"]

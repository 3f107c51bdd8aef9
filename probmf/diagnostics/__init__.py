"""Reliability of draws, alignment of the factors of all draws, and what a run has cost."""

from probmf.diagnostics.alignment import align
from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.diagnostics.resources import resources
from probmf.diagnostics.summary import Diagnosis, summary

__all__ = ["Diagnosis", "DiagnosticWarning", "align", "resources", "summary"]

"""Whether draws can be relied upon, and factors of all draws turned alike."""

from probmf.diagnostics.alignment import align
from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.diagnostics.summary import Diagnosis, summary

__all__ = ["Diagnosis", "DiagnosticWarning", "align", "summary"]

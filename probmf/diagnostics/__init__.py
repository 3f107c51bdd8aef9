"""Whether draws can be relied upon: convergence, effective sample sizes, warnings in words."""

from probmf.diagnostics.judgement import DiagnosticWarning
from probmf.diagnostics.summary import Diagnosis, summary

__all__ = ["Diagnosis", "DiagnosticWarning", "summary"]

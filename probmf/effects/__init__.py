"""Gaussian effects of crossed and nested groups: exact evidence, its gradient, joint draws."""

from probmf.effects.evidence_and_draws import block_covariance, draw_effects, log_evidence
from probmf.effects.pattern import Grouping, Pattern, RemainderTooLargeError, make_pattern
from probmf.effects.standard import Standard, standardize
from probmf.effects.statistics import (
    Statistics,
    collect_statistics,
    collect_targets,
    compress,
    sum_on_host,
)

__all__ = [
    "Grouping",
    "Pattern",
    "RemainderTooLargeError",
    "Standard",
    "Statistics",
    "block_covariance",
    "collect_statistics",
    "collect_targets",
    "compress",
    "draw_effects",
    "log_evidence",
    "make_pattern",
    "standardize",
    "sum_on_host",
]

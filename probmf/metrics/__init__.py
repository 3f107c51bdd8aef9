"""Metrics of predictions: errors, scores of probabilities, and rankings."""

from probmf.metrics.pointwise import (
    auc,
    brier,
    coverage,
    level_log_score,
    log_loss,
    log_score,
    mae,
    rmse,
)
from probmf.metrics.ranking import (
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

__all__ = [
    "auc",
    "brier",
    "coverage",
    "hit_rate_at_k",
    "level_log_score",
    "log_loss",
    "log_score",
    "mae",
    "mrr_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "rmse",
]

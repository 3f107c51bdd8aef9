"""Metrics of predictions: errors, scores of probabilities, and rankings."""

from probmf.metrics.bootstrap import bootstrap
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
    catalog_coverage,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty,
    precision_at_k,
    recall_at_k,
)

__all__ = [
    "auc",
    "bootstrap",
    "brier",
    "catalog_coverage",
    "coverage",
    "hit_rate_at_k",
    "level_log_score",
    "log_loss",
    "log_score",
    "mae",
    "map_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "novelty",
    "precision_at_k",
    "recall_at_k",
    "rmse",
]

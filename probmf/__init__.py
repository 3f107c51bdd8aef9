"""Probabilistic matrix factorization and linear mixed-effects models on JAX."""

from probmf import metrics
from probmf.data import Ratings, Vocabulary
from probmf.inference.als import fit_als
from probmf.inference.map import fit_map
from probmf.inference.marginal import MarginalModel, marginalize
from probmf.models import Bernoulli, Gaussian, MatrixFactorization, MixedEffects
from probmf.results import Fit, History, Predictions, Recommendations

__version__ = "0.1.0"

__all__ = [
    "Bernoulli",
    "Fit",
    "Gaussian",
    "History",
    "MarginalModel",
    "MatrixFactorization",
    "MixedEffects",
    "Predictions",
    "Ratings",
    "Recommendations",
    "Vocabulary",
    "fit_als",
    "fit_map",
    "marginalize",
    "metrics",
]

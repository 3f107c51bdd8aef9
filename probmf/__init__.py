"""Probabilistic matrix factorization and linear mixed-effects models on JAX."""

from probmf import metrics
from probmf.data import Ratings, Vocabulary
from probmf.inference.als import fit_als
from probmf.inference.map import fit_map
from probmf.models import Bernoulli, Gaussian, MatrixFactorization
from probmf.results import Fit, History, Predictions, Recommendations

__version__ = "0.1.0"

__all__ = [
    "Bernoulli",
    "Fit",
    "Gaussian",
    "History",
    "MatrixFactorization",
    "Predictions",
    "Ratings",
    "Recommendations",
    "Vocabulary",
    "fit_als",
    "fit_map",
    "metrics",
]

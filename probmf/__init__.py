"""Probabilistic matrix factorization and linear mixed-effects models on JAX."""

from probmf import _numpyro, diagnostics, metrics  # noqa: F401  # _numpyro first of all
from probmf.data import Examples, Features, Ratings, Vocabulary, confidence_weights
from probmf.diagnostics import DiagnosticWarning
from probmf.inference.als import fit_als
from probmf.inference.gibbs import sample_gibbs
from probmf.inference.laplace import fit_laplace
from probmf.inference.map import fit_map
from probmf.inference.marginal import MarginalModel, marginalize
from probmf.inference.marginal_likelihood import fit_marginal
from probmf.inference.marginal_sampling import sample_marginal
from probmf.inference.nuts import sample_nuts
from probmf.inference.svi import fit_svi
from probmf.inference.variational import fit_variational
from probmf.models import (
    MLP,
    Bernoulli,
    Categorical,
    CategoricalFactorization,
    Gaussian,
    Linear,
    MatrixFactorization,
    MixedEffects,
    Network,
    NeuralFactorization,
    NormalWishart,
    Ordinal,
)
from probmf.results import (
    CategoricalFit,
    ClassPredictions,
    Fit,
    History,
    MixedFit,
    NetworkFit,
    NetworkPredictions,
    NeuralFit,
    Predictions,
    Recommendations,
    Sampling,
)
from probmf.results.draw_store import open_draws

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Bernoulli",
    "Categorical",
    "CategoricalFactorization",
    "CategoricalFit",
    "ClassPredictions",
    "DiagnosticWarning",
    "Examples",
    "Features",
    "Fit",
    "Gaussian",
    "History",
    "Linear",
    "MarginalModel",
    "MatrixFactorization",
    "MixedEffects",
    "MixedFit",
    "Network",
    "NetworkFit",
    "NetworkPredictions",
    "NeuralFactorization",
    "NeuralFit",
    "NormalWishart",
    "Ordinal",
    "Predictions",
    "Ratings",
    "Recommendations",
    "Sampling",
    "Vocabulary",
    "confidence_weights",
    "diagnostics",
    "fit_als",
    "fit_laplace",
    "fit_map",
    "fit_marginal",
    "fit_svi",
    "fit_variational",
    "marginalize",
    "metrics",
    "open_draws",
    "sample_gibbs",
    "sample_marginal",
    "sample_nuts",
]

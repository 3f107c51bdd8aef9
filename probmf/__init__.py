"""Probabilistic matrix factorization and linear mixed-effects models on JAX."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

# isort: split
from probmf import diagnostics, metrics, results
from probmf.backend import use_backend
from probmf.data import Examples, Features, Ratings, Vocabulary, confidence_weights
from probmf.diagnostics import DiagnosticWarning
from probmf.inference.approximate.laplace import fit_laplace
from probmf.inference.approximate.svi import fit_svi
from probmf.inference.approximate.variational import fit_variational
from probmf.inference.gibbs.gibbs import sample_gibbs
from probmf.inference.marginal import marginalize
from probmf.inference.mixed.maximum_likelihood import fit_marginal
from probmf.inference.mixed.sampling import sample_marginal
from probmf.inference.nuts.nuts import sample_nuts
from probmf.inference.point.als import fit_als
from probmf.inference.point.map import fit_map
from probmf.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    Gamma,
    Gaussian,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from probmf.models import MLP, Linear, MatrixFactorization, MixedEffects, Network, NormalWishart
from probmf.results import load
from probmf.results.draw_store import open_draws

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiagnosticWarning",
    "Examples",
    "Features",
    "Gamma",
    "Gaussian",
    "Linear",
    "LogNormal",
    "MatrixFactorization",
    "MixedEffects",
    "NegativeBinomial",
    "Network",
    "NormalWishart",
    "Ordinal",
    "Poisson",
    "Ratings",
    "StudentT",
    "Vocabulary",
    "confidence_weights",
    "diagnostics",
    "fit_als",
    "fit_laplace",
    "fit_map",
    "fit_marginal",
    "fit_svi",
    "fit_variational",
    "load",
    "marginalize",
    "metrics",
    "open_draws",
    "results",
    "sample_gibbs",
    "sample_marginal",
    "sample_nuts",
    "use_backend",
]

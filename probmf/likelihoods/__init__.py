"""Likelihoods: distributions of a rating or response given its score."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

# isort: split
from probmf.likelihoods.base import BaseLikelihood, Likelihood
from probmf.likelihoods.bernoulli import Bernoulli
from probmf.likelihoods.beta import Beta
from probmf.likelihoods.binomial import Binomial
from probmf.likelihoods.categorical import Categorical
from probmf.likelihoods.counts import NegativeBinomial, Poisson
from probmf.likelihoods.gamma import Gamma
from probmf.likelihoods.gaussian import Gaussian, LogNormal
from probmf.likelihoods.ordinal import Ordinal
from probmf.likelihoods.student_t import StudentT
from probmf.likelihoods.zeros import (
    HurdleNegativeBinomial,
    HurdlePoisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

__all__ = [
    "BaseLikelihood",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Gamma",
    "Gaussian",
    "HurdleNegativeBinomial",
    "HurdlePoisson",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]

"""Likelihoods: distributions of a rating or response given its score."""

from probmf.likelihoods.base import BaseLikelihood, Likelihood
from probmf.likelihoods.bernoulli import Bernoulli
from probmf.likelihoods.categorical import Categorical
from probmf.likelihoods.counts import NegativeBinomial, Poisson
from probmf.likelihoods.gaussian import Gaussian, LogNormal
from probmf.likelihoods.ordinal import Ordinal

__all__ = [
    "BaseLikelihood",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
]

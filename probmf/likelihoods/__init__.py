"""Likelihoods: distributions of a rating or response given its score."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

# isort: split
from probmf.likelihoods.base import BaseLikelihood, Likelihood
from probmf.likelihoods.bernoulli import Bernoulli
from probmf.likelihoods.beta import Beta
from probmf.likelihoods.binomial import Binomial
from probmf.likelihoods.categorical import Categorical
from probmf.likelihoods.censored import Censored
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
    "KINDS",
    "LIKELIHOODS",
    "BaseLikelihood",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Censored",
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
    "read_likelihood",
]

#: All of them, which stored fits, formulas and the command line know by name; add a new one here.
KINDS: tuple[type[BaseLikelihood], ...] = (
    Gaussian, LogNormal, StudentT, Gamma, Beta, Bernoulli, Binomial, Ordinal, Poisson,
    NegativeBinomial, ZeroInflatedPoisson, ZeroInflatedNegativeBinomial, HurdlePoisson,
    HurdleNegativeBinomial, Censored, Categorical,
)  # fmt: skip
#: Those of a single score, by the names that `MixedEffects` and the command line take.
LIKELIHOODS: dict[str, type[Likelihood]] = {
    kind.__name__.lower(): kind
    for kind in KINDS
    if issubclass(kind, Likelihood) and kind is not Censored
}


def read_likelihood(given: object) -> Likelihood:
    """The likelihood by its name, or itself."""
    names = ", ".join(map(repr, LIKELIHOODS))
    if isinstance(given, str):
        if given not in LIKELIHOODS:
            raise ValueError(f"likelihood is {given!r}; expected one of {names}.")
        return LIKELIHOODS[given]()
    if not isinstance(given, Likelihood):
        raise TypeError(
            f"likelihood is {given!r}; expected one of {names}, or a likelihood such as "
            "Bernoulli('probit')."
        )
    return given

# Names of the package; each is imported when it is first used. `__init__.py` reads this file.
from . import diagnostics, metrics, results
from .data import Examples, Features, Ratings
from .inference.approximate.laplace import fit_laplace
from .inference.approximate.svi import fit_svi
from .inference.approximate.variational import fit_variational
from .inference.default_fit import fit
from .inference.gibbs.gibbs import sample_gibbs
from .inference.marginal import marginalize
from .inference.mixed.maximum_likelihood import fit_marginal
from .inference.mixed.sampling import sample_marginal
from .inference.nuts.nuts import sample_nuts
from .inference.point.als import fit_als
from .inference.point.map import fit_map
from .likelihoods import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Gamma,
    Gaussian,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from .models import MLP, Linear, MatrixFactorization, MixedEffects, Network, NormalWishart
from .results import load

__version__: str

__all__ = [
    "MLP",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
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
    "diagnostics",
    "fit",
    "fit_als",
    "fit_laplace",
    "fit_map",
    "fit_marginal",
    "fit_svi",
    "fit_variational",
    "load",
    "marginalize",
    "metrics",
    "results",
    "sample_gibbs",
    "sample_marginal",
    "sample_nuts",
]

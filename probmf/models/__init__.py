"""Models: NumPyro models with what the inference algorithms need to know about them."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

# isort: split
from probmf.models.factorization import MatrixFactorization
from probmf.models.layers import MLP, Linear
from probmf.models.mixed import MixedData, MixedEffects
from probmf.models.network import Network, NetworkData
from probmf.models.normal_wishart import NormalWishart
from probmf.models.observations import Observations

__all__ = [
    "MLP",
    "Linear",
    "MatrixFactorization",
    "MixedData",
    "MixedEffects",
    "Network",
    "NetworkData",
    "NormalWishart",
    "Observations",
]

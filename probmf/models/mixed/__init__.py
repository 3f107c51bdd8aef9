"""Linear mixed-effects models: formula, design, priors and NumPyro model."""

from probmf.models.mixed.arrays import GroupTerm, MixedData, Predictor
from probmf.models.mixed.design import Design, Encoded, EncodedTerm
from probmf.models.mixed.model import MixedEffects
from probmf.models.mixed.tokens import FormulaError

__all__ = [
    "Design",
    "Encoded",
    "EncodedTerm",
    "FormulaError",
    "GroupTerm",
    "MixedData",
    "MixedEffects",
    "Predictor",
]

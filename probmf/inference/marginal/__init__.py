"""Integrating Gaussian effects out of NumPyro models, and drawing them back."""

from probmf.inference.marginal.marginal_model import MarginalModel, marginalize

__all__ = ["MarginalModel", "marginalize"]

"""Integrating Gaussian effects out of NumPyro models, and drawing them back."""

from probmf.inference.marginal.transform import MarginalModel, marginalize

__all__ = ["MarginalModel", "marginalize"]

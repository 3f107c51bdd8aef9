"""Inference: from a model and data to a fit."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

"""Inference: from a model and data to a fit."""

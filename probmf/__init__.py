"""Probabilistic matrix factorization and mixed-effects models on JAX and NumPyro."""

__version__ = "0.1.0"

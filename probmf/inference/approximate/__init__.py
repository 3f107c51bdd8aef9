"""Variational inference and Laplace's approximation."""

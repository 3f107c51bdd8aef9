"""Runs of every algorithm: the loop, checkpoints, streams of draws, threads, compiled programs."""

from probmf import numpyro_setup  # noqa: F401  # Before anything that imports NumPyro.

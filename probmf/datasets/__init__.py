"""Data to try things on: simulated ratings with known truth, and MovieLens from its own files."""

from probmf.datasets.movielens import load_movielens
from probmf.datasets.simulation import Simulation, simulate_catalogue, simulate_ratings

__all__ = ["Simulation", "load_movielens", "simulate_catalogue", "simulate_ratings"]

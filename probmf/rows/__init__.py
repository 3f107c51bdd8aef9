"""Conditionals of rows given the other side: layout of the ratings, formulae, sweeps."""

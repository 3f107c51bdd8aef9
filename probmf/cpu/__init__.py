"""The row conditional on a CPU, for losses that are quadratic in the score."""

from probmf.cpu.arrays import Given, Present
from probmf.cpu.share import RowLists, list_rows, solve_side

__all__ = ["Given", "Present", "RowLists", "list_rows", "solve_side"]

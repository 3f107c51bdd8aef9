"""The row conditional on a CPU, for losses that are quadratic in the score."""

from probmf.rows.cpu.exchange import solve_lists
from probmf.rows.cpu.share import RowLists

__all__ = ["RowLists", "solve_lists"]

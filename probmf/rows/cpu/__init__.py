"""The row conditional on a CPU, for losses that are quadratic in the score."""

from probmf.rows.cpu.exchange import solve_lists
from probmf.rows.cpu.share import RowLists, list_rows

__all__ = ["RowLists", "list_rows", "solve_lists"]

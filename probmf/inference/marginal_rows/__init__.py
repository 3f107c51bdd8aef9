"""A Gaussian factorization with one side's rows integrated out by hand-written derivatives."""

from probmf.inference.marginal_rows.model import RowsMarginal, rows_marginal
from probmf.inference.marginal_rows.start import Start, find_start

__all__ = ["RowsMarginal", "Start", "find_start", "rows_marginal"]

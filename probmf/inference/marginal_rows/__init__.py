"""A Gaussian factorization with one side's rows integrated out by hand-written derivatives."""

from probmf.inference.marginal_rows.integrated_rows import RowsMarginal, rows_marginal
from probmf.inference.marginal_rows.start import Start, find_start
from probmf.inference.marginal_rows.stretch import Stretched

__all__ = ["RowsMarginal", "Start", "Stretched", "find_start", "rows_marginal"]

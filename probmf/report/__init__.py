"""Report of a fit: one HTML file with pictures and tables, to read without Python."""

from probmf.report.write import write_report

__all__ = ["write_report"]

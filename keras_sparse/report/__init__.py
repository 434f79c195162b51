"""Statistics of a masked model, and the comparison of two masked models."""

from keras_sparse.report.comparison import Comparison, compare
from keras_sparse.report.report import Report, report

__all__ = ["Comparison", "Report", "compare", "report"]

"""What sparse models are made of, and how two of them differ."""

from keras_sparse.report.comparison import Comparison, compare
from keras_sparse.report.report import Report, report

__all__ = ["Comparison", "Report", "compare", "report"]

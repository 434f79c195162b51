"""Saving, shrinking and exporting a trained sparse model."""

from keras_sparse.export.deployment_report import deployment_report
from keras_sparse.export.export_model import export
from keras_sparse.export.run_exported import load_litert
from keras_sparse.export.saving import save_model
from keras_sparse.export.shrink import shrink

__all__ = ["deployment_report", "export", "load_litert", "save_model", "shrink"]

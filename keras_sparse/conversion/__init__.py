"""Converts dense models to masked models, and back."""

from keras_sparse.conversion.densify import densify
from keras_sparse.conversion.sparsify import sparsify

__all__ = ["densify", "sparsify"]

"""Between dense and masked models."""

from keras_sparse.conversion.densify import densify
from keras_sparse.conversion.sparsify import sparsify

__all__ = ["densify", "sparsify"]

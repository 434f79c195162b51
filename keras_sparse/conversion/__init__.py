"""Between dense and masked models."""

from keras_sparse.conversion.sparsify import densify, sparsify

__all__ = ["densify", "sparsify"]

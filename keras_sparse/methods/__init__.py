"""Sparse training methods, a file a paper."""

from keras_sparse.methods.base import SparseMethod
from keras_sparse.methods.dynamic_sparse import DynamicSparse
from keras_sparse.methods.static import Static

__all__ = ["DynamicSparse", "SparseMethod", "Static"]

"""Sparse training methods, one file for each paper."""

from keras_sparse.methods.deepr import DeepR
from keras_sparse.methods.dynamic_sparse import DynamicSparse
from keras_sparse.methods.gradual_pruning import GradualPruning
from keras_sparse.methods.rigl import RigL
from keras_sparse.methods.set import SET
from keras_sparse.methods.static import Static

__all__ = ["SET", "DeepR", "DynamicSparse", "GradualPruning", "RigL", "Static"]

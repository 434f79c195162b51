"""Callbacks of Keras adapted to sparse training."""

from keras_sparse.callbacks.backup_and_restore import BackupAndRestore
from keras_sparse.callbacks.early_stopping import EarlyStopping
from keras_sparse.callbacks.model_checkpoint import ModelCheckpoint
from keras_sparse.callbacks.sparsity_tensorboard import SparsityTensorBoard

__all__ = ["BackupAndRestore", "EarlyStopping", "ModelCheckpoint", "SparsityTensorBoard"]

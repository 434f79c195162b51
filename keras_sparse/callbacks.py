"""Keras's callbacks that look for a best epoch, made to wait until the network is as sparse as it shall be.

While a network is pruned its best epochs are early ones, in which it is not sparse yet.
"""

import math

import keras
import numpy as np

from keras_sparse.conversion import masked_layers
from keras_sparse.layers import check_sparsity


class _FromSparsity:
    """Mixin that keeps a callback out of epochs that end with a network less sparse than `from_sparsity`."""

    def __init__(self, *args, from_sparsity, **kwargs):
        check_sparsity(from_sparsity, "from_sparsity")
        super().__init__(*args, **kwargs)
        self.from_sparsity = from_sparsity
        self._reached = False

    def on_train_begin(self, logs=None):
        """Looks how sparse the network is."""
        super().on_train_begin(logs)
        self._reached = is_as_sparse(self.model, self.from_sparsity)

    def on_train_batch_end(self, batch, logs=None):
        """Keras's, once the network is sparse enough."""
        if self._reached:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Keras's, once the network is sparse enough."""
        self._reached = self._reached or is_as_sparse(self.model, self.from_sparsity)
        if self._reached:
            super().on_epoch_end(epoch, logs)


class EarlyStopping(_FromSparsity, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that starts counting when the network is as sparse as `from_sparsity`.

    Put it after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: of `keras.callbacks.EarlyStopping`.
        **kwargs: of `keras.callbacks.EarlyStopping`.

    Raises:
        ValueError: if `from_sparsity` is not in [0, 1).
    """


class ModelCheckpoint(_FromSparsity, keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves when the network is as sparse as `from_sparsity`, not before.

    Put it after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: of `keras.callbacks.ModelCheckpoint`.
        **kwargs: of `keras.callbacks.ModelCheckpoint`.

    Raises:
        ValueError: if `from_sparsity` is not in [0, 1).
    """


def is_as_sparse(model, sparsity):
    """Whether all masked kernels together have a sparsity, as near as whole weights in each layer allow."""
    layers = masked_layers(model)
    masks = [(x.kernel_mask.numpy(), math.prod(x.kernel_variable.shape)) for x in layers]
    units = [size // mask.size for mask, size in masks]
    live = sum(np.count_nonzero(mask) * unit for (mask, _), unit in zip(masks, units, strict=True))
    return live <= (1 - sparsity) * sum(size for _, size in masks) + sum(units)

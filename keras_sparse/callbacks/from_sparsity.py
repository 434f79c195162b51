"""Keeps a callback out of the epochs in which the network is not sparse enough yet."""

import math
import warnings

import numpy as np

from keras_sparse.layers.traversal import built_masked_layers
from keras_sparse.validation import check_sparsity


class FromSparsity:
    """Mixin that keeps a callback out of epochs that end with a network less sparse than `from_sparsity`."""

    def __init__(self, *args, from_sparsity=None, **kwargs):
        if from_sparsity is None:
            name = type(self).__name__
            raise ValueError(
                f"keras_sparse.{name} needs `from_sparsity`, the sparsity that the network is to reach, "
                f"such as from_sparsity=0.9. Received: none. For a method that keeps the sparsity take "
                f"keras.callbacks.{name}."
            )
        check_sparsity(from_sparsity, "from_sparsity")
        super().__init__(*args, **kwargs)
        self.from_sparsity = from_sparsity
        self._reached = False

    def on_train_begin(self, logs=None):
        """Looks how sparse the network is."""
        if not built_masked_layers(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no masked layer, so that it never becomes as sparse as "
                f"from_sparsity={self.from_sparsity}. Make one with keras_sparse.sparsify, or take "
                f"keras.callbacks.{type(self).__name__}."
            )
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

    def on_train_end(self, logs=None):
        """Keras's; warns if the network was not sparse enough at any epoch's end."""
        super().on_train_end(logs)
        if not self._reached:
            warnings.warn(
                f"{type(self).__name__} has done nothing: no epoch ended with a network as sparse as "
                f"from_sparsity={self.from_sparsity}. Train until it is, or lower `from_sparsity`.",
                stacklevel=2,
            )


def is_as_sparse(model, sparsity):
    """Whether all masked kernels together have a sparsity, as near as whole weights in each layer allow."""
    layers = built_masked_layers(model)
    masks = [(x.kernel_mask.numpy(), math.prod(x.kernel_variable.shape)) for x in layers]
    units = [size // mask.size for mask, size in masks]
    live = sum(np.count_nonzero(mask) * unit for (mask, _), unit in zip(masks, units, strict=True))
    return live <= (1 - sparsity) * sum(size for _, size in masks) + sum(units)

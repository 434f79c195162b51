"""The argument `from_sparsity` of callbacks, which starts them when the network is sparse enough."""

import warnings

import keras

from keras_sparse.layers.traversal import masked_weights
from keras_sparse.validation import check_sparsity


class FromSparsity:
    """Mixin that skips a callback's epochs until an epoch ends with a sparsity of `from_sparsity`.

    If the callback compares epochs by a metric of training, such as "loss", the network must be as sparse when an epoch
    begins: the metric is a mean over all steps of the epoch, of which the earlier ones had more weights.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: arguments of the callback.
        **kwargs: arguments of the callback.
    """

    def __init__(self, *args, from_sparsity: float | None = None, **kwargs):
        if from_sparsity is None:
            name = type(self).__name__
            raise ValueError(
                f"keras_sparse.{name} needs `from_sparsity`, the sparsity from which it acts, such as "
                "from_sparsity=0.9. Received: from_sparsity=None. If the sparsity does not change during training, use "
                f"keras.callbacks.{name}."
            )
        check_sparsity(from_sparsity, "from_sparsity")
        super().__init__(*args, **kwargs)
        self.from_sparsity = from_sparsity
        self._reached = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts the callback."""
        if not masked_weights(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no masked layer, so that it cannot reach "
                f"from_sparsity={self.from_sparsity}. Convert it with keras_sparse.sparsify, or use "
                f"keras.callbacks.{type(self).__name__}."
            )
        super().on_train_begin(logs)
        self._reached = self._has_epochs = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Checks whether the network is sparse enough: by now, callbacks have restored a checkpoint."""
        self._has_epochs = True
        self._check()
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Calls the callback if the network is sparse enough."""
        if not self._compares_training():
            self._check()
        if self._reached:
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Ends the callback, and warns if it skipped all epochs."""
        super().on_train_end(logs)
        if self._has_epochs and not self._reached:
            what = "began" if self._compares_training() else "ended"
            warnings.warn(
                f"{type(self).__name__} has done nothing: no epoch {what} with a network as sparse as "
                f"from_sparsity={self.from_sparsity}. Train for more epochs, or lower `from_sparsity`.",
                stacklevel=2,
            )

    def _check(self):
        self._reached = self._reached or is_as_sparse(self.model, self.from_sparsity)

    def _compares_training(self):
        """Returns whether epochs are compared by a metric that is a mean over the steps of training."""
        return getattr(self, "save_best_only", True) and not self.monitor.startswith("val_")


def is_as_sparse(model: keras.Model, sparsity: float) -> bool:
    """Returns whether all masked kernels together have at least a given sparsity, up to rounding.

    The number of live mask elements is rounded in each layer, so that one more mask element per layer is accepted.
    """
    weights = masked_weights(model)
    live, tolerated = sum(w.count_live() for w in weights), sum(w.element_size for w in weights)
    return live <= (1 - sparsity) * sum(w.size for w in weights) + tolerated

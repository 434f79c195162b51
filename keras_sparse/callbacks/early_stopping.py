"""`keras.callbacks.EarlyStopping` for networks that become sparse while they train."""

import keras

from keras_sparse.callbacks.from_sparsity import FromSparsity
from keras_sparse.layers.traversal import built_masked_layers
from keras_sparse.training.dead_weights import clear


class EarlyStopping(FromSparsity, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that starts counting when the network is as sparse as `from_sparsity`.

    Put it after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: of `keras.callbacks.EarlyStopping`.
        **kwargs: of `keras.callbacks.EarlyStopping`.

    Raises:
        ValueError: if `from_sparsity` is not in [0, 1); in `fit`, if the model has no masked layer.
    """

    def on_train_end(self, logs=None):
        """Keras's; what the optimizer keeps of weights that died when others were restored goes, too."""
        super().on_train_end(logs)
        if self.restore_best_weights:
            clear(built_masked_layers(self.model), self.model.optimizer)

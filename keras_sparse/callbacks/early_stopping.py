"""`keras.callbacks.EarlyStopping` for networks that become sparse while they train."""

import keras

from keras_sparse.callbacks.from_sparsity import FromSparsity
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.training.dead_weights import clear


class EarlyStopping(FromSparsity, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that ignores all epochs before the network reaches `from_sparsity`.

    While `GradualPruning` removes weights, the best epoch is often one of the first, in which the network is still
    dense. Put this callback after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: arguments of `keras.callbacks.EarlyStopping`.
        **kwargs: arguments of `keras.callbacks.EarlyStopping`.

    Raises:
        ValueError: if `from_sparsity` is missing or not in [0, 1); in `fit`, if the model has no masked layer.

    Example:

    ```python
    stopping = keras_sparse.EarlyStopping(from_sparsity=0.9, patience=3)
    model.fit(x, y, validation_data=(x_val, y_val), epochs=50, callbacks=[method, stopping])
    ```
    """

    def on_train_end(self, logs: dict | None = None) -> None:
        """Restores the best weights if `restore_best_weights` is set, and clears the optimizer state of dead weights.

        The optimizer state belongs to the last masks, which may differ from those of the best weights.
        """
        super().on_train_end(logs)
        if self.restore_best_weights:
            clear(masked_weights(self.model), self.model.optimizer)

"""`keras.callbacks.ModelCheckpoint` for networks that become sparse while they train."""

import keras

from keras_sparse.callbacks.from_sparsity import FromSparsity


class ModelCheckpoint(FromSparsity, keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves nothing before the network reaches `from_sparsity`.

    With `save_best_only`, a network from the first epochs, which is still dense, would otherwise often be the best.
    Put this callback after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: arguments of `keras.callbacks.ModelCheckpoint`.
        **kwargs: arguments of `keras.callbacks.ModelCheckpoint`.

    Raises:
        ValueError: if `from_sparsity` is missing or not in [0, 1); in `fit`, if the model has no masked layer.

    Example:

    ```python
    checkpoint = keras_sparse.ModelCheckpoint("best.keras", from_sparsity=0.9, save_best_only=True)
    model.fit(x, y, validation_data=(x_val, y_val), epochs=50, callbacks=[method, checkpoint])
    ```
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Saves after `save_freq` batches if the network is sparse enough."""
        if self._reached:
            super().on_train_batch_end(batch, logs)

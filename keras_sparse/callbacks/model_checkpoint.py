"""`keras.callbacks.ModelCheckpoint` for networks that become sparse while they train."""

import keras

from keras_sparse.callbacks.from_sparsity import FromSparsity


class ModelCheckpoint(FromSparsity, keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves when the network is as sparse as `from_sparsity`, not before.

    Put it after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: of `keras.callbacks.ModelCheckpoint`.
        **kwargs: of `keras.callbacks.ModelCheckpoint`.

    Raises:
        ValueError: if `from_sparsity` is not in [0, 1); in `fit`, if the model has no masked layer.
    """

"""Static sparse training, the baseline with a fixed random mask.

Reference:
    Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
    reparameterization", ICML 2019.
"""

import numpy as np

from keras_sparse.training.layer_state import LayerState
from keras_sparse.training.sparse_method import SparseMethod


class Static(SparseMethod):
    """Trains masked layers with the masks they have: nothing is dropped, nothing grows.

    Masks stay fixed without any callback. This one adds the sparsity to the logs, and resets dead weights to 0 after
    every step if the optimizer moves them, as Muon does.

    Raises:
        ValueError: in `fit`, if the model has no trainable masked layer.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.98)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=[keras_sparse.Static()])
    ```

    Reference:
        "Static sparse" in Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by
        dynamic sparse reparameterization", ICML 2019.
    """

    grows = False
    owes_updates = False  # The state that another method has left in the model is kept.

    def __init__(self):
        super().__init__()

    def drop(self, layers: list[LayerState]) -> list[np.ndarray]:
        """Drops nothing. It is defined so that a training loop may call `update` of any method."""
        return [np.zeros(len(x.live), bool) for x in layers]

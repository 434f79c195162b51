"""Static sparse: the random mask of the start, never changed; the paper's baseline."""

import numpy as np

from keras_sparse.training.sparse_method import SparseMethod


class Static(SparseMethod):
    """Trains masked layers as they are.

    The masks need no callback to hold. This one adds the sparsity to the logs, and zeroes at each step what an
    optimizer such as Muon moves under the masks.

    Raises:
        ValueError: in `fit`, if the model has no trainable masked layer.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.98)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=[keras_sparse.Static()])
    ```

    Reference:
        The static sparse baseline of Mostafa & Wang, ICML 2019.
    """

    moves = False
    owes_updates = False  # What another method has left in the model stays.

    def __init__(self):
        super().__init__()

    def drop(self, layers):
        """Nothing, so that a training loop may call `update` of this method as of any other."""
        return [np.zeros(len(x.live), bool) for x in layers]

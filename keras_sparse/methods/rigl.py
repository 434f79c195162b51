"""RigL.

Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020.
"""

import math

from keras_sparse import criteria
from keras_sparse.training.gradient_growth import GradientGrowth
from keras_sparse.training.optimizer_state import iterations
from keras_sparse.validation import check_fraction


class RigL(GradientGrowth):
    """Trains masked layers by RigL.

    At each update every layer drops the fraction f(t) of its live weights with the smallest |w|, and grows as many
    where the gradient of the loss is largest, were the weight there. f falls from `fraction` to 0 by half a cosine.
    Each layer keeps the sparsity it starts with; the paper's is `keras_sparse.sparsify(...,
    distribution="erdos_renyi_kernel")`.

    Grown weights start at 0. What was just dropped does not come straight back, as with every method here. Of kernel
    slices the mean |gradient| counts.

    Args:
        fraction: the paper's alpha, the part of each layer's live mask elements that the first update drops, in (0, 1].
        period: optimizer steps between updates: int, dict `{first epoch: int}` or function `epoch -> int`, epochs
            from 0.
        until: int, number of epochs after which f is 0 and the masks stay as they are; None for three quarters of the
            epochs of `fit`.
        probe: `(x, y)` or `(x, y, sample_weight)`, a batch to take gradients on; None for the one that training saw
            last.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked layer, or if
            `steps_per_execution` exceeds the period; in `update` outside of `fit`, if `until` or `probe` is missing.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.9, distribution="erdos_renyi_kernel")
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.RigL(period=10)])
    ```

    Reference:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020.
    """

    def __init__(self, fraction=0.3, period=100, until=None, probe=None):
        super().__init__(period=period, until=until, probe=probe)
        check_fraction(fraction, "fraction")
        self.fraction = fraction

    _steps_per_epoch = None

    def on_train_begin(self, logs=None):
        """Learns how long an epoch is."""
        super().on_train_begin(logs)
        batches, per_step = self.params["steps"], iterations(self.model.optimizer)[1]
        self._steps_per_epoch = batches / per_step if batches else None

    def ends(self):
        """The number of epochs after which the masks stay as they are."""
        if self.until is None and not self.params:
            raise ValueError("RigL needs `until`, a number of epochs, where `fit` does not tell how long it trains.")
        return self.until or math.ceil(0.75 * self.params["epochs"])

    def drop(self, tensors):
        """The weakest of each layer, a fraction that decays by half a cosine."""
        steps = self._steps_per_epoch  # By epochs of this `fit`: an optimizer may have trained before.
        within = (self._step - self._seen // self._per_step) / steps if steps else 0
        progress = (self._epoch + within) / self.ends()
        fraction = self.fraction / 2 * (1 + math.cos(math.pi * min(progress, 1.0)))
        counts = [min(round(fraction * len(t.live)), t.free, max(0, len(t.live) - 1)) for t in tensors]
        return [criteria.weakest(t.scores, n) for t, n in zip(tensors, counts, strict=True)]

"""RigL.

Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020.
"""

import math

from keras_sparse import criteria
from keras_sparse.training.growth import LargestGradient
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import UpdateSchedule, required
from keras_sparse.validation import check_fraction


class RigL(SparseMethod):
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
        gradients: function `(model, x, y, sample_weight) -> list of arrays`, the gradient of the loss by the kernel of
            each trainable masked layer, dead weights included; needed for a model with a `train_step` of its own. None
            for the gradient of the loss that the model is compiled with.

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

    def __init__(self, fraction=0.3, period=100, until=None, probe=None, gradients=None):
        schedule = UpdateSchedule("RigL", required(period, "RigL"), until, until_part=0.75)
        super().__init__(growth=LargestGradient("RigL", probe, gradients), update_schedule=schedule)
        check_fraction(fraction, "fraction")
        self.fraction = fraction

    def drop(self, layers):
        """The weakest of each layer, a fraction that decays by half a cosine."""
        progress = min(self.update_schedule.progress(self._step), 1.0)
        fraction = self.fraction / 2 * (1 + math.cos(math.pi * progress))
        counts = [min(round(fraction * len(x.live)), x.free, max(0, len(x.live) - 1)) for x in layers]
        return [criteria.weakest(x.scores, n) for x, n in zip(layers, counts, strict=True)]

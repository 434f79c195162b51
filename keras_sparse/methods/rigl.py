"""RigL: the rigged lottery.

Reference:
    Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020.
"""

import math
from collections.abc import Callable

import numpy as np

from keras_sparse import criteria
from keras_sparse.schedules import ScheduleLike
from keras_sparse.training.growth import LargestGradient
from keras_sparse.training.layer_state import LayerState
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import UpdateSchedule, required
from keras_sparse.validation import check_fraction


class RigL(SparseMethod):
    """Trains masked layers by RigL.

    At each update, in each layer:

    1. Drop the fraction f(t) = alpha / 2 * (1 + cos(pi * t / T_end)) of the live weights, those with the smallest |w|.
       t is the number of epochs so far, fractions included (in `fit`), and T_end is `until`.
    2. Grow as many weights, with value 0, at the dead positions with the largest magnitude of the gradient of the loss
       with respect to the dense kernel.

    So every layer keeps its initial sparsity. The paper's is `keras_sparse.sparsify(...,
    distribution="erdos_renyi_kernel")`. Unlike in the paper, an update never grows a weight that it has just dropped.
    Kernel slices are scored by their mean |gradient|.

    Args:
        fraction: the paper's alpha, the fraction of the live mask elements of each layer that the first update drops:
            number in (0, 1].
        period: the paper's Delta T, the number of optimizer steps between updates: int of at least 1, dict
            `{first epoch: int}` or function `epoch -> int`. Epochs count from 0. Or "epoch" for an update between
            every two epochs.
        until: the paper's T_end in epochs, an int, after which the masks stay fixed; None for three quarters of the
            epochs of `fit`.
        probe: `(x, y)` or `(x, y, sample_weight)`, the batch on which gradients are computed; None for the latest
            training batch.
        gradients: function `(model, x, y, sample_weight) -> list of arrays`, which returns for each trainable masked
            weight the gradient of the loss with respect to the dense kernel. It is required for a model with a custom
            `train_step`. None for the gradient of the loss that the model is compiled with.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked weight, if it has
            a custom `train_step` and `gradients` is None, or if `steps_per_execution` exceeds the period; in `update`
            outside of `fit`, if `until` or `probe` is missing.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.9, distribution="erdos_renyi_kernel")
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.RigL(period=10)])
    ```

    Reference:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020.
    """

    def __init__(
        self,
        fraction: float = 0.3,
        period: ScheduleLike | str = 100,
        until: int | None = None,
        probe: tuple | None = None,
        gradients: Callable | None = None,
    ):
        schedule = UpdateSchedule("RigL", required(period, "RigL"), until, until_part=0.75)
        super().__init__(growth=LargestGradient("RigL", probe, gradients), update_schedule=schedule)
        check_fraction(fraction, "fraction")
        self.fraction = fraction

    def drop(self, layers: list[LayerState]) -> list[np.ndarray]:
        """Drops the weakest elements of each layer, a fraction that decays along half a cosine."""
        # f(t) = alpha / 2 * (1 + cos(pi * t / T_end))
        progress = min(self.update_schedule.progress(self._step if self._within_fit else None), 1.0)
        fraction = self.fraction / 2 * (1 + math.cos(math.pi * progress))
        # A layer drops no more than it can grow, so that it keeps its sparsity, and is never emptied.
        counts = [min(round(fraction * len(x.live)), x.free, max(0, len(x.live) - 1)) for x in layers]
        return [criteria.weakest(x.scores, n) for x, n in zip(layers, counts, strict=True)]

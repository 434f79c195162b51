"""Dynamic sparse reparameterization.

Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, algorithm 1.
"""

import numpy as np

from keras_sparse import criteria
from keras_sparse.backend import elements
from keras_sparse.backend.elements import view
from keras_sparse.schedules import by_epoch
from keras_sparse.training.layer_state import by_unit
from keras_sparse.training.random_growth import RandomGrowth
from keras_sparse.validation import check_number, check_positive_int


class DynamicSparse(RandomGrowth):
    """Trains masked layers by dynamic sparse reparameterization.

    Every `period` steps all live weights with |w| < H are dropped, whatever their layer, and as many are grown at
    random positions that were dead, layer l receiving them in proportion to the weights that survived in it. Then H is
    doubled or halved where too few or too many were dropped. So the budget is fixed, and moves to where weights grow
    large.

    A layer is never emptied: its largest weight is kept. Layers whose mask elements hold different numbers of weights
    (1x1 and 3x3 slices) exchange none, so that the number of live weights is exact.

    Args:
        prune_count: the paper's K, how many mask elements an update should drop: int, dict `{first epoch: int}` or
            function `epoch -> int`, epochs from 0.
        period: the paper's P, optimizer steps between updates: as `prune_count`.
        tolerance: the paper's delta, float in [0, 1): H stays while the number dropped is within
            `(1 +- tolerance) * prune_count`.
        threshold: the paper's H(0), positive float. A model that was trained with the same optimizer continues with the
            H it reached.
        growth: "anywhere" as in the paper, or "live_units" for positions between two units that each have a live
            weight in the layer: better where a network is very sparse.
        regrow_scale: standard deviation of the normal distribution from which regrown weights start, a float of at
            least 0. The paper's word is 0.0. But in a very sparse network a unit whose live incoming weights are all 0
            passes no gradient either way, and stays stuck; 1e-4 frees it, too small to disturb anything.
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of the random positions and values.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked layer, if
            `prune_count` is more than all live mask elements, or if `steps_per_execution` exceeds the period.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.98)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, callbacks=[keras_sparse.DynamicSparse(prune_count=600, period={0: 100, 25: 200})])
    ```

    Reference:
        Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
        reparameterization", ICML 2019.
    """

    def __init__(
        self,
        prune_count,
        period,
        tolerance=0.1,
        threshold=1e-3,
        growth="anywhere",
        regrow_scale=1e-4,
        until=None,
        seed=0,
    ):
        super().__init__(growth=growth, regrow_scale=regrow_scale, period=period, until=until, seed=seed)
        self.prune_count = by_epoch(prune_count, "prune_count", check_positive_int)
        check_number(tolerance, "tolerance", "in [0, 1)", lambda x: 0 <= x < 1)
        check_number(threshold, "threshold", "above 0", lambda x: 0 < x < np.inf)
        self.tolerance = tolerance
        self.threshold = threshold
        self._current = _single(threshold)

    def on_train_begin(self, logs=None):
        """Checks `prune_count` against the network."""
        super().on_train_begin(logs)
        self._current = _single(self.threshold)
        # Out of reach, H would grow until all went that can.
        self.check_reachable(self.prune_count, "prune_count", 1 - self.tolerance)

    def drop(self, tensors):
        """Everything below the threshold, no layer's last, no more than can be grown back; adapts the threshold."""
        dropped = [criteria.below(t.scores, self._current) for t in tensors]
        total = sum(map(np.count_nonzero, dropped))
        self._current = criteria.adapt_threshold(self._current, total, self.prune_count(self._epoch), self.tolerance)
        for group in by_unit(tensors):
            free = sum(self.room(tensors[i]) for i in group)
            kept = criteria.keep_strongest([dropped[i] for i in group], [tensors[i].scores for i in group], free)
            for i, d in zip(group, kept, strict=True):
                dropped[i] = d
        return dropped

    def redistribute(self, tensors, dropped):
        """In proportion to the survivors of each layer, as far as it has room."""
        counts = [0] * len(tensors)
        for group in by_unit(tensors):
            lost = [np.count_nonzero(dropped[i]) for i in group]
            survivors = [len(tensors[i].live) - n for i, n in zip(group, lost, strict=True)]
            free = [self.room(tensors[i]) for i in group]
            for i, n in zip(group, criteria.apportion(sum(lost), survivors, free), strict=True):
                counts[i] = n
        return counts

    def may_be_idle(self):
        """While the threshold is looked for: it doubles at each update that drops too few, so 8 are a factor of 256."""
        return self._updates <= 8

    def recall(self, memory):
        """Continues with the threshold the model carries, if it has one."""
        self._current = float(view(memory.threshold)) or _single(self.threshold)

    def remember(self, memory):
        """Leaves the threshold of the next update in the model."""
        elements.assign(memory.threshold, self._current)

    def logs(self):
        """The threshold of the next update."""
        return {"threshold": self._current}


def _single(number):
    """The number in single precision, as a model carries it: so a resumed run has the very same threshold."""
    return float(np.float32(number))

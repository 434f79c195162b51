"""Dynamic sparse reparameterization.

Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, algorithm 1.
"""

import numpy as np

from keras_sparse import criteria
from keras_sparse.schedules import by_epoch
from keras_sparse.training.checks import check_reachable
from keras_sparse.training.growth import RandomGrowth
from keras_sparse.training.layer_state import by_unit
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import required
from keras_sparse.validation import check_fraction, check_number, check_positive_int


class DynamicSparse(SparseMethod):
    """Trains masked layers by dynamic sparse reparameterization.

    Every `period` steps all live weights with |w| < H are dropped, whatever their layer, and as many are grown at
    random positions that were dead, layer l receiving them in proportion to the weights that survived in it. Then H is
    doubled or halved where too few or too many were dropped. So the budget is fixed, and moves to where weights grow
    large.

    A layer is never emptied: its largest weight is kept. Layers whose mask elements hold different numbers of weights
    (1x1 and 3x3 slices) exchange none, so that the number of live weights is exact.

    Args:
        prune_count: the paper's K, how many mask elements an update should drop: int, dict `{first epoch: int}` or
            function `epoch -> int`, epochs from 0. Give either it or `fraction`.
        period: the paper's P, optimizer steps between updates: int, or schedule likewise.
        tolerance: the paper's delta, float in [0, 1): H stays while the number dropped is within
            `(1 +- tolerance) * K`.
        threshold: the paper's H(0), positive float. A model that was trained with the same optimizer continues with the
            H it reached.
        growth: "anywhere" as in the paper, or "live_units" for positions between two units that each have a live
            weight in the layer: better where a network is very sparse.
        regrow_scale: standard deviation of the normal distribution from which regrown weights start, a float of at
            least 0. The paper's word is 0.0. But in a very sparse network a unit whose live incoming weights are all 0
            passes no gradient either way, and stays stuck; 1e-4 frees it, too small to disturb anything.
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of the random positions and values.
        fraction: instead of `prune_count`, K over the live mask elements of the layers that train: number in (0, 1],
            or schedule likewise. K is rounded, and at least 1. A tenth is a good first choice.

    Raises:
        ValueError: if not exactly one of `prune_count` and `fraction` is given, or an argument is out of its range; in
            `fit`, if the model has no trainable masked layer, if K is more than what can be dropped, or if
            `steps_per_execution` exceeds the period.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.98)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, callbacks=[keras_sparse.DynamicSparse(fraction=0.1, period={0: 100, 25: 200})])
    ```

    Reference:
        Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
        reparameterization", ICML 2019.
    """

    def __init__(
        self,
        prune_count=None,
        period=100,
        tolerance=0.1,
        threshold=1e-3,
        growth="anywhere",
        regrow_scale=1e-4,
        until=None,
        seed=0,
        fraction=None,
    ):
        super().__init__(required(period, "DynamicSparse"), until, seed, growth=RandomGrowth(growth, regrow_scale))
        if (prune_count is None) == (fraction is None):
            raise ValueError(
                "DynamicSparse takes either `prune_count`, how many mask elements an update drops, or `fraction`, what "
                "part of the live ones: 0.1 is a good first choice. "
                f"Received: prune_count={prune_count!r}, fraction={fraction!r}."
            )
        self.prune_count = None if prune_count is None else by_epoch(prune_count, "prune_count", check_positive_int)
        self.fraction = None if fraction is None else by_epoch(fraction, "fraction", check_fraction)
        check_number(tolerance, "tolerance", "in [0, 1)", lambda x: 0 <= x < 1)
        check_number(threshold, "threshold", "above 0", lambda x: 0 < x < np.inf)
        self.tolerance = tolerance
        self.threshold = threshold
        self._current = _single(threshold)

    def check(self, model, layers):
        """Checks K against the network: out of reach, H would grow until all went that can."""
        live = sum(np.count_nonzero(x.kernel_mask.numpy()) for x in layers)
        name, given = ("prune_count", None) if self.fraction is None else ("fraction", self.fraction)
        check_reachable(
            layers,
            self.update_schedule.epochs_with_updates(),
            lambda epoch: self._target(epoch, live),
            name,
            1 - self.tolerance,
            given,
        )

    def _target(self, epoch, live):
        """The paper's K at an epoch, of a number of live mask elements."""
        return self.prune_count(epoch) if self.fraction is None else max(1, round(self.fraction(epoch) * live))

    def drop(self, layers):
        """Everything below the threshold, no layer's last, no more than can be grown back; adapts the threshold."""
        dropped = [criteria.below(x.scores, self._current) for x in layers]
        total = sum(map(np.count_nonzero, dropped))
        target = self._target(self._epoch, sum(len(x.live) for x in layers))
        self._current = criteria.adapt_threshold(self._current, total, target, self.tolerance)
        for group in by_unit(layers):
            free = sum(self.regrowth.room(layers[i]) for i in group)
            kept = criteria.keep_strongest([dropped[i] for i in group], [layers[i].scores for i in group], free)
            for i, d in zip(group, kept, strict=True):
                dropped[i] = d
        return dropped

    def redistribute(self, layers, dropped):
        """In proportion to the survivors of each layer, as far as it has room."""
        counts = [0] * len(layers)
        for group in by_unit(layers):
            lost = [np.count_nonzero(dropped[i]) for i in group]
            survivors = [len(layers[i].live) - n for i, n in zip(group, lost, strict=True)]
            free = [self.regrowth.room(layers[i]) for i in group]
            for i, n in zip(group, criteria.apportion(sum(lost), survivors, free), strict=True):
                counts[i] = n
        return counts

    def may_be_idle(self):
        """While the threshold is looked for: it doubles at each update that drops too few, so 8 are a factor of 256."""
        return self._updates <= 8

    def get_state(self):
        """The threshold of the next update."""
        return {"threshold": self._current}

    def set_state(self, state):
        """Goes on with the threshold that the model carries, if it has one."""
        self._current = state.get("threshold", _single(self.threshold))

    def logs(self):
        """The threshold of the next update."""
        return {"threshold": self._current}


def _single(number):
    """The number in single precision, as a model carries it: so a resumed run has the very same threshold."""
    return float(np.float32(number))

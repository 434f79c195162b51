"""Dynamic sparse reparameterization.

Reference:
    Algorithm 1 of Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
    reparameterization", ICML 2019.
"""

import keras
import numpy as np

from keras_sparse import criteria
from keras_sparse.schedules import ScheduleLike, by_epoch
from keras_sparse.training.fit_checks import check_reachable
from keras_sparse.training.growth import random_growth
from keras_sparse.training.layer_state import LayerState, by_element_size
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import required
from keras_sparse.validation import check_fraction, check_number, check_positive_int


class DynamicSparse(SparseMethod):
    """Trains masked layers by dynamic sparse reparameterization.

    Every P steps:

    1. Drop all live weights with |w| < H, in all layers.
    2. Double H if fewer than (1 - delta) * K weights were dropped; halve it if more than (1 + delta) * K were.
    3. Grow as many weights as were dropped, at random positions that were dead before the drop. Each layer gets a
       share in proportion to the number of weights that survived in it.

    So the number of live weights of the network is fixed, and they move to the layers in which weights become large.

    A layer is never emptied: its largest weight is always kept. Weights move only between layers whose mask elements
    hold the same number of weights, not from 1x1 to 3x3 slices, for example. Otherwise the number of live weights could
    not be kept exactly.

    Args:
        prune_count: the paper's K, the number of mask elements that an update should drop: int of at least 1, dict
            `{first epoch: int}` or function `epoch -> int`. Epochs count from 0. Give either it or `fraction`.
        period: the paper's P, the number of optimizer steps between updates: int of at least 1, a schedule like
            `prune_count`, or "epoch" for an update between every two epochs.
        tolerance: the paper's delta, a float in [0, 1).
        threshold: the paper's H(0), a positive float. If the training of a model is continued with the same optimizer,
            H starts from the value it had reached.
        growth: "anywhere" as in the paper, or "live_units" for positions whose input unit and output unit each have a
            live weight in the layer. The latter is better for very sparse networks.
        regrow_scale: float of at least 0, the standard deviation of the normal distribution from which the values of
            grown weights are drawn. The paper's value is 0.0. In a very sparse network, however, a unit whose live
            incoming weights are all 0 passes no gradient in either direction and never recovers; small random values
            such as 1e-4 avoid that.
        until: int, the number of epochs after which the masks stay fixed; None for no end.
        seed: int of at least 0, the seed of the random positions and values.
        fraction: instead of `prune_count`, K as a fraction of the live mask elements of the trainable layers: number in
            (0, 1], or a schedule like `prune_count`. K is rounded, and at least 1. 0.1 is a good first choice.

    Raises:
        ValueError: if not exactly one of `prune_count` and `fraction` is given, or an argument is out of its range; in
            `fit`, if the model has no trainable masked layer, if K exceeds the number of elements that can be dropped,
            or if `steps_per_execution` exceeds the period.

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
        prune_count: ScheduleLike | None = None,
        period: ScheduleLike | str = 100,
        tolerance: float = 0.1,
        threshold: float = 1e-3,
        growth: str = "anywhere",
        regrow_scale: float = 1e-4,
        until: int | None = None,
        seed: int = 0,
        fraction: ScheduleLike | None = None,
    ):
        super().__init__(required(period, "DynamicSparse"), until, seed, growth=random_growth(growth, regrow_scale))
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
        self._current = float(threshold)

    def check(self, model: keras.Model, layers: list) -> None:
        """Raises ValueError if K exceeds the number of elements that can be dropped.

        With such a K, H would double at every update until all weights but the largest of each layer are dropped.
        """
        live = sum(np.count_nonzero(x.mask.numpy()) for x in layers)
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
        """Returns the paper's K at an epoch, for a given number of live mask elements."""
        return self.prune_count(epoch) if self.fraction is None else max(1, round(self.fraction(epoch) * live))

    def drop(self, layers: list[LayerState]) -> list[np.ndarray]:
        """Drops all elements below the threshold H, and adapts H."""
        # Steps 1 and 2 of the algorithm: drop |w| < H, then compare the number dropped with K.
        dropped = [criteria.below(x.scores, self._current) for x in layers]
        total = sum(map(np.count_nonzero, dropped))
        target = self._target(self._epoch, sum(len(x.live) for x in layers))
        self._current = criteria.adapt_threshold(self._current, total, target, self.tolerance)
        # Keep the strongest if more were dropped than can be grown.
        for group in by_element_size(layers):
            free = sum(self.growth_strategy.room(layers[i]) for i in group)
            kept = criteria.limit_dropped([dropped[i] for i in group], [layers[i].scores for i in group], free)
            for i, d in zip(group, kept, strict=True):
                dropped[i] = d
        return dropped

    def redistribute(self, layers: list[LayerState], dropped: list[np.ndarray]) -> list[int]:
        """Shares growth among the layers in proportion to their surviving elements, up to the free positions."""
        counts = [0] * len(layers)
        for group in by_element_size(layers):
            lost = [np.count_nonzero(dropped[i]) for i in group]
            survivors = [len(layers[i].live) - n for i, n in zip(group, lost, strict=True)]
            free = [self.growth_strategy.room(layers[i]) for i in group]
            for i, n in zip(group, criteria.apportion(sum(lost), survivors, free), strict=True):
                counts[i] = n
        return counts

    def may_be_idle(self) -> bool:
        """Whether the threshold may still be too small: it doubles at each update, so 8 updates are a factor of 256."""
        return self._updates <= 8

    def get_state(self) -> dict:
        """Returns the threshold of the next update."""
        return {"threshold": self._current}

    def set_state(self, state: dict) -> None:
        """Restores the threshold; without a saved one, starts with the argument `threshold`."""
        self._current = state.get("threshold", float(self.threshold))

    def logs(self) -> dict:
        """Returns the threshold of the next update, for the logs of the epoch."""
        return {"threshold": self._current}

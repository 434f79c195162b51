"""SET: sparse evolutionary training.

Reference:
    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
    network science", Nature Communications 2018.
"""

import keras
import numpy as np

from keras_sparse import criteria
from keras_sparse.schedules import ScheduleLike, by_epoch
from keras_sparse.training.fit_checks import check_reachable
from keras_sparse.training.growth import random_growth
from keras_sparse.training.layer_state import LayerState
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import EPOCH, required
from keras_sparse.validation import check_choice, check_fraction, check_positive_int


class SET(SparseMethod):
    """Trains masked layers by sparse evolutionary training.

    At each update, in each layer:

    1. Drop the fraction zeta of the live weights with the smallest |w|.
    2. Grow as many weights at random positions that were dead before the drop.

    So every layer keeps its initial sparsity. The paper starts from a random Erdos-Renyi graph:
    `keras_sparse.sparsify(..., distribution="erdos_renyi")`.

    The paper's experiments are `SET(fraction=0.3, criterion="sign")` with an Erdos-Renyi start and an update after each
    epoch. Those in Table 4 of Mostafa & Wang are `SET(count=20_000, period={0: 100, 25: 200, ...})` with a uniform
    start.

    Args:
        fraction: the paper's zeta, the fraction of the live mask elements of each layer that an update drops: number in
            (0, 1], dict `{first epoch: number}` or function `epoch -> number`. Epochs count from 0.
        count: instead of `fraction`, the number of mask elements that an update drops over the network: int of at
            least 1, or a schedule like `fraction`. It is shared among the layers in proportion to their live elements.
        period: number of optimizer steps between updates: int of at least 1, a schedule like `fraction`, or "epoch"
            for an update between every two epochs.
        criterion: "magnitude" drops the weights with the smallest |w|. "sign" drops the same fraction of the positive
            and of the negative weights, those closest to 0; the sign of a kernel slice is that of its sum.
        growth: "anywhere" or "live_units"; see `keras_sparse.DynamicSparse`.
        regrow_scale: float of at least 0, the standard deviation of the normal distribution from which the values of
            grown weights are drawn; see `keras_sparse.DynamicSparse`.
        until: int, the number of epochs after which the masks stay fixed; None for no end.
        seed: int of at least 0, the seed of the random positions and values.

    Raises:
        ValueError: if not exactly one of `fraction` and `count` is given, or an argument is out of its range; in
            `fit`, if the model has no trainable masked layer, or if `steps_per_execution` exceeds the period.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.9, distribution="erdos_renyi")
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.SET(fraction=0.3)])
    ```

    Reference:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
        network science", Nature Communications 2018.
    """

    def __init__(
        self,
        fraction: ScheduleLike | None = None,
        count: ScheduleLike | None = None,
        period: ScheduleLike | str = EPOCH,
        criterion: str = "magnitude",
        growth: str = "anywhere",
        regrow_scale: float = 1e-4,
        until: int | None = None,
        seed: int = 0,
    ):
        super().__init__(required(period, "SET"), until, seed, growth=random_growth(growth, regrow_scale))
        if (fraction is None) == (count is None):
            raise ValueError(
                "SET takes either `fraction`, the part of each layer to drop, or `count`, a number over the network. "
                f"Received: fraction={fraction!r}, count={count!r}."
            )
        check_choice(criterion, "criterion", ("magnitude", "sign"))
        self.fraction = None if fraction is None else by_epoch(fraction, "fraction", check_fraction)
        self.count = None if count is None else by_epoch(count, "count", check_positive_int)
        self.criterion = criterion

    def check(self, model: keras.Model, layers: list) -> None:
        """Raises ValueError if `count` is more than what can be dropped in this network."""
        if self.count is not None:
            check_reachable(layers, self.update_schedule.epochs_with_updates(), self.count, "count")

    def drop(self, layers: list[LayerState]) -> list[np.ndarray]:
        """Drops the weakest elements of each layer."""
        live = [len(x.live) for x in layers]
        # A layer drops no more than it can grow, so that it keeps its sparsity, and is never emptied.
        limits = [max(0, min(self.growth_strategy.room(x), n - 1)) for x, n in zip(layers, live, strict=True)]
        if self.fraction is not None:
            counts = [min(round(self.fraction(self._epoch) * n), most) for n, most in zip(live, limits, strict=True)]
        else:
            total = min(self.count(self._epoch), sum(limits))
            counts = criteria.apportion(total, live, limits)
        return [self._weakest(x, n) for x, n in zip(layers, counts, strict=True)]

    def _weakest(self, layer, count):
        if self.criterion == "magnitude":
            return criteria.weakest(layer.scores, count)
        # The same fraction of the positive and of the negative elements.
        negative = layer.values.sum(axis=0) < 0
        dropped = np.zeros(len(negative), bool)
        sides = [np.flatnonzero(~negative), np.flatnonzero(negative)]
        sizes = [len(s) for s in sides]
        for side, n in zip(sides, criteria.apportion(count, sizes, sizes), strict=True):
            dropped[side[criteria.weakest(layer.scores[side], n)]] = True
        return dropped

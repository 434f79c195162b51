"""Sparse evolutionary training.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network
science", Nature Communications 2018.
"""

import numpy as np

from keras_sparse import criteria
from keras_sparse.schedules import by_epoch
from keras_sparse.training.checks import check_reachable
from keras_sparse.training.growth import RandomGrowth
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import EPOCH, required
from keras_sparse.validation import check_choice, check_fraction, check_positive_int


class SET(SparseMethod):
    """Trains masked layers by sparse evolutionary training.

    At each update every layer drops its weakest weights, and grows as many at random positions that were dead. So each
    layer keeps the sparsity it starts with; choose it by `keras_sparse.sparsify(..., distribution="erdos_renyi")`.

    As first published: `SET(fraction=0.3, criterion="sign")`, an Erdos-Renyi start, an update between two epochs. As
    run in Table 4 of Mostafa & Wang: `SET(count=20_000, period={0: 100, 25: 200, ...})` and a uniform start.

    Args:
        fraction: the paper's zeta, what part of each layer's live mask elements an update drops: number in (0, 1],
            dict `{first epoch: number}` or function `epoch -> number`, epochs from 0.
        count: instead of `fraction`, how many mask elements an update drops over the network, int or schedule
            likewise; each layer drops its share of them, in proportion to what lives in it.
        period: optimizer steps between updates: int, schedule likewise, or "epoch" for one between two epochs.
        criterion: "magnitude" drops the smallest |w|; "sign" the smallest positive and the negative ones nearest to
            0, the same part of each (of kernel slices, by the sign of their sum).
        growth: "anywhere" or "live_units"; see `keras_sparse.DynamicSparse`.
        regrow_scale: standard deviation of the normal distribution from which grown weights start, a float of at
            least 0; see `keras_sparse.DynamicSparse`.
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of the random positions and values.

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
        network science", 2018.
    """

    def __init__(
        self,
        fraction=None,
        count=None,
        period=EPOCH,
        criterion="magnitude",
        growth="anywhere",
        regrow_scale=1e-4,
        until=None,
        seed=0,
    ):
        super().__init__(required(period, "SET"), until, seed, growth=RandomGrowth(growth, regrow_scale))
        if (fraction is None) == (count is None):
            raise ValueError(
                "SET takes either `fraction`, the part of each layer to drop, or `count`, a number over the network. "
                f"Received: fraction={fraction!r}, count={count!r}."
            )
        check_choice(criterion, "criterion", ("magnitude", "sign"))
        self.fraction = None if fraction is None else by_epoch(fraction, "fraction", check_fraction)
        self.count = None if count is None else by_epoch(count, "count", check_positive_int)
        self.criterion = criterion

    def check(self, model, layers):
        """Checks `count` against the network."""
        if self.count is not None:
            check_reachable(layers, self.update_schedule.epochs_with_updates(), self.count, "count")

    def drop(self, layers):
        """The weakest of each layer, as many as it can grow again, and never all."""
        live = [len(x.live) for x in layers]
        limits = [max(0, min(self.regrowth.room(x), n - 1)) for x, n in zip(layers, live, strict=True)]
        if self.fraction is not None:
            counts = [min(round(self.fraction(self._epoch) * n), most) for n, most in zip(live, limits, strict=True)]
        else:
            total = min(self.count(self._epoch), sum(limits))
            counts = criteria.apportion(total, live, limits)
        return [self._weakest(x, n) for x, n in zip(layers, counts, strict=True)]

    def _weakest(self, layer, count):
        if self.criterion == "magnitude":
            return criteria.weakest(layer.scores, count)
        negative = layer.values.sum(axis=0) < 0
        dropped = np.zeros(len(negative), bool)
        sides = [np.flatnonzero(~negative), np.flatnonzero(negative)]
        sizes = [len(s) for s in sides]
        for side, n in zip(sides, criteria.apportion(count, sizes, sizes), strict=True):
            dropped[side[criteria.weakest(layer.scores[side], n)]] = True
        return dropped

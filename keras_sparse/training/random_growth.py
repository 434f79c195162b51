"""Growing at random: what dynamic sparse reparameterization and SET share."""

import math

import numpy as np

from keras_sparse import criteria
from keras_sparse.layers.traversal import trainable_masked_layers
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.validation import check_choice, check_not_negative

GROWTH = ("anywhere", "live_units")


class RandomGrowth(SparseMethod):
    """Base of methods that grow at random positions among those that were dead before the update's drop.

    Args:
        growth: "anywhere", or "live_units" for positions between two units, as the last two axes of the kernel number
            them, that each have a live weight in the layer. A unit without live inputs says nothing, and one without
            live outputs tells nobody; weights there are lost until the next update, and in a very sparse network they
            are most.
        regrow_scale: standard deviation of the normal distribution from which grown weights start, a float of at
            least 0. In a very sparse network a unit whose live incoming weights are all 0 passes no gradient either
            way, and stays stuck; 1e-4 frees it, too small to disturb anything.
        **kwargs: of `SparseMethod`.
    """

    periodic = True

    def __init__(self, growth, regrow_scale, **kwargs):
        super().__init__(**kwargs)
        check_choice(growth, "growth", GROWTH)
        check_not_negative(regrow_scale, "regrow_scale")
        self.growth = growth
        self.regrow_scale = regrow_scale

    def check_reachable(self, count, name, part=1.0):
        """Raises ValueError if a number to drop at once, a function of the epoch, is more than the network can lose.

        Args:
            count: function `epoch -> int`.
            name: str, the argument's.
            part: float, of that number, which has to be reached.
        """
        live = [np.count_nonzero(x.kernel_mask.numpy()) for x in trainable_masked_layers(self.model)]
        can = sum(live) - len(live)  # Each layer keeps one.
        most = max(map(count, range(min(self.params["epochs"], self.until or math.inf))))
        if most * part > can:
            raise ValueError(
                f"`{name}` must not be more than what can be dropped, {can} of {sum(live)} live mask elements. "
                f"Received: {name}={most}. A tenth of them is usual."
            )

    def grow(self, tensor, count, rng):
        """At random."""
        if self.growth == "anywhere":
            return criteria.grow_random(tensor.live, tensor.size, count, rng)
        return np.sort(rng.choice(self._between(tensor), count, replace=False, shuffle=False))

    def room(self, tensor):
        """How many elements could grow."""
        return tensor.free if self.growth == "anywhere" else len(self._between(tensor))

    def _between(self, tensor):
        between = criteria.between_live_units(tensor.live, tensor.mask_shape)
        return np.setdiff1d(np.flatnonzero(between), tensor.live, assume_unique=True)

    def initial_values(self, shape, rng):
        """Normal with standard deviation `regrow_scale`."""
        return rng.normal(0.0, self.regrow_scale, shape)

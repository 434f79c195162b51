"""Growing at random: what dynamic sparse reparameterization and SET share."""

from keras_sparse import criteria
from keras_sparse.methods.arguments import check_not_negative
from keras_sparse.methods.base import SparseMethod


class RandomGrowth(SparseMethod):
    """Base of methods that grow at random positions among those that were dead before the update's drop.

    Args:
        regrow_scale: standard deviation of the normal distribution from which grown weights start, a float of at
            least 0. In a very sparse network a unit whose live incoming weights are all 0 passes no gradient either
            way, and stays stuck; 1e-4 frees it, too small to disturb anything.
        **kwargs: of `SparseMethod`.
    """

    def __init__(self, regrow_scale, **kwargs):
        super().__init__(**kwargs)
        check_not_negative(regrow_scale, "regrow_scale")
        self.regrow_scale = regrow_scale

    def grow(self, tensor, count, rng):
        """At random."""
        return criteria.grow_random(tensor.live, tensor.size, count, rng)

    def initial_values(self, shape, rng):
        """Normal with standard deviation `regrow_scale`."""
        return rng.normal(0.0, self.regrow_scale, shape)

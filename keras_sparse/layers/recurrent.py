"""Recurrent layers with masked cells: the masks are applied once a sequence, not at each time step."""

import contextlib

from keras_sparse import _keras
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.masked_weight import holding
from keras_sparse.layers.traversal import flatten


class MasksOncePerSequence:
    """Mixin of a `keras.layers.RNN` whose cell has masked weights.

    The loop over time is a `while` of the backend, and TensorFlow does not move computations that are the same at each
    step out of it. So a mask would be applied T times for T time steps, forward and backward.
    """

    def inner_loop(self, *args, **kwargs):
        """Runs the loop over time with masked weights that were computed before it."""
        with contextlib.ExitStack() as stack:
            for layer in flatten(self):
                if isinstance(layer, MaskedLayer):
                    with _keras.autocast_scope(layer):  # not that of the recurrent layer, in which this code runs
                        held = {w.attribute: w.value() for w in layer.masked_weights}
                    stack.enter_context(holding(layer, held))
            return super().inner_loop(*args, **kwargs)

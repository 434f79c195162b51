"""Recurrent layers with masked cells: masks are applied once for a sequence, not at each of its steps."""

import contextlib

from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.traversal import flatten


class MasksOncePerSequence:
    """Mixin of a `keras.layers.RNN` whose cell has masked weights.

    Its loop over time is a `while` of the backend, out of which TensorFlow does not move what is the same at each step:
    a mask of n weights would be applied T times, forward and backward.
    """

    def inner_loop(self, *args, **kwargs):
        """Runs the loop over time with the masked weights of the cell computed before it."""
        with contextlib.ExitStack() as stack:
            for layer in flatten(self):
                if isinstance(layer, MaskedLayer):
                    stack.enter_context(_held(layer))
            return super().inner_loop(*args, **kwargs)


@contextlib.contextmanager
def _held(layer):
    """In this context, the layer reads tensors that are computed here instead of masking a weight at each reading."""
    vars(layer)["_held_weights"] = {w.attribute: w.value() for w in layer.masked_weights}
    try:
        yield
    finally:
        del vars(layer)["_held_weights"]

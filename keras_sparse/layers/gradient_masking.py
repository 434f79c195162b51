"""Masks the gradient of a weight only, in training steps that keep its dead entries at 0."""

import contextlib
import contextvars

from keras import ops

from keras_sparse import backend
from keras_sparse.layers.mask_elements import where_live

_variables = contextvars.ContextVar("variables whose dead entries are 0", default=())


@contextlib.contextmanager
def masking_only_gradients(variables: list):
    """Context in which masked layers take it for granted that dead entries of these variables are 0.

    Args:
        variables: list of `keras.Variable`, of masked weights.
    """
    token = _variables.set(variables)
    try:
        yield
    finally:
        _variables.reset(token)


def masks_only_gradient(variable) -> bool:
    """Returns whether the code runs in a context `masking_only_gradients` of a variable."""
    return any(variable is x for x in _variables.get())


def with_masked_gradient(mask, weights):
    """Returns a tensor that equals `weights`, and whose gradient is 0 at dead positions.

    Args:
        mask: tensor of 0 and 1, whose shape divides that of the weights.
        weights: tensor that is 0 where the mask is 0.
    """
    return backend.with_gradient(ops.convert_to_tensor(weights), ops.convert_to_tensor(mask), where_live)

"""Reads variables as NumPy, and writes single elements of them: what the host does between two training steps."""

import keras
import numpy as np
from keras import ops

from keras_sparse.masks import from_elements, to_elements


def view(variable):
    """A variable as an array for reading, of the backend's own memory where it lends it.

    Good until the variable is next written; copy what has to last, and never write to it.
    """
    # Not of the variable itself: TensorFlow would copy it.
    return ops.convert_to_numpy(variable) if _torch() else np.asarray(ops.convert_to_tensor(variable))


def write(variable, positions, values):
    """Writes some elements, in place where the backend can.

    Args:
        variable: `keras.Variable`.
        positions: 1-D int array, flat, without repetitions.
        values: scalar, or array of the same shape.
    """
    if not len(positions):
        return
    in_place = _torch() or type(variable.value).__name__ == "ResourceVariable"
    if in_place:
        new = ops.convert_to_tensor(np.broadcast_to(values, positions.shape).copy(), dtype=variable.dtype)
    if _torch():
        variable.value.data.view(-1)[ops.convert_to_tensor(positions)] = new
    elif in_place:
        variable.value.scatter_nd_update(np.stack(np.unravel_index(positions, variable.shape), axis=1), new)
    else:  # JAX, whose arrays do not change; a variable over several devices
        array = view(variable).copy()
        array.flat[positions] = values
        variable.assign(array)


def clear(variable, mask, fresh):
    """Sets what a mask calls dead to `fresh`, and leaves the rest.

    Args:
        variable: `keras.Variable` of a kernel's shape.
        mask: boolean array whose shape broadcasts to it.
        fresh: float.
    """
    array = view(variable).copy()
    elements = to_elements(array, mask.shape)
    elements[:, ~mask.ravel()] = fresh
    variable.assign(from_elements(elements, array.shape, mask.shape))


def _torch():
    return keras.backend.backend() == "torch"

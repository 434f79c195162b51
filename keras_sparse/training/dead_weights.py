"""Keeps dead weights at 0 and their optimizer state fresh, whatever trains the others."""

import numpy as np

from keras_sparse import backend
from keras_sparse.layers.granularity import from_elements, spread, to_elements
from keras_sparse.training.optimizer_state import keeps_zeros, slots


def leaves_zeros(layers, optimizer):
    """Whether training cannot have moved a dead weight or its slots."""
    kernels = [x.variable for x in layers]
    return keeps_zeros(optimizer) and all(v.constraint is None for v in kernels)


def finite(layers):
    """Whether no kernel holds NaN or infinity: a norm that does, and clips all gradients, reaches dead weights, too."""
    return all(np.isfinite(backend.read(x.variable)).all() for x in layers)


def clear(layers, optimizer):
    """Dead weights to 0 and their slots to fresh, of all of some layers."""
    for layer in layers:
        kernel, mask = layer.variable, layer.mask.numpy()
        for variable, fresh in [(kernel, 0.0), *slots(optimizer, kernel)]:
            clear_variable(variable, mask, fresh)


def clear_variable(variable, mask, fresh):
    """Sets what a mask calls dead to `fresh`, and leaves the rest.

    Args:
        variable: `keras.Variable` of a kernel's shape.
        mask: boolean array whose shape divides it.
        fresh: float.
    """
    array = backend.read(variable)
    if not np.logical_and(array != fresh, np.logical_not(spread(mask, array.shape))).any():
        return  # As a rule: to look takes a twentieth of the time of writing, which is seconds for 10**8 weights.
    array = array.copy()
    by_element = to_elements(array, mask.shape)
    by_element[:, ~mask.ravel()] = fresh
    backend.assign(variable, from_elements(by_element, array.shape, mask.shape))

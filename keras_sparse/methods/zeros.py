"""Dead weights stay 0 and their optimizer state fresh, whatever trains the others."""

import numpy as np

from keras_sparse import elements
from keras_sparse.slots import keeps_zeros, slots


def keep_zeros(layers, optimizer):
    """Whether training cannot have moved a dead weight or its slots."""
    kernels = [x.kernel_variable for x in layers]
    return keeps_zeros(optimizer) and all(v.constraint is None for v in kernels)


def finite(layers):
    """Whether no kernel holds NaN or infinity: a norm that does, and clips all gradients, reaches dead weights, too."""
    return all(np.isfinite(elements.view(x.kernel_variable)).all() for x in layers)


def clear(layers, optimizer):
    """Dead weights to 0 and their slots to fresh, of all of some layers."""
    for layer in layers:
        kernel, mask = layer.kernel_variable, layer.kernel_mask.numpy()
        for variable, fresh in [(kernel, 0.0), *slots(optimizer, kernel)]:
            elements.clear(variable, mask, fresh)

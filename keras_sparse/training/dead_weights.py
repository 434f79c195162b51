"""Keeps dead weights at 0 and their optimizer state fresh, that is, as a new optimizer would have it."""

import types

import keras
import numpy as np

from keras_sparse import _keras, backend
from keras_sparse.conversion.custom_layer_code import adds_losses
from keras_sparse.conversion.object_graph import refers_to
from keras_sparse.layers.mask_elements import from_elements, spread, to_elements
from keras_sparse.layers.traversal import flatten
from keras_sparse.training.optimizer_state import keeps_zeros, slots


def leaves_zeros(model: keras.Model, layers: list, optimizer) -> bool:
    """Returns whether no training step changes dead weights and their slots.

    Optimizers, constraints and layers around, such as `SpectralNormalization`, may. So may code of the user's with a
    penalty of the variables themselves, whose gradient is not 0 at dead weights: a loss that refers to them, a
    `compute_loss`, or a layer that calls `add_loss`.

    Args:
        model: `keras.Model`.
        layers: list of masked weights of the model.
        optimizer: the optimizer that trains them.
    """
    is_free = all(x.variable.constraint is None for x in layers) and not _are_held_elsewhere(model, layers)
    if not (is_free and keeps_zeros(optimizer) and _keras.has_loss_of_keras(model)):
        return False
    every = [model, *flatten(model)]
    return not any(map(adds_losses, every)) and not _refer_to(
        custom_losses(model), [*every, *(x.variable for x in layers)]
    )


def custom_losses(model: keras.Model) -> list:
    """Returns the losses that a model is compiled with and that are not Keras's: functions and objects."""
    losses = map(_loss_of_name, keras.tree.flatten(getattr(model, "loss", None)))
    return [x for x in losses if callable(x) and not _keras.is_code_of_keras(getattr(x, "fn", x))]


def _loss_of_name(loss):
    """Returns the loss of a name; other objects, and names such as "ce" that only `compile` knows, as they are."""
    try:
        return keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return loss


def _refer_to(losses, objects):
    """Returns whether losses, or the methods of their classes, refer to one of some layers and variables."""
    methods = [f for x in losses for cls in type(x).__mro__ for f in vars(cls).values()]
    functions = [f for f in methods if isinstance(f, types.FunctionType) and not _keras.is_code_of_keras(f)]
    return any(refers_to(x, objects) for x in (*losses, *functions))


def _are_held_elsewhere(model, layers):
    """Returns whether other layers than their own have variables of masked weights as attributes, and may use them."""
    owners = {id(x.variable): x.layer for x in layers}
    return any(owners.get(i, x) is not x for x in flatten(model) for i in map(id, vars(x).values()))


def finite(layers: list) -> bool:
    """Returns whether the weights, dead ones included, are free of NaN and infinity.

    Dead weights can become NaN, too: clipping by global norm multiplies all gradients by a factor that is NaN then.
    """
    return all(np.isfinite(backend.read(x.variable)).all() for x in layers)


def clear(layers: list, optimizer) -> None:
    """Sets the dead weights of the given masked weights to 0 and their optimizer slots to fresh values."""
    for layer in layers:
        kernel, mask = layer.variable, layer.mask.numpy()
        for variable, fresh in [(kernel, 0.0), *slots(optimizer, kernel)]:
            clear_variable(variable, mask, fresh)


def clear_variable(variable: keras.Variable, mask: np.ndarray, fresh: float) -> None:
    """Sets the dead entries of a variable to `fresh`.

    Args:
        variable: `keras.Variable` of the weight's shape.
        mask: boolean array, True where live, whose shape divides that of the variable.
        fresh: float.
    """
    array = backend.read(variable)
    if not np.logical_and(array != fresh, np.logical_not(spread(mask, array.shape))).any():
        return  # The usual case. Checking takes a twentieth of the time of writing, seconds for 10**8 weights.
    array = array.copy()
    by_element = to_elements(array, mask.shape)
    by_element[:, ~mask.ravel()] = fresh
    backend.assign(variable, from_elements(by_element, array.shape, mask.shape))

"""The functions of `keras_sparse.backend` for a backend that needs nothing special; each backend replaces some."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

DEPENDENCY_ATTRIBUTES = frozenset()  # names of attributes in which a layer lists what it refers to, on TensorFlow only


def read(variable: keras.Variable) -> np.ndarray:
    """Converts a variable to a NumPy array, which may share its memory: copy it to keep or change it."""
    return ops.convert_to_numpy(variable)


def to_numpy(value) -> np.ndarray:
    """Converts a tensor to a NumPy array."""
    return ops.convert_to_numpy(value)


def assign(variable: keras.Variable, value: np.ndarray) -> None:
    """Assigns an array to a variable."""
    variable.assign(value)


def where(condition, x, fill: float):
    """Returns a tensor with the values of `x` where a condition is true, and a number elsewhere.

    Args:
        condition: tensor of booleans or of 0 and 1, whose shape broadcasts to that of `x`.
        x: float tensor.
        fill: float.
    """
    return ops.where(ops.cast(condition, "bool"), x, ops.full_like(x, fill))


def copy_native(value, copied: dict, copy_of: Callable):
    """Copies an object of the backend, such as a variable or a module. Returns any other object itself.

    Args:
        value: any object.
        copied: dict from ids to copies.
        copy_of: function from an object to its copy.
    """
    return value


def copy_dependencies(layer: keras.Layer, new: keras.Layer, names_left_out: set[str]) -> None:
    """Copies what the backend itself lists of a layer. By default, it lists nothing."""


def link_native(variable: keras.Variable, new: keras.Variable, copied: dict) -> None:
    """Does nothing: only PyTorch has modules that share parameters with Keras variables."""


def track_parameters(model: keras.Model) -> None:
    """Does nothing: only on PyTorch a model has a second list of its variables."""


def is_native_optimizer(optimizer) -> bool:
    """Returns False: only PyTorch has optimizers of its own that train Keras variables."""
    return False


def native_slots(optimizer, variable: keras.Variable) -> list[keras.Variable]:
    """Returns an empty list: there are no optimizers of the backend's own."""
    return []


def layout_of(variable):
    """Returns None: only JAX supports `keras.distribution`, whose `TensorLayout` a variable has there."""


def copies(variable: keras.Variable) -> list[tuple]:
    """Returns the copies of a variable, or of its parts, on all devices.

    Returns:
        List of `(part, array)`, one for each device. `part` is a tuple with `(start, stop)` for each axis, or None for
        the whole variable. `array` is None if the device belongs to another process.
    """
    return [(None, read(variable))]


def of_all_processes(*arrays: np.ndarray) -> list[np.ndarray]:
    """Gathers 1-D arrays from all processes. There is only one: returns arrays of shape `(size, 1)`."""
    return [a[:, None] for a in arrays]


def refresh_held_state(model: keras.Model) -> None:
    """Does nothing, since `fit` holds no copy of the variables on this backend."""

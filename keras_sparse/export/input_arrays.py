"""Turns what a user passes as the inputs of a model into one array for each input, and checks that they fit."""

from typing import Any

import keras
import numpy as np


def input_arrays(given: Any, specs: list[keras.InputSpec], name: str) -> list[np.ndarray]:
    """Returns one array for each input, in the order of the inputs and in their dtypes.

    Args:
        given: an array, if there is one input; a list of arrays, in any nesting, in the order of the inputs; or a dict
            from the names of the inputs to arrays.
        specs: list of `keras.InputSpec`, with name, dtype, and shape, whose first axis is the batch. Sizes of None may
            be any.
        name: str, what `given` is called in messages.

    Raises:
        ValueError: if there are not as many arrays as inputs, or a shape, a dtype or the name of an input is wrong, or
            an input of integers would be rounded.
    """
    expected = f"Expected: for each input an array of its shape and dtype: {', '.join(map(_described, specs))}."
    arrays = _converted(_in_order(given, specs, name, expected), name, expected)
    received = [(x.shape, x.dtype.name) for x in arrays]
    counts = {len(x) for x in arrays if x.ndim}
    if len(arrays) != len(specs) or len(counts) != 1 or 0 in counts or not all(map(_has_shape, arrays, specs)):
        raise ValueError(
            f"{name} does not fit the inputs of the model. {expected} All arrays have the same number of samples, at "
            f"least 1. Received: arrays of the shapes and dtypes {received}. Give a list of arrays, or a dict."
        )
    for x, spec in zip(arrays, specs, strict=True):
        if not _has_values_of(spec.dtype, x):
            raise ValueError(
                f"{name} has numbers that the inputs of the model cannot have. {expected} Received: arrays of the "
                f"shapes and dtypes {received}. Convert them, so that no number is rounded by accident."
            )
    return [x if s.dtype == "string" else x.astype(s.dtype, copy=False) for x, s in zip(arrays, specs, strict=True)]


def _in_order(given, specs, name, expected):
    """Returns a list of what was given for each input."""
    is_array_like = hasattr(given, "shape") or isinstance(given, (list, tuple, dict, int, float, str))
    if callable(given) or (hasattr(given, "__iter__") and not is_array_like):
        raise ValueError(
            f"{name} must be arrays, and not a function or an iterator of batches. {expected} Received: "
            f"{type(given).__name__}. Make an array of it, such as numpy.concatenate(list(dataset))."
        )
    if isinstance(given, dict):
        names = [spec.name for spec in specs]
        if set(given) != set(names):
            received = sorted(map(str, given))
            raise ValueError(f"{name} must have the names of the inputs. {expected} Received: {received}.")
        return [given[key] for key in names]
    if len(specs) > 1:
        return keras.tree.flatten(given)
    if isinstance(given, (list, tuple)) and len(given) == 1 and np.ndim(given[0]) == len(specs[0].shape):
        return list(given)
    return [given]


def _converted(values, name, expected):
    """Returns a list of arrays."""
    try:
        return [np.asarray(x) for x in values]
    except ValueError as error:  # The rows of a list have several lengths.
        raise ValueError(f"{name} cannot be converted to arrays: {error} {expected}") from error


def _has_shape(array, spec):
    sizes = zip(spec.shape[1:], array.shape[1:], strict=False)
    return array.ndim == len(spec.shape) and all(n is None or n == m for n, m in sizes)


def _has_values_of(dtype, array):
    """Returns whether an array can be converted to a dtype. Floats may be rounded, but integers must stay the same."""
    if dtype == "string":
        return array.dtype.kind in "SUO"
    if array.dtype.kind not in "fiub":
        return False
    return keras.backend.is_float_dtype(dtype) or np.array_equal(array, array.astype(dtype))


def _described(spec):
    sizes = ", ".join("any" if n is None else str(n) for n in spec.shape[1:])
    return f"{spec.name!r}: (samples, {sizes}) of {spec.dtype}"

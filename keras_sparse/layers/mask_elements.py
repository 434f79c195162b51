"""Arranges weights by the elements of their mask, each of which covers one or more of them."""

import math

import numpy as np
from keras import ops

from keras_sparse import backend


def mask_of(weight: np.ndarray, shape: tuple) -> np.ndarray:
    """Returns the mask of the nonzero weights: an element is live if any weight that it covers is not 0.

    Args:
        weight: array.
        shape: tuple of ints, shape of the mask.

    Returns:
        Boolean NumPy array of that shape.
    """
    return to_elements(weight, shape).any(axis=0).reshape(shape)


def to_elements(weights: np.ndarray, shape: tuple) -> np.ndarray:
    """Arranges a weight by mask elements.

    Args:
        weights: array of the shape of the weight.
        shape: tuple of ints, shape of the mask, which divides that of the weight.

    Returns:
        Array of shape `(weights per element, elements)`, a view if possible.
    """
    # Split each axis into (elements, weights within an element), and move the latter to the front.
    view, _ = _views(weights.shape, shape)
    elements = math.prod(shape)
    order = [*range(1, len(view), 2), *range(0, len(view), 2)]
    return weights.reshape(view).transpose(order).reshape(weights.size // elements, elements)


def from_elements(elements: np.ndarray, weight_shape: tuple, shape: tuple) -> np.ndarray:
    """Returns the weight that `to_elements` arranged.

    Args:
        elements: array of shape `(weights per element, elements)`.
        weight_shape: tuple of ints, shape of the weight.
        shape: tuple of ints, shape of the mask.

    Returns:
        Array of shape `weight_shape`.
    """
    view, _ = _views(weight_shape, shape)
    order = [*range(1, len(view), 2), *range(0, len(view), 2)]
    return elements.reshape([view[i] for i in order]).transpose(np.argsort(order)).reshape(weight_shape)


def spread(mask: np.ndarray, weight_shape: tuple) -> np.ndarray:
    """Repeats the elements of a mask over blocks, so that it broadcasts to the weight.

    Args:
        mask: boolean array, whose shape divides that of the weight.
        weight_shape: tuple of ints.

    Returns:
        Boolean array that broadcasts to `weight_shape`.
    """
    for axis, (n, k) in enumerate(zip(mask.shape, weight_shape, strict=True)):
        if n not in (1, k):
            mask = mask.repeat(k // n, axis=axis)
    return mask


def where_live(mask, weights, fill=0.0):
    """Returns a tensor of weights with `fill` at dead positions.

    Args:
        mask: tensor of booleans or of 0 and 1, whose shape divides that of the weights.
        weights: tensor.
        fill: float; 0 by default.

    Returns:
        Tensor of the shape and dtype of `weights`.
    """
    weights = ops.convert_to_tensor(weights)
    shape = tuple(weights.shape)
    if all(n in (1, k) for n, k in zip(mask.shape, shape, strict=True)):
        return backend.where(mask, weights, fill)
    view, mask_view = _views(shape, tuple(mask.shape))
    return ops.reshape(backend.where(ops.reshape(mask, mask_view), ops.reshape(weights, view), fill), shape)


def _views(weight_shape, shape):
    """Returns shapes of weight and mask that broadcast: each axis is split into `(elements, weights of an element)`."""
    pairs = [(n, k // n) if n else (0, 1) for n, k in zip(shape, weight_shape, strict=True)]
    return tuple(i for pair in pairs for i in pair), tuple(i for n, _ in pairs for i in (n, 1))

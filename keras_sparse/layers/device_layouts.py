"""Lays out the variables of a mask over the devices of a `keras.distribution` like the weight, on JAX."""

import contextlib

import keras

from keras_sparse import _keras, backend


@contextlib.contextmanager
def laid_out_beside(reference, layer):
    """Context in which new variables of a layer get the layout of another variable.

    A `keras.distribution.LayoutMap` assigns layouts by paths, and may match the path of a mask by accident. But if a
    weight is split over devices, its mask must be split in the same way. So the map is ignored for masks.

    Args:
        reference: `keras.Variable`, such as the weight.
        layer: `keras.Layer`, such as the mask. Its new variables whose shapes broadcast to that of `reference` are
            split like it, except along axes of size 1. Others are replicated.
    """
    layout, distribution = backend.layout_of(reference), keras.distribution.distribution()
    if layout is None:
        yield
        return
    before = {id(v) for v in layer.variables}
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)
    for variable in layer.variables:
        if id(variable) not in before:
            axes = _broadcast(tuple(layout.axes), tuple(reference.shape), tuple(variable.shape))
            _keras.set_layout(variable, keras.distribution.TensorLayout(axes, layout.device_mesh))


def _broadcast(axes, whole, shape):
    """Returns the mesh axis, or None, of each axis of an array whose shape may broadcast to `whole`."""
    if len(shape) != len(whole) or any(n not in (1, w) for n, w in zip(shape, whole, strict=True)):
        return (None,) * len(shape)
    axes = (*axes, *(None,) * (len(whole) - len(axes)))
    return tuple(axis if n == w else None for axis, n, w in zip(axes, shape, whole, strict=True))

"""How variables lie on the devices of a `keras.distribution`, on JAX: those of a mask as the weight that it masks."""

import contextlib

import keras

from keras_sparse import _keras, backend


@contextlib.contextmanager
def laid_out_beside(reference, layer):
    """In this context, lays the new variables of a layer out over the devices as another variable.

    A `keras.distribution.LayoutMap` goes by paths, and would take the path of a mask for one of its own. But a kernel
    that is split over devices needs its mask split alike, so what the map says of a mask does not count.

    Args:
        reference: `keras.Variable`.
        layer: `keras.Layer`. Of its variables made here those whose shape broadcasts to that of `reference` lie as it
            does, but for the axes over which they broadcast; of the others each device holds all.
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
    """The axes of a device mesh, None for none, over which to split an array whose shape may broadcast to `whole`."""
    if len(shape) != len(whole) or any(n not in (1, w) for n, w in zip(shape, whole, strict=True)):
        return (None,) * len(shape)
    axes = (*axes, *(None,) * (len(whole) - len(axes)))
    return tuple(axis if n == w else None for axis, n, w in zip(axes, shape, whole, strict=True))

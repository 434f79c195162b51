"""Counts the multiply-accumulates of a layer: how often it uses each of its weights for one input.

Dense layers and convolutions use a weight once for each position of the output.
"""

import math
from collections.abc import Callable

import keras

from keras_sparse import _keras
from keras_sparse.layers.connected_units import TRANSPOSED
from keras_sparse.layers.traversal import flatten

_CONVOLUTIONS = (
    *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
    *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
)
_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_CELLS = (keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell)


def uses_per_input(model: keras.Model) -> Callable[[keras.Layer], int | None]:
    """Returns a function that counts how often a layer of a model uses each of its weights for one input.

    Each use of a weight is one multiply-accumulate.

    Args:
        model: built `keras.Model`.

    Returns:
        Function that gets a layer and returns an int of at least 0; None if the size of an axis is not fixed, or the
        class of the layer is not known.
    """
    uses_in_call, calls = uses_per_call(model), _time_steps(model)

    def uses(layer):
        factors = uses_in_call(layer), calls.get(id(layer), 1)
        return None if None in factors else math.prod(factors)

    return uses


def uses_per_call(model: keras.Model) -> Callable[[keras.Layer], int | None]:
    """Returns a function like that of `uses_per_input`, for one call: a recurrent cell is called at each time step."""
    lengths = _query_lengths(model)
    return lambda layer: _positions(layer, lengths.get(id(layer), ()))


def _time_steps(model: keras.Model) -> dict[int, int | None]:
    """Returns how often layers inside of recurrent and time-distributed layers are called for one input.

    Returns:
        Dict from the id of such a layer to an int of at least 1, or None if the number of time steps is not fixed.
    """
    steps = {}
    for outer in (model, *flatten(model)):
        if isinstance(outer, (keras.layers.RNN, keras.layers.TimeDistributed)):
            shape = _input_shape(outer)
            length = shape[1] if shape else None
            for layer in flatten(outer):
                before = steps.get(id(layer), 1)
                steps[id(layer)] = None if None in (length, before) else before * length
    return steps


def _query_lengths(model: keras.Model) -> dict[int, tuple]:
    """Returns the lengths of the queries of attention layers, for each layer inside of them.

    The output projection of attention is built with an unknown length, which its build config does not contain.

    Returns:
        Dict from the id of such a layer to the sizes of the query's axes without batch and features: a tuple of ints,
        or of None for an axis whose size is not fixed.
    """
    lengths = {}
    for outer in (model, *flatten(model)):
        if isinstance(outer, _ATTENTIONS) and outer.built:
            query = outer.get_build_config()["shapes_dict"]["query_shape"]
            lengths.update((id(layer), tuple(query[1:-1])) for layer in flatten(outer))
    return lengths


def _positions(layer, lengths):
    """Returns how often a layer uses each weight in one call, or None if that is unknown."""
    if isinstance(layer, keras.layers.Embedding):
        return 0  # Weights are looked up, not multiplied.
    if isinstance(layer, _CELLS):
        return 1
    shape = _input_shape(layer)
    if shape is None:
        return None
    if isinstance(layer, keras.layers.EinsumDense):
        if lengths and set(shape[1 : len(lengths) + 1]) == {None}:
            shape = (shape[0], *lengths, *shape[len(lengths) + 1 :])
        axes = _einsum_axes(layer.equation, shape)
    elif isinstance(layer, keras.layers.Dense):
        axes = shape[1:-1]
    elif isinstance(layer, _keras.conv_lstm_cell()):
        padded = layer.padding == "same"
        spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
        sizes = zip(spatial, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        axes = [None if n is None else _convolved(n, k, s, d, padded) for n, k, s, d in sizes]
    elif isinstance(layer, (*_CONVOLUTIONS, *TRANSPOSED)):
        if not isinstance(layer, TRANSPOSED):
            shape = layer.compute_output_shape(shape)
        axes = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    else:
        return None
    return None if None in axes else math.prod(axes)


def _einsum_axes(equation, shape):
    """Returns the sizes of the axes of an EinsumDense's input that its kernel does not have, without the batch axis."""
    letters, kernel = equation.split("->")[0].split(",")
    ellipsis = "." * (len(shape) - len(letters.replace("...", "")))  # one dot for each axis of the ellipsis
    letters = letters.replace("...", ellipsis)
    return [n for n, letter in zip(shape, letters, strict=True) if letter not in kernel][1:]


def _convolved(size, kernel, stride, dilation, padded):
    """Returns the output size of a convolution along one axis."""
    return -(-(size if padded else size - dilation * (kernel - 1)) // stride)


def _input_shape(layer):
    """Returns the shape of the first input for which a layer was built, or None if it is unknown."""
    config = layer.get_build_config() or {}
    shape = config.get("input_shape")
    while shape and isinstance(shape[0], (list, tuple)):  # The layer has several inputs.
        shape = shape[0]
    return shape

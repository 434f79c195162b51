"""Selects the rule for removing channels of each layer call. Unknown layers get `ChannelRule`."""

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.export import channel_rules as rules
from keras_sparse.export import weighted_channel_rules as weighted
from keras_sparse.layers.layer_kinds import DEPTHWISE_CONVOLUTIONS, SEPARABLE_CONVOLUTIONS, is_modified

_LINEAR = (
    *(keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose),
)
# Layers that combine the same channel of several inputs -> function of the constants of the inputs.
_MERGES = {
    keras.layers.Add: sum,
    keras.layers.Subtract: lambda given: given[0] - given[1],
    keras.layers.Multiply: rules.product_of_constants,
    keras.layers.Average: lambda given: np.mean(given, axis=0),
    keras.layers.Maximum: lambda given: np.max(given, axis=0),
    keras.layers.Minimum: lambda given: np.min(given, axis=0),
}


def select_rule(node, outputs, once):
    """Returns the rule of a call.

    Classes are compared by identity, since a subclass may compute something else.

    Args:
        node: node of a `keras.Function`, one call of an operation.
        outputs: list of ints, the number of channels of each output.
        once: bool, whether the operation is called only once and shares no weight with another one.

    Returns:
        `keras_sparse.export.channel_rules.ChannelRule` or one of its subclasses.
    """
    operation, tensors = node.operation, node.arguments.keras_tensors
    inputs = [channel_count(x) for x in tensors]
    call = (operation, inputs, outputs)
    # `Add()([x, array])` has arguments that are no tensors of the model, and whose channels cannot be removed.
    symbolic = len(keras.tree.flatten(node.arguments.args)) == len(tensors)
    plain = symbolic and not has_settings(node) and len(outputs) == 1 and 0 not in inputs + outputs
    if not once or not plain or getattr(operation, "data_format", None) == "channels_first":
        return rules.ChannelRule(*call)
    kind = type(operation)
    if kind is keras.layers.Concatenate:
        return _concatenation_rule(*call, len(tensors[0].shape))
    if kind in _MERGES or _operator_of(node) in _MERGES:
        combine = _MERGES[kind if kind in _MERGES else _operator_of(node)]
        # An input of one channel is broadcast to all output channels. Where a position is masked, layers multiply by 1,
        # or take the maximum of the other inputs, so that constants are not combined as they are elsewhere.
        if set(inputs) != set(outputs) or any(map(_keras.has_mask, tensors)):
            return rules.ChannelRule(*call)
        return rules.ChannelWise(*call, combine=lambda given, _: combine(given))
    if len(tensors) != 1 or len(node.arguments.args) != 1 or node.arguments.args[0] is not tensors[0]:
        return rules.ChannelRule(*call)
    if kind in _LINEAR and getattr(operation, "groups", 1) == 1 and not is_modified(operation):
        return weighted.Linear(*call)
    if kind in SEPARABLE_CONVOLUTIONS:
        return weighted.SeparableConv(*call)
    if kind in DEPTHWISE_CONVOLUTIONS and rules.is_pointwise(operation.activation):
        return weighted.DepthwiseConv(*call)
    if kind is keras.layers.BatchNormalization and operation.axis in (-1, len(tensors[0].shape) - 1):
        return weighted.BatchNormalization(*call)
    if rules.is_pointwise_operation(operation):
        return rules.ChannelWise(*call, combine=lambda given, _: rules.apply_to_constants(operation, given[0]))
    # The last size of a `noise_shape` may be the number of channels.
    fits_any_number = (getattr(operation, "noise_shape", None) or (None,))[-1] in (None, 1)
    if kind in rules.POINTWISE and fits_any_number and rules.is_pointwise(getattr(operation, "activation", None)):
        function = _inference_function(operation)
        return rules.ChannelWise(*call, combine=lambda given, _: rules.apply_to_constants(function, given[0]))
    if kind in rules.POOLING:
        padded = "ZeroPadding" in kind.__name__ or getattr(operation, "padding", "valid") == "same"
        # Max pooling ignores its padding. The others would average or put zeros beside the constant.
        mixes_zeros = padded and "Max" not in kind.__name__
        return rules.ChannelWise(*call, combine=(lambda given, _: rules.keep_zeros(given[0])) if mixes_zeros else None)
    if kind is keras.layers.Reshape and inputs == outputs:
        return rules.Reshape(*call)
    if kind is keras.layers.Flatten:
        target = np.arange(outputs[0])  # Channels are the last axis, so that they alternate in the flat output.
        return rules.ChannelWise(*call, links=[(target % inputs[0], target)])
    return rules.ChannelRule(*call)


def has_settings(node):
    """Returns whether a call has an argument, such as `training=True`, that may change what the layer computes."""
    # Keras adds `training=False`.
    return any(v is not None and (k, v) != ("training", False) for k, v in node.arguments.kwargs.items())


def channel_count(tensor):
    """Returns the number of channels of a tensor: 0 if it has no last axis beside the batch, or one of unknown size."""
    return tensor.shape[-1] or 0 if len(tensor.shape) > 1 else 0


def _concatenation_rule(operation, inputs, outputs, rank):
    if operation.axis not in (-1, rank - 1):
        return rules.ChannelRule(operation, inputs, outputs)
    starts = np.cumsum([0, *inputs])
    links = [(np.arange(n), start + np.arange(n)) for n, start in zip(inputs, starts, strict=False)]
    return rules.ChannelWise(operation, inputs, outputs, links, _concatenated_constants)


def _concatenated_constants(given, linked):
    """Returns for each output channel the constant of the one input to which it belongs."""
    return np.select(linked, given, np.nan)


def _operator_of(node):
    """Returns the layer class that does what an operation of two tensors does, such as `x + y`; None for others."""
    name = _keras.operation_name(node.operation)
    if name is None or len(node.arguments.args) != 2 or len(node.arguments.keras_tensors) != 2:
        return None
    return getattr(keras.layers, name, None)


def _inference_function(layer):
    """Returns what a pointwise layer computes in inference: dropout, noise and regularization do nothing."""
    activation = getattr(layer, "activation", None)
    if activation is not None:
        return activation
    if isinstance(layer, (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)):
        return layer
    return lambda x: x

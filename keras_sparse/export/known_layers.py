"""Which rule tells of a call of a layer; what is not known here is opaque."""

import keras
import numpy as np

from keras_sparse.export import channel_rules as rules

_MIXING = (
    *(keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose),
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


def rule_of(node, outputs, once):
    """The rule of a call.

    Args:
        node: of a `keras.Function`.
        outputs: list of ints, the channels of each output.
        once: bool, whether the layer is called nowhere else and shares no weight with another one.

    Returns:
        A `keras_sparse.export.channel_rules.Opaque` or one of its subclasses.
    """
    operation, tensors = node.operation, node.arguments.keras_tensors
    inputs = [channels(x) for x in tensors]
    call = (operation, inputs, outputs)
    # A setting of the call, such as `training=True`, may make it another function.
    plain = all(v is None for v in node.arguments.kwargs.values()) and len(outputs) == 1 and 0 not in inputs + outputs
    if not once or not plain or getattr(operation, "data_format", None) == "channels_first":
        return rules.Opaque(*call)
    kind = type(operation)
    if kind in (keras.layers.Add, keras.layers.Concatenate) or _is_plus(operation):
        return _merge(operation, tensors, inputs, outputs)
    if len(tensors) != 1 or len(node.arguments.args) != 1 or node.arguments.args[0] is not tensors[0]:
        return rules.Opaque(*call)
    if kind in _MIXING and getattr(operation, "groups", 1) == 1 and not _is_changed(operation):
        return rules.Mixing(*call)
    if kind in _DEPTHWISE and rules.is_pointwise(operation.activation):
        return rules.Depthwise(*call)
    if kind is keras.layers.BatchNormalization and operation.axis in (-1, len(tensors[0].shape) - 1):
        return rules.Normalization(*call)
    if kind in rules.POINTWISE and rules.is_pointwise(getattr(operation, "activation", None)):
        return rules.Through(*call, combine=lambda given, _: rules.evaluated(_function(operation), given[0]))
    if kind in rules.POOLING:
        padded = "ZeroPadding" in kind.__name__ or getattr(operation, "padding", "valid") == "same"
        zero = padded and "Max" not in kind.__name__
        return rules.Through(*call, combine=(lambda given, _: rules.zero_only(given[0])) if zero else None)
    if kind is keras.layers.Flatten:
        target = np.arange(outputs[0])
        return rules.Through(*call, links=[(target % inputs[0], target)])
    return rules.Opaque(*call)


def channels(tensor):
    """How many channels a tensor has: 0 if it has no last axis of known size."""
    return tensor.shape[-1] or 0 if len(tensor.shape) > 1 else 0


def _merge(operation, tensors, inputs, outputs):
    if isinstance(operation, keras.layers.Concatenate):
        if operation.axis not in (-1, len(tensors[0].shape) - 1):
            return rules.Opaque(operation, inputs, outputs)
        starts = np.cumsum([0, *inputs])
        links = [(np.arange(n), start + np.arange(n)) for n, start in zip(inputs, starts, strict=False)]
        return rules.Through(operation, inputs, outputs, links, _own)
    if set(inputs) != set(outputs):  # One number for all channels.
        return rules.Opaque(operation, inputs, outputs)
    return rules.Through(operation, inputs, outputs, combine=lambda given, _: sum(given))


def _own(given, part):
    """Each output channel's constant is that of the one input that it is of."""
    return np.select(part, given, np.nan)


def _is_plus(operation):
    """Whether it is `x + y` of two tensors, for which Keras exports no class."""
    return type(operation).__name__ == "Add" and type(operation).__module__ == "keras.src.ops.numpy"


def _is_changed(layer):
    """Whether LoRA or a quantization has made another function of the layer."""
    return bool(getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None))


def _function(layer):
    """The layer as it is in use, not in training, in float32."""
    activation = getattr(layer, "activation", None)
    if activation is not None:
        return activation
    if isinstance(layer, (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)):
        return layer
    return lambda x: x

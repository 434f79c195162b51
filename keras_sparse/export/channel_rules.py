"""Rules for removing channels: how each kind of layer maps the channels of its inputs to those of its output.

A channel is an index of the last axis of a tensor. The rule of one call of a layer returns:

- which output channels are constant, that is, the same number for any input of the model (`constants`);
- which input channels the output depends on (`needed_inputs`);
- which input and output channels must be removed together (`links`);
- which input channels cannot be removed (`fixed_inputs`);
- the layer without the removed channels (`rebuild`).

Constants are a float array with one entry for each channel, NaN for channels that are not constant.
"""

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras

_POINTWISE_NAMES = (
    *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear"),
    *("log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh"),
)
_POINTWISE_FUNCTIONS = tuple(getattr(keras.activations, name) for name in _POINTWISE_NAMES)
# Classes of the operations that these functions add to a functional model, in lower case: "HardSilu" of `hard_silu`.
_POINTWISE_OPERATIONS = {name.replace("_", "") for name in _POINTWISE_NAMES}
# Layers that apply the same function to each number, and have no weight or argument that depends on the channels.
POINTWISE = (
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU),
    *(keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise, keras.layers.AlphaDropout),
    *(keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D),
    *(keras.layers.Identity, keras.layers.ActivityRegularization),
)
# Layers that combine or repeat numbers of one channel, or add zeros.
POOLING = (
    *(keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D),
    *(keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D),
    *(keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D),
    *(keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D, keras.layers.GlobalMaxPooling3D),
    *(keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D),
    *(keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D),
    *(keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D),
)


def is_pointwise(function):
    """Returns whether an activation function is applied to each number separately, unlike softmax."""
    return function is None or any(function is known for known in _POINTWISE_FUNCTIONS)


def is_pointwise_operation(operation):
    """Returns whether an operation in a functional model is such an activation function, called on a tensor."""
    return (_keras.operation_name(operation) or "").lower() in _POINTWISE_OPERATIONS


def apply_to_constants(function, values):
    """Returns a pointwise function of constants; NaN where the argument or the result is not finite."""
    known = np.isfinite(values)
    result = np.full(values.shape, np.nan)
    if known.any():
        # A batch of one row, since `function` may be a layer.
        row = ops.convert_to_tensor(np.where(known, values, 0)[None].astype("float32"))
        result[known] = ops.convert_to_numpy(ops.cast(function(row), "float32"))[0][known]
    return np.where(np.isfinite(result), result, np.nan)


class ChannelRule:
    """Base class of the rules, and the rule of layers that are not known here: all channels stay, none is constant.

    Args:
        operation: the `keras.Operation` that is called.
        inputs: list of ints, the number of channels of each input.
        outputs: list of ints, the number of channels of each output.
    """

    fixes_outputs = True  # Whether no output channel can be removed.

    def __init__(self, operation, inputs, outputs):
        self.operation, self.inputs, self.outputs = operation, inputs, outputs

    def constants(self, given):
        """Returns the constants of each output, a list of arrays. `given` are those of each input."""
        return [np.full(n, np.nan) for n in self.outputs]

    def needed_inputs(self, needed):
        """Returns, for each input, which channels the output depends on.

        Args:
            needed: list of boolean arrays, the channels of each output that are needed.

        Returns:
            List of boolean arrays.
        """
        return [np.ones(n, bool) for n in self.inputs]

    def links(self):
        """Returns `(input channels, output channels)` for each input: pairs that must be removed together."""
        return [(np.zeros(0, int), np.zeros(0, int)) for _ in self.inputs]

    def fixed_inputs(self, given, needed):
        """Returns, for each input, a boolean array: the channels that this layer does not allow to remove."""
        return self.needed_inputs(needed)

    def rebuild(self, kept, given, kept_output):
        """Returns the layer without the removed channels.

        Args:
            kept: list of boolean arrays, the channels of each input that stay.
            given: list of arrays, the constants of each input.
            kept_output: boolean array, the channels of the output that stay.

        Returns:
            `(layer, weights)`, or None if the layer need not change.
        """


class ChannelWise(ChannelRule):
    """Rule of a layer in which an output channel depends on at most one channel of each input.

    Such layers are pointwise functions, pooling, addition, multiplication, concatenation and flattening.

    Args:
        links: list of `(input channels, output channels)` for each input; by default each channel to itself.
        combine: function that returns the constants of the output. Its arguments are two lists with an array for each
            input, both indexed by output channel: the constants, and whether the input is linked to that output
            channel. By default, the output has the constants of the first input.
    """

    fixes_outputs = False

    def __init__(self, operation, inputs, outputs, links=None, combine=None):
        super().__init__(operation, inputs, outputs)
        self._links = links or [(np.arange(n), np.arange(n)) for n in inputs]
        self._combine = combine or (lambda given, _: given[0])

    def constants(self, given):
        """See `ChannelRule`."""
        by_output, linked = [], []
        for values, (source, target) in zip(given, self._links, strict=True):
            out, has = np.full(self.outputs[0], np.nan), np.zeros(self.outputs[0], bool)
            out[target], has[target] = values[source], True
            by_output.append(out)
            linked.append(has)
        return [self._combine(by_output, linked)]

    def needed_inputs(self, needed):
        """See `ChannelRule`."""
        result = [np.zeros(n, bool) for n in self.inputs]
        for need, (source, target) in zip(result, self._links, strict=True):
            np.logical_or.at(need, source, needed[0][target])
        return result

    def links(self):
        """See `ChannelRule`."""
        return self._links

    def fixed_inputs(self, given, needed):
        """Returns no channels: the links already keep an input channel as long as its output channel is kept."""
        return [np.zeros(n, bool) for n in self.inputs]

    def rebuild(self, kept, given, kept_output):
        """See `ChannelRule`. Operations that are not layers, such as `x + y`, have no weights and need not change."""
        if not isinstance(self.operation, keras.layers.Layer):
            return None
        return clone_layer(self.operation), self.weights(kept, kept_output)

    def weights(self, kept, kept_output):
        """Returns the weights of the rebuilt layer, a list of arrays."""
        return []


class Reshape(ChannelWise):
    """Rule of a reshaping that keeps the last axis, so that only the other axes are rearranged."""

    def rebuild(self, kept, given, kept_output):
        """See `ChannelRule`."""
        *shape, _ = self.operation.target_shape
        return clone_layer(self.operation, target_shape=(*shape, int(kept_output.sum()))), []


def clone_layer(layer, **changes):
    """Returns a new layer, not built, with the config of another one and some changes.

    Functions and objects such as initializers are taken from the layer itself and not from its config: they need not be
    serializable. Initializers that may suit the shape of the old layer only become "zeros".
    """
    config = {k: v for k, v in layer.get_config().items() if k != "dtype"}
    objects = {k: getattr(layer, k) for k in config if hasattr(layer, k) and _is_object(getattr(layer, k))}
    fixed = {k: "zeros" for k, x in objects.items() if k.endswith("initializer") and not _suits_any_shape(x)}
    return type(layer)(**{**config, **objects, **fixed, "dtype": layer.dtype_policy, **changes})


def keep_zeros(values):
    """Returns the constants that are 0, NaN for all others."""
    return np.where(values == 0, 0.0, np.nan)


def product_of_constants(given):
    """Returns the product of constants: 0 where one of them is 0, whatever the others are."""
    return np.where(np.equal(given, 0).any(0), 0.0, np.prod(given, axis=0))


def _suits_any_shape(initializer):
    return _keras.is_code_of_keras(initializer) and not np.ndim(getattr(initializer, "value", 0))


def _is_object(value):
    return not isinstance(value, (bool, int, float, str, tuple, list, dict, type(None)))


def to_float64(variable):
    """Converts a variable to a float64 array."""
    is_half = variable.dtype not in ("float32", "float64")  # NumPy has no bfloat16.
    return ops.convert_to_numpy(ops.cast(variable, "float32") if is_half else variable).astype("float64")

"""How each kind of layer carries the channels of its inputs to those of its output.

A channel is an index of the last axis of a tensor. A rule answers for one call of a layer which output channels are the
same number for any input (`constants`), which input channels they depend on (`needed`), which channels are removed
together (`links`), and which inputs cannot be removed (`held`); and it makes the layer anew without those removed.
A constant of NaN stands for "not constant".
"""

import keras
import numpy as np
from keras import ops

_POINTWISE_FUNCTIONS = tuple(
    getattr(keras.activations, name)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear"),
        *("log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh"),
    )
)
# Layers that do to each number of a channel the same, and know no size of it.
POINTWISE = (
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU),
    *(keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise, keras.layers.AlphaDropout),
    *(keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D),
    *(keras.layers.Identity, keras.layers.ActivityRegularization),
)
# Layers that put together numbers of the same channel. Those of the second list may put zeros beside them.
_POOLING = [
    *(keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D),
    *(keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D),
    *(keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D, keras.layers.GlobalMaxPooling3D),
    *(keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D),
]
_PADDING = [
    *(keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D),
    *(keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D),
]
POOLING = (*_POOLING, *_PADDING)


def is_pointwise(function):
    """Whether an activation works on each number by itself, as softmax does not."""
    return function is None or any(function is known for known in _POINTWISE_FUNCTIONS)


def evaluated(function, values):
    """A pointwise function of constants, NaN for those that are none."""
    known = np.isfinite(values)
    result = np.full(values.shape, np.nan)
    if known.any():
        # A single row, since layers take batches.
        row = ops.convert_to_tensor(np.where(known, values, 0)[None].astype("float32"))
        result[known] = ops.convert_to_numpy(ops.cast(function(row), "float32"))[0][known]
    return np.where(np.isfinite(result), result, np.nan)


class Opaque:
    """A layer that is left as it is: nothing is known of its output, and all of its inputs stay.

    Args:
        operation: the `keras.Operation` that is called.
        inputs: list of ints, the channels of each input.
        outputs: list of ints, the channels of each output.
    """

    pinned = True

    def __init__(self, operation, inputs, outputs):
        self.operation, self.inputs, self.outputs = operation, inputs, outputs

    def constants(self, given):
        """Constants of each output, from those of each input."""
        return [np.full(n, np.nan) for n in self.outputs]

    def needed(self, wanted):
        """Which channels of each input an output that is wanted depends on."""
        return [np.ones(n, bool) for n in self.inputs]

    def links(self):
        """`(input channels, output channels)` for each input, two arrays: channels that are removed together."""
        return [(np.zeros(0, int), np.zeros(0, int)) for _ in self.inputs]

    def held(self, given, wanted):
        """Which channels of each input cannot be removed."""
        return self.needed(wanted)

    def remade(self, kept, given, kept_output):
        """`(layer, weights)` of the layer for the channels that are kept, or None if it may stay as it is."""


class Through(Opaque):
    """A layer whose output channel is made of single input channels: pointwise, pooling, addition, concatenation.

    Args:
        links: list of `(input channels, output channels)` for each input; by default each channel to itself.
        combine: function from the list of constants of each input, spread over the output's channels (NaN where
            the input has no part in it), and of booleans that say where it has, to those of the output.
    """

    pinned = False

    def __init__(self, operation, inputs, outputs, links=None, combine=None):
        super().__init__(operation, inputs, outputs)
        self._links = links or [(np.arange(n), np.arange(n)) for n in inputs]
        self._combine = combine or (lambda given, _: given[0])

    def constants(self, given):
        """See `Opaque`."""
        spread, part = [], []
        for values, (source, target) in zip(given, self._links, strict=True):
            out, has = np.full(self.outputs[0], np.nan), np.zeros(self.outputs[0], bool)
            out[target], has[target] = values[source], True
            spread.append(out)
            part.append(has)
        return [self._combine(spread, part)]

    def needed(self, wanted):
        """See `Opaque`."""
        result = [np.zeros(n, bool) for n in self.inputs]
        for need, (source, target) in zip(result, self._links, strict=True):
            np.logical_or.at(need, source, wanted[0][target])
        return result

    def links(self):
        """See `Opaque`."""
        return self._links

    def held(self, given, wanted):
        """None: what holds a channel is what uses it further on."""
        return [np.zeros(n, bool) for n in self.inputs]

    def remade(self, kept, given, kept_output):
        """See `Opaque`. Its weights have a value for each output channel, or for input channel and multiplier."""
        if not isinstance(self.operation, keras.layers.Layer):
            return None
        return like(self.operation), self.weights(kept, kept_output)

    def weights(self, kept, kept_output):
        """The weights of the layer for the channels that are kept."""
        return []


class Normalization(Through):
    """Batch normalization of the last axis."""

    def __init__(self, operation, inputs, outputs):
        super().__init__(operation, inputs, outputs, combine=self._normalized)

    def _normalized(self, given, _):
        layer = self.operation
        scale = 1 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
        scale = scale * _array(layer.gamma) if layer.scale else scale
        result = (given[0] - _array(layer.moving_mean)) * scale + (_array(layer.beta) if layer.center else 0)
        if layer.scale and layer.center:
            result = np.where(_array(layer.gamma) == 0, _array(layer.beta), result)
        return result

    def weights(self, kept, kept_output):
        """See `Through`."""
        return [_array(v)[kept_output] for v in self.operation.weights]


class Depthwise(Through):
    """A depthwise convolution: `multiplier` output channels of each input channel."""

    def __init__(self, operation, inputs, outputs):
        self.multiplier = operation.depth_multiplier
        target = np.arange(outputs[0])
        super().__init__(operation, inputs, outputs, [(target // self.multiplier, target)], self._convolved)

    def _kernel(self):
        return _array(self.operation.kernel).reshape(-1, self.outputs[0])

    def _convolved(self, given, _):
        layer, kernel = self.operation, self._kernel()
        values = np.where((kernel == 0).all(0), 0.0, given[0] if layer.padding == "valid" else zero_only(given[0]))
        values = values * kernel.sum(0) + (_array(layer.bias) if layer.use_bias else 0)
        return evaluated(layer.activation, values)

    def needed(self, wanted):
        """Where the kernel is 0 an output depends on no input."""
        return super().needed([wanted[0] & (self._kernel() != 0).any(0)])

    def weights(self, kept, kept_output):
        """See `Through`."""
        weights = [_array(self.operation.kernel)[..., kept[0], :]]
        return [*weights, _array(self.operation.bias)[kept_output]] if self.operation.use_bias else weights


class Mixing(Opaque):
    """A layer whose output channels are each made of all inputs: Dense and convolutions, also transposed.

    It takes any of its inputs away that is constant, whose product with the kernel goes to the bias; at the border of
    an image, beside padded zeros, only a constant 0 can go.
    """

    pinned = False

    def __init__(self, operation, inputs, outputs):
        super().__init__(operation, inputs, outputs)
        transposed = isinstance(operation, (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose))
        self._axes = (-1, -2) if transposed else (-2, -1)
        self._borders = transposed or getattr(operation, "padding", "valid") != "valid"
        kernel = np.moveaxis(_array(operation.kernel), self._axes, (-2, -1))
        self._positions = kernel.reshape(-1, *kernel.shape[-2:])
        self._connected = (self._positions != 0).any(0)
        self._free_output = is_pointwise(operation.activation)
        self.pins_output = not self._free_output

    def _bias(self):
        return _array(self.operation.bias) if self.operation.use_bias else np.zeros(self.outputs[0])

    def _foldable(self, given):
        return zero_only(given) if self._borders else given

    def _folded(self, given, which):
        return np.where(which, np.nan_to_num(given), 0) @ self._positions.sum(0)

    def constants(self, given):
        """See `Opaque`."""
        if not self._free_output:
            return super().constants(given)
        values = self._foldable(given[0])
        constant = ~(self._connected & np.isnan(values)[:, None]).any(0)
        result = self._bias() + self._folded(values, ~np.isnan(values))
        return [evaluated(self.operation.activation, np.where(constant, result, np.nan))]

    def needed(self, wanted):
        """See `Opaque`."""
        wanted = wanted[0] if self._free_output else np.ones(self.outputs[0], bool)
        return [(self._connected & wanted).any(1)]

    def held(self, given, wanted):
        """See `Opaque`."""
        return [self.needed(wanted)[0] & np.isnan(self._foldable(given[0]))]

    def remade(self, kept, given, kept_output):
        """See `Opaque`."""
        layer, units = self.operation, int(kept_output.sum())
        values = self._foldable(given[0])
        bias = (self._bias() + self._folded(values, ~kept[0] & ~np.isnan(values)))[kept_output]
        use_bias = bool(layer.use_bias or bias.any())
        size = "units" if isinstance(layer, keras.layers.Dense) else "filters"
        kernel = np.moveaxis(_array(layer.kernel), self._axes, (-2, -1))[..., kept[0], :][..., kept_output]
        kernel = np.moveaxis(kernel, (-2, -1), self._axes)
        return like(layer, **{size: units, "use_bias": use_bias}), [kernel, bias] if use_bias else [kernel]


def like(layer, **changes):
    """A new layer as another one, without what it was built with; its functions and objects are the same."""
    config = {k: v for k, v in layer.get_config().items() if k != "dtype"}
    objects = {k: getattr(layer, k) for k in config if hasattr(layer, k) and _is_object(getattr(layer, k))}
    plain = {k: v for k, v in config.items() if k not in objects}
    made = type(layer)(**{**plain, "dtype": layer.dtype_policy, **changes})
    for name, value in objects.items():
        setattr(made, name, value)
    return made


def zero_only(values):
    """The constants that are 0, NaN for the others."""
    return np.where(values == 0, 0.0, np.nan)


def _is_object(value):
    return not isinstance(value, (bool, int, float, str, tuple, list, dict, type(None)))


def _array(variable):
    return ops.convert_to_numpy(ops.cast(variable, "float32")).astype("float64")

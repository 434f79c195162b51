"""Rules for removing channels of layers that have weights for each channel; see `channel_rules`."""

import keras
import numpy as np

from keras_sparse.export.channel_rules import (
    ChannelRule,
    ChannelWise,
    apply_to_constants,
    clone_layer,
    is_pointwise,
    keep_zeros,
    to_float64,
)


class BatchNormalization(ChannelWise):
    """Rule of batch normalization over the last axis."""

    def __init__(self, operation, inputs, outputs):
        super().__init__(operation, inputs, outputs, combine=self._normalized)

    def _normalized(self, given, _):
        layer = self.operation
        scale = 1 / np.sqrt(to_float64(layer.moving_variance) + layer.epsilon)
        scale = scale * to_float64(layer.gamma) if layer.scale else scale
        result = (given[0] - to_float64(layer.moving_mean)) * scale + (to_float64(layer.beta) if layer.center else 0)
        if layer.scale and layer.center:
            # A scale of 0 makes the output constant whatever the input is.
            result = np.where(to_float64(layer.gamma) == 0, to_float64(layer.beta), result)
        return result

    def weights(self, kept, kept_output):
        """See `ChannelWise`."""
        return [to_float64(v)[kept_output] for v in self.operation.weights]


class DepthwiseConv(ChannelWise):
    """Rule of a depthwise convolution, which has `depth_multiplier` output channels for each input channel."""

    def __init__(self, operation, inputs, outputs):
        self.multiplier = operation.depth_multiplier
        target = np.arange(outputs[0])
        super().__init__(operation, inputs, outputs, [(target // self.multiplier, target)], self._convolved)

    def _kernel(self):
        return to_float64(self.operation.kernel).reshape(-1, self.outputs[0])

    def _convolved(self, given, _):
        layer, kernel = self.operation, self._kernel()
        # Beside padded zeros, a constant input gives a constant output only if the constant is 0.
        values = np.where((kernel == 0).all(0), 0.0, given[0] if layer.padding == "valid" else keep_zeros(given[0]))
        values = values * kernel.sum(0) + (to_float64(layer.bias) if layer.use_bias else 0)
        return apply_to_constants(layer.activation, values)

    def needed_inputs(self, needed):
        """See `ChannelRule`. An output channel whose kernel is all zeros depends on no input."""
        return super().needed_inputs([needed[0] & (self._kernel() != 0).any(0)])

    def weights(self, kept, kept_output):
        """See `ChannelWise`. Rows of the kernel belong to input channels, entries of the bias to output channels."""
        weights = [to_float64(self.operation.kernel)[..., kept[0], :]]
        return [*weights, to_float64(self.operation.bias)[kept_output]] if self.operation.use_bias else weights


class Linear(ChannelRule):
    """Rule of Dense layers, convolutions and transposed convolutions: each output depends on all input channels.

    A constant input channel can be removed: its contribution, the constant times the sum of its kernel over all
    positions, is added to the bias. At the border of a padded convolution fewer positions contribute, so that only
    channels that are constantly 0 can be removed there.
    """

    def __init__(self, operation, inputs, outputs):
        super().__init__(operation, inputs, outputs)
        transposed = isinstance(operation, (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose))
        self._axes = (-1, -2) if transposed else (-2, -1)  # the axes of the kernel for input and output channels
        self._has_borders = transposed or getattr(operation, "padding", "valid") != "valid"
        self._kernels, self._connected = self._read_kernels()
        self._pointwise = is_pointwise(operation.activation)
        self.fixes_outputs = not self._pointwise  # Softmax, for example, depends on all channels.

    def _read_kernels(self):
        """Returns the kernels, `(positions, inputs, outputs)`, and which `(input, output)` they connect."""
        kernel = np.moveaxis(to_float64(self.operation.kernel), self._axes, (-2, -1))
        kernels = kernel.reshape(-1, *kernel.shape[-2:])
        return kernels, (kernels != 0).any(0)

    def _bias(self):
        return to_float64(self.operation.bias) if self.operation.use_bias else np.zeros(self.outputs[0])

    def _foldable(self, given):
        """Returns those constants of the input that can be folded into the bias, NaN for the others."""
        return keep_zeros(given) if self._has_borders else given

    def _contribution(self, given, which):
        """Returns what the input channels marked by `which` add to each output channel."""
        return given[which] @ self._kernels.sum(0)[which]

    def constants(self, given):
        """See `ChannelRule`. An output channel is constant if all input channels with a nonzero weight to it are."""
        if not self._pointwise:
            return super().constants(given)
        values = self._foldable(given[0])
        constant = ~(self._connected & np.isnan(values)[:, None]).any(0)
        result = self._bias() + self._contribution(values, ~np.isnan(values))
        return [apply_to_constants(self.operation.activation, np.where(constant, result, np.nan))]

    def needed_inputs(self, needed):
        """See `ChannelRule`."""
        needed = needed[0] if self._pointwise else np.ones(self.outputs[0], bool)
        return [(self._connected & needed).any(1)]

    def fixed_inputs(self, given, needed):
        """See `ChannelRule`."""
        return [self.needed_inputs(needed)[0] & np.isnan(self._foldable(given[0]))]

    def rebuild(self, kept, given, kept_output):
        """See `ChannelRule`. Folds the constants of removed inputs into the bias, which is added if there is none."""
        layer, units = self.operation, int(kept_output.sum())
        values = self._foldable(given[0])
        bias = (self._bias() + self._contribution(values, ~kept[0] & ~np.isnan(values)))[kept_output]
        use_bias = bool(layer.use_bias or bias.any())
        size = "units" if isinstance(layer, keras.layers.Dense) else "filters"
        kernels = self._kept_kernels(kept[0], kept_output)
        return clone_layer(layer, **{size: units, "use_bias": use_bias}), [*kernels, *[bias] * use_bias]

    def _kept_kernels(self, kept, kept_output):
        """Returns the kernels of the rebuilt layer, a list of arrays."""
        kernel = np.moveaxis(to_float64(self.operation.kernel), self._axes, (-2, -1))
        return [np.moveaxis(kernel[..., kept, :][..., kept_output], (-2, -1), self._axes)]


class SeparableConv(Linear):
    """Rule of a separable convolution: a depthwise convolution, and a linear map of its outputs at each position.

    Together they are a convolution whose kernel is the product of both.
    """

    def _weights(self):
        """Returns the depthwise kernel, `(positions, inputs, multiplier)`, and the pointwise one by inputs."""
        depthwise, pointwise = (
            to_float64(x) for x in (self.operation.depthwise_kernel, self.operation.pointwise_kernel)
        )
        depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
        return depthwise, pointwise.reshape(*depthwise.shape[1:], -1)

    def _read_kernels(self):
        """See `Linear`."""
        depthwise, pointwise = self._weights()
        kernels = np.einsum("pim,imo->pio", depthwise, pointwise)
        return kernels, ((depthwise != 0).any(0)[..., None] & (pointwise != 0)).any(1)

    def _kept_kernels(self, kept, kept_output):
        """See `Linear`."""
        layer, (_, pointwise) = self.operation, self._weights()
        units = int(kept_output.sum())
        shape = (*layer.pointwise_kernel.shape[:-2], -1, units)
        return [
            to_float64(layer.depthwise_kernel)[..., kept, :],
            pointwise[kept][..., kept_output].reshape(shape),
        ]

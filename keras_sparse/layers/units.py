"""The units of a layer: which input unit and which output unit each weight of its kernel connects."""

import dataclasses
import math

import keras

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_GROUPED = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@dataclasses.dataclass(frozen=True)
class Units:
    """The bipartite graph that a layer is: some axes of its kernel number the input units, some the output units.

    An axis may number both: the channels of a depthwise convolution, the heads of an EinsumDense, the groups of a
    grouped convolution. Each index of such axes is a graph of its own. A kernel has no axis for the groups of a grouped
    convolution: they are the outer part of its last one, so that `split` makes two axes of it.

    Attributes:
        kernel: tuple of ints, the kernel's shape.
        inputs: tuple of ints of at least 0, axes of `split(kernel)`.
        outputs: tuple of ints of at least 0, axes of `split(kernel)`.
        last_groups: int, into how many groups the last axis of the kernel is split; 1 for none.
    """

    kernel: tuple
    inputs: tuple
    outputs: tuple
    last_groups: int = 1

    def split(self, shape):
        """The shape of a kernel or mask with the groups as an axis of their own.

        Args:
            shape: tuple of ints, the kernel's shape or one that broadcasts to it.

        Returns:
            Tuple of ints, to which an array of that shape can be reshaped; it broadcasts to `split(kernel)`.
        """
        if self.last_groups == 1:
            return tuple(shape)
        groups = 1 if shape[-1] == 1 else self.last_groups
        return (*shape[:-1], groups, shape[-1] // groups)

    def dead(self, mask):
        """How many units no live weight connects.

        Args:
            mask: boolean array whose shape broadcasts to the kernel's.

        Returns:
            `(inputs, outputs)`, two ints.
        """
        mask, kernel = mask.reshape(self.split(mask.shape)), self.split(self.kernel)
        return tuple(_dead(mask, kernel, axes) for axes in (self.inputs, self.outputs))

    @property
    def groups(self):
        """How many graphs of its own the layer consists of: int of at least 1."""
        return self._size(set(self.inputs) & set(self.outputs))

    @property
    def as_convolution(self):
        """The shape of the kernel of the convolution with `groups` that connects as many units.

        Returns:
            `(*kernel axes, inputs of one group, outputs of all groups)`, a tuple of ints of as many weights.
        """
        inputs, outputs = set(self.inputs), set(self.outputs)
        kernel = self.split(self.kernel)
        others = [n for i, n in enumerate(kernel) if i not in inputs | outputs]
        return (*others, self._size(inputs - outputs), self._size(outputs))

    @property
    def input_axis(self):
        """The axis of the kernel along which the inputs of one output unit lie: int of at least 0."""
        return max(set(self.inputs) - set(self.outputs), default=self.inputs[-1])

    def _size(self, axes):
        kernel = self.split(self.kernel)
        return math.prod(kernel[i] for i in axes)


def units_of(layer, kernel, attribute="kernel"):
    """Returns the units that a weight of a layer connects.

    Args:
        layer: Dense, EinsumDense, convolution (grouped, transposed, depthwise, separable too), masked or not; or any
            other with a weight `(..., inputs, outputs)`.
        kernel: tuple of ints, the shape of the weight.
        attribute: str, the name of the weight in the layer.

    Returns:
        `Units`.
    """
    kernel = tuple(kernel)
    last, before = len(kernel) - 1, len(kernel) - 2
    if attribute == "depthwise_kernel":
        return Units(kernel, (before,), (before, last))
    if attribute != "kernel":
        return plain_units(kernel)
    if isinstance(layer, keras.layers.EinsumDense):
        operands, output = layer.equation.split("->")
        inputs, letters = operands.split(",")
        axes = [tuple(i for i, letter in enumerate(letters) if letter in side) for side in (inputs, output)]
        return Units(kernel, *axes)
    if isinstance(layer, _TRANSPOSED):
        return Units(kernel, (last,), (before,))
    if isinstance(layer, _DEPTHWISE):
        return Units(kernel, (before,), (before, last))
    if isinstance(layer, _GROUPED) and layer.groups > 1:
        return Units(kernel, (before, last), (last, last + 1), layer.groups)
    return plain_units(kernel)


def plain_units(kernel):
    """The `Units` of a kernel of shape `(..., inputs, outputs)`."""
    return Units(tuple(kernel), (len(kernel) - 2,), (len(kernel) - 1,))


def _dead(mask, kernel, axes):
    """How many units, numbered by `axes` of the kernel, have no live weight."""
    alive = mask.any(axis=tuple(i for i in range(mask.ndim) if i not in axes))
    repeat = math.prod(kernel[i] for i in axes) // alive.size
    return int((~alive).sum()) * repeat

"""The units of a layer: which input unit and which output unit each entry of a weight connects."""

import dataclasses
import math

import keras
import numpy as np

from keras_sparse.layers.layer_kinds import CONVOLUTIONS, DEPTHWISE_CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from keras_sparse.layers.mask_elements import spread


@dataclasses.dataclass(frozen=True)
class Units:
    """The bipartite graph of a kernel: some of its axes index the input units, and some the output units.

    An axis may index both: the channels of a depthwise convolution, the heads of an EinsumDense, the groups of a
    grouped convolution. Each index along such axes is a separate graph. The kernel of a grouped convolution has no
    axis for the groups: they are the outer part of its last axis, which `split` splits in two.

    Attributes:
        kernel: tuple of ints, shape of the kernel.
        inputs: tuple of ints of at least 0, axes of `split(kernel)` that index the input units.
        outputs: tuple of ints of at least 0, axes of `split(kernel)` that index the output units.
        last_groups: int of at least 1, the number of groups in the last axis of the kernel.
    """

    kernel: tuple
    inputs: tuple
    outputs: tuple
    last_groups: int = 1

    def split(self, shape: tuple) -> tuple:
        """Returns the shape of a kernel or mask with a separate axis for the groups.

        Args:
            shape: tuple of ints, the shape of the kernel or one that broadcasts to it.

        Returns:
            Tuple of ints, to which an array of this shape can be reshaped. It broadcasts to `split(kernel)`.
        """
        if self.last_groups == 1:
            return tuple(shape)
        groups = 1 if shape[-1] == 1 else self.last_groups
        return (*shape[:-1], groups, shape[-1] // groups)

    def dead(self, mask: np.ndarray) -> tuple[int, int]:
        """Returns the numbers of input units and output units without a live weight.

        Args:
            mask: boolean array whose shape divides that of the kernel.
        """
        if self.last_groups > 1:  # A block may belong to several groups.
            mask = spread(mask, self.kernel)
        mask, kernel = mask.reshape(self.split(mask.shape)), self.split(self.kernel)
        return tuple(_count_dead(mask, kernel, axes) for axes in (self.inputs, self.outputs))

    @property
    def groups(self) -> int:
        """The number of separate graphs."""
        return self._size(set(self.inputs) & set(self.outputs))

    @property
    def as_convolution(self) -> tuple:
        """The shape of the kernel of a grouped convolution with the same numbers of weights, units and `groups`.

        It is `(*kernel axes, inputs of one group, outputs of all groups)`.
        """
        inputs, outputs = set(self.inputs), set(self.outputs)
        kernel = self.split(self.kernel)
        others = [n for i, n in enumerate(kernel) if i not in inputs | outputs]
        return (*others, self._size(inputs - outputs), self._size(outputs))

    @property
    def input_axis(self) -> int:
        """The axis of the kernel along which the inputs of one output unit lie; the last one if there are no inputs."""
        return max(set(self.inputs) - set(self.outputs), default=[len(self.kernel) - 1, *self.inputs][-1])

    def _size(self, axes):
        kernel = self.split(self.kernel)
        return math.prod(kernel[i] for i in axes)


def units_of(layer: keras.Layer, kernel: tuple, attribute: str = "kernel") -> Units:
    """Returns the units that a weight of a layer connects.

    Args:
        layer: a Keras layer, masked or not. Weights of layers other than EinsumDense and convolutions are taken to have
            the axes `(..., inputs, outputs)`.
        kernel: tuple of ints, shape of the weight.
        attribute: str, name of the weight in the layer.
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
    if isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        return Units(kernel, (last,), (before,))
    if isinstance(layer, DEPTHWISE_CONVOLUTIONS):
        return Units(kernel, (before,), (before, last))
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
        return Units(kernel, (before, last), (last, last + 1), layer.groups)
    return plain_units(kernel)


def plain_units(kernel: tuple) -> Units:
    """Returns the units of a weight of shape `(..., inputs, outputs)`."""
    return Units(tuple(kernel), (len(kernel) - 2,), (len(kernel) - 1,))


def _count_dead(mask, kernel, axes):
    """Returns the number of units, indexed by `axes` of the kernel, without a live weight."""
    # A mask element may cover several units: each dead one counts `repeat` times.
    alive = mask.any(axis=tuple(i for i in range(mask.ndim) if i not in axes))
    repeat = math.prod(kernel[i] for i in axes) // alive.size
    return int((~alive).sum()) * repeat

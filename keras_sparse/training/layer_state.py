"""The kernels and masks of a model on the host, as a method sees them before an update."""

import dataclasses
import functools
import math
from collections import defaultdict

import numpy as np

from keras_sparse.backend.elements import view
from keras_sparse.layers.masks import to_elements
from keras_sparse.layers.traversal import masked_layers, trainable_masked_layers


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The kernel and mask of one layer.

    Attributes:
        kernel: the kernel, an array for reading.
        mask_shape: shape of the mask, which broadcasts to the kernel's.
        live: sorted int array, positions of the live elements of the mask.
        gradient: array of the kernel's shape, the dense gradient; None for methods that do not look at it.
    """

    kernel: np.ndarray
    mask_shape: tuple
    live: np.ndarray
    gradient: np.ndarray | None = None

    @classmethod
    def of(cls, kernel, mask):
        """From a kernel and the boolean mask that broadcasts to it."""
        return cls(kernel, mask.shape, np.flatnonzero(mask))

    @property
    def weights(self):
        """Array of shape `(unit, size)`, the kernel arranged by mask elements."""
        return to_elements(self.kernel, self.mask_shape)

    @functools.cached_property
    def values(self):
        """Array of shape `(unit, live)`, the weights of the live elements."""
        return self.weights.take(self.live, axis=1)

    @functools.cached_property
    def scores(self):
        """Float array like `live`, the mean magnitude of each live element's weights."""
        return self.magnitude(self.values)

    @property
    def finite(self):
        """Whether there is neither NaN nor infinity in what a method decides on."""
        return bool(np.isfinite(self.scores).all() and (self.gradient is None or np.isfinite(self.gradient).all()))

    @staticmethod
    def magnitude(values):
        """Mean |value| of elements, given as array of shape `(unit, elements)`."""
        magnitude = np.abs(values)
        return magnitude[0] if len(magnitude) == 1 else magnitude.mean(axis=0)

    @functools.cached_property
    def size(self):
        """How many elements the mask has."""
        return math.prod(self.mask_shape)

    @property
    def unit(self):
        """How many weights a mask element holds."""
        return self.kernel.size // self.size

    @property
    def free(self):
        """How many elements are dead."""
        return self.size - len(self.live)

    def positions(self, elements):
        """The flat positions in the kernel of some elements' weights: int array of shape `(unit, elements)`."""
        if self.unit == 1:
            return elements[None]
        return to_elements(np.arange(self.kernel.size).reshape(self.kernel.shape), self.mask_shape)[:, elements]


def places(model):
    """`(place, layer)` of each of the `trainable_masked_layers`: frozen ones count, so that a place stays a layer's."""
    trained = {id(x) for x in trainable_masked_layers(model)}
    return [(i, x) for i, x in enumerate(masked_layers(model)) if id(x) in trained]


def tensors_of(layers):
    """The `Tensor` of each of some masked layers."""
    return [Tensor.of(view(x.kernel_variable), view(x.kernel_mask.value)) for x in layers]


def live_weights(tensors):
    """How many weights of some tensors live."""
    return sum(len(t.live) * t.unit for t in tensors)


def sparsity(layers):
    """Removed fraction of the kernels of masked layers."""
    sizes = [math.prod(x.kernel_variable.shape) for x in layers]
    live = [n * x.kernel_mask.numpy().mean() for n, x in zip(sizes, layers, strict=True)]
    return float(1 - sum(live) / sum(sizes))


def by_unit(tensors):
    """The indices of tensors whose mask elements hold the same number of weights, in groups.

    Elements may move between layers of one group only: so the number of live weights stays what it is, exactly.
    """
    groups = defaultdict(list)
    for i, tensor in enumerate(tensors):
        groups[tensor.unit].append(i)
    return list(groups.values())

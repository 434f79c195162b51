"""A masked weight as a method sees it: `LayerState` on the host, `LayerSpec` inside of the compiled step.

The papers speak of a layer where they mean its weight, and so do the methods: a layer with several masked weights, such
as the cell of an LSTM, is several layers to them.
"""

import dataclasses
import functools
import itertools
import math
from collections import defaultdict

import numpy as np

from keras_sparse.backend import read, scope
from keras_sparse.layers.granularity import Pattern, to_elements, where_live
from keras_sparse.layers.traversal import masked_weights, trainable_masked_weights
from keras_sparse.layers.units import Units, plain_units
from keras_sparse.training.dead_weights import leaves_zeros
from keras_sparse.training.optimizer_state import momentum, slots


@dataclasses.dataclass(frozen=True)
class LayerState:
    """A masked weight and its mask between two training steps.

    Attributes:
        kernel: the weight, an array for reading.
        mask_shape: shape of the mask, which divides the weight's.
        live: sorted int array, positions of the live elements of the mask.
        units: `keras_sparse.layers.units.Units`, which units its weights connect.
        gradient: array of the weight's shape, the dense gradient; None for methods that do not look at it.
        pattern: `keras_sparse.layers.granularity.Pattern` that the mask keeps, or None.
    """

    kernel: np.ndarray
    mask_shape: tuple
    live: np.ndarray
    units: Units
    gradient: np.ndarray | None = None
    pattern: Pattern | None = None

    @classmethod
    def of(cls, kernel, mask, units=None, pattern=None):
        """From a weight, the boolean mask that divides it, and its units; None for `(..., inputs, outputs)`."""
        units = units or plain_units(kernel.shape)
        return cls(kernel, mask.shape, np.flatnonzero(mask), units, pattern=pattern)

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


def numbered_weights(model):
    """`(place, weight)` of each of the `trainable_masked_weights`. Frozen ones count, so a place stays a weight's."""
    trained = set(trainable_masked_weights(model))
    return [(i, x) for i, x in enumerate(masked_weights(model)) if x in trained]


def layer_states(layers):
    """The `LayerState` of each of some masked layers."""
    return [LayerState.of(read(x.variable), read(x.mask.value), x.units, x.pattern) for x in layers]


def live_weights(states):
    """How many weights of some layers live."""
    return sum(len(t.live) * t.unit for t in states)


def sparsity(layers):
    """Removed fraction of the kernels of masked layers."""
    sizes = [math.prod(x.variable.shape) for x in layers]
    live = [n * x.mask.numpy().mean() for n, x in zip(sizes, layers, strict=True)]
    return float(1 - sum(live) / sum(sizes))


def by_unit(states):
    """The indices of layers whose mask elements hold the same number of weights, in groups.

    Elements may move between layers of one group only: so the number of live weights stays what it is, exactly. A layer
    with an N:M pattern is a group of its own, since what it drops grows in the same groups of M.
    """
    groups = defaultdict(list)
    for i, state in enumerate(states):
        groups[state.unit if state.pattern is None else ("pattern", i)].append(i)
    return list(groups.values())


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What code inside of a compiled training step has to know of a masked weight, besides its values.

    Attributes:
        first: int, the position of its first weight, where the kernels of all the model's masked layers, frozen ones
            too, lie one after another.
        size: int, of the kernel.
        live: int, how many of its weights live, at every step; None if that changes.
        fresh: tuple of floats, what each of the optimizer's slots holds for a new weight.
        momentum: index of the slot that is SGD's momentum; None if there is none.
        factor: float, the momentum's.
        nesterov: bool, whether it is Nesterov's.
        zeros: bool, whether training leaves dead weights 0 and their slots fresh.
        pattern: `keras_sparse.layers.granularity.Pattern` that the mask keeps, or None.
    """

    first: int
    size: int
    live: int
    fresh: tuple
    momentum: int | None
    factor: float
    nesterov: bool
    zeros: bool
    pattern: Pattern | None = None

    @property
    def weights(self):
        """Where its weights lie: a slice."""
        return slice(self.first, self.first + self.size)

    @classmethod
    def of(cls, first, layer, optimizer):
        """Of a masked layer."""
        kernel = layer.variable
        found = slots(optimizer, kernel)
        sgd, slot = momentum(optimizer, kernel)
        index = next((i for i, (v, _) in enumerate(found) if v is slot), None)
        return cls(
            first=first,
            size=math.prod(kernel.shape),
            live=int(np.count_nonzero(read(layer.mask.value))),
            fresh=tuple(fresh for _, fresh in found),
            momentum=index,
            factor=sgd.momentum if slot is not None else 0.0,
            nesterov=slot is not None and sgd.nesterov,
            zeros=leaves_zeros([layer], optimizer),
            pattern=layer.pattern,
        )

    def cleared(self, weights, mask, *slots):
        """The kernel, mask and slots, as arrays: where training does not do so, dead weights made 0, slots fresh."""
        if self.zeros:
            return [weights, mask, *slots]
        held = [where_live(mask, x, fresh) for x, fresh in zip(slots, self.fresh, strict=True)]
        return [where_live(mask, weights, 0), mask, *held]


def placed(model):
    """`(first, layer)` of each of the `trainable_masked_weights`; `first` is as of `LayerSpec`."""
    firsts = [0, *itertools.accumulate(math.prod(x.variable.shape) for x in masked_weights(model))]
    return [(firsts[place], layer) for place, layer in numbered_weights(model)]


def layer_specs(model, optimizer=None):
    """A tuple of `LayerSpec`, one for each of the `trainable_masked_weights`.

    Args:
        model: built `keras.Model`.
        optimizer: the one that trains it; None for the one that it is compiled with, which is built if it is not yet.
    """
    if optimizer is None:
        optimizer = model.optimizer
        if not optimizer.built:  # TensorFlow builds it within the first step, when its slots come too late.
            with scope(model):
                optimizer.build(model.trainable_variables)
    return tuple(LayerSpec.of(first, layer, optimizer) for first, layer in placed(model))


def variables_of(layers, optimizer):
    """For each layer the list of what is changed: the kernel, the mask, the optimizer's slots."""
    kernels = [(x.variable, x.mask.value) for x in layers]
    return [[kernel, mask, *(slot for slot, _ in slots(optimizer, kernel))] for kernel, mask in kernels]

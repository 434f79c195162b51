"""Describes masked weights to methods: `LayerState` on the host, `LayerSpec` inside the compiled step.

Here, a layer is one masked weight tensor, as in the papers. A Keras layer with several masked weight tensors, such as
the cell of an LSTM, counts as several layers.
"""

import dataclasses
import functools
import itertools
from collections import defaultdict

import keras
import numpy as np

from keras_sparse.backend import read
from keras_sparse.layers.connected_units import Units, plain_units
from keras_sparse.layers.mask_elements import to_elements, where_live
from keras_sparse.layers.nm_pattern import NMPattern
from keras_sparse.layers.traversal import masked_weights, numbered_weights
from keras_sparse.training.dead_weights import leaves_zeros
from keras_sparse.training.optimizer_state import build_optimizer, momentum, slots


@dataclasses.dataclass(frozen=True)
class LayerState:
    """The values of a masked weight and of its mask between two training steps.

    Attributes:
        kernel: array, the weight. Do not write to it.
        mask: boolean array, True where live, whose shape divides that of the weight. Do not write to it.
        live: sorted int array, positions of the live elements of the mask.
        units: `keras_sparse.layers.connected_units.Units`, the units that the weight connects.
        gradient: array of the weight's shape, the dense gradient; None for methods that do not need it.
        pattern: `keras_sparse.layers.nm_pattern.NMPattern` of the mask, or None.
    """

    kernel: np.ndarray
    mask: np.ndarray
    live: np.ndarray
    units: Units
    gradient: np.ndarray | None = None
    pattern: NMPattern | None = None

    @classmethod
    def of(
        cls, kernel: np.ndarray, mask: np.ndarray, units: Units | None = None, pattern: NMPattern | None = None
    ) -> "LayerState":
        """Returns the state of a weight with a boolean mask. `units` defaults to those of `(..., inputs, outputs)`."""
        units = units or plain_units(kernel.shape)
        return cls(kernel, mask, np.flatnonzero(mask), units, pattern=pattern)

    @property
    def mask_shape(self) -> tuple:
        """The shape of the mask: tuple of ints."""
        return self.mask.shape

    @property
    def weights(self) -> np.ndarray:
        """The weight arranged by mask elements: array of shape `(element_size, size)`."""
        return to_elements(self.kernel, self.mask_shape)

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The weights of the live elements: array of shape `(element_size, number of live elements)`."""
        return self.weights.take(self.live, axis=1)

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The mean |w| of each live element: float array of the shape of `live`."""
        return self.magnitude(self.values)

    @property
    def finite(self) -> bool:
        """Whether the scores are free of NaN and infinity, and the gradient is free of NaN.

        With loss scaling, the gradient of a dead weight may be infinite, which the scale does not prevent: the largest.
        """
        return bool(np.isfinite(self.scores).all() and (self.gradient is None or not np.isnan(self.gradient).any()))

    @staticmethod
    def magnitude(values: np.ndarray) -> np.ndarray:
        """Returns the mean |value| of each element, for an array of shape `(element_size, elements)`."""
        magnitude = np.abs(values)
        return magnitude[0] if len(magnitude) == 1 else magnitude.mean(axis=0)

    @property
    def size(self) -> int:
        """The number of mask elements."""
        return self.mask.size

    @property
    def element_size(self) -> int:
        """The number of weights that one mask element covers."""
        return self.kernel.size // self.size

    @property
    def free(self) -> int:
        """The number of dead mask elements."""
        return self.size - len(self.live)

    def positions(self, elements: np.ndarray) -> np.ndarray:
        """Returns positions in the flat weight, of mask elements: int array of shape `(element_size, elements)`."""
        if self.element_size == 1:
            return elements[None]
        return to_elements(np.arange(self.kernel.size).reshape(self.kernel.shape), self.mask_shape)[:, elements]


def layer_states(layers: list) -> list[LayerState]:
    """Returns the `LayerState` of each given masked weight."""
    # Views of the variables, not copies: bytes of 0 and 1 are booleans.
    return [LayerState.of(read(x.variable), read(x.mask.value).view(bool), x.units, x.pattern) for x in layers]


def live_weights(states: list[LayerState]) -> int:
    """Returns the number of live weights."""
    return sum(len(t.live) * t.element_size for t in states)


def sparsity(layers: list) -> float:
    """Returns the removed fraction of the given masked weights, in [0, 1]."""
    return 1 - sum(x.count_live() for x in layers) / sum(x.size for x in layers)


def by_element_size(states: list[LayerState]) -> list[list[int]]:
    """Returns groups of layers, as indices, between which mask elements may move.

    The mask elements of a group cover equally many weights, so a move does not change the number of live weights. A
    layer with an N:M pattern is a group of its own, since it grows where it dropped.
    """
    groups = defaultdict(list)
    for i, state in enumerate(states):
        groups[state.element_size if state.pattern is None else ("pattern", i)].append(i)
    return list(groups.values())


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """Constants of a masked weight for code inside the compiled training step.

    Positions inside the step count through all masked weights of the model, frozen ones included, as if they lay one
    after another in one array.

    Attributes:
        first: int, the position of the first entry of the weight in that numbering.
        size: int, the number of entries of the weight.
        live: int, the number of live entries, if it is the same at every step; otherwise None.
        fresh: tuple of floats, for each optimizer slot the value for a new weight.
        momentum: int, index of the slot that is the momentum of SGD; None if there is none.
        factor: float, the momentum factor of SGD; 0 if there is none.
        nesterov: bool, whether it is Nesterov momentum.
        zeros: bool, whether training leaves dead weights at 0 and their slots fresh.
        pattern: `keras_sparse.layers.nm_pattern.NMPattern` of the mask, or None.
    """

    first: int
    size: int
    live: int | None
    fresh: tuple
    momentum: int | None
    factor: float
    nesterov: bool
    zeros: bool
    pattern: NMPattern | None = None

    @classmethod
    def of(cls, first: int, layer, optimizer, zeros: bool) -> "LayerSpec":
        """Returns the spec of a masked weight that `optimizer` trains."""
        kernel = layer.variable
        found = slots(optimizer, kernel)
        sgd, slot = momentum(optimizer, kernel)
        index = next((i for i, (v, _) in enumerate(found) if v is slot), None)
        return cls(
            first=first,
            size=layer.size,
            live=int(np.count_nonzero(layer.mask.numpy())),
            fresh=tuple(fresh for _, fresh in found),
            momentum=index,
            factor=sgd.momentum if slot is not None else 0.0,
            nesterov=slot is not None and sgd.nesterov,
            zeros=zeros,
            pattern=layer.pattern,
        )

    def cleared(self, weights, mask, *slots):
        """Returns `[weights, mask, *slots]` with dead weights at 0 and their slots fresh, as arrays."""
        if self.zeros:
            return [weights, mask, *slots]
        held = [where_live(mask, x, fresh) for x, fresh in zip(slots, self.fresh, strict=True)]
        return [where_live(mask, weights), mask, *held]


def placed(model: keras.Model) -> list[tuple]:
    """Returns `(first, weight)` of each of the `trainable_masked_weights`, with the `first` of its `LayerSpec`."""
    firsts = [0, *itertools.accumulate(x.size for x in masked_weights(model))]
    return [(firsts[place], layer) for place, layer in numbered_weights(model)]


def layer_specs(model: keras.Model, optimizer=None, zeros: bool | None = None) -> tuple[LayerSpec, ...]:
    """Returns a tuple with the `LayerSpec` of each of the `trainable_masked_weights`.

    Args:
        model: built `keras.Model`.
        optimizer: the optimizer of the model; None for the one it is compiled with, which is built if necessary.
        zeros: bool, whether training leaves dead weights at 0 and their slots fresh; None for `leaves_zeros`.
    """
    if optimizer is None:
        build_optimizer(model)  # The specs need its slots.
        optimizer = model.optimizer
    layers = placed(model)
    if zeros is None:
        zeros = leaves_zeros(model, [layer for _, layer in layers], optimizer)
    return tuple(LayerSpec.of(first, layer, optimizer, zeros) for first, layer in layers)


def variables_of(layers: list, optimizer) -> list[list]:
    """Returns, for each masked weight, the variables `[weight, mask, *optimizer slots]`."""
    kernels = [(x.variable, x.mask.value) for x in layers]
    return [[kernel, mask, *(slot for slot, _ in slots(optimizer, kernel))] for kernel, mask in kernels]

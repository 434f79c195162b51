"""Makes one update of the masks: it is computed and checked as a whole before anything is written."""

import dataclasses

import keras
import numpy as np

from keras_sparse.backend import write_elements
from keras_sparse.training import pattern_update
from keras_sparse.training.layer_state import LayerState
from keras_sparse.training.optimizer_state import slots


def check_update(
    name: str, layers: list[LayerState], dropped: list[np.ndarray], grown: list[np.ndarray], budget: int
) -> None:
    """Raises an error if an update is malformed or would break an invariant.

    Args:
        name: str, name of the method, for messages.
        layers: list of `LayerState`.
        dropped: list of boolean arrays, each of the shape of `live`, True for the elements to drop.
        grown: list of int arrays, the positions of the mask elements to grow.
        budget: int, the number of weights that must be live after the update.

    Raises:
        ValueError: if `dropped` or `grown` is malformed.
        RuntimeError: if the number of live weights would not be `budget`, or an element to grow was live before or
            occurs twice, or an N:M pattern would be broken.
    """
    check_dropped(name, layers, dropped)
    for layer, new in zip(layers, grown, strict=True):
        if np.ndim(new) != 1 or np.asarray(new).dtype.kind not in "iu" or np.any((new < 0) | (new >= layer.size)):
            raise ValueError(
                f"`grow` of {name} must return an int array of one dimension, of positions in [0, {layer.size}). "
                f"Received: {new!r}."
            )
    sizes = zip(layers, dropped, grown, strict=True)
    after = sum((len(s.live) - np.count_nonzero(gone) + len(new)) * s.element_size for s, gone, new in sizes)
    again = any(_repeats(np.sort(np.concatenate([s.live, new]))) for s, new in zip(layers, grown, strict=True))
    if after != budget or again:
        raise RuntimeError(
            f"{name} broke an invariant, and the update was not made: {budget} weights must be live after it (received "
            f"{after}), and only elements dead before the update may grow, each once (received others: {again})."
        )
    for layer, gone, new in zip(layers, dropped, grown, strict=True):
        pattern_update.check_pattern(name, layer, gone, new)


def check_dropped(name: str, layers: list[LayerState], dropped: list[np.ndarray]) -> None:
    """Raises ValueError unless `dropped` has, for each layer, a boolean array of the shape of its `live`."""
    is_list = isinstance(dropped, (list, tuple))
    received = [(np.asarray(d).dtype.name, np.shape(d)) for d in dropped] if is_list else dropped
    expected = [("bool", s.live.shape) for s in layers]
    if received != expected:
        raise ValueError(
            f"`drop` of {name} must return for each layer a boolean array as long as its `live`, True where an element "
            f"is dropped. Expected: {expected}. Received: {received}. From positions, make it by "
            "numpy.isin(layer.live, positions)."
        )


def check_counts(name: str, layers: list[LayerState], counts: list[int]) -> None:
    """Raises ValueError unless `counts` has, for each layer, an int of at least 0."""
    whole = isinstance(counts, (list, tuple, np.ndarray)) and all(
        isinstance(n, (int, np.integer)) and n >= 0 for n in counts
    )
    if not whole or len(counts) != len(layers):
        raise ValueError(
            f"`redistribute` of {name} must return a whole number of at least 0 for each of the {len(layers)} layers, "
            f"how many elements it grows. Received: {counts!r}."
        )


def _repeats(numbers):
    """Returns whether a sorted array has equal neighbours."""
    return bool((numbers[1:] == numbers[:-1]).any())


@dataclasses.dataclass(frozen=True)
class MaskUpdate:
    """The update of one masked weight: what to write, and where.

    Attributes:
        elements: int array, positions of the mask elements that are dropped or grown.
        alive: boolean array of the same shape, True for those that are grown.
        weights: int array, positions of the weights of these elements. Their optimizer slots become fresh.
        values: float array of the same shape, the new weights: 0 for dropped ones.
    """

    elements: np.ndarray
    alive: np.ndarray
    weights: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, state: LayerState, dropped: np.ndarray, grown: np.ndarray, start: np.ndarray) -> "MaskUpdate":
        """Returns the update of a weight.

        Args:
            state: `LayerState`.
            dropped: boolean array of the shape of `state.live`.
            grown: int array, positions of the mask elements to grow.
            start: float array of shape `(state.element_size, number of grown elements)`, the initial values.
        """
        elements = np.concatenate([state.live[dropped], grown])
        alive = np.repeat([False, True], [len(elements) - len(grown), len(grown)])
        weights = state.positions(elements)
        values = np.zeros(weights.shape)
        values[:, alive] = start
        return cls(elements, alive, elements if state.element_size == 1 else weights.ravel(), values.ravel())

    def write(self, layer, optimizer) -> None:
        """Writes the update into the variables of a masked weight and of the optimizer."""
        mask, kernel = (layer.mask.value, self.alive), (layer.variable, self.values)
        others = slots(optimizer, layer.variable)
        if self.weights is self.elements:  # Mask elements are single weights: one write for all.
            write_elements(self.elements, mask, kernel, *others)
        else:
            write_elements(self.elements, mask)
            write_elements(self.weights, kernel, *others)


def update_masks(method, model: keras.Model, numbered: list[tuple], optimizer, step: int) -> tuple[int, int] | None:
    """Drops and grows once, as a method chooses.

    1. Observe the weights, masks and, for some methods, gradients.
    2. Ask the method what to drop, how many elements each layer grows, and where.
    3. Check all of it.
    4. Write weights, masks and optimizer slots.

    Args:
        method: `keras_sparse.SparseMethod`.
        model: `keras.Model` with masked layers.
        numbered: list of `(place, weight)`, the `numbered_weights` of the model.
        optimizer: the optimizer of the model, or None.
        step: int of at least 0, the optimizer step, on which random draws depend.

    Returns:
        `(dropped, grown)`, the numbers of mask elements. None if weights or gradients are not finite; nothing is
        written then.

    Raises:
        ValueError: if the method returned something malformed. Nothing is written then.
        RuntimeError: if the update would break an invariant. Nothing is written then.
    """
    name, layers = type(method).__name__, [layer for _, layer in numbered]
    states = method.growth_strategy.observe(model, layers)
    if not all(s.finite for s in states):
        return None
    dropped = method.drop(states)
    check_dropped(name, states, dropped)
    if any(s.pattern for s in states):
        dropped = [pattern_update.limit_dropped(s, gone) for s, gone in zip(states, dropped, strict=True)]
    counts = method.redistribute(states, dropped)
    check_counts(name, states, counts)
    rngs = [np.random.default_rng([method.seed, place, step]) for place, _ in numbered]
    grown = [
        np.asarray(method.grow(s, n, rng) if s.pattern is None else pattern_update.grow(method, s, gone, n, rng))
        for s, gone, n, rng in zip(states, dropped, counts, rngs, strict=True)
    ]
    check_update(name, states, dropped, grown, method.budget(states))
    updates = [
        MaskUpdate.of(s, lost, new, method.initial_values((s.element_size, len(new)), rng))
        for s, lost, new, rng in zip(states, dropped, grown, rngs, strict=True)
    ]
    del states  # They may share memory with the variables, which can be written in place without such references.
    for layer, update in zip(layers, updates, strict=True):
        update.write(layer, optimizer)
    return sum(np.count_nonzero(gone) for gone in dropped), sum(map(len, grown))

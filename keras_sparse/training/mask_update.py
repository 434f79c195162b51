"""What an update changes in a layer, noted down whole before anything is written."""

import dataclasses

import numpy as np

from keras_sparse.backend import write_elements
from keras_sparse.training import pattern_update
from keras_sparse.training.layer_state import numbered_weights
from keras_sparse.training.optimizer_state import slots


def check_update(name, layers, dropped, grown, budget):
    """Raises an error if an update is malformed or would break an invariant.

    Args:
        name: of the method.
        layers: list of `LayerState`.
        dropped: for each a boolean array like its `live`.
        grown: for each an int array, the mask elements that grow.
        budget: int, how many weights must live afterwards.

    Raises:
        ValueError: if `dropped` or `grown` is not of that form.
        RuntimeError: if another number of weights would live, or an element grows that lives or grows already.
    """
    check_dropped(name, layers, dropped)
    for layer, new in zip(layers, grown, strict=True):
        if np.ndim(new) != 1 or np.asarray(new).dtype.kind not in "iu" or np.any((new < 0) | (new >= layer.size)):
            raise ValueError(
                f"`grow` of {name} must return an int array of one dimension, of positions in [0, {layer.size}). "
                f"Received: {new!r}."
            )
    sizes = zip(layers, dropped, grown, strict=True)
    after = sum((len(s.live) - np.count_nonzero(gone) + len(new)) * s.unit for s, gone, new in sizes)
    again = any(_repeats(np.sort(np.concatenate([s.live, new]))) for s, new in zip(layers, grown, strict=True))
    if after != budget or again:
        raise RuntimeError(
            f"{name} broke an invariant, and the update was not made: {budget} weights must be live after it (received "
            f"{after}), and only elements dead before the update may grow, each once (received others: {again})."
        )
    for layer, gone, new in zip(layers, dropped, grown, strict=True):
        pattern_update.check_pattern(name, layer, gone, new)


def check_dropped(name, layers, dropped):
    """Raises ValueError unless `dropped` has for each layer a boolean array like its `live`."""
    is_list = isinstance(dropped, (list, tuple))
    received = [(np.asarray(d).dtype.name, np.shape(d)) for d in dropped] if is_list else dropped
    expected = [("bool", s.live.shape) for s in layers]
    if received != expected:
        raise ValueError(
            f"`drop` of {name} must return for each layer a boolean array as long as its `live`, True where an element "
            f"is dropped. Expected: {expected}. Received: {received}. From positions, make it by "
            "numpy.isin(layer.live, positions)."
        )


def check_counts(name, layers, counts):
    """Raises ValueError unless `counts` has for each layer a whole number of at least 0."""
    whole = isinstance(counts, (list, tuple, np.ndarray)) and all(
        isinstance(n, (int, np.integer)) and n >= 0 for n in counts
    )
    if not whole or len(counts) != len(layers):
        raise ValueError(
            f"`redistribute` of {name} must return a whole number of at least 0 for each of the {len(layers)} layers, "
            f"how many elements it grows. Received: {counts!r}."
        )


def _repeats(numbers):
    """Whether a sorted array holds a number twice."""
    return bool((numbers[1:] == numbers[:-1]).any())


@dataclasses.dataclass(frozen=True)
class MaskUpdate:
    """The update of one layer's mask.

    Attributes:
        elements: int array, the mask elements that died and grew.
        alive: boolean array like it, True for those that grew.
        weights: int array, the weights of those elements, whose slots start anew.
        values: float array like it.
    """

    elements: np.ndarray
    alive: np.ndarray
    weights: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, state, dropped, grown, start):
        """From a `LayerState`, which live elements die, which positions grow, and the weights these start with."""
        elements = np.concatenate([state.live[dropped], grown])
        alive = np.repeat([False, True], [len(elements) - len(grown), len(grown)])
        weights = state.positions(elements)
        values = np.zeros(weights.shape)
        values[:, alive] = start
        return cls(elements, alive, elements if state.unit == 1 else weights.ravel(), values.ravel())

    def write(self, layer, optimizer):
        """Writes it into a masked layer's variables and the optimizer's."""
        mask, kernel = (layer.mask.value, self.alive), (layer.variable, self.values)
        others = slots(optimizer, layer.variable)
        if self.weights is self.elements:  # One index serves all.
            write_elements(self.elements, mask, kernel, *others)
        else:
            write_elements(self.elements, mask)
            write_elements(self.weights, kernel, *others)


def update_masks(method, model, optimizer, step):
    """Drops and grows once, by a method's choices.

    Args:
        method: `keras_sparse.SparseMethod`.
        model: `keras.Model` with masked layers.
        optimizer: the one that trains it, or None.
        step: int, from which random draws are made.

    Returns:
        `(dropped, grown)`, ints; None where weights or gradients are not finite, and nothing was written.

    Raises:
        ValueError: if the method's answers are malformed.
        RuntimeError: if the method broke an invariant. Nothing is written then.
    """
    numbered, name = numbered_weights(model), type(method).__name__
    layers = [layer for _, layer in numbered]
    states = method.regrowth.observe(model, layers)
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
        method.grow(s, n, rng) if s.pattern is None else pattern_update.grow(method, s, gone, n, rng)
        for s, gone, n, rng in zip(states, dropped, counts, rngs, strict=True)
    ]
    check_update(name, states, dropped, grown, method.budget(states))
    updates = [
        MaskUpdate.of(s, lost, new, method.initial_values((s.unit, len(new)), rng))
        for s, lost, new, rng in zip(states, dropped, grown, rngs, strict=True)
    ]
    del states  # They look at variables, which can be written in place when nobody does.
    for layer, update in zip(layers, updates, strict=True):
        update.write(layer, optimizer)
    return sum(np.count_nonzero(gone) for gone in dropped), sum(map(len, grown))

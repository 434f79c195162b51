"""Plans one update of the masks, as a method chooses, and writes it: all of it is checked before any is written."""

import dataclasses

import keras
import numpy as np

from keras_sparse.backend import write_elements
from keras_sparse.training import pattern_update
from keras_sparse.training.layer_state import LayerState
from keras_sparse.training.optimizer_state import slots
from keras_sparse.training.update_checks import check_counts, check_dropped, check_update


@dataclasses.dataclass(frozen=True)
class MaskUpdate:
    """The update of one masked weight: what to write, and where.

    Attributes:
        state: `LayerState` before the update.
        elements: int array, positions of the mask elements that are dropped or grown.
        alive: boolean array of the same shape, True for those that are grown.
        weights: int array, positions of the weights of these elements. Their optimizer slots become fresh.
        values: float array of the same shape, the new weights: 0 for dropped ones.
    """

    state: LayerState
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
        return cls(state, elements, alive, elements if state.element_size == 1 else weights.ravel(), values.ravel())

    def write(self, layer, optimizer) -> None:
        """Writes the update into the variables of a masked weight and of the optimizer."""
        mask = (layer.mask.value, self.alive, self.state.mask.view("uint8"))
        kernel = (layer.variable, self.values, self.state.kernel)
        others = slots(optimizer, layer.variable)
        if self.weights is self.elements:  # Mask elements are single weights: one write for all.
            write_elements(self.elements, mask, kernel, *others)
        else:
            write_elements(self.elements, mask)
            write_elements(self.weights, kernel, *others)


def plan_update(method, model: keras.Model, numbered: list[tuple], step: int) -> list[MaskUpdate] | None:
    """Decides what to drop and to grow, as a method chooses. Writes nothing.

    1. Observe the weights, masks and, for some methods, gradients.
    2. Ask the method what to drop, how many elements each layer grows, and where.
    3. Check all of it.

    Args:
        method: `keras_sparse.SparseMethod`.
        model: `keras.Model` with masked layers.
        numbered: list of `(place, weight)`, the `numbered_weights` of the model.
        step: int of at least 0, the optimizer step, on which random draws depend.

    Returns:
        List with a `MaskUpdate` for each weight. None if weights or gradients are not finite.

    Raises:
        ValueError: if the method returned something malformed.
        RuntimeError: if the update would break an invariant.
    """
    name, layers = type(method).__name__, [layer for _, layer in numbered]
    states = method.growth_strategy.observe(model, layers)
    if not all(s.finite for s in states):
        return None
    dropped = method.drop(states)
    check_dropped(name, states, dropped)
    if any(s.pattern for s in states):
        dropped = [pattern_update.limit_to_replaceable(s, d) for s, d in zip(states, dropped, strict=True)]
    counts = method.redistribute(states, dropped)
    check_counts(name, states, counts)
    rngs = [np.random.default_rng([method.seed, place, step]) for place, _ in numbered]
    grown = [
        np.asarray(method.grow(s, n, rng) if s.pattern is None else pattern_update.grow_in_groups(method, s, d, n, rng))
        for s, d, n, rng in zip(states, dropped, counts, rngs, strict=True)
    ]
    check_update(name, states, dropped, grown, method.budget(states))
    return [
        MaskUpdate.of(s, d, new, method.initial_values((s.element_size, len(new)), rng))
        for s, d, new, rng in zip(states, dropped, grown, rngs, strict=True)
    ]

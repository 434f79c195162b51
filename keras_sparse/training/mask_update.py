"""What an update changes in a layer, taken down before anything is written."""

import dataclasses

import numpy as np

from keras_sparse.backend.elements import write
from keras_sparse.training.optimizer_state import slots


def check_budget(name, tensors, dropped, grown, budget):
    """Raises RuntimeError if an update would break an invariant.

    Args:
        name: of the method.
        tensors: list of `Tensor`.
        dropped: for each a boolean array like its `live`.
        grown: for each an int array, the mask elements that grow.
        budget: int, how many weights must live afterwards.
    """
    sizes = zip(tensors, dropped, grown, strict=True)
    after = sum((len(t.live) - np.count_nonzero(gone) + len(new)) * t.unit for t, gone, new in sizes)
    again = any(_repeats(np.sort(np.concatenate([t.live, new]))) for t, new in zip(tensors, grown, strict=True))
    if after != budget or again:
        raise RuntimeError(
            f"{name} broke an invariant, and the update was not made: {budget} weights must be live after it (received "
            f"{after}), and only elements dead before the update may grow, each once (received others: {again})."
        )


def _repeats(numbers):
    """Whether a sorted array holds a number twice."""
    return bool((numbers[1:] == numbers[:-1]).any())


@dataclasses.dataclass(frozen=True)
class Change:
    """The change of one layer.

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
    def of(cls, tensor, dropped, grown, start):
        """From a `Tensor`, which of its live elements die, which positions grow, and the weights these start with."""
        elements = np.concatenate([tensor.live[dropped], grown])
        alive = np.repeat([False, True], [len(elements) - len(grown), len(grown)])
        weights = tensor.positions(elements)
        values = np.zeros(weights.shape)
        values[:, alive] = start
        return cls(elements, alive, elements if tensor.unit == 1 else weights.ravel(), values.ravel())

    def write(self, layer, optimizer):
        """Writes it into a masked layer's variables and the optimizer's."""
        mask, kernel = (layer.kernel_mask.value, self.alive), (layer.kernel_variable, self.values)
        others = slots(optimizer, layer.kernel_variable)
        if self.weights is self.elements:  # One index serves all.
            write(self.elements, mask, kernel, *others)
        else:
            write(self.elements, mask)
            write(self.weights, kernel, *others)

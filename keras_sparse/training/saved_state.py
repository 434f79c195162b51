"""What a sparse training method has left in a model, and whether it is still there."""

import weakref

from keras_sparse import backend
from keras_sparse.layers.method_state import MethodState
from keras_sparse.layers.traversal import masked_weights


def read_state(model):
    """The `MethodState` that a model carries; an empty one if no method has trained it."""
    mask = _holder(model)
    return MethodState.from_bytes(backend.read(mask.method_state)) if mask else MethodState()


def write_state(model, state):
    """Leaves a `MethodState` in a model."""
    mask = _holder(model)
    if mask is None:
        mask = masked_weights(model)[0].mask
        with backend.scope(model):
            mask.add_method_state()
    backend.assign(mask.method_state, state.to_bytes())


def take_loaded(model):
    """Whether the state comes from a file, asked once after the file was loaded."""
    mask = _holder(model)
    loaded = mask is not None and mask.loaded
    if loaded:
        mask.loaded = False
    return loaded


def _holder(model):
    """The `Mask` that holds the state, of a frozen layer, too; None if there is none."""
    masks = (x.mask for x in masked_weights(model))
    return next((m for m in masks if m.method_state is not None), None)


class LastWritten:
    """The state that a method has written last, to find out whether a model still has it."""

    def __init__(self):
        self._model, self._bytes = None, None

    def write(self, model, state):
        """Leaves a `MethodState` in a model."""
        write_state(model, state)
        self._model, self._bytes = weakref.ref(model), state.to_bytes().tobytes()

    def is_of(self, model):
        """Whether the last state was written into this model."""
        return self._model is not None and self._model() is model

    def is_in(self, model):
        """Whether this model has the state that was written last."""
        return self.is_of(model) and read_state(model).to_bytes().tobytes() == self._bytes

    def check(self, model, name):
        """Raises RuntimeError if the state was written into this model, by the method `name`, and is gone."""
        if self.is_of(model) and not self.is_in(model):
            raise RuntimeError(
                f"An update of {name} is not in the model {model.name!r} any more: its variables were set to older "
                "values within the epoch. Leave them alone between two steps, or set them at the end of an epoch."
            )


def assign_state(kinds, values):
    """Sets variables to the arrays that a loop keeps its state in.

    Args:
        kinds: the lists of trainable, non-trainable and optimizer variables.
        values: for each a list of arrays.

    Raises:
        ValueError: if the lists are not as long. Nothing is written then.
    """
    expected, received = [len(x) for x in kinds], [len(x) for x in values]
    if expected != received:
        raise ValueError(
            "Lists of as many arrays are expected as `model.trainable_variables`, `model.non_trainable_variables` and "
            f"`optimizer.variables` have: {expected}. Received: {received}."
        )
    for kind, arrays in zip(kinds, values, strict=True):
        for variable, array in zip(kind, arrays, strict=True):
            variable.assign(array)

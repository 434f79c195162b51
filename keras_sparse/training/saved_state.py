"""Reads and writes the state that a sparse training method saves in the model."""

import warnings
import weakref
from collections.abc import Sequence

import keras
import numpy as np

from keras_sparse import backend
from keras_sparse.layers.method_state import MethodState
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.training import fit_checks


def read_state(model: keras.Model) -> MethodState:
    """Returns the `MethodState` in a model; an empty one if no method has trained it.

    Warns and returns an empty one if something else than a method has written to its variable.
    """
    mask = _holder(model)
    if mask is None:
        return MethodState()
    try:
        return MethodState.from_bytes(backend.read(mask.method_state))
    except (ValueError, TypeError):  # of JSON or UTF-8; or of unknown entries
        warnings.warn(
            f"The state of the method in {model.name!r} cannot be read, and training begins without it: "
            "its variable has been overwritten, as by a mean of several `get_weights()`. Take the mean of "
            "`model.trainable_variables` only, of models with the same masks.",
            UserWarning,
            stacklevel=2,
        )
        return MethodState()


def take_loaded(model: keras.Model) -> bool:
    """Returns whether the state was loaded from a file since the last call, and clears this flag."""
    mask = _holder(model)
    loaded = mask is not None and mask.loaded
    if loaded:
        mask.loaded = False
    return loaded


def resume(method, model: keras.Model, epoch: int) -> tuple[int, int | None]:
    """Restores the state of a method from a model whose training begins or resumes.

    Args:
        method: `keras_sparse.SparseMethod` at the beginning of a `fit`.
        model: compiled `keras.Model` with masked layers.
        epoch: int from 0, the first epoch of this `fit`.

    Returns:
        `(last_update, owed)`: the optimizer step up to which the model has all updates, and the step of an update that
        has to be made before the first epoch, or None.

    Raises:
        ValueError: if the loaded model was saved during its training by another method.
    """
    schedule, name = method.update_schedule, type(method).__name__
    saved, loaded = read_state(model), take_loaded(model)
    if saved.last_update > schedule.started:  # The optimizer was replaced: start a new training.
        saved = MethodState(saved.method)
    if loaded and method.owes_updates:
        fit_checks.check_same_method(name, saved)
    method.set_state(saved.state_of(name))
    owed = schedule.owed(epoch, saved.last_update if method.owes_updates else -1, loaded)
    # Before the first update, the starting step is saved, so that a resumed run knows it.
    is_first = saved.last_update < 0 and not schedule.is_never()
    return schedule.started if is_first else saved.last_update, owed


def _holder(model):
    """Returns the `Mask` that has the state variable, which may be in a frozen layer; None if none has."""
    masks = (x.mask for x in masked_weights(model))
    return next((m for m in masks if m.method_state is not None), None)


def _holder_or_new(model):
    """Returns the `Mask` that has the state variable, which is added to the first mask if none has."""
    mask = _holder(model)
    if mask is None:
        mask = masked_weights(model)[0].mask
        with backend.scope(model):
            mask.add_method_state()
        backend.track_parameters(model)
    return mask


class LastWritten:
    """Remembers the state that a method wrote last, to detect that something else has changed the model since."""

    def __init__(self):
        self._model = self._mask = self._bytes = None

    def write(self, model: keras.Model, state: MethodState) -> None:
        """Writes a `MethodState` into a model, and remembers it."""
        if not self._is_of(model):
            self._model, self._mask = weakref.ref(model), weakref.ref(_holder_or_new(model))
        array = state.to_bytes()
        backend.assign(self._mask().method_state, array)
        self._bytes = array.tobytes()

    def _is_of(self, model: keras.Model) -> bool:
        """Returns whether the last state was written into this model."""
        return self._model is not None and self._model() is model and self._mask() is not None

    def is_in(self, model: keras.Model) -> bool:
        """Returns whether this model still has the state that was written last."""
        return self._is_of(model) and backend.read(self._mask().method_state).tobytes() == self._bytes

    def check(self, model: keras.Model, name: str) -> None:
        """Raises RuntimeError if the method `name` wrote its state into this model, and the state has changed since."""
        if self._is_of(model) and not self.is_in(model):
            raise RuntimeError(
                f"An update of {name} is not in the model {model.name!r} any more: its variables were "
                "overwritten between two steps. Restore weights at the end of an epoch only."
            )


def state_variables(model: keras.Model, optimizer) -> list[list]:
    """Returns lists of the trainable, the non-trainable and the optimizer variables."""
    return [model.trainable_variables, model.non_trainable_variables, optimizer.variables]


def assign_state(model: keras.Model, optimizer, values: Sequence[list]) -> None:
    """Assigns the arrays of a stateless training loop to the variables of a model and its optimizer.

    Args:
        model: built `keras.Model`.
        optimizer: built `keras.optimizers.Optimizer`.
        values: lists of arrays for the trainable, the non-trainable and the optimizer variables.

    Raises:
        ValueError: if there is no optimizer, or lengths or shapes differ. Nothing is written then.
    """
    if optimizer is None:
        raise ValueError(
            f"`stateless_update` needs the optimizer of the loop, and {model.name!r} is not compiled with one. Pass "
            "optimizer=..., built on model.trainable_variables. Received: optimizer=None."
        )
    kinds = state_variables(model, optimizer)
    expected, received = [len(x) for x in kinds], [len(x) for x in values]
    if expected != received:
        raise ValueError(
            "Lists of as many arrays are expected as `model.trainable_variables`, `model.non_trainable_variables` and "
            f"`optimizer.variables` have: {expected}. Received: {received}."
        )
    pairs = [pair for kind, arrays in zip(kinds, values, strict=True) for pair in zip(kind, arrays, strict=True)]
    misfits = [(v.path, tuple(v.shape), np.shape(x)) for v, x in pairs if np.shape(x) != tuple(v.shape)]
    if misfits:
        raise ValueError(
            "Each array must have the shape of its variable: pass the lists in the order trainable, non-trainable, "
            "optimizer, and the arrays in the order of the variables. Received, with the path of the variable and its "
            f"shape first: {misfits[:3]}."
        )
    for variable, array in pairs:
        variable.assign(array)

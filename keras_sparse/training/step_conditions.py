"""Tells whether the training steps of a `fit` may mask gradients only, since dead weights are 0 in all of them."""

import keras

from keras_sparse import _keras
from keras_sparse.layers.mask_in_place import plain_class
from keras_sparse.layers.masked_weight import LiveRegularizer
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.traversal import flatten
from keras_sparse.training.dead_weights import custom_losses, leaves_zeros
from keras_sparse.training.method_interface import MethodInterface

# Layers of Keras that run functions or modules of the user's.
_RUN_OTHER_CODE = ("Lambda", "JaxLayer", "FlaxLayer", "TFSMLayer", "TorchModuleWrapper")


def may_mask_gradients_only(model: keras.Model, layers: list) -> bool:
    """Returns whether dead weights stay 0 throughout an epoch of the present `fit`, whatever it computes.

    Then a training step need not mask them, but only their gradients. All of this must hold:

    - It is a `fit` of Keras, not a loop of the user's that calls a `keras.callbacks.CallbackList`.
    - The optimizer and the other parts of the step of Keras leave zeros; see `leaves_zeros`.
    - No code of the user's runs in the step that might use weights past their masks: no `train_step`, layer or loss.
    - Nobody has replaced the regularizers, which see live weights only.
    - No callback of the user's runs between two steps, unless it says by `async_safe`, as for Keras, that it may run in
      another thread while a step runs.

    Args:
        model: `keras.Model`, in `fit`.
        layers: list of its trainable masked weights.
    """
    return (
        model.train_function is not None
        and computes_by_keras(model)
        and not custom_losses(model)
        and leaves_zeros(model, layers, model.optimizer)
        and all(isinstance(x.variable.regularizer, (LiveRegularizer, type(None))) for x in layers)
        and not _is_written_between_steps()
    )


def computes_by_keras(model: keras.Model) -> bool:
    """Returns whether `train_step` and all layers of a model are Keras's."""
    return _keras.has_train_step_of_keras(model) and all(map(_computes_by_keras, (model, *flatten(model))))


def _computes_by_keras(layer):
    """Returns whether a layer or model computes by code of Keras's only; masked layers do if their plain class does."""
    if isinstance(layer, Mask):
        return True
    cls = plain_class(layer)
    return cls is not None and _keras.is_code_of_keras(cls) and cls.__name__ not in _RUN_OTHER_CODE


def _is_written_between_steps():
    """Returns whether a callback of the present `fit` may write to weights between two steps of an epoch."""
    callbacks = _keras.callbacks_of_fit()
    if callbacks is None:
        return True
    # A method inherits `async_safe`, so that it says nothing about what a subclass of the user's does.
    waiting = [x for x in callbacks if isinstance(x, MethodInterface) or not getattr(x, "async_safe", False)]
    hooks = "on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"
    return any(_keras.has_hook_of_user(x, hook) for x in waiting for hook in hooks)


def may_be_written_at_epoch_begin() -> bool:
    """Returns whether a callback of the present `fit` may write to weights in `on_epoch_begin`."""
    callbacks = _keras.callbacks_of_fit()
    return callbacks is None or any(_keras.has_hook_of_user(x, "on_epoch_begin") for x in callbacks)

"""The state of a training: optimizers, compiled functions, and `fit` itself."""

import sys

import keras


def batch_counter(optimizer):
    """Returns the variable in which an optimizer counts batches: `_iterations`, since 3.0.

    Public: `Optimizer.iterations` counts steps, which are fewer if gradients are accumulated over batches.
    """
    return optimizer._iterations


def wrapped_optimizers(optimizer):
    """Returns the optimizers inside a `LossScaleOptimizer` or `MultiOptimizer`: `_inner_optimizers`, since 3.15.

    Public: `inner_optimizer` exists for the former only.
    """
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "_inner_optimizers", ())]
    return [x for x in inner if x is not None]


def trained_variables(optimizer):
    """Returns the variables that a built optimizer trains: `_trainable_variables`, since 3.0.

    Public: `Optimizer.variables` has the optimizer's own variables only.
    """
    return optimizer._trainable_variables


def lists_of_variables(optimizer):
    """Returns the attributes of an optimizer that are lists, such as `_momentums` (since 3.0), as a dict.

    Public: `Optimizer.variables` is one flat list, in which only names tell to which trained variable a slot belongs.
    """
    lists = {name: value for name, value in vars(optimizer).items() if isinstance(value, list)}
    return {name: value for name, value in lists.items() if name not in ("_variables", "_trainable_variables")}


def initial_value(optimizer, name):
    """Returns the float at which an optimizer starts the variables in its attribute `name`: above 0 only to divide.

    `_accumulators` of Adagrad and Ftrl, since 3.0, starts at the public `initial_accumulator_value`.
    """
    return getattr(optimizer, "initial_accumulator_value", 0.0) if name == "_accumulators" else 0.0


def forget_compiled_functions(model):
    """Makes `fit`, `evaluate` and `predict` trace a model anew, whose layers have changed; since 3.0.

    Public: `compile`, which also makes the optimizer and metrics start anew.
    """
    for name in ("train_function", "test_function", "predict_function"):
        if hasattr(model, name):
            setattr(model, name, None)


def _super_batches():
    return getattr(keras.src.trainers.data_adapters.data_adapter_utils, "PartialBatchList", None)


# Since Keras 3.16, the train function on JAX gets all batches of an execution at once, stacked or as a list.
SUPER_BATCHES = _super_batches() is not None


def last_of_super_batch(batches):
    """Returns the last batch of one execution: `PartialBatchList`, since 3.16. Public: none."""
    if isinstance(batches, _super_batches()):
        return batches[-1]
    return keras.tree.map_structure(lambda x: None if x is None else x[-1], batches)


def refresh_held_state(model):
    """Copies the values of the variables to the state that `fit` holds on JAX: `Model._jax_state`, since 3.0.

    Public: `Model.jax_state_sync` (`state_sync` since 3.16) copies in the other direction only.
    """
    if getattr(model, "_jax_state", None) is None or not model._jax_state_synced:
        return
    model._jax_state = {
        "trainable_variables": [v.value for v in model.trainable_variables],
        "non_trainable_variables": [v.value for v in model.non_trainable_variables],
        "optimizer_variables": [v.value for v in model.optimizer.variables],
        "metrics_variables": [v.value for v in model.metrics_variables],
    }


def is_of_one_fit(value):
    """Whether a function is a method of an object that replaces methods of a model for one `fit`, and says so."""
    return getattr(getattr(value, "__self__", None), "of_one_fit", False)


def has_train_step_of_keras(model):
    """Whether the `train_step` of a model is the one of Keras, possibly replaced for one `fit`."""
    step = model.train_step
    return is_of_one_fit(step) or _module_of(step).startswith("keras.src.backend.")


def compute_loss(model, x, y, y_pred, sample_weight):
    """Returns the loss of a training step: `Model._compute_loss`, since 3.3.

    Public: `Model.compute_loss`, whose overrides need not have an argument `training`.
    """
    return model._compute_loss(x, y, y_pred, sample_weight, training=True)


def has_loss_of_keras(model):
    """Whether `compute_loss` of a model is the one of Keras.

    Others may have penalties of the variables themselves, whose gradients are not 0 at dead weights.
    """
    return is_code_of_keras(model.compute_loss)


def is_code_of_keras(value):
    """Returns whether a function or class, or the class of any other object, is one of Keras's.

    Modules of Keras are private: `keras.src`, since 3.0.
    """
    return _module_of(value).startswith("keras.src.")


def _module_of(value):
    """Returns the name of the module of a function, method or class, or of the class of any other object."""
    return getattr(getattr(value, "__func__", value), "__module__", None) or ""


def callbacks_of_fit():
    """Returns the callbacks of the `fit` that calls the present one; None if that cannot be found.

    They are found in the frames of the calls: the public `keras.callbacks.CallbackList` is a local variable of `fit`,
    which neither the model nor a callback refers to. Public: none.
    """
    frame = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner.callbacks
        frame = frame.f_back
    return None


def has_hook_of_user(callback, hook):
    """Returns whether the code of a callback's hook, such as "on_epoch_begin", is neither Keras's nor of this package.

    Modules of Keras are private: `keras.src`, since 3.0.
    """
    if hook in vars(callback):
        return True  # `keras.callbacks.LambdaCallback` sets functions of the user's.
    return not _module_of(getattr(type(callback), hook)).startswith(("keras.src.", "keras_sparse."))


def begin_after(model, epochs):
    """Makes the current `fit` start after some epochs; None for its argument `initial_epoch`: `Model._initial_epoch`.

    Since 3.0, where `keras.callbacks.BackupAndRestore` sets it, too. Public: none.
    """
    model._initial_epoch = epochs

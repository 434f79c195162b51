"""Functions that are the same on all backends."""

import contextlib

import keras
from keras import ops

from keras_sparse import _keras


def inner_optimizer(optimizer):
    """Returns the optimizer inside a `LossScaleOptimizer`; any other optimizer is returned unchanged."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def step_and_rate(optimizer):
    """Returns the step and the learning rate of an optimizer, as int32 and float32 scalar tensors."""
    step = ops.cast(inner_optimizer(optimizer).iterations, "int32")
    # A MultiOptimizer has a learning rate for each of its optimizers, but none of its own.
    return step, ops.cast(getattr(optimizer, "learning_rate", 0.0), "float32")


def step_before(optimizer):
    """Returns the step of an optimizer before a batch, to be compared with the step after it.

    Returns None if every batch makes a step, so that there is nothing to compare. A batch makes no step while gradients
    are accumulated, or if loss scaling finds infinite gradients.
    """
    scaled = inner_optimizer(optimizer) is not optimizer
    return step_and_rate(optimizer)[0] if scaled or optimizer.gradient_accumulation_steps else None


def guarded(action, before, step, rate, settings, values, carried):
    """Calls `action` if the optimizer has made a step since `before`; otherwise returns the values unchanged.

    Args:
        action: pure function `(step, rate, settings, values, carried) -> (values, carried)`.
        before: int32 scalar tensor, the result of `step_before`; None to call `action` in any case.
        step: int32 scalar tensor, the optimizer's step now.
        rate: float32 scalar tensor, its learning rate.
        settings: tensor.
        values: list of lists of tensors.
        carried: list of tensors.

    Returns:
        Tuple `(values, carried)`.
    """
    if before is None:
        return action(step, rate, settings, values, carried)
    return ops.cond(step > before, lambda: action(step, rate, settings, values, carried), lambda: (values, carried))


def tensors(values):
    """Converts nested lists of variables or arrays to tensors."""
    return keras.tree.map_structure(ops.convert_to_tensor, values)


def copy_with_elements(array, positions, values):
    """Returns a copy of an array with other values at some flat positions.

    Args:
        array: NumPy array.
        positions: 1-D int array.
        values: scalar, or array of the shape of `positions`.
    """
    new = array.copy(order="C")
    new.reshape(-1)[positions] = values
    return new


def assign_all(variables, values):
    """Assigns nested lists of values to nested lists of variables."""
    keras.tree.map_structure(lambda variable, value: variable.assign(value), variables, values)


def scope(model):
    """Returns the scope of the model's `tf.distribute` strategy, or an empty context manager."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


def training_loss(model, mapping, x, y, sample_weight):
    """Computes the loss that a training step minimizes, scaled by the optimizer, as a function of the variables.

    Args:
        model: compiled `keras.Model`.
        mapping: list of `(variable, value)`, the values to use instead of those of the variables.
        x: inputs of a batch, as passed to `fit`.
        y: targets of the batch.
        sample_weight: weights of the samples, or None.

    Returns:
        Scalar tensor.
    """
    # Without `collect_losses` the scope discards losses that layers add, such as those of an activity regularizer.
    with keras.StatelessScope(mapping, collect_losses=True):
        outputs = model(x, training=True)
        total = _keras.compute_loss(model, x, y, outputs, sample_weight)
        return model.optimizer.scale_loss(total)


def with_all_live(kernels, masks, values):
    """Returns pairs `(variable, value)` that give a model the kernels `values` and masks without dead weights."""
    return [*zip(kernels, values, strict=True), *((m, ops.ones(m.shape, m.dtype)) for m in masks)]


def current_values(model):
    """Returns pairs `(variable, value)` of all trainable variables.

    The weight regularizers of Keras see only those variables in a `StatelessScope` that are in its mapping.
    """
    return [(v, v.value) for v in model.trainable_variables]

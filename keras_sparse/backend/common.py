"""What the three backends share."""

import contextlib

import keras
from keras import ops


def inner_optimizer(optimizer):
    """The optimizer itself, or the one inside of a `LossScaleOptimizer`."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def step_and_rate(optimizer):
    """The step and the learning rate of an optimizer, as int32 and float32 scalars."""
    step = ops.cast(inner_optimizer(optimizer).iterations, "int32")
    # A MultiOptimizer has one for each of its optimizers, and no single one.
    return step, ops.cast(getattr(optimizer, "learning_rate", 0.0), "float32")


def step_before(optimizer):
    """The step before a batch, or None where every batch makes one.

    None is made where gradients are accumulated, nor where loss scaling finds infinities.
    """
    scaled = inner_optimizer(optimizer) is not optimizer
    return step_and_rate(optimizer)[0] if scaled or optimizer.gradient_accumulation_steps else None


def guarded(action, before, step, rate, settings, values, carried):
    """Acts if the optimizer has made a step since `before`."""
    if before is None:
        return action(step, rate, settings, values, carried)
    return ops.cond(step > before, lambda: action(step, rate, settings, values, carried), lambda: (values, carried))


def tensors(values):
    """The values of nested lists of variables or arrays, as tensors."""
    return keras.tree.map_structure(ops.convert_to_tensor, values)


def assign_all(variables, values):
    """Assigns to nested lists of variables."""
    keras.tree.map_structure(lambda variable, value: variable.assign(value), variables, values)


def scope(model):
    """The scope of the `tf.distribute` strategy that a model is distributed by, if it is."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


def training_loss(model, mapping, x, y, sample_weight):
    """The loss that a training step minimizes, scaled as the optimizer wants it, with values in place of variables.

    Args:
        model: compiled `keras.Model`.
        mapping: list of `(variable, value)`.
        x: inputs, y: targets, sample_weight: weights of a batch, as `fit` got them.
    """
    # Losses that layers add, such as those of an activity regularizer, are collected in the scope only if asked for.
    with keras.StatelessScope(mapping, collect_losses=True):
        outputs = model(x, training=True)
        total = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True)
        return model.optimizer.scale_loss(total)


def with_all_live(kernels, masks, values):
    """Pairs of variable and value that make a model compute with `values` as its kernels, no weight of them dead."""
    return [*zip(kernels, values, strict=True), *((m, ops.ones(m.shape, m.dtype)) for m in masks)]


def current_values(model):
    """What is trained, with its values: in a StatelessScope Keras's regularizers see only what is given to it."""
    return [(v, v.value) for v in model.trainable_variables]

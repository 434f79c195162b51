"""Finds the optimizer state of one variable, for any Keras optimizer and those of `torch.optim`."""

import keras

from keras_sparse import _keras, backend


def slots(optimizer, variable: keras.Variable) -> list[tuple]:
    """Returns the optimizer variables that have one entry for each entry of a trainable variable.

    These are momentum, velocity, accumulators, the EMA of `use_ema`, accumulated gradients, and everything else that an
    optimizer, Keras's or custom, holds as a list with one variable for each trainable variable. State of another
    shape, such as Adafactor's statistics of rows and columns, is not included. Wrappers (`LossScaleOptimizer`,
    `MultiOptimizer`) are searched.

    Args:
        optimizer: a `keras.optimizers.Optimizer`, built or not, a `torch.optim.Optimizer`, or None.
        variable: a trainable `keras.Variable`.

    Returns:
        List of `(slot, fresh)`: the variable, and the float with which the optimizer starts its entries. That is 0,
        except for the accumulators of Adagrad and Ftrl, which start above 0 to avoid 0 / 0.
    """
    if optimizer is None:
        return []
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return [(slot, 0.0) for slot in backend.native_slots(optimizer, variable)]
    if not optimizer.built:
        return []
    found = []
    for inner in _keras.wrapped_optimizers(optimizer):
        found += slots(inner, variable)
    variables = _keras.trained_variables(optimizer)
    index = _index(variables, variable)
    if index is None:
        return found
    for name, values in _keras.lists_of_variables(optimizer).items():
        slot = values[index] if len(values) == len(variables) else None
        if isinstance(slot, keras.Variable) and slot.shape == variable.shape:
            found.append((slot, _keras.initial_value(optimizer, name)))
    return found


def build_optimizer(model: keras.Model) -> None:
    """Makes the variables of the optimizer of a compiled model, unless it has them.

    Otherwise TensorFlow makes them in the first step, and traces this step a second time since it made variables.
    """
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.built:
        with backend.scope(model):
            optimizer.build(model.trainable_variables)


def keeps_zeros(optimizer) -> bool:
    """Returns whether a weight of 0 without gradient stays 0, and its slots fresh.

    This is true for Keras's optimizers except Muon and Adafactor, which work on whole rows, columns or kernels, and
    those that divide by statistics of the gradient without adding a number: 0 / 0 is NaN. For other optimizers it is
    unknown, and False is returned.
    """
    if optimizer is None:
        return True
    inner = _keras.wrapped_optimizers(optimizer)
    if inner:
        return all(map(keeps_zeros, inner))
    divides_by_zero = not all(getattr(optimizer, name, 1) for name in ("epsilon", "initial_accumulator_value"))
    return keras_name(optimizer) not in (None, "Muon", "Adafactor") and not divides_by_zero


def trains(optimizer, variable: keras.Variable) -> bool:
    """Returns whether an optimizer trains a variable; True if the optimizer is not built yet."""
    if not isinstance(optimizer, keras.optimizers.Optimizer) or not optimizer.built:
        return True
    inner = _keras.wrapped_optimizers(optimizer)
    if inner:
        return any(trains(x, variable) for x in inner)
    return _index(_keras.trained_variables(optimizer), variable) is not None


def _index(variables, variable):
    """Returns the index of a variable in a list, or of its `tf.Variable`, for which an optimizer may be built."""
    index = next((i for i, v in enumerate(variables) if v is variable), None)
    if index is None and not all(isinstance(v, keras.Variable) for v in variables):
        index = next((i for i, v in enumerate(variables) if v is variable.value), None)
    return index


def momentum(optimizer, variable: keras.Variable) -> tuple:
    """Returns `(optimizer, slot)` if Keras's SGD trains a variable with momentum, else `(None, None)`.

    The optimizer is the inner one if `optimizer` is a wrapper. The slot is None if it does not train this variable.
    """
    sgd = backend.inner_optimizer(optimizer)
    if sgd is None or not sgd.built or keras_name(sgd) != "SGD" or not sgd.momentum:
        return None, None
    index = _index(_keras.trained_variables(sgd), variable)
    return sgd, None if index is None else sgd.momentums[index]


def keras_name(optimizer) -> str | None:
    """Returns the name of the optimizer's class if it is one of Keras's own, else None.

    Names are compared, not classes, since on PyTorch the objects are of subclasses with the same names.
    """
    cls = type(optimizer)
    return cls.__name__ if _keras.is_code_of_keras(cls) and hasattr(keras.optimizers, cls.__name__) else None


def batches_and_steps(optimizer: keras.optimizers.Optimizer) -> tuple[int, int]:
    """Returns the number of batches that an optimizer has seen, and the number of batches for one step.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.

    Returns:
        `(batches, batches_per_step)`. The step of the optimizer is `batches // batches_per_step`. `batches_per_step`
        is 1 without gradient accumulation.
    """
    inner = backend.inner_optimizer(optimizer)
    return int(backend.read(_keras.batch_counter(inner))), inner.gradient_accumulation_steps or 1


def check_optimizer(value) -> None:
    """Raises ValueError unless `value` is None, a Keras optimizer or, on PyTorch, one of `torch.optim`."""
    if value is None or isinstance(value, keras.optimizers.Optimizer) or backend.is_native_optimizer(value):
        return
    raise ValueError(
        f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={value!r}. On PyTorch a "
        "torch.optim.Optimizer is taken, too."
    )

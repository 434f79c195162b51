"""The optimizer's state of one variable, for any Keras optimizer and those of `torch.optim`."""

import keras

from keras_sparse import _keras, backend


def slots(optimizer, variable):
    """Every per-weight variable that an optimizer keeps for one trainable variable.

    That is momentum, velocity, accumulators, the EMA of `use_ema`, accumulated gradients, and whatever a custom
    optimizer keeps in the same way: as a list with an entry for each trainable variable. State of another shape,
    such as the statistics that Adafactor keeps of rows and columns, is not per weight and not among them. Wrappers
    (`LossScaleOptimizer`, `MultiOptimizer`) are looked into.

    Args:
        optimizer: a `keras.optimizers.Optimizer`, built or not, a `torch.optim.Optimizer`, or None.
        variable: a trainable `keras.Variable`.

    Returns:
        List of `(slot, fresh)`: the slot's variable, and the float that a newly built optimizer holds in it for a
        weight of 0. That is 0 but for the accumulators of Adagrad and Ftrl, whose start keeps 0 / 0 out of them.
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
    index = next((i for i, v in enumerate(variables) if v is variable), None)
    if index is None:
        return found
    for name, values in _keras.lists_of_variables(optimizer).items():
        slot = values[index] if len(values) == len(variables) else None
        if isinstance(slot, keras.Variable) and slot.shape == variable.shape:
            fresh = optimizer.initial_accumulator_value if name == "_accumulators" else 0.0
            found.append((slot, fresh))
    return found


def keeps_zeros(optimizer):
    """Whether a weight of 0 without gradient stays 0, and its slots fresh, whatever happens to other weights.

    So it is with Keras's optimizers, but for Muon and Adafactor, which work on whole rows, columns or kernels. Of an
    optimizer that is not Keras's own it is not known, and so denied.
    """
    if optimizer is None:
        return True
    inner = _keras.wrapped_optimizers(optimizer)
    if inner:
        return all(map(keeps_zeros, inner))
    return keras_name(optimizer) not in (None, "Muon", "Adafactor")


def cure_of_nan(optimizer):
    """What to do where an optimizer made NaN of weights: the beginning of a sentence.

    Adafactor divides by the mean square of a row's gradients and by that of a column's. Both are `epsilon_1` where the
    gradient is 0, and the product of two of Keras's 1e-30 is 0 in float32: 0 / 0, at any learning rate.
    """
    if any(cure_of_nan(x) == _ADAFACTOR for x in _keras.wrapped_optimizers(optimizer)):
        return _ADAFACTOR
    if isinstance(optimizer, keras.optimizers.Adafactor) and optimizer.epsilon_1 < 1e-16:
        return _ADAFACTOR
    return "Lower the learning rate or clip gradients"


_ADAFACTOR = (
    "Adafactor makes NaN of any kernel, dense ones too, with a row and a column without gradient, at every learning "
    "rate: give it keras.optimizers.Adafactor(epsilon_1=1e-16)"
)


def trains(optimizer, variable):
    """Whether an optimizer knows a variable as one that it trains; True of one that is not built."""
    if not isinstance(optimizer, keras.optimizers.Optimizer) or not optimizer.built:
        return True
    inner = _keras.wrapped_optimizers(optimizer)
    if inner:
        return any(trains(x, variable) for x in inner)
    return any(v is variable for v in _keras.trained_variables(optimizer))


def momentum(optimizer, variable):
    """Keras's SGD, if one with momentum trains a variable, and that momentum; else None twice."""
    sgd = backend.inner_optimizer(optimizer)
    if sgd is None or not sgd.built or keras_name(sgd) != "SGD" or not sgd.momentum:
        return None, None
    pairs = zip(_keras.trained_variables(sgd), sgd.momentums, strict=True)
    return sgd, next((slot for v, slot in pairs if v is variable), None)


def keras_name(optimizer):
    """The name of an optimizer's class if it is one of Keras's own, else None.

    On PyTorch Keras makes objects of subclasses, of the same names.
    """
    cls = type(optimizer)
    return cls.__name__ if cls.__module__.startswith("keras.") and hasattr(keras.optimizers, cls.__name__) else None


def batches_and_steps(optimizer):
    """How many batches an optimizer has seen, and how many it takes for one step.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.

    Returns:
        `(batches, batches_per_step)`; the optimizer's step is `batches // batches_per_step`. The second is 1 without
        gradient accumulation.
    """
    inner = backend.inner_optimizer(optimizer)
    return int(backend.read(_keras.batch_counter(inner))), inner.gradient_accumulation_steps or 1


def check_optimizer(value):
    """Raises ValueError unless `value` is None or an optimizer whose state can be kept clean."""
    if value is None or isinstance(value, keras.optimizers.Optimizer) or backend.is_native_optimizer(value):
        return
    raise ValueError(
        f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={value!r}. On PyTorch a "
        "torch.optim.Optimizer is taken, too."
    )

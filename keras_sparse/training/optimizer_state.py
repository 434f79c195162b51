"""The optimizer's state of one variable, for any Keras optimizer."""

import keras

from keras_sparse.backend.elements import view


def slots(optimizer, variable):
    """Every per-weight variable that an optimizer keeps for one trainable variable.

    That is momentum, velocity, accumulators, the EMA of `use_ema`, accumulated gradients, and whatever a custom
    optimizer keeps in the same way: as a list with an entry for each trainable variable. State of another shape,
    such as the statistics that Adafactor keeps of rows and columns, is not per weight and not among them. Wrappers
    (`LossScaleOptimizer`, `MultiOptimizer`) are looked into.

    Args:
        optimizer: a `keras.optimizers.Optimizer`, built or not, or None.
        variable: a trainable `keras.Variable`.

    Returns:
        List of `(slot, fresh)`: the slot's variable, and the float that a newly built optimizer holds in it for a
        weight of 0. That is 0 but for the accumulators of Adagrad and Ftrl, whose start keeps 0 / 0 out of them.
    """
    if optimizer is None or not optimizer.built:
        return []
    found = []
    for inner in (
        getattr(optimizer, "inner_optimizer", None),
        *getattr(optimizer, "_inner_optimizers", ()),
    ):
        found += slots(inner, variable)
    variables = optimizer._trainable_variables
    index = next((i for i, v in enumerate(variables) if v is variable), None)
    if index is None:
        return found
    for name, values in vars(optimizer).items():
        if name in ("_variables", "_trainable_variables") or not isinstance(values, list):
            continue
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
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "_inner_optimizers", ())]
    if any(inner):
        return all(keeps_zeros(x) for x in inner)
    return keras_name(optimizer) not in (None, "Muon", "Adafactor")


def momentum(optimizer, variable):
    """Keras's SGD, if one with momentum trains a variable, and that momentum; else None twice."""
    sgd = getattr(optimizer, "inner_optimizer", optimizer)
    if sgd is None or not sgd.built or keras_name(sgd) != "SGD" or not sgd.momentum:
        return None, None
    pairs = zip(sgd._trainable_variables, sgd.momentums, strict=True)
    return sgd, next((slot for v, slot in pairs if v is variable), None)


def keras_name(optimizer):
    """The name of an optimizer's class if it is one of Keras's own, else None.

    On PyTorch Keras makes objects of subclasses, of the same names.
    """
    cls = type(optimizer)
    return cls.__name__ if cls.__module__.startswith("keras.") and hasattr(keras.optimizers, cls.__name__) else None


def iterations(optimizer):
    """How many batches an optimizer has seen, and how many it takes for one step.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.

    Returns:
        `(batches, batches_per_step)`; the optimizer's step is `batches // batches_per_step`. The second is 1 without
        gradient accumulation.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return int(view(inner._iterations)), inner.gradient_accumulation_steps or 1

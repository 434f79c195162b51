"""Checks at the beginning and the end of a `fit`."""

import warnings
import weakref

import numpy as np

from keras_sparse.training.optimizer_state import cure_of_nan, trains

_owners = weakref.WeakKeyDictionary()  # model -> (the parameters of its last fit, the method that trained in it)


def check_alone(model, method):
    """Raises ValueError if another method trains a model in the same `fit`, whose parameters are one object."""
    params, other = _owners.get(model, (None, lambda: None))
    if params is not None and params is method.params and other() is not None:
        raise ValueError(
            f"One sparse training method at a time: `callbacks` has {type(other()).__name__} and "
            f"{type(method).__name__}, and each would undo what the other does. Leave one out."
        )
    _owners[model] = (method.params, weakref.ref(method))


def check_optimizer_trains(name, model, layers):
    """Raises ValueError unless a model is compiled with an optimizer that trains the kernels of some layers."""
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"{name} keeps the state of the optimizer clean, and {model.name!r} is not compiled with one. Call "
            "model.compile(optimizer, loss) before; in your own loop call `update(model, step, optimizer=...)`."
        )
    strangers = [x.name for x in layers if not trains(model.optimizer, x.variable)]
    if strangers:
        raise ValueError(
            f"The optimizer of {model.name!r} does not train {strangers}: these layers were frozen when it was "
            "built. Call model.compile(...) again after you have set `trainable`."
        )


def check_reachable(layers, epochs, count, name, part=1.0, given=None):
    """Raises ValueError if a number to drop at once is more than the network can lose.

    Args:
        layers: the trainable masked layers.
        epochs: int, of how many epochs; None if that is not known.
        count: function `epoch -> int`, the number of mask elements.
        name: str, the argument's.
        part: float, of that number, which has to be reached.
        given: function `epoch -> number`, what the argument says where that is not the number to drop.
    """
    if not epochs:
        return
    live = [np.count_nonzero(x.mask.numpy()) for x in layers]
    can = sum(live) - len(live)  # Each layer keeps one.
    epoch = max(range(epochs), key=count)
    if count(epoch) * part > can:
        received = f"{name}={count(epoch)}" if given is None else f"{name}={given(epoch)}, {count(epoch)} of them"
        raise ValueError(
            f"`{name}` must not be more than what can be dropped, {can} of {sum(live)} live mask elements. "
            f"Received: {received}. A tenth of them is usual."
        )


def warn_of_no_update(name, schedule):
    """Warns that a `fit` was over before the first update was due."""
    warnings.warn(
        f"{name} made no update: none was due in the {schedule.examined - schedule.started} optimizer steps of this "
        f"fit. Received: {schedule.describe()}. Choose a shorter period, or train longer.",
        stacklevel=4,
    )


def warn_of_idle_updates(name, updates):
    """Warns that the updates of a `fit` dropped nothing."""
    warnings.warn(
        f"{name} made {updates} updates, and none of them dropped anything: the masks are what they were. Its "
        "threshold, count, fraction or target is too low for this network.",
        stacklevel=4,
    )


def warn_if_dense(name, model, layers):
    """Warns if all layers are dense, and a method has nothing to move."""
    if all(x.mask.numpy().all() for x in layers):
        warnings.warn(
            f"{name} can move nothing: all masked layers of {model.name!r} are dense. Give keras_sparse.sparsify a "
            "sparsity above 0.",
            stacklevel=4,
        )


def check_same_method(name, saved):
    """Raises ValueError if a loaded model is in the middle of its training by another method."""
    if saved.last_update > 0 and saved.method not in (None, name):
        raise ValueError(
            f"The loaded model is in the middle of its training by {saved.method}, and {name} cannot go on with that. "
            f"Go on with {saved.method}, or begin a new training: compile the model with a new optimizer."
        )


def warn_of_nan(name, step, layers, optimizer):
    """Warns that an update was skipped, since NaN cannot be compared."""
    warnings.warn(
        f"{name} skipped its update at step {step}, and skips all until it is cured: weights or gradients of "
        f"{[x.name for x in layers]} are NaN or infinite. The masks stay as they were. {cure_of_nan(optimizer)}, and "
        "add keras.callbacks.TerminateOnNaN() to stop there.",
        stacklevel=5,
    )


def warn_of_no_optimizer(name, model):
    """Warns that nobody knows the optimizer whose state has to be kept clean."""
    warnings.warn(
        f"{name}.update got no optimizer, and {model.name!r} is not compiled with one: momentum of dropped weights "
        "stays, and would move them. Pass optimizer=... of the loop.",
        stacklevel=5,
    )

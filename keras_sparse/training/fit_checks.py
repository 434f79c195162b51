"""Checks and warnings at the beginning and the end of `fit`."""

import warnings
from collections.abc import Callable

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.layers.method_state import MethodState
from keras_sparse.training.optimizer_state import trains


def check_optimizer_trains(name: str, model: keras.Model, layers: list) -> None:
    """Raises ValueError unless the model is compiled with an optimizer that trains the given weights."""
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"{name} keeps the state of the optimizer clean, and {model.name!r} is not compiled with one. Call "
            "model.compile(optimizer, loss) before; in your own loop call `update(model, step, optimizer=...)`."
        )
    untrained = [x.name for x in layers if not trains(model.optimizer, x.variable)]
    if untrained:
        raise ValueError(
            f"The optimizer of {model.name!r} does not train {untrained}. If they were frozen when it was built, call "
            "model.compile(...) again after you have set `trainable`. If another optimizer trains them, as in a GAN, "
            f"call {name}.update(part, step, optimizer=...) for each part in a loop of your own."
        )


def check_reachable(
    layers: list,
    epochs: int | None,
    count: Callable[[int], int],
    name: str,
    part: float = 1.0,
    given: Callable[[int], float] | None = None,
) -> None:
    """Raises ValueError if an update would have to drop more mask elements than the network can lose.

    Args:
        layers: list of the trainable masked weights.
        epochs: int, the number of epochs of `fit`; None if it is unknown.
        count: function `epoch -> int`, the number of mask elements to drop.
        name: str, name of the argument, for the message.
        part: float in (0, 1], the fraction of `count` that must be possible.
        given: function `epoch -> number`, the value of the argument, if it is not `count` itself.
    """
    if not epochs:
        return
    live = [np.count_nonzero(x.mask.numpy()) for x in layers]
    can = sum(n - 1 for n in live if n)  # Each layer keeps at least one element.
    epoch = max(range(epochs), key=count)
    if count(epoch) * part > can:
        received = f"{name}={count(epoch)}" if given is None else f"{name}={given(epoch)}, {count(epoch)} of them"
        raise ValueError(
            f"`{name}` must not be more than what can be dropped, {can} of {sum(live)} live mask elements. "
            f"Received: {received}. A tenth of them is usual."
        )


def warn_of_no_update(name: str, schedule) -> None:
    """Warns that `fit` ended before the first update was due."""
    steps = schedule.examined - schedule.started
    advice = (
        "Choose a shorter period, or train longer."
        if steps
        else "If `train_step` of the model uses other optimizers than `model.optimizer`, train each part in a loop."
    )
    warnings.warn(
        f"{name} made no update: none was due in the {steps} optimizer steps of this fit. Received: "
        f"{schedule.describe()}. {advice}",
        stacklevel=4,
    )


def warn_of_idle_updates(name: str, updates: int) -> None:
    """Warns that no update of a `fit` dropped anything."""
    warnings.warn(
        f"{name} made {updates} updates, and none of them dropped anything: the masks are what they were. Its "
        "threshold, count, fraction or target is too low for this network.",
        stacklevel=4,
    )


def warn_if_dense(name: str, model: keras.Model, layers: list) -> None:
    """Warns if all masks are dense, so that the method cannot move any weight."""
    if all(x.mask.numpy().all() for x in layers):
        warnings.warn(
            f"{name} can move nothing: all masked layers of {model.name!r} are dense. Give keras_sparse.sparsify a "
            "sparsity above 0.",
            stacklevel=4,
        )


def check_same_method(name: str, saved: MethodState) -> None:
    """Raises ValueError if a loaded model is in the middle of training by another method."""
    if saved.last_update > 0 and saved.method not in (None, name):
        raise ValueError(
            f"The loaded model is in the middle of its training by {saved.method}, and {name} cannot go on with that. "
            f"Go on with {saved.method}, or begin a new training: compile the model with a new optimizer."
        )


def advice_for_nan(optimizer) -> str:
    """Returns advice for weights that have become NaN: the beginning of a sentence.

    Adafactor divides a gradient by sqrt(r * c), where r and c are the mean squares of the gradients in its row and
    column, plus `epsilon_1`. If a row and a column have no gradient, r * c = epsilon_1 ** 2. With Keras's default of
    1e-30 this is 0 in float32, so the quotient is 0 / 0, at any learning rate.
    """
    if any(advice_for_nan(x) == _ADAFACTOR for x in _keras.wrapped_optimizers(optimizer)):
        return _ADAFACTOR
    if isinstance(optimizer, keras.optimizers.Adafactor) and optimizer.epsilon_1 < 1e-16:
        return _ADAFACTOR
    return "Lower the learning rate or clip gradients"


_ADAFACTOR = (
    "Adafactor makes NaN of any kernel, dense ones too, with a row and a column without gradient, at every learning "
    "rate: give it keras.optimizers.Adafactor(epsilon_1=1e-16)"
)


def warn_of_nan(name: str, step: int, layers: list, optimizer) -> None:
    """Warns that an update was skipped because of NaN, which cannot be compared."""
    warnings.warn(
        f"{name} skipped its update at step {step}, and skips all until it is cured: weights of "
        f"{[x.name for x in layers]} are NaN or infinite, or gradients NaN. The masks stay as they were. "
        f"{advice_for_nan(optimizer)}, and add keras.callbacks.TerminateOnNaN() to stop there.",
        stacklevel=5,
    )


def warn_of_no_optimizer(name: str, model: keras.Model) -> None:
    """Warns that the optimizer is unknown, so that its state cannot be reset."""
    warnings.warn(
        f"{name}.update got no optimizer, and {model.name!r} is not compiled with one: momentum of dropped weights "
        "stays, and would move them. Pass optimizer=... of the loop.",
        stacklevel=5,
    )

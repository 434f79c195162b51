"""Values that change by epoch or step, and when a period was crossed: pure Python.

Epochs count from 0, as in `keras.callbacks`: epoch 0 is the one Keras's progress bar calls "Epoch 1".
"""

import math
import numbers
import os
import warnings
from collections.abc import Mapping


class ByEpoch:
    """A value that holds from an epoch on, until the next one listed.

    Args:
        values: dict of first epoch (int, from 0; 0 must be there) to value.

    Raises:
        ValueError: if no value is given for epoch 0, or an epoch is not a whole number of at least 0.

    Example:

    >>> period = ByEpoch({0: 100, 25: 200})
    >>> period(0), period(24), period(25)
    (100, 100, 200)
    """

    def __init__(self, values):
        epochs = values if isinstance(values, Mapping) else ()
        if 0 not in epochs or any(isinstance(e, bool) or not isinstance(e, numbers.Integral) or e < 0 for e in epochs):
            raise ValueError(
                "A schedule by epoch is a dict of first epoch to value, whose epochs are whole numbers from 0 on and "
                f"include 0. Received: {values!r}. Write for example {{0: 100, 25: 200}}."
            )
        self.values = dict(sorted(values.items()))

    def __call__(self, epoch):
        """The value in force at `epoch` (int, from 0)."""
        return next(v for e, v in reversed(self.values.items()) if e <= epoch)

    def __repr__(self):
        return repr(self.values[0]) if len(self.values) == 1 else f"ByEpoch({self.values})"


def by_epoch(value, name, check):
    """Makes a function of the epoch from a number, a dict `{first epoch: number}` or a function.

    Args:
        value: number, dict or callable `epoch -> number`.
        name: str, the argument's name for messages.
        check: function `(number, name)` that raises where a number is not acceptable. What a callable returns is
            checked when it is called, the others at once.

    Returns:
        Callable `epoch -> number`.
    """
    if callable(value) and not isinstance(value, ByEpoch):

        def checked(epoch):
            number = value(epoch)
            check(number, f"{name} (at epoch {epoch})")
            return number

        return checked
    schedule = value if isinstance(value, ByEpoch) else ByEpoch(value if isinstance(value, Mapping) else {0: value})
    for number in schedule.values.values():
        check(number, name)
    return schedule


def cosine_decay(start, epochs, least=1):
    """A count that falls from `start` to `least` by half a cosine: function `epoch -> int`.

    Args:
        start: number, at epoch 0.
        epochs: number of epochs that it takes.
        least: int, where it ends.

    Returns:
        What `prune_count` of `keras_sparse.DynamicSparse` and `count` of `keras_sparse.SET` take.

    Raises:
        ValueError: if `start` or `epochs` is not a number above 0.

    Example:

    >>> count = cosine_decay(600, epochs=90)
    >>> count(0), count(45), count(90)
    (600, 300, 1)
    """
    if not all(_is_number(x) and x > 0 for x in (start, epochs)):
        raise ValueError(
            f"A cosine decay needs a `start` and a number of `epochs` above 0. Received: start={start!r}, "
            f"epochs={epochs!r}."
        )

    def count(epoch):
        return max(least, round(start / 2 * (1 + math.cos(math.pi * min(1, epoch / epochs)))))

    return count


def multiples(period, before, now):
    """The multiples of `period` in (before, now], a range.

    Looking for multiples that were passed, not at `step % period == 0`, is what keeps updates exact when steps are
    executed many at a time or gradients are accumulated.
    """
    return range((before // period + 1) * period, now + 1, period)


def polynomial_decay(initial_sparsity, final_sparsity, begin_step, end_step, power=3, frequency=100):
    """TF-MOT's `PolynomialDecay`, the schedule of Zhu & Gupta (2017), without the switch to Keras 2 that TF-MOT makes.

    Args:
        initial_sparsity: float in [0, 1), the sparsity at `begin_step`.
        final_sparsity: float in [0, 1), the sparsity at `end_step`.
        begin_step: int, the training step, from 1, before which the first pruning is.
        end_step: int, the step of the last one.
        power: exponent of `1 - (step - begin_step) / (end_step - begin_step)`.
        frequency: int, steps between prunings; where it does not divide `end_step - begin_step`, the last one comes
            before `end_step`, and the final sparsity is not reached.

    Returns:
        `tfmot.sparsity.keras.PolynomialDecay`, a function `step -> (due, sparsity)`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    given = {
        "initial_sparsity": initial_sparsity,
        "final_sparsity": final_sparsity,
        "begin_step": begin_step,
        "end_step": end_step,
        "power": power,
        "frequency": frequency,
    }
    if not (
        all(map(_is_number, given.values()))
        and 0 <= initial_sparsity <= final_sparsity < 1
        and 0 <= begin_step < end_step
        and power > 0
        and frequency >= 1
    ):
        raise ValueError(
            "A polynomial decay needs 0 <= initial_sparsity <= final_sparsity < 1, 0 <= begin_step < end_step, power > "
            f"0 and frequency >= 1. Received: {', '.join(f'{k}={v!r}' for k, v in given.items())}."
        )
    import tensorflow as tf

    tf.keras.Model  # noqa: B018 - loads Keras 3, before TF-MOT says which one TensorFlow is to load.
    name = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of distutils, about itself
            from tensorflow_model_optimization.sparsity.keras import PolynomialDecay
    finally:
        # TF-MOT sets it when imported, and processes started from this one would see it.
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
    return PolynomialDecay(initial_sparsity, final_sparsity, begin_step, end_step, power, frequency)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)

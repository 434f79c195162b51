"""Schedules: values that change by epoch or by step, and the multiples of a period that a run has passed.

Epochs count from 0, as in `keras.callbacks`. Epoch 0 is shown as "Epoch 1" by Keras's progress bar.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_sparse.validation import check_callable

# A number, a dict `{first epoch: number}`, or a function `epoch -> number`.
ScheduleLike = float | Mapping[int, float] | Callable[[int], float]


class ByEpoch:
    """Piecewise constant schedule: each value holds from its first epoch until the next epoch listed.

    Args:
        values: dict `{first epoch: value}`. Epochs are ints of at least 0, and 0 must be among them.

    Raises:
        ValueError: if there is no value for epoch 0, or an epoch is not an int of at least 0.

    Example:

    >>> period = ByEpoch({0: 100, 25: 200})
    >>> period(0), period(24), period(25)
    (100, 100, 200)
    """

    def __init__(self, values: Mapping[int, Any]):
        epochs = values if isinstance(values, Mapping) else ()
        if 0 not in epochs or any(isinstance(e, bool) or not isinstance(e, numbers.Integral) or e < 0 for e in epochs):
            raise ValueError(
                "A schedule by epoch is a dict of first epoch to value, whose epochs are whole numbers from 0 on and "
                f"include 0. Received: {values!r}. Write for example {{0: 100, 25: 200}}."
            )
        self.values = dict(sorted(values.items()))

    def __call__(self, epoch: int) -> Any:
        """Returns the value at `epoch`, an int of at least 0."""
        return next(v for e, v in reversed(self.values.items()) if e <= epoch)

    def __repr__(self) -> str:
        return repr(self.values[0]) if len(self.values) == 1 else f"ByEpoch({self.values})"


def by_epoch(value: ScheduleLike, name: str, check: Callable[[float, str], None]) -> Callable[[int], float]:
    """Converts a number, a dict `{first epoch: number}` or a function to a function of the epoch.

    Args:
        value: number, dict or callable `epoch -> number`.
        name: str, the name of the argument, used in error messages.
        check: function `(number, name)` that raises an error if the number is invalid. Numbers and the values of a
            dict are checked immediately, the result of a callable each time it is called.

    Returns:
        Callable `epoch -> number`.

    Raises:
        ValueError: if a dict is not a valid schedule (see `ByEpoch`), or as raised by `check`.
    """
    if callable(value) and not isinstance(value, ByEpoch):
        check_callable(value, name, "epoch -> number")

        def checked(epoch):
            number = value(epoch)
            check(number, f"{name} (at epoch {epoch})")
            return number

        return checked
    schedule = value if isinstance(value, ByEpoch) else ByEpoch(value if isinstance(value, Mapping) else {0: value})
    for number in schedule.values.values():
        check(number, name)
    return schedule


def cosine_decay(start: float, epochs: float, least: int = 1) -> Callable[[int], int]:
    """Returns a count that decays along half a cosine.

    The count at epoch t is `max(least, round(start / 2 * (1 + cos(pi * min(1, t / epochs)))))`.

    Args:
        start: positive number, the count at epoch 0.
        epochs: positive number, the number of epochs over which the cosine falls to 0.
        least: int, the smallest count.

    Returns:
        Function `epoch -> int`, for `prune_count` of `keras_sparse.DynamicSparse` and `count` of `keras_sparse.SET`.

    Raises:
        ValueError: if `start` or `epochs` is not a finite number above 0.

    Example:

    >>> count = cosine_decay(600, epochs=90)
    >>> count(0), count(45), count(90)
    (600, 300, 1)
    """
    if not all(_is_number(x) and 0 < x < math.inf for x in (start, epochs)):
        raise ValueError(
            f"A cosine decay needs a finite `start` and number of `epochs` above 0. Received: start={start!r}, "
            f"epochs={epochs!r}."
        )

    def count(epoch):
        return max(least, round(start / 2 * (1 + math.cos(math.pi * min(1, epoch / epochs)))))

    return count


def multiples(period: int, before: int, now: int) -> range:
    """Returns the multiples of `period` in the half-open interval (before, now], as a range.

    A test for `step % period == 0` would miss multiples if several steps are executed at once, and find the same one
    several times if gradients are accumulated over batches. Consecutive intervals contain each multiple exactly once.
    """
    return range((before // period + 1) * period, now + 1, period)


def polynomial_decay(
    initial_sparsity: float,
    final_sparsity: float,
    begin_step: int,
    end_step: int,
    power: float = 3,
    frequency: int = 100,
) -> Callable[[int], tuple[bool, float]]:
    """Returns the pruning schedule of Zhu & Gupta (2017), whose sparsity rises fast at first and slowly at the end.

    The sparsity before training step t is

        final_sparsity + (initial_sparsity - final_sparsity) * (1 - p) ** power

    with p = (t - begin_step) / (end_step - begin_step), clipped to [0, 1]. It is computed in single precision and
    equals the result of TF-MOT's `tfmot.sparsity.keras.PolynomialDecay` bit for bit.

    Args:
        initial_sparsity: float in [0, 1), the sparsity at `begin_step`.
        final_sparsity: float in [0, 1), the sparsity at `end_step`, at least `initial_sparsity`.
        begin_step: int of at least 0, the training step, counted from 1, before which the first pruning is due. With 0,
            the first pruning is that before step `frequency`.
        end_step: int above `begin_step`, the step before which the last pruning is due.
        power: positive float, the exponent.
        frequency: int of at least 1, steps between prunings. If it does not divide `end_step - begin_step`, the last
            pruning comes before `end_step`, and the final sparsity is not reached.

    Returns:
        Function `step -> (due, sparsity)` for `schedule` of `keras_sparse.GradualPruning`: whether to prune before
        that step, and the sparsity to prune to. The arguments are attributes of the function.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> schedule = polynomial_decay(0.0, 0.5, begin_step=0, end_step=10, frequency=5)
    >>> schedule(0), schedule(1)[0], schedule(5), schedule(10), schedule(15)
    ((True, 0.0), False, (True, 0.4375), (True, 0.5), (False, 0.5))

    Reference:
        Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.
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
        and all(isinstance(n, numbers.Integral) for n in (begin_step, end_step, frequency))
        and 0 <= initial_sparsity <= final_sparsity < 1
        and 0 <= begin_step < end_step
        and 0 < power < math.inf
        and frequency >= 1
    ):
        raise ValueError(
            "A polynomial decay needs 0 <= initial_sparsity <= final_sparsity < 1, 0 <= begin_step < end_step, power > "
            "0 and frequency >= 1, with whole numbers for the steps and the frequency. Received: "
            f"{', '.join(f'{k}={v!r}' for k, v in given.items())}."
        )
    single = np.float32  # TF-MOT computes in single precision.

    def schedule(step: int) -> tuple[bool, float]:
        passed = min(single(1), max(single(0), single(step - begin_step) / single(end_step - begin_step)))
        rest = single(initial_sparsity - final_sparsity) * (single(1) - passed) ** single(power)
        due = begin_step <= step <= end_step and (step - begin_step) % frequency == 0
        return bool(due), float(rest + single(final_sparsity))

    schedule.__name__ = "polynomial_decay"
    vars(schedule).update(given)  # GradualPruning reads them, so that it need not call the schedule at every step.
    return schedule


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)

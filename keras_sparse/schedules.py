"""Values that change by epoch or step, and when a period was crossed.

Epochs count from 0, as in `keras.callbacks`: epoch 0 is the one Keras's progress bar calls "Epoch 1".
"""

import math
import numbers
from collections.abc import Mapping

import numpy as np


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
    """The schedule of Zhu & Gupta (2017): a sparsity that rises fast at first and ever slower towards its end.

    The sparsity before training step t is

        final_sparsity + (initial_sparsity - final_sparsity) * (1 - p) ** power

    with p = (t - begin_step) / (end_step - begin_step), clipped to [0, 1]. It is computed in single precision, as by
    TF-MOT's `tfmot.sparsity.keras.PolynomialDecay`, and is the same number to the last bit.

    Args:
        initial_sparsity: float in [0, 1), the sparsity at `begin_step`.
        final_sparsity: float in [0, 1), the sparsity at `end_step`, at least `initial_sparsity`.
        begin_step: int of at least 0, the training step, counted from 1, before which the first pruning is due.
        end_step: int above `begin_step`, the step of the last one.
        power: positive float, the exponent.
        frequency: int of at least 1, steps between prunings; where it does not divide `end_step - begin_step`, the
            last one comes before `end_step`, and the final sparsity is not reached.

    Returns:
        What `schedule` of `keras_sparse.GradualPruning` takes: a function `step -> (due, sparsity)`, of int to bool and
        float. It has the arguments as attributes.

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
    single = np.float32  # in which TF-MOT computes

    def schedule(step):
        passed = min(single(1), max(single(0), single(step - begin_step) / single(end_step - begin_step)))
        rest = single(initial_sparsity - final_sparsity) * (single(1) - passed) ** single(power)
        due = begin_step <= step <= end_step and (step - begin_step) % frequency == 0
        return bool(due), float(rest + single(final_sparsity))

    schedule.__name__ = "polynomial_decay"
    vars(schedule).update(given)  # GradualPruning asks at the steps they name only.
    return schedule


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)

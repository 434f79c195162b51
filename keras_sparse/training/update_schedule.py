"""When an update of the masks is due: the clock is the optimizer's step."""

import math

from keras_sparse.schedules import by_epoch, multiples
from keras_sparse.training.optimizer_state import batches_and_steps
from keras_sparse.validation import check_positive_int

EPOCH = "epoch"


class UpdateSchedule:
    """Finds the steps at which updates are due, and follows a `fit` through its epochs and batches.

    An update is due when a boundary of a period was crossed, never when `step % period == 0`: many steps may be
    executed at once, and a step may take many batches. Updates at the end of an epoch are made when the next one
    begins, so that no callback sees another network than the one that was measured.

    Args:
        name: str, of the method, for messages.
        period: as for `keras_sparse.SparseMethod`.
        until: as for it.
        until_part: float in (0, 1], the part of the epochs of `fit` after which nothing is due if `until` is None.

    Attributes:
        epoch: int from 0, at which schedules by epoch are read.
        started: int, the optimizer's step at the beginning of `fit`; None before.
        examined: int, the step up to which no update is owed; None before.
        was_active: bool, whether any epoch of this `fit` was one in which updates may be due.
    """

    def __init__(self, name, period, until, until_part=1.0):
        self.name = name
        self.period = period if period in (None, EPOCH) else by_epoch(period, "period", _check_period)
        if until is not None:
            check_positive_int(until, "until")
        self.until, self.until_part = until, until_part
        self.epoch = 0
        self.started = self.examined = None
        self.was_active = self._active = False

    # What another kind of schedule overrides.

    def due(self, before, now):
        """The optimizer steps in (before, now] at which an update is due: a sequence of ints."""
        if self.period in (None, EPOCH):
            return ()
        return multiples(self.period(self.epoch), before, now)

    def first(self, step):
        """The last step of a training that needs no look: the one it starts at."""
        return step

    def is_never(self):
        """Whether no update is ever due."""
        return self.period is None

    def describe(self):
        """The arguments, for messages."""
        return f"period={self.period!r}"

    def epochs_with_updates(self):
        """How many epochs of this `fit` may change masks; None where that is not known."""
        return self._epochs and min(self._epochs, self.until or self._epochs)

    def progress(self, step):
        """How much of the epochs up to `ends()` is over at a step: a float from 0, above 1 after them.

        Counted by the epochs of this `fit`, since an optimizer may have trained before.
        """
        steps = self._steps_per_epoch
        within = (step - self.batches // self._per_step) / steps if steps else 0
        return (self.epoch + within) / self.ends()

    # Through a `fit`.

    def ends(self):
        """The number of epochs after which nothing is due."""
        if self.until is not None or self.until_part == 1:
            return self.until or math.inf
        if self._epochs is None:
            raise ValueError(
                f"{self.name} needs `until`, a number of epochs, where `fit` does not tell how long it trains."
            )
        return math.ceil(self.until_part * self._epochs)

    _epochs = _steps_per_epoch = None
    batches, _per_step = 0, 1

    def begin_fit(self, model, params):
        """Checks that no execution can hold two updates.

        Args:
            model: compiled `keras.Model`.
            params: dict, Keras's parameters of the `fit`.
        """
        self._epochs, batches = params.get("epochs"), params.get("steps")
        self._batches_per_epoch = batches
        per_step = batches_and_steps(model.optimizer)[1]
        self._steps_per_epoch = batches / per_step if batches else None
        steps = model.steps_per_execution
        self._per_execution = steps if isinstance(steps, int) else 1  # "auto" grows from 1
        shortest = min(getattr(self.period, "values", {0: math.inf}).values())
        if self._per_execution > shortest * per_step:
            self._refuse(self._per_execution, shortest * per_step)
        self.started = self.examined = None
        self.was_active = self._active = False

    def begin_epoch(self, optimizer, epoch):
        """Reads the clock; returns whether it is the first epoch of this `fit`."""
        self.batches, self._per_step = batches_and_steps(optimizer)
        self._active = not self.is_never() and epoch < self.ends()
        self.was_active |= self._active
        is_first = self.started is None
        if is_first:
            self.started = self.batches // self._per_step
        return is_first

    def owed(self, epoch, last_update, is_loaded):
        """The step of the update that a model lacks in which a `fit` begins, or None.

        A checkpoint may have been written after the step at which an update was due, and before that update. Older
        ones were left out on purpose: by another callback, another period, or none. And a model that nobody has loaded
        lacks none.

        Args:
            epoch: int from 0, the first of this `fit`.
            last_update: int, the step up to which the model has all updates; -1 before its first training.
            is_loaded: bool, whether the model's weights come from a file.
        """
        step = self.started
        self.examined = self.first(step) if last_update < 0 else step
        self.epoch = max(0, epoch - 1)  # whose end it was
        if last_update < 0 or self.is_never() or self.epoch >= self.ends():
            owed = False
        elif self.period == EPOCH:
            owed = epoch > 0 and last_update < step <= last_update + (self._steps_per_epoch or math.inf)
        else:
            execution = -(-self._per_execution // self._per_step)
            owed = is_loaded and epoch > 0 and any(s > last_update for s in self.due(max(0, step - execution), step))
        return step if owed else None

    def due_between_epochs(self, optimizer, epoch):
        """The step of the update that ends the epoch before `epoch`, or None; asked before `begin_epoch`."""
        if self.period != EPOCH or self.started is None or epoch - 1 >= self.ends():
            return None
        batches, per_step = batches_and_steps(optimizer)
        return batches // per_step

    def may_be_due(self, batch):
        """Whether an update is due after a batch, counted on the host: to read the optimizer synchronises JAX."""
        return self._active and bool(self.due(self.examined, (self.batches + batch + 1) // self._per_step))

    def batches_of_execution(self, batch):
        """How many batches the execution has that begins with `batch`."""
        return min(self._per_execution, (self._batches_per_epoch or math.inf) - batch)

    def batches_if_due_after(self, batch):
        """How many batches the execution has that begins with `batch`, if an update is due after it; else 0."""
        steps, count = self._batches_per_epoch or math.inf, self.batches_of_execution(batch)
        due = self.due(self.examined, (self.batches + batch + count) // self._per_step)
        return count if self._active and (due or (self.period == EPOCH and batch + count == steps)) else 0

    def next_due(self, optimizer):
        """The step if an update is due now, else None; it is not asked for twice."""
        if not self._active:
            return None
        batches, per_step = batches_and_steps(optimizer)
        step = batches // per_step
        due = self.due(self.examined, step)
        if len(due) > 1:
            self._refuse(step - self.examined, due[1] - due[0])
        self.examined = step
        return step if due else None

    def follow(self, optimizer):
        """Notes the steps that were made, if no update is due in them."""
        batches, per_step = batches_and_steps(optimizer)
        step = batches // per_step
        if not self._active or not self.due(self.examined, step):
            self.examined = step

    def _refuse(self, executed, period):
        raise ValueError(
            f"{self.name} has to act between training steps, but two of its updates fall into one execution: "
            f"the period is {period} batches, and steps_per_execution makes {executed} at once. Compile with "
            f"steps_per_execution of at most {period}, or choose a longer period."
        )


def required(period, name):
    """The period, of a method that does nothing without one.

    Raises:
        ValueError: if it is None.
    """
    if period is None:
        raise ValueError(
            f"{name} updates the masks, and `period` says when. Received: period=None. Give a "
            "number of optimizer steps, such as 100; keras_sparse.Static() leaves the masks as they are."
        )
    return period


def _check_period(value, name):
    try:
        check_positive_int(value, name)
    except ValueError as error:
        raise ValueError(
            f"{error} It counts optimizer steps; a dict {{first epoch: int}}, a function epoch -> int and "
            f'"{EPOCH}", for the end of each, are taken, too.'
        ) from None

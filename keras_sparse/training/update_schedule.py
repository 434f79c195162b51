"""Decides when an update of the masks is due. Time is counted in optimizer steps."""

import math
from collections.abc import Sequence

import keras

from keras_sparse import _keras
from keras_sparse.schedules import ScheduleLike, by_epoch, multiples
from keras_sparse.training.optimizer_state import batches_and_steps
from keras_sparse.validation import check_positive_int

EPOCH = "epoch"


class UpdateSchedule:
    """Finds the steps at which updates are due, and counts the epochs and batches of a `fit`.

    An update is due if a multiple of the period lies in the steps since the last check. It does not suffice to test
    `step % period == 0`: many steps may be executed at once, and a step may take many batches. With the period "epoch",
    updates are made when the next epoch begins, so that callbacks at the end of the epoch see the network that was
    evaluated.

    Args:
        name: str, name of the method, for messages.
        period: as for `keras_sparse.SparseMethod`.
        until: as for `keras_sparse.SparseMethod`.
        until_part: float in (0, 1], the fraction of the epochs of `fit` after which no update is due if `until` is
            None.

    Attributes:
        epoch: int from 0, the epoch at which schedules are evaluated.
        started: int, the optimizer step at the beginning of `fit`; None before.
        examined: int, the last optimizer step that was checked for updates; None before.
        was_active: bool, whether updates were possible in any epoch of this `fit`.
    """

    def __init__(self, name: str, period: ScheduleLike | str | None, until: int | None, until_part: float = 1.0):
        self.name = name
        self.period = period if period in (None, EPOCH) else by_epoch(period, "period", _check_period)
        if until is not None:
            check_positive_int(until, "until")
        self.until, self.until_part = until, until_part
        self.epoch = 0
        self.started = self.examined = None
        self.was_active = self._active = False

    # Overridden by other kinds of schedules.

    def due(self, before: int, now: int) -> Sequence[int]:
        """Returns the optimizer steps in (before, now] at which an update is due."""
        if self.period in (None, EPOCH):
            return ()
        return multiples(self.period(self.epoch), before, now)

    def first(self, step: int) -> int:
        """Returns the initial value of `examined` for a training that begins at `step`."""
        return step

    def is_never(self) -> bool:
        """Returns whether no update is ever due."""
        return self.period is None

    def describe(self) -> str:
        """Returns the arguments, for messages."""
        return f"period={self.period!r}"

    def epochs_with_updates(self) -> int | None:
        """Returns the number of epochs of this `fit` that may have updates; None if it is unknown."""
        return self._epochs and min(self._epochs, self.until or self._epochs)

    def progress(self, step: int | None) -> float:
        """Returns the number of epochs completed at a step, divided by `ends()`. It is above 1 after the last update.

        Epochs are counted, not optimizer steps, since the optimizer may have trained before.

        Args:
            step: int, an optimizer step of this `fit`; None in another loop, where whole epochs are counted.
        """
        within = 0
        if step is not None and self._steps_per_epoch:
            calls = self._calls_per_batch or 1
            within = (step - self.batches // self._per_step) / (self._steps_per_epoch * calls)
            if self.epoch == self._begun - 1:  # owed to the end of the epoch before: `batches` are those since
                within += 1
        return (self.epoch + within) / self.ends()

    # During a `fit`.

    def ends(self) -> float:
        """Returns the number of epochs after which no update is due: an int, or infinity.

        Raises:
            ValueError: if it is a fraction of the epochs of `fit`, whose number is unknown.
        """
        if self.until is not None or self.until_part == 1:
            return self.until or math.inf
        if self._epochs is None:
            raise ValueError(
                f"{self.name} needs `until`, a number of epochs, where `fit` does not tell how long it trains."
            )
        return math.ceil(self.until_part * self._epochs)

    _epochs = _steps_per_epoch = None
    batches, _per_step, _begun = 0, 1, 0
    _is_custom, _calls_per_batch = False, 1

    def begin_fit(self, model: keras.Model, params: dict) -> None:
        """Resets the counts, and checks that no execution of several steps can contain two updates.

        Args:
            model: compiled `keras.Model`.
            params: dict, `params` of a Keras callback.

        Raises:
            ValueError: if the period is shorter than an execution.
        """
        self._epochs, batches = params.get("epochs"), params.get("steps")
        self._batches_per_epoch = batches
        per_step = batches_and_steps(model.optimizer)[1]
        self._steps_per_epoch = batches / per_step if batches else None
        # A `train_step` of the user's may call the optimizer several times for a batch. See `next_due`.
        self._is_custom = not _keras.has_train_step_of_keras(model)
        self._calls_per_batch = None if self._is_custom else 1
        steps = model.steps_per_execution
        self._per_execution = steps if isinstance(steps, int) else 1  # "auto" starts at 1
        shortest = min(getattr(self.period, "values", {0: math.inf}).values())
        if self._per_execution > shortest * per_step:
            self._refuse(self._per_execution, shortest * per_step)
        self.started = self.examined = None
        self.was_active = self._active = False

    def begin_epoch(self, optimizer, epoch: int) -> bool:
        """Reads the step of the optimizer; returns whether this is the first epoch of `fit`."""
        self.batches, self._per_step = batches_and_steps(optimizer)
        self._begun = epoch
        self._active = not self.is_never() and epoch < self.ends()
        self.was_active |= self._active
        is_first = self.started is None
        if is_first:
            self.started = self.batches // self._per_step
        return is_first

    def owed(self, epoch: int, last_update: int, is_loaded: bool) -> int | None:
        """Returns the step of an update that has to be made before a resumed `fit` goes on, or None.

        A checkpoint may have been written after a step at which an update was due, and before that update was made.
        Only the last execution, or epoch, before the checkpoint counts: updates that were due earlier were omitted on
        purpose, by training without the method or with another period.

        Args:
            epoch: int from 0, the first epoch of this `fit`.
            last_update: int, the step up to which the model has all updates; -1 before its first training.
            is_loaded: bool, whether the weights of the model were loaded from a file.
        """
        step = self.started
        self.examined = self.first(step) if last_update < 0 else step
        self.epoch = max(0, epoch - 1)  # the epoch at the end of which the checkpoint was written
        if last_update < 0 or self.is_never() or self.epoch >= self.ends():
            owed = False
        elif self.period == EPOCH:
            owed = epoch > 0 and last_update < step <= last_update + math.ceil(self._steps_per_epoch or 2**62)
        else:
            execution = -(-self._per_execution // self._per_step)
            owed = is_loaded and epoch > 0 and any(s > last_update for s in self.due(max(0, step - execution), step))
        return step if owed else None

    def due_between_epochs(self, optimizer, epoch: int) -> int | None:
        """Returns the step of the update between `epoch - 1` and `epoch`, or None. Call it before `begin_epoch`."""
        if self.period != EPOCH or self.started is None or epoch - 1 >= self.ends():
            return None
        batches, per_step = batches_and_steps(optimizer)
        return batches // per_step

    def may_be_due(self, batch: int) -> bool:
        """Returns whether an update is due after a batch.

        Batches are counted on the host, since reading the step of the optimizer would make JAX wait for the device.
        """
        is_unknown = self._calls_per_batch is None
        return self._active and (is_unknown or bool(self.due(self.examined, self._step_after(batch + 1))))

    def _step_after(self, batches):
        """Returns the optimizer step after some batches of the epoch, counted on the host."""
        return int(self.batches + batches * (self._calls_per_batch or 1)) // self._per_step

    def batches_of_execution(self, batch: int) -> int:
        """Returns the number of batches of the execution that begins with `batch`."""
        return min(self._per_execution, (self._batches_per_epoch or math.inf) - batch)

    def batches_if_due_after(self, batch: int) -> int:
        """Returns the number of batches of the execution that begins with `batch` if an update follows it, else 0."""
        steps, count = self._batches_per_epoch or math.inf, self.batches_of_execution(batch)
        due = self.due(self.examined, self._step_after(batch + count))
        return count if self._active and (due or (self.period == EPOCH and batch + count == steps)) else 0

    def next_due(self, optimizer, batches_made: int | None = None) -> int | None:
        """Returns the step if an update is due now, else None. The same update is returned only once.

        Args:
            optimizer: the optimizer of the model.
            batches_made: int, the number of batches of the epoch so far, if it is known.

        Raises:
            ValueError: if two updates are due at once, since an execution has several steps.
        """
        if not self._active:
            return None
        batches, per_step = batches_and_steps(optimizer)
        if self._is_custom and batches_made:
            self._calls_per_batch = max(1, (batches - self.batches) / batches_made)
        step = batches // per_step
        due = self.due(self.examined, step)
        if len(due) > 1 and self._per_execution > 1:
            self._refuse(step - self.examined, due[1] - due[0])
        self.examined = step
        return step if due else None

    def follow(self, optimizer) -> None:
        """Counts the steps made so far as checked, if no update is due in them."""
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


def required(period: ScheduleLike | str | None, name: str) -> ScheduleLike | str:
    """Returns `period` of a method that needs one.

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

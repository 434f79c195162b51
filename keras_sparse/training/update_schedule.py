"""When a method acts: the clock is the optimizer's step."""

import math

import keras
import numpy as np

from keras_sparse.backend import elements
from keras_sparse.layers.traversal import masked_layers
from keras_sparse.schedules import by_epoch, multiples
from keras_sparse.training.optimizer_state import iterations
from keras_sparse.validation import check_positive_int

EPOCH = "epoch"


class Clock(keras.callbacks.Callback):
    """Calls `update` when a period of optimizer steps, or an epoch, is over.

    Args:
        period: as for `keras_sparse.training.sparse_method.SparseMethod`.
        until: as for it.
    """

    def __init__(self, period, until):
        super().__init__()
        if period is None and self.periodic:
            raise ValueError(
                f"{type(self).__name__} updates the masks, and `period` says when. Received: period=None. Give a "
                "number of optimizer steps, such as 100; keras_sparse.Static() leaves the masks as they are."
            )
        self.period = period if period in (None, EPOCH) else by_epoch(period, "period", _check_period)
        if until is not None:
            check_positive_int(until, "until")
        self.until = until

    periodic = False  # whether the method does nothing without a period
    _epoch = 0

    def update(self, model, step, epoch=0, optimizer=None):
        """What to do then."""
        raise NotImplementedError

    def due(self, before, now):
        """The optimizer steps in (before, now] at which an update is due: a sequence of ints."""
        return () if self.period == EPOCH else multiples(self.period(self._epoch), before, now)

    def ends(self):
        """The number of epochs after which the masks stay as they are."""
        return self.until or math.inf

    def start(self, model):
        """Called before the first step of `fit`, after callbacks that restore a checkpoint have done so."""

    def first(self, step):
        """The last optimizer step that needs no look for a model without a record: the one it starts at."""
        return step

    def on_train_begin(self, logs=None):
        """Checks that no execution can hold two updates."""
        per_step = iterations(self.model.optimizer)[1]
        steps = self.model.steps_per_execution
        self._per_execution = steps if isinstance(steps, int) else 1  # "auto" grows from 1
        shortest = min(getattr(self.period, "values", {0: np.inf}).values())
        if self._per_execution > shortest * per_step:
            self._refuse(self._per_execution, shortest * per_step)
        self._examined = None
        self._ever_active = False

    def on_epoch_begin(self, epoch, logs=None):
        """Reads the clock."""
        model = self.model
        self._seen, self._per_step = iterations(model.optimizer)
        self._active = self.period is not None and epoch < self.ends()
        self._ever_active |= self._active
        if self._examined is None:
            self._started = self._seen // self._per_step
            self.start(model)
            self._examined = self._catch_up(model, epoch)
        self._epoch = epoch
        self._update_if_due()

    def _catch_up(self, model, epoch):
        """Makes the update that a restored checkpoint lacks; returns the step up to which nothing is owed.

        It may have been written after the step at which an update was due, and before that update. Anything older was
        left out on purpose: by another callback, another period, or none.
        """
        memory, step = masked_layers(model)[0].kernel_mask, self._started
        last = int(elements.view(memory.last_update))
        if last > step:  # Trained before, now with a new optimizer: a new run.
            last = -1
            memory.forget()
        memory.begin(type(self).__name__, going_on=last > 0)
        if self.period is None:
            return step
        if last < 0:
            elements.assign(memory.last_update, step)  # so that a run resumed before its first update knows
            return self.first(step)
        self._epoch = max(0, epoch - 1)  # whose end it was
        if self.period == EPOCH:
            owed = epoch and last < step <= last + (self.params["steps"] or math.inf)
        else:
            execution = -(-self._per_execution // self._per_step)
            owed = any(s > last for s in self.due(max(0, step - execution), step))
        if owed and self._epoch < self.ends():
            self.update(model, step, self._epoch)
        return step

    def on_train_batch_end(self, batch, logs=None):
        """Updates if a period ended in the steps just executed."""
        # Counted on the host: reading the optimizer, or `self.model` at all, would synchronise JAX at every batch.
        if self._active and self.due(self._examined, (self._seen + batch + 1) // self._per_step):
            self._update_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Updates if still due."""
        self._update_if_due()
        # After the last epoch nobody would train what grows, and the model was evaluated as it is.
        if self._active and self.period == EPOCH and epoch + 1 < self.params["epochs"]:
            self.update(self.model, self._examined, epoch)

    def _update_if_due(self):
        if not self._active:
            return
        model = self.model
        seen, per_step = iterations(model.optimizer)
        step = seen // per_step
        due = self.due(self._examined, step)
        if len(due) > 1:
            self._refuse(step - self._examined, due[1] - due[0])
        if due:
            self.update(model, step, self._epoch)
        self._examined = step

    def _refuse(self, executed, period):
        raise ValueError(
            f"{type(self).__name__} has to act between training steps, but two of its updates fall into one execution: "
            f"the period is {period} batches, and steps_per_execution makes {executed} at once. Compile with "
            f"steps_per_execution of at most {period}, or choose a longer period."
        )


def _check_period(value, name):
    try:
        check_positive_int(value, name)
    except ValueError as error:
        raise ValueError(
            f"{error} It counts optimizer steps; a dict {{first epoch: int}}, a function epoch -> int and "
            f'"{EPOCH}", for the end of each, are taken, too.'
        ) from None

"""Base class of all sparse training methods: the update, its invariants, its saved state, its logs."""

import copy
import threading
from collections.abc import Callable

import keras
import numpy as np

from keras_sparse import _keras, backend
from keras_sparse.layers.method_state import MethodState
from keras_sparse.layers.traversal import numbered_weights, trainable_masked_weights
from keras_sparse.replicas import check_replicas
from keras_sparse.schedules import ScheduleLike
from keras_sparse.training import fit_checks, saved_state
from keras_sparse.training.active_method import check_alone
from keras_sparse.training.dead_weights import clear
from keras_sparse.training.growth import Growth, RandomGrowth
from keras_sparse.training.layer_state import sparsity
from keras_sparse.training.mask_update import plan_update
from keras_sparse.training.method_interface import MethodInterface
from keras_sparse.training.optimizer_state import build_optimizer, check_optimizer
from keras_sparse.training.train_step import NextBatch, StepsOfFit, trace_if_masks_are_new
from keras_sparse.training.update_schedule import UpdateSchedule
from keras_sparse.validation import check_not_negative_int, check_seed


class SparseMethod(MethodInterface, keras.callbacks.Callback):
    """Base class of the callbacks that train masked models.

    After an update, the number of live weights is the `budget` of the method, by default the number before; otherwise
    an error is raised. Each dead weight is 0 then, and its optimizer state is that of a new weight. In
    `fit`, dead weights are 0 after every step: what an optimizer such as Muon does to them is undone within the step.

    In `fit`, the method adds `sparsity` (of the trainable masked weights), `dropped` and `grown` (numbers of mask
    elements) to the logs of each epoch. Put it before callbacks that read the logs, such as CSVLogger. In a custom
    loop, call `update(model, step)`, or `stateless_update` if the loop keeps its state in arrays.

    A subclass defines `drop`, and may override the other methods of `training/method_interface.py`, such as
    `redistribute`, `budget`, `get_state` and `set_state`. `docs/new_method.md` has an example.

    Args:
        period: optimizer steps between updates: int of at least 1, dict `{first epoch: int}`, function `epoch -> int`,
            with epochs from 0, or "epoch" for an update between every two epochs. None for no updates.
        until: int, the number of epochs after which the masks stay fixed; None for no end.
        seed: int of at least 0. A random draw is a function of the seed, the place of the weight in the model and the
            step, so that it is the same on all replicas and backends, and after a resume.
        growth: growth strategy; None for `keras_sparse.RandomGrowth()`.
        update_schedule: `UpdateSchedule`; None to make it from `period` and `until`.

    Attributes:
        check_replicas: bool, default False; whether to call `keras_sparse.check_replicas` after each update.
    """

    def __init__(
        self,
        period: ScheduleLike | str | None = None,
        until: int | None = None,
        seed: int = 0,
        growth: Growth | None = None,
        update_schedule: UpdateSchedule | None = None,
    ):
        super().__init__()
        check_seed(seed)
        self.seed = seed
        self.update_schedule = update_schedule or UpdateSchedule(type(self).__name__, period, until)
        self.growth_strategy = growth or RandomGrowth()
        self._forget_fit()

    check_replicas = False
    # Keras may call `on_train_batch_end` in another thread, so that training does not wait for the metrics of a step.
    async_safe = True

    @property
    def period(self) -> Callable[[int], int] | str | None:
        """The period of updates, as a schedule by epoch; None without one."""
        return self.update_schedule.period

    @property
    def until(self) -> int | None:
        """The number of epochs after which the masks stay fixed; None for no end."""
        return self.update_schedule.until

    @property
    def updates_in_fit(self) -> int:
        """The number of updates made since the beginning of the last `fit`, those by calls of `update` included."""
        return self._updates

    def update(self, model: keras.Model, step: int, epoch: int = 0, optimizer: keras.Optimizer | None = None) -> None:
        """Drops and grows once.

        Args:
            model: `keras.Model` with masked layers.
            step: int of at least 0, the optimizer step, on which random draws depend.
            epoch: int from 0, the epoch at which schedules are evaluated.
            optimizer: the optimizer of the model, whose state is reset for dead weights; None for `model.optimizer`.

        Raises:
            ValueError: if an argument is out of its range, or the model is not built or has no trainable masked layer.
            RuntimeError: if the method broke an invariant. Then neither the model nor the state of the method changes.
        """
        numbered, optimizer = self._begin_update(model, step, epoch, optimizer)
        layers, state = [weight for _, weight in numbered], copy.deepcopy(self.get_state())
        try:
            planned = plan_update(self, model, numbered, step)
            self._method_state(step).to_bytes()  # raises an error if it cannot be saved
        except BaseException:
            self.set_state(state)  # `drop` may have changed it.
            raise
        if planned is None:
            self._skip(model, layers, optimizer)
            return
        for layer, mask_update in zip(layers, planned, strict=True):
            mask_update.write(layer, optimizer)
        if not self._within_fit:  # In another loop, dead weights and their slots may have other values.
            clear(layers, optimizer)
        grown = sum(np.count_nonzero(x.alive) for x in planned)
        self._end_update(model, sum(len(x.alive) for x in planned) - grown, grown)
        self._updates += 1

    def stateless_update(
        self, model, step, trainable_variables, non_trainable_variables, optimizer_variables, epoch=0, optimizer=None
    ) -> tuple[list, list, list]:
        """Drops and grows once in a loop that keeps its state in arrays, as with `model.stateless_call` on JAX.

        Args:
            model, step, epoch: as for `update`. Afterwards, the variables of the model have the new values.
            trainable_variables: list of arrays, the values of `model.trainable_variables`.
            non_trainable_variables: list of arrays, the values of `model.non_trainable_variables`.
            optimizer_variables: list of arrays, the values of `optimizer.variables`.
            optimizer: the built optimizer of the loop; None for `model.optimizer`.

        Returns:
            The new `(trainable_variables, non_trainable_variables, optimizer_variables)`.

        Raises:
            ValueError, RuntimeError: as for `update`, and if a list is not as long as that of the variables.
        """
        optimizer = optimizer or getattr(model, "optimizer", None)
        arrays = (trainable_variables, non_trainable_variables, optimizer_variables)
        saved_state.assign_state(model, optimizer, arrays)
        self.update(model, step, epoch, optimizer)
        # The first update may add a variable to the model: that of the state of the method.
        return tuple([v.value for v in kind] for kind in saved_state.state_variables(model, optimizer))

    def _begin_update(self, model, step, epoch, optimizer):
        """Checks the arguments and restores the state of the model; returns `(numbered_weights, optimizer)`."""
        check_not_negative_int(step, "step")
        check_not_negative_int(epoch, "epoch")
        check_optimizer(optimizer)
        numbered = numbered_weights(model)
        optimizer = optimizer or getattr(model, "optimizer", None)
        if optimizer is None:
            fit_checks.warn_of_no_optimizer(type(self).__name__, model)
        if self._within_fit and not self._updates:  # The optimizer may not have been built before.
            fit_checks.check_optimizer_trains(type(self).__name__, model, [weight for _, weight in numbered])
        self._epoch, self._step = epoch, step
        self.update_schedule.epoch = epoch
        self._synchronize(model)
        return numbered, optimizer

    def _synchronize(self, model):
        """Restores the state in a model, unless it is the one that this method wrote last."""
        if not self._written.is_in(model):
            self.set_state(saved_state.read_state(model).state_of(type(self).__name__))

    def _end_update(self, model, dropped, grown):
        """Writes the state into the model, and updates the counts."""
        self._write_state(model, self._step)
        self._updated = True
        if self.check_replicas:
            check_replicas(model)
        self._dropped += int(dropped)
        self._grown += int(grown)

    def _method_state(self, last_update):
        return MethodState(type(self).__name__, last_update, dict(self.get_state()))

    def _write_state(self, model, last_update):
        self._written.write(model, self._method_state(last_update))

    def _skip(self, model, layers, optimizer):
        """Skips an update, since NaN cannot be compared."""
        clear(layers, optimizer)  # Clipping by a norm of NaN makes dead weights NaN, too.
        self._write_state(model, self._step)
        if not self._skipped:
            fit_checks.warn_of_nan(type(self).__name__, self._step, layers, optimizer)
        self._skipped += 1

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks model, optimizer and callbacks, and resets what belongs to one `fit`."""
        model, params, name = self.model, self.params or {}, type(self).__name__
        layers = trainable_masked_weights(model)
        if _keras.has_train_step_of_keras(model):  # Others may train by optimizers of their own.
            build_optimizer(model)
        fit_checks.check_optimizer_trains(name, model, layers)
        check_alone(model, self)
        self.growth_strategy.check(model)
        self._forget_fit()
        trace_if_masks_are_new(model)
        self.update_schedule.begin_fit(model, params)
        if self.grows:
            fit_checks.warn_if_dense(name, model, layers)
        self.check(model, layers)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Makes the updates that are due before the first step of the epoch, and prepares its steps."""
        model, self._thread = self.model, threading.get_ident()
        # Other callbacks may have restored older weights and masks, but not the optimizer state.
        clear(trainable_masked_weights(model), model.optimizer)
        self._dropped = self._grown = 0
        self._updated = False
        if self.update_schedule.started is not None:
            self._synchronize(model)
            self._update_if_ready(model, self.update_schedule.due_between_epochs(model.optimizer, epoch), epoch - 1)
        if self.update_schedule.begin_epoch(model.optimizer, epoch):
            self._update_if_ready(model, self._begin_training(model, epoch), max(0, epoch - 1))
        self.update_schedule.epoch = self._epoch = epoch
        self._update_if_ready(model, self.update_schedule.next_due(model.optimizer), epoch)
        self._steps.renew(model, self.step_action(epoch), self.act_on_layers)
        backend.refresh_held_state(model)  # An epoch without a batch goes on with it.

    def _begin_training(self, model, epoch):
        """Begins or resumes a training; returns the step of an update that is owed, or None."""
        self.start(model, model.optimizer)
        last_update, owed = saved_state.resume(self, model, epoch)
        if self.owes_updates:
            self._write_state(model, last_update)
        return owed

    def _update_if_ready(self, model, step, epoch):
        """Makes an update that is due, or postpones it until the growth strategy has seen a batch."""
        if step is None:
            return
        if self.growth_strategy.is_ready:
            self._update_within_fit(model, step, epoch)
        else:
            self._put_off = True

    def _update_within_fit(self, model, step, epoch):
        """Makes an update that is due in this `fit`, whose steps leave dead weights and their slots clear."""
        self._within_fit = True
        try:
            self.update(model, step, epoch)
        finally:
            self._within_fit = False

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Makes the update that is due, if there is one, and keeps the batch if an update after it needs gradients."""
        self.catch_up(batch)
        if batch == 0:
            self._steps.begin(self.model)
        if not self.growth_strategy.looks_at_batches:
            return
        schedule = self.update_schedule
        count = schedule.batches_of_execution(batch) if self._put_off else schedule.batches_if_due_after(batch)
        if count:
            NextBatch(self.model, count, self.growth_strategy.keep)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Makes an update if one is due. Does nothing in another thread: the next hook in this one makes the update."""
        if threading.get_ident() == self._thread:
            self.catch_up(batch + 1)

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Makes the update that is due after the last step of an epoch before the network is validated."""
        self.catch_up()

    def catch_up(self, batches: int | None = None) -> None:
        """Makes the update that is due, if there is one. Callbacks before the method call it before they read masks.

        Args:
            batches: int, the number of batches of the epoch so far; None at its end.
        """
        # Counted on the host: reading the optimizer, or even `self.model`, would make JAX wait at every batch.
        is_due = batches is None or self._put_off or self.update_schedule.may_be_due(batches - 1)
        if self._thread is None or batches == 0 or not is_due:
            return
        model = self.model
        step = self.update_schedule.next_due(model.optimizer, batches)
        if self._put_off and step is None:
            step = self.update_schedule.examined
        self._put_off = False
        # Before the first update of an epoch, callbacks may restore weights, and the update uses these.
        if self._updated:
            self._written.check(model, type(self).__name__)
        self._update_if_ready(model, step, self.update_schedule.epoch)
        backend.refresh_held_state(model)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Checks the updates and steps of the epoch, clears dead weights, which may be NaN, and adds to the logs."""
        self.catch_up()
        model, self._thread = self.model, None
        layers = trainable_masked_weights(model)
        self.update_schedule.follow(model.optimizer)
        if (left := self._steps.end(model)) is not None:
            self._step = self.update_schedule.examined
            self.end_steps(model, *left)
        clear(layers, model.optimizer)
        self._moved += self._dropped
        if logs is not None:
            logs.update(sparsity=sparsity(layers), dropped=self._dropped, grown=self._grown, **self.logs())

    def on_train_end(self, logs: dict | None = None) -> None:
        """Removes hooks, and warns if `fit` changed no mask. A resumed `fit` without epochs gives no warning."""
        self._steps.release()
        self.growth_strategy.forget()
        if self.update_schedule.examined is not None:
            self.warn()

    def warn(self) -> None:
        """Warns if updates were possible but none was made, or none dropped anything."""
        if self.update_schedule.was_active and not self._updates and not self._skipped:
            fit_checks.warn_of_no_update(type(self).__name__, self.update_schedule)
        elif self._updates and not self._moved and not self.may_be_idle():
            fit_checks.warn_of_idle_updates(type(self).__name__, self._updates)

    def _forget_fit(self):
        self.growth_strategy.forget()
        self._epoch = self._step = 0
        self._dropped = self._grown = self._updates = self._skipped = self._moved = 0
        self._put_off = self._updated = self._within_fit = False
        self._thread = None  # of the epoch that runs
        self._written = saved_state.LastWritten()
        self._steps = StepsOfFit(type(self).__name__)

    def __getstate__(self):
        """Returns settings and state without the model, so that methods can be copied and pickled."""
        return {**vars(self), "_model": None, "params": None, "_written": saved_state.LastWritten()}

"""What all sparse training methods share: the update, its invariants, its memory, its logs."""

import keras

from keras_sparse import backend
from keras_sparse.layers.method_state import MethodState
from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.replicas import check_replicas
from keras_sparse.training import checks, saved_state
from keras_sparse.training.choices import Choices
from keras_sparse.training.dead_weights import clear, leaves_zeros
from keras_sparse.training.growth import RandomGrowth
from keras_sparse.training.layer_state import sparsity
from keras_sparse.training.mask_update import update_masks
from keras_sparse.training.optimizer_state import check_optimizer
from keras_sparse.training.train_step import HookedSteps, NextBatch
from keras_sparse.training.update_schedule import UpdateSchedule
from keras_sparse.validation import check_seed, check_step


class SparseMethod(Choices, keras.callbacks.Callback):
    """Base of the callbacks that train masked layers.

    After every update these hold, or it raises: the number of live weights of the network is what it was; every dead
    weight, and all that the optimizer keeps of it, is exactly 0 (`optimizer_state.py` names the two optimizers whose
    accumulators start elsewhere). In `fit` dead weights are 0 after every step: what an optimizer such as Muon does to
    them is undone within the compiled step.

    In `fit` it adds to the epoch's `logs`: `sparsity` (of the masked kernels that train, after the epoch), `dropped`
    and `grown` (mask elements over the epoch). Put it before callbacks that should see them, such as CSVLogger and
    TensorBoard. In a loop of your own call `update(model, step)`, or `stateless_update` where the state is in arrays.

    A subclass has `drop`, and where they are not what this class does, `redistribute`, `budget`, `get_state` and
    `set_state`. `CONTRIBUTING.md` shows one.

    Args:
        period: optimizer steps between updates: int, dict `{first epoch: int}` or function `epoch -> int`, with
            epochs from 0. "epoch" for one between two epochs, None for never.
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of all random draws. A draw depends on the seed, the layer's place in the model and
            the step, so it is the same on every replica, after a resume and on every backend.
        growth: how weights grow, an object such as `keras_sparse.training.growth.RandomGrowth`, the default.
        update_schedule: when updates are due, a `keras_sparse.training.update_schedule.UpdateSchedule`; None to make
            it from `period` and `until`.

    Attributes:
        check_replicas: bool; set it to True to call `keras_sparse.check_replicas` after each update.
    """

    def __init__(self, period=None, until=None, seed=0, growth=None, update_schedule=None):
        super().__init__()
        check_seed(seed)
        self.seed = seed
        self.update_schedule = update_schedule or UpdateSchedule(type(self).__name__, period, until)
        self.regrowth = growth or RandomGrowth()
        self._forget_fit()

    check_replicas = False

    @property
    def period(self):
        """The period of updates as it was given, by epoch; None where there is none."""
        return self.update_schedule.period

    @property
    def until(self):
        """The number of epochs after which the masks stay as they are; None for no end."""
        return self.update_schedule.until

    @until.setter
    def until(self, epochs):
        self.update_schedule.until = epochs

    # The update.

    def update(self, model, step, epoch=0, optimizer=None):
        """Drops and grows once, now.

        Args:
            model: the `keras.Model` with masked layers.
            step: int, the optimizer's step, from which random draws are made.
            epoch: int from 0, at which schedules are read.
            optimizer: the one that trains the model, whose state is kept clean; None for `model.optimizer`.

        Raises:
            ValueError: if the model has no trainable masked layer or is not built, or `step` or `epoch` is no int of at
                least 0.
            RuntimeError: if the method broke one of the invariants above. Nothing is written then.
        """
        optimizer = self._begin_update(model, step, epoch, optimizer)
        layers = trainable_masked_weights(model)
        moved = update_masks(self, model, optimizer, step)
        if moved is None:
            self._skip(model, layers, optimizer)
            return
        if optimizer is None or not leaves_zeros(layers, optimizer):
            clear(layers, optimizer)
        self._end_update(model, *moved)
        self._updates += 1

    def stateless_update(
        self, model, step, trainable_variables, non_trainable_variables, optimizer_variables, epoch=0, optimizer=None
    ):
        """Drops and grows once in a loop that keeps the state in arrays, as with `model.stateless_call` on JAX.

        Args:
            model: the `keras.Model` with masked layers.
            step: int, the optimizer's step, from which random draws are made.
            trainable_variables: list of arrays, the values of `model.trainable_variables`.
            non_trainable_variables: list of arrays, of `model.non_trainable_variables`.
            optimizer_variables: list of arrays, of `optimizer.variables`.
            epoch: int from 0, at which schedules are read.
            optimizer: the one that trains the model; None for `model.optimizer`.

        Returns:
            `(trainable_variables, non_trainable_variables, optimizer_variables)`, as they become.

        Raises:
            ValueError: as `update`; and if a list is not as long as the model's.
            RuntimeError: as `update`.
        """
        optimizer = optimizer or model.optimizer
        kinds = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        given = (trainable_variables, non_trainable_variables, optimizer_variables)
        saved_state.assign_state(kinds, given)
        self.update(model, step, epoch, optimizer)
        return tuple([v.value for v in kind] for kind in kinds)

    def _begin_update(self, model, step, epoch, optimizer):
        """Checks the arguments, takes up the model's state if it is not up to date; returns the optimizer."""
        check_step(step, "step")
        check_step(epoch, "epoch")
        check_optimizer(optimizer)
        trainable_masked_weights(model)
        optimizer = optimizer or getattr(model, "optimizer", None)
        if optimizer is None:
            checks.warn_of_no_optimizer(type(self).__name__, model)
        self._epoch, self._step = epoch, step
        self.update_schedule.epoch = epoch
        self._synchronize(model)
        return optimizer

    def _synchronize(self, model):
        """Goes on with the state that a model carries, unless it is this method's last word."""
        if not self._written.is_in(model):
            self.set_state(saved_state.read_state(model).state)

    def _end_update(self, model, dropped, grown):
        """Leaves the state in the model, and counts."""
        self._write_state(model, self._step)
        self._updated = True
        if self.check_replicas:
            check_replicas(model)
        self._dropped += int(dropped)
        self._grown += int(grown)

    def _write_state(self, model, last_update):
        self._written.write(model, MethodState(type(self).__name__, last_update, dict(self.get_state())))

    def _skip(self, model, layers, optimizer):
        """Leaves the masks alone, since NaN cannot be compared."""
        clear(layers, optimizer)  # Clipping by a norm that is NaN makes NaN of dead weights, too.
        self._write_state(model, self._step)
        if not self._skipped:
            checks.warn_of_nan(type(self).__name__, self._step, layers, optimizer)
        self._skipped += 1

    # The training.

    def on_train_begin(self, logs=None):
        """Checks that there is something to train, and nobody else at it."""
        model, params = self.model, self.params or {}
        layers = trainable_masked_weights(model)
        name = type(self).__name__
        checks.check_optimizer_trains(name, model, layers)
        checks.check_alone(model, self)
        self.regrowth.check(model)
        self._forget_fit()
        self.update_schedule.begin_fit(model, params)
        if self.moves:
            checks.warn_if_dense(name, model, layers)
        self.check(model, layers)

    def on_epoch_begin(self, epoch, logs=None):
        """Goes on with the model as it is now, makes the update that is still owed, and prepares the steps."""
        model = self.model
        # Weights and masks may have been set since: weights of before, with momentum of now.
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

    def _begin_training(self, model, epoch):
        """Finds out whether a training begins or goes on; returns the step of an update that is owed, or None."""
        self.start(model)
        saved, loaded = saved_state.read_state(model), saved_state.take_loaded(model)
        started = self.update_schedule.started
        if saved.last_update > started:  # Trained before, now with a new optimizer: a new training.
            saved = MethodState(saved.method)
        if loaded and self.owes_updates:
            checks.check_same_method(type(self).__name__, saved)
        self.set_state(saved.state if saved.method in (None, type(self).__name__) else {})
        if not self.owes_updates:
            self.update_schedule.owed(epoch, -1, loaded)
            return None
        owed = self.update_schedule.owed(epoch, saved.last_update, loaded)
        # So that a run which goes on before its first update knows where it began.
        last_update = started if saved.last_update < 0 and not self.update_schedule.is_never() else saved.last_update
        self._write_state(model, last_update)
        return owed

    def _update_if_ready(self, model, step, epoch):
        """Makes an update that is due, or puts it off until a batch was seen."""
        if step is None:
            return
        if self.regrowth.is_ready:
            self.update(model, step, epoch)
        else:
            self._put_off = True

    def on_train_batch_begin(self, batch, logs=None):
        """Has the batch kept after which an update looks at gradients."""
        if not self.regrowth.looks_at_batches:
            return
        schedule = self.update_schedule
        count = schedule.batches_of_execution(batch) if self._put_off else schedule.batches_if_due_after(batch)
        if count:
            NextBatch(self.model, count, self.regrowth.keep)

    def on_train_batch_end(self, batch, logs=None):
        """Updates if a period ended in the steps just executed."""
        # Counted on the host: reading the optimizer, or `self.model` at all, would synchronise JAX at every batch.
        if not self._put_off and not self.update_schedule.may_be_due(batch):
            return
        model = self.model
        step = self.update_schedule.next_due(model.optimizer)
        if self._put_off and step is None:
            step = self.update_schedule.examined
        self._put_off = False
        self._check_unchanged(model)
        if step is not None:
            self.update(model, step, self.update_schedule.epoch)
        backend.refresh_held_state(model)

    def on_epoch_end(self, epoch, logs=None):
        """Checks that updates and steps have arrived, clears dead weights (of NaN, for one), adds to the logs."""
        model = self.model
        layers = trainable_masked_weights(model)
        self._check_unchanged(model)
        self.update_schedule.follow(model.optimizer)
        if (left := self._steps.end(model)) is not None:
            self._step = self.update_schedule.examined
            self.end_steps(model, *left)
        clear(layers, model.optimizer)
        self._moved += self._dropped
        if logs is not None:
            logs.update(sparsity=sparsity(layers), dropped=self._dropped, grown=self._grown, **self.logs())

    def on_train_end(self, logs=None):
        """Lets the model go; warns, if there was something to train: a run that goes on may have no epoch left."""
        self._steps.release()
        self.regrowth.forget()
        if self.update_schedule.examined is not None:
            self.warn()

    def _check_unchanged(self, model):
        """Raises RuntimeError if the last update is not in the model: something else has written its variables."""
        # Until the first update of an epoch, weights may have been set on purpose, which that update goes on with.
        if self._updated:
            self._written.check(model, type(self).__name__)

    def warn(self):
        """Warns if there was time for updates, but none was made, or none dropped anything."""
        schedule = self.update_schedule
        if schedule.was_active and not self._updates and not self._skipped:
            checks.warn_of_no_update(type(self).__name__, schedule)
        elif self._updates and not self._moved and not self.may_be_idle():
            checks.warn_of_idle_updates(type(self).__name__, self._updates)

    # What belongs to one `fit`.

    def _forget_fit(self):
        self._epoch = self._step = 0
        self._dropped = self._grown = self._updates = self._skipped = self._moved = 0
        self._put_off = self._updated = False
        self._written = saved_state.LastWritten()
        self._steps = HookedSteps(type(self).__name__)

    def __getstate__(self):
        """Its settings and its state: a copy, or what is pickled, belongs to no model."""
        return {**vars(self), "_model": None, "params": None, "_written": saved_state.LastWritten()}

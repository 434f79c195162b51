"""What all sparse training methods share: when an update is due, its invariants, its memory, its logs.

A method is three choices: what to drop, how many each layer grows in return, and where. They are made on the host in
NumPy, between two training steps, which stay one compiled graph.
"""

import math
import warnings

import keras
import numpy as np

from keras_sparse import elements
from keras_sparse.conversion import masked_layers, trainable_masked_layers
from keras_sparse.elements import view
from keras_sparse.layers import check_seed
from keras_sparse.methods.arguments import check_positive_int
from keras_sparse.methods.change import Change
from keras_sparse.methods.tensor import live_weights, sparsity, tensors_of
from keras_sparse.methods.zeros import clear, keep_zeros
from keras_sparse.replicas import check_replicas
from keras_sparse.schedules import by_epoch, multiples
from keras_sparse.slots import iterations

EPOCH = "epoch"


class SparseMethod(keras.callbacks.Callback):
    """Base of the callbacks that train masked layers.

    After every update these hold, or it raises: the number of live weights of the network is what it was; every dead
    weight, and all that the optimizer keeps of it, is exactly 0 (see `keras_sparse.slots` for the two optimizers whose
    accumulators start elsewhere).

    In `fit` it adds to the epoch's `logs`: `sparsity` (of the masked kernels, after the epoch), `dropped` and
    `grown` (mask elements over the epoch). Put it before callbacks that should see them, such as CSVLogger and
    TensorBoard. In a loop of your own call `update(model, step)`.

    Args:
        period: optimizer steps between updates: int, dict `{first epoch: int}` or function `epoch -> int`, with
            epochs from 0. "epoch" for the end of each epoch, None for never.
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of all random draws. A draw depends on the seed, the layer's place in the model and
            the step, so it is the same on every replica, after a resume and on every backend.

    Attributes:
        check_replicas: bool; set it to True to call `keras_sparse.check_replicas` after each update.

    Reference:
        Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
        reparameterization", ICML 2019.
    """

    def __init__(self, period=None, until=None, seed=0):
        super().__init__()
        self.period = period if period in (None, EPOCH) else by_epoch(period, "period", check_positive_int)
        if until is not None:
            check_positive_int(until, "until")
        check_seed(seed)
        self.until = until
        self.seed = seed

    check_replicas = False
    moves = True  # Whether the method needs dead positions to grow at.

    # What a method chooses.

    def observe(self, model, layers):
        """What it decides on: the `keras_sparse.methods.tensor.Tensor` of each layer."""
        return tensors_of(layers)

    def budget(self, tensors):
        """How many weights must live after the update: as many as before, unless a method says otherwise."""
        return live_weights(tensors)

    def drop(self, tensors):
        """What dies: for each tensor a boolean array like its `live`, True where dropped."""
        raise NotImplementedError

    def redistribute(self, tensors, dropped):
        """How many mask elements each tensor grows, a list of ints: as many as it lost, unless overridden."""
        return [np.count_nonzero(d) for d in dropped]

    def grow(self, tensor, count, rng):
        """Where: `count` positions, none of them live before the update."""
        raise NotImplementedError

    def initial_values(self, shape, rng):
        """The values that new weights start with: array of `shape`."""
        return np.zeros(shape)

    def recall(self, memory):
        """Takes up what the method remembers, from the `keras_sparse.masks.Mask` of the first masked layer."""

    def remember(self, memory):
        """Writes what `recall` needs into a `keras_sparse.masks.Mask`."""

    def logs(self):
        """The method's own entries in the epoch's logs."""
        return {}

    # The update.

    def update(self, model, step, epoch=0, optimizer=None):
        """Drops and grows once, now.

        Args:
            model: the `keras.Model` with masked layers.
            step: int, the optimizer's step, from which random draws are made.
            epoch: int from 0, at which schedules are read.
            optimizer: the one that trains the model, whose state is kept clean; None for `model.optimizer`.

        Raises:
            RuntimeError: if the method broke one of the invariants above. Nothing is written then.
        """
        layers = trainable_masked_layers(model)
        optimizer = optimizer or getattr(model, "optimizer", None)
        everything = [id(x) for x in masked_layers(model)]  # the frozen ones, too: places and memory stay
        memory = masked_layers(model)[0].kernel_mask
        self._epoch, self._step = epoch, step
        if memory is not self._recalled:
            self.recall(memory)
            self._recalled = memory
        tensors = self.observe(model, layers)
        dropped = self.drop(tensors)
        counts = self.redistribute(tensors, dropped)
        rngs = [np.random.default_rng([self.seed, everything.index(id(x)), step]) for x in layers]
        grown = [self.grow(t, n, rng) for t, n, rng in zip(tensors, counts, rngs, strict=True)]
        self._check(tensors, dropped, grown)
        changes = [
            Change.of(tensor, lost, new, self.initial_values((tensor.unit, len(new)), rng))
            for tensor, lost, new, rng in zip(tensors, dropped, grown, rngs, strict=True)
        ]
        del tensors  # They look at variables, which can be written in place when nobody does.
        for layer, change in zip(layers, changes, strict=True):
            change.write(layer, optimizer)
        if not keep_zeros(layers, optimizer):
            clear(layers, optimizer)
        elements.assign(memory.last_update, step)
        self.remember(memory)
        if self.check_replicas:
            check_replicas(model)
        self._updates += 1
        self._dropped += int(sum(np.count_nonzero(gone) for gone in dropped))
        self._grown += sum(map(len, grown))

    def _check(self, tensors, dropped, grown):
        """Raises RuntimeError if an update would break an invariant."""
        sizes = zip(tensors, dropped, grown, strict=True)
        after = sum((len(t.live) - np.count_nonzero(gone) + len(new)) * t.unit for t, gone, new in sizes)
        must = self.budget(tensors)
        again = any(_repeats(np.sort(np.concatenate([t.live, new]))) for t, new in zip(tensors, grown, strict=True))
        if after != must or again:
            raise RuntimeError(
                f"{type(self).__name__} broke an invariant, and the update was not made: {must} weights must be live "
                f"after it (received {after}), and only elements dead before the update may grow, each once (received "
                f"others: {again})."
            )

    _epoch = _step = _dropped = _grown = _updates = 0
    _recalled = None  # the memory that the method is up to date with

    # When: the clock is the optimizer's step.

    def due(self, before, now):
        """The optimizer steps in (before, now] at which an update is due: a sequence of ints."""
        return () if self.period == EPOCH else multiples(self.period(self._epoch), before, now)

    def ends(self):
        """The number of epochs after which the masks stay as they are."""
        return self.until or math.inf

    def on_train_begin(self, logs=None):
        """Checks that there is something to train and that no execution can hold two updates."""
        model = self.model
        layers = trainable_masked_layers(model)
        per_step = iterations(model.optimizer)[1]
        steps = model.steps_per_execution
        self._per_execution = steps if isinstance(steps, int) else 1  # "auto" grows from 1
        shortest = min(getattr(self.period, "values", {0: np.inf}).values())
        if self._per_execution > shortest * per_step:
            self._refuse(self._per_execution, shortest * per_step)
        if self.moves and all(x.kernel_mask.numpy().all() for x in layers):
            warnings.warn(
                f"{type(self).__name__} can move nothing: all masked layers of {model.name!r} are dense. Give "
                "keras_sparse.sparsify a sparsity above 0.",
                stacklevel=2,
            )
        self._examined = self._recalled = None
        self._updates = 0
        self._ever_active = False

    def start(self, model):
        """Called before the first step of `fit`, after callbacks that restore a checkpoint have done so."""

    def first(self, step):
        """The last optimizer step that needs no look for a model without a record: the one it starts at."""
        return step

    def on_epoch_begin(self, epoch, logs=None):
        """Reads the clock."""
        model = self.model
        self._seen, self._per_step = iterations(model.optimizer)
        self._dropped = self._grown = 0
        self._active = self.period is not None and epoch < self.ends()
        self._ever_active |= self._active
        if self._examined is None:
            self._started = self._seen // self._per_step
            self._examined = self._last_look(model, epoch)
            self.start(model)
        self._epoch = epoch
        self._update_if_due()

    def _last_look(self, model, epoch):
        """Up to which step nothing is owed.

        A checkpoint may have been written after the step at which an update was due, and before that update. Anything
        older was left out on purpose: by another callback, another period, or none.
        """
        memory, step = masked_layers(model)[0].kernel_mask, self._started
        last = int(view(memory.last_update))
        if last > step:  # Trained before, now with a new optimizer: a new run.
            last = -1
            memory.forget()
        if last < 0:
            return self.first(step)
        self._epoch = max(0, epoch - 1)  # whose period it was
        execution = -(-self._per_execution // self._per_step)
        owed = [s for s in self.due(max(0, step - execution), step) if s > last] if self._active else []
        return owed[-1] - 1 if owed else step

    def on_train_batch_end(self, batch, logs=None):
        """Updates if a period ended in the steps just executed."""
        # Counted on the host: reading the optimizer, or `self.model` at all, would synchronise JAX at every batch.
        if self._active and self.due(self._examined, (self._seen + batch + 1) // self._per_step):
            self._update_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Updates if still due, zeroes what an optimizer moved under the masks, and adds to the logs."""
        self._update_if_due()
        model = self.model
        # After the last epoch nobody would train what grows, and the model was evaluated as it is.
        if self._active and self.period == EPOCH and epoch + 1 < self.params["epochs"]:
            self.update(model, self._examined, epoch)
        layers = trainable_masked_layers(model)
        if not keep_zeros(layers, model.optimizer):
            clear(layers, model.optimizer)
        if logs is not None:
            logs.update(sparsity=sparsity(layers), dropped=self._dropped, grown=self._grown, **self.logs())

    def on_train_end(self, logs=None):
        """Warns if there was time for updates, but none was made."""
        if self._ever_active and not self._updates:
            warnings.warn(
                f"{type(self).__name__} made no update: none was due in the {self._examined - self._started} optimizer "
                f"steps of this fit. Received: period={self.period!r}. Choose a shorter period, or train longer.",
                stacklevel=2,
            )

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


def _repeats(numbers):
    """Whether a sorted array holds a number twice."""
    return bool((numbers[1:] == numbers[:-1]).any())

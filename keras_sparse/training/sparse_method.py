"""What all sparse training methods share: the update, its invariants, its memory, its logs.

A method is three choices: what to drop, how many each layer grows in return, and where. They are made on the host in
NumPy, between two training steps, which stay one compiled graph.
"""

import warnings

import numpy as np

from keras_sparse.backend import elements
from keras_sparse.layers.traversal import masked_layers, trainable_masked_layers
from keras_sparse.replicas import check_replicas
from keras_sparse.training.dead_weights import clear, keep_zeros
from keras_sparse.training.layer_state import live_weights, places, sparsity, tensors_of
from keras_sparse.training.mask_update import Change, check_budget
from keras_sparse.training.within import Within
from keras_sparse.validation import check_optimizer, check_seed, check_step


class SparseMethod(Within):
    """Base of the callbacks that train masked layers.

    After every update these hold, or it raises: the number of live weights of the network is what it was; every dead
    weight, and all that the optimizer keeps of it, is exactly 0 (`optimizer_state.py` names the two
    optimizers whose accumulators start elsewhere). In `fit` dead weights are 0 after every step: what an optimizer such as Muon does to
    them is undone within the compiled step.

    In `fit` it adds to the epoch's `logs`: `sparsity` (of the masked kernels that train, after the epoch), `dropped`
    and `grown` (mask elements over the epoch). Put it before callbacks that should see them, such as CSVLogger and
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
        super().__init__(period, until)
        check_seed(seed)
        self.seed = seed

    check_replicas = False
    moves = True  # Whether the method needs dead positions to grow at.

    # What a method chooses.

    def observe(self, model, layers):
        """What it decides on: the `keras_sparse.training.layer_state.Tensor` of each layer."""
        return tensors_of(layers)

    def budget(self, tensors):
        """How many weights must live after the update: as many as before, unless a method says otherwise."""
        return live_weights(tensors)

    def drop(self, tensors):
        """What dies: for each tensor a boolean array like its `live`, True where dropped."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to drop: give it a method `drop`.")

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
        """Takes up what the method remembers, from the `keras_sparse.layers.masks.Mask` of the first masked layer."""

    def remember(self, memory):
        """Writes what `recall` needs into a `keras_sparse.layers.masks.Mask`."""

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
            ValueError: if the model has no trainable masked layer or is not built, or `step` or `epoch` is no int of at
                least 0.
            RuntimeError: if the method broke one of the invariants above. Nothing is written then.
        """
        check_step(step, "step")
        check_step(epoch, "epoch")
        placed = places(model)
        layers = [layer for _, layer in placed]
        optimizer = self._optimizer(model, optimizer)
        memory = masked_layers(model)[0].kernel_mask  # of a frozen one, too: it stays where it is
        self._epoch, self._step = epoch, step
        if memory is not self._recalled:
            self.recall(memory)
            self._recalled = memory
        tensors = self.observe(model, layers)
        if not all(t.finite for t in tensors):
            self._skip(layers, optimizer, memory)
            return
        dropped = self.drop(tensors)
        counts = self.redistribute(tensors, dropped)
        rngs = [np.random.default_rng([self.seed, place, step]) for place, _ in placed]
        grown = [self.grow(t, n, rng) for t, n, rng in zip(tensors, counts, rngs, strict=True)]
        check_budget(type(self).__name__, tensors, dropped, grown, self.budget(tensors))
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

    def _optimizer(self, model, optimizer):
        check_optimizer(optimizer)
        optimizer = optimizer or getattr(model, "optimizer", None)
        if optimizer is None:
            warnings.warn(
                f"{type(self).__name__}.update got no optimizer, and {model.name!r} is not compiled with one: momentum "
                "of dropped weights stays, and would move them. Pass optimizer=... of the loop.",
                stacklevel=3,
            )
        return optimizer

    def _skip(self, layers, optimizer, memory):
        """Leaves the masks alone: of NaN nothing can be said."""
        clear(layers, optimizer)  # Clipping by a norm that is NaN makes NaN of dead weights, too.
        elements.assign(memory.last_update, self._step)
        if not self._skipped:
            warnings.warn(
                f"{type(self).__name__} skipped its update at step {self._step}, and skips all until it is cured: "
                f"weights or gradients of {[x.name for x in layers]} are NaN or infinite. The masks stay as they were. "
                "Lower the learning rate or clip gradients, and add keras.callbacks.TerminateOnNaN() to stop there.",
                stacklevel=3,
            )
        self._skipped += 1

    _step = _dropped = _grown = _updates = _skipped = _moved = 0
    _recalled = None  # the memory that the method is up to date with

    # The training.

    def on_train_begin(self, logs=None):
        """Checks that there is something to train, and nobody else at it."""
        model = self.model
        layers = trainable_masked_layers(model)
        other = self.params.get("sparse_method")  # Keras gives the parameters of a fit, one dict, to each callback.
        if other:
            raise ValueError(
                f"One sparse training method at a time: `callbacks` has {other} and {type(self).__name__}, and each "
                "would undo what the other does. Leave one out."
            )
        self.params["sparse_method"] = type(self).__name__
        super().on_train_begin(logs)
        if self.moves and all(x.kernel_mask.numpy().all() for x in layers):
            warnings.warn(
                f"{type(self).__name__} can move nothing: all masked layers of {model.name!r} are dense. Give "
                "keras_sparse.sparsify a sparsity above 0.",
                stacklevel=2,
            )
        self._recalled = None
        self._updates = self._skipped = self._moved = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Counts from 0, and makes sure that weights and masks which somebody has set since are clean to begin with."""
        self._dropped = self._grown = 0
        clear(trainable_masked_layers(self.model), self.model.optimizer)  # Weights of before with momentum of now.
        super().on_epoch_begin(epoch, logs)

    def _catch_up(self, model, epoch):
        step = super()._catch_up(model, epoch)
        self._dropped = self._grown = 0  # What was owed belongs to the epoch before.
        return step

    def on_epoch_end(self, epoch, logs=None):
        """Updates if still due, clears what else has written to dead weights (NaN does), and adds to the logs."""
        super().on_epoch_end(epoch, logs)
        layers = trainable_masked_layers(self.model)
        clear(layers, self.model.optimizer)
        self._moved += self._dropped
        if logs is not None:
            logs.update(sparsity=sparsity(layers), dropped=self._dropped, grown=self._grown, **self.logs())

    def on_train_end(self, logs=None):
        """Warns, if there was something to train: a run that goes on may have no epoch left."""
        super().on_train_end(logs)
        if self._examined is not None:
            self.warn()

    def warn(self):
        """Warns if there was time for updates, but none was made, or none dropped anything."""
        if self._ever_active and not self._updates and not self._skipped:
            warnings.warn(
                f"{type(self).__name__} made no update: none was due in the {self._examined - self._started} optimizer "
                f"steps of this fit. Received: {self._when()}. Choose a shorter period, or train longer.",
                stacklevel=3,
            )
        elif self._updates and not self._moved and not self.may_be_idle():
            warnings.warn(
                f"{type(self).__name__} made {self._updates} updates, and none of them dropped anything: the masks are "
                "what they were. Its threshold, count, fraction or target is too low for this network.",
                stacklevel=3,
            )

    def may_be_idle(self):
        """Whether it is as it should be that no update of this fit dropped anything."""
        return False

    def _when(self):
        return f"period={self.period!r}"

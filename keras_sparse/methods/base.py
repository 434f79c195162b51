"""What all sparse training methods share: when an update is due, its invariants, its memory, its logs.

A method is three choices: what to drop, how many each layer grows in return, and where. They are made on the host in
NumPy, between two training steps, which stay one compiled graph.
"""

import dataclasses
import math
from collections import defaultdict

import keras
import numpy as np
from keras import ops

from keras_sparse import criteria
from keras_sparse.conversion import masked_layers
from keras_sparse.schedules import by_epoch, crossings
from keras_sparse.slots import iterations, slots


@dataclasses.dataclass
class Tensor:
    """The kernel and mask of one layer on the host, as a method sees them before an update.

    Attributes:
        weights: array, the kernel, dead weights 0.
        mask: boolean array, True where live; its shape broadcasts to that of `weights`.
        scores: array of the shape of `mask`, the mean magnitude of the weights under each element.
        unit: int, how many weights a mask element holds.
    """

    weights: np.ndarray
    mask: np.ndarray

    def __post_init__(self):
        self.scores = criteria.score(self.weights, self.mask.shape)
        self.unit = self.weights.size // self.mask.size

    @property
    def live(self):
        """Number of live mask elements."""
        return int(self.mask.sum())


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
            epochs from 0. None for never.
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of all random draws. A draw depends on the seed, the layer's place in the model and
            the step, so it is the same on every replica, after a resume and on every backend.

    Reference:
        Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
        reparameterization", ICML 2019.
    """

    def __init__(self, period=None, until=None, seed=0):
        super().__init__()
        self.period = None if period is None else by_epoch(period, "period", check_positive_int)
        if until is not None:
            check_positive_int(until, "until")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be an int of at least 0. Received: seed={seed!r}.")
        self.until = until
        self.seed = seed

    # What a method chooses.

    def drop(self, tensors):
        """What dies: a boolean array for each tensor, True where dropped, a subset of its live elements."""
        raise NotImplementedError

    def redistribute(self, tensors, dropped):
        """How many mask elements each tensor grows: a list of ints."""
        raise NotImplementedError

    def grow(self, tensor, count, rng):
        """Where: a boolean array with `count` elements True, none of them live before the update."""
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

    def update(self, model, step, epoch=0):
        """Drops and grows once, now.

        Args:
            model: the `keras.Model` with masked layers.
            step: int, the optimizer's step, from which random draws are made.
            epoch: int from 0, at which schedules are read.

        Raises:
            RuntimeError: if the method broke one of the invariants above. Nothing is written then.
        """
        layers = trainable_masked_layers(model)
        tensors = [Tensor(ops.convert_to_numpy(x.kernel), x.kernel_mask.numpy()) for x in layers]
        self._epoch = epoch
        self.recall(layers[0].kernel_mask)
        dropped = self.drop(tensors)
        counts = self.redistribute(tensors, dropped)
        rngs = [np.random.default_rng([self.seed, i, step]) for i in range(len(layers))]
        grown = [self.grow(t, n, rng) for t, n, rng in zip(tensors, counts, rngs, strict=True)]
        survivors = [t.mask & ~d for t, d in zip(tensors, dropped, strict=True)]
        self._check(tensors, dropped, survivors, grown)
        for layer, tensor, kept, new, rng in zip(layers, tensors, survivors, grown, rngs, strict=True):
            born = np.broadcast_to(new, tensor.weights.shape)
            weights = np.where(kept, tensor.weights, np.zeros((), tensor.weights.dtype))
            weights[born] = self.initial_values(int(born.sum()), rng)
            layer.kernel_variable.assign(weights)
            layer.kernel_mask.value.assign(kept | new)
            _reset(slots(getattr(model, "optimizer", None), layer.kernel_variable), kept)
            layer.kernel_mask.last_update.assign(step)
            self.remember(layer.kernel_mask)
        self._dropped += sum(int(d.sum()) for d in dropped)
        self._grown += sum(int(g.sum()) for g in grown)

    _epoch = _dropped = _grown = 0

    def _check(self, tensors, dropped, survivors, grown):
        before = sum(t.live * t.unit for t in tensors)
        after = sum(int((k.sum() + g.sum()) * t.unit) for t, k, g in zip(tensors, survivors, grown, strict=True))
        stray = any((d & ~t.mask).any() for t, d in zip(tensors, dropped, strict=True))
        back = any((g & t.mask).any() for t, g in zip(tensors, grown, strict=True))
        if before != after or stray or back:
            raise RuntimeError(
                f"{type(self).__name__} broke an invariant, and the update was not made: live weights before and after "
                f"must be equal (received {before} and {after}), only live elements may be dropped (received others: "
                f"{stray}), only elements dead before the update may grow (received others: {back})."
            )

    # When: the clock is the optimizer's step.

    def on_train_begin(self, logs=None):
        """Checks that there is something to train and that no execution can hold two updates."""
        model = self.model
        layers = trainable_masked_layers(model)
        per_execution = model.steps_per_execution
        shortest = min(getattr(self.period, "values", {0: np.inf}).values()) if self.period else np.inf
        if isinstance(per_execution, int) and per_execution > shortest * _batches(model)[1]:
            self._refuse(per_execution, shortest * _batches(model)[1])
        seen, per_step = _batches(model)
        last = int(ops.convert_to_numpy(layers[0].kernel_mask.last_update))
        if last > seen // per_step:  # Trained before, now with a new optimizer: a new run.
            last = -1
            for layer in layers:
                layer.kernel_mask.forget()
        self._examined = last if last >= 0 else seen // per_step

    def on_epoch_begin(self, epoch, logs=None):
        """Reads the clock."""
        self._epoch = epoch
        self._dropped = self._grown = 0
        self._active = self.period is not None and (self.until is None or epoch < self.until)
        self._seen, self._per_step = _batches(self.model)
        self._update_if_due()

    def on_train_batch_end(self, batch, logs=None):
        """Updates if a period ended in the steps just executed."""
        # Counted on the host: reading the optimizer, or `self.model` at all, would synchronise JAX at every batch.
        if self._active:
            step = (self._seen + batch + 1) // self._per_step
            if crossings(self._examined, step, self.period(self._epoch)):
                self._update_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Updates if still due, zeroes what an optimizer moved under the masks, and adds to the logs."""
        self._update_if_due()
        model = self.model
        layers = trainable_masked_layers(model)
        live = size = 0
        for layer in layers:
            mask, shape = layer.kernel_mask.numpy(), layer.kernel_variable.shape
            live, size = live + int(np.broadcast_to(mask, shape).sum()), size + math.prod(shape)
            # Muon and Adafactor work on whole rows, columns or kernels, and so touch dead weights or their state.
            _reset([(layer.kernel_variable, 0.0), *slots(model.optimizer, layer.kernel_variable)], mask)
        if logs is not None:
            logs.update(sparsity=1 - live / size, dropped=self._dropped, grown=self._grown, **self.logs())

    def _update_if_due(self):
        if not self._active:
            return
        model = self.model
        seen, per_step = _batches(model)
        step, period = seen // per_step, self.period(self._epoch)
        due = crossings(self._examined, step, period)
        if due > 1:
            self._refuse(step - self._examined, period)
        if due:
            self.update(model, step, self._epoch)
        self._examined = step

    def _refuse(self, executed, period):
        raise ValueError(
            f"{type(self).__name__} has to act between training steps, but two of its updates fall into one execution: "
            f"the period is {period} batches, and steps_per_execution makes {executed} at once. Compile with "
            f"steps_per_execution of at most {period}, or choose a longer period."
        )


def trainable_masked_layers(model):
    """The masked layers that a method may change: those that are not frozen.

    Raises:
        ValueError: if there is none.
    """
    layers = [x for x in masked_layers(model) if x.trainable]
    if not layers:
        raise ValueError(
            f"The model {model.name!r} has no trainable masked layer, so there is nothing for a sparse training method "
            "to act on. Make one with keras_sparse.sparsify(model, sparsity=0.9), or build it of layers such as "
            "keras_sparse.layers.MaskedDense(300, sparsity=0.9)."
        )
    return layers


def by_unit(tensors):
    """The indices of tensors whose mask elements hold the same number of weights, in groups.

    Elements may move between layers of one group only: so the number of live weights stays what it is, exactly.
    """
    groups = defaultdict(list)
    for i, tensor in enumerate(tensors):
        groups[tensor.unit].append(i)
    return list(groups.values())


def check_positive_int(value, name):
    """Raises ValueError unless `value` is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be an int of at least 1. Received: {name}={value!r}.")


def _batches(model):
    """Batches seen and batches per optimizer step."""
    return iterations(model.optimizer)


def _reset(variables, kept):
    """Sets all but the `kept` entries of each `(variable, fresh)` to `fresh`."""
    for variable, fresh in variables:
        values = ops.convert_to_numpy(variable)
        cleared = np.where(kept, values, np.asarray(fresh, values.dtype))
        if (cleared != values).any():
            variable.assign(cleared)

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

from keras_sparse.conversion import masked_layers
from keras_sparse.masks import from_elements, to_elements
from keras_sparse.schedules import by_epoch, crossings
from keras_sparse.slots import iterations, slots


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The kernel and mask of one layer on the host, as a method sees them before an update.

    Attributes:
        weights: array of shape `(unit, size)`, the kernel arranged by mask elements.
        live: sorted int array, positions of the live elements.
        scores: float array like `live`, the mean magnitude of each live element's weights.
    """

    weights: np.ndarray
    live: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, weights, mask):
        """From a kernel and the boolean mask that broadcasts to it."""
        elements, live = to_elements(weights, mask.shape), np.flatnonzero(mask)
        scores = np.abs(elements[:, live])
        return cls(elements, live, scores[0] if len(scores) == 1 else scores.mean(axis=0))

    @property
    def unit(self):
        """How many weights a mask element holds."""
        return self.weights.shape[0]

    @property
    def free(self):
        """How many elements are dead."""
        return self.weights.shape[1] - len(self.live)


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
        """What dies: for each tensor a boolean array like its `live`, True where dropped."""
        raise NotImplementedError

    def redistribute(self, tensors, dropped):
        """How many mask elements each tensor grows: a list of ints."""
        raise NotImplementedError

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
        masks = [_host(x.kernel_mask.value) for x in layers]
        kernels = [_host(x.kernel_variable) for x in layers]
        tensors = [Tensor.of(k, m) for k, m in zip(kernels, masks, strict=True)]
        memory = layers[0].kernel_mask
        self._epoch = epoch
        if memory is not self._recalled:
            self.recall(memory)
            self._recalled = memory
        dropped = self.drop(tensors)
        counts = self.redistribute(tensors, dropped)
        rngs = [np.random.default_rng([self.seed, i, step]) for i in range(len(layers))]
        grown = [self.grow(t, n, rng) for t, n, rng in zip(tensors, counts, rngs, strict=True)]
        live = sum(len(t.live) * t.unit for t in tensors)
        back = any(mask.flat[new].any() for mask, new in zip(masks, grown, strict=True))
        for mask, tensor, gone, new in zip(masks, tensors, dropped, grown, strict=True):
            mask.flat[tensor.live[gone]], mask.flat[new] = False, True
        after = sum(np.count_nonzero(mask) * t.unit for mask, t in zip(masks, tensors, strict=True))
        if after != live or back:
            raise RuntimeError(
                f"{type(self).__name__} broke an invariant, and the update was not made: live weights before and after "
                f"must be equal (received {live} and {after}), and only elements dead before the update may grow "
                f"(received others: {back})."
            )
        optimizer = getattr(model, "optimizer", None)
        updates = zip(layers, kernels, masks, tensors, dropped, grown, rngs, strict=True)
        for layer, kernel, mask, tensor, gone, new, rng in updates:
            layer.kernel_mask.value.assign(mask)
            kept, start = tensor.live[~gone], self.initial_values((tensor.unit, len(new)), rng)
            layer.kernel_variable.assign(_cleared(kernel, mask.shape, kept, 0.0, new, start))
            for slot, fresh in slots(optimizer, layer.kernel_variable):
                slot.assign(_cleared(_host(slot), mask.shape, kept, fresh))
        memory.last_update.assign(step)
        self.remember(memory)
        self._dropped += sum(np.count_nonzero(gone) for gone in dropped)
        self._grown += sum(map(len, grown))

    _epoch = _dropped = _grown = 0
    _recalled = None  # the memory that the method is up to date with

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
            layers[0].kernel_mask.forget()
        self._examined = last if last >= 0 else seen // per_step
        self._recalled = None

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
        for layer in layers:
            # Muon and Adafactor work on whole rows, columns or kernels, and so touch dead weights or their state.
            kernel = layer.kernel_variable
            live = np.flatnonzero(layer.kernel_mask.numpy())
            for variable, fresh in [(kernel, 0.0), *slots(model.optimizer, kernel)]:
                variable.assign(_cleared(_host(variable), layer.kernel_mask.value.shape, live, fresh))
        if logs is not None:
            logs.update(sparsity=sparsity(layers), dropped=self._dropped, grown=self._grown, **self.logs())

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


def sparsity(layers):
    """Removed fraction of the kernels of masked layers."""
    sizes = [math.prod(x.kernel_variable.shape) for x in layers]
    live = [n * x.kernel_mask.numpy().mean() for n, x in zip(sizes, layers, strict=True)]
    return float(1 - sum(live) / sum(sizes))


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


def _host(variable):
    """A copy of a variable as an array that may be written to: backends give a copy, or a view of what they hold."""
    array = np.asarray(variable)
    return array if array.flags.writeable and array.flags.owndata else array.copy()


def _cleared(values, mask_shape, kept, fresh, new=(), start=()):
    """The array with all its elements at `fresh`, but for those `kept` and `new` ones at `start`; overwrites it."""
    elements = to_elements(values, mask_shape)
    survivors = elements[:, kept]
    elements[...] = fresh
    elements[:, kept] = survivors
    if len(new):
        elements[:, new] = start
    return from_elements(elements, values.shape, mask_shape)

"""RigL.

Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020.
"""

import dataclasses
import math

import keras
import numpy as np

from keras_sparse import criteria
from keras_sparse.masks import to_elements
from keras_sparse.methods.arguments import check_fraction
from keras_sparse.methods.base import SparseMethod
from keras_sparse.methods.gradients import dense_gradients
from keras_sparse.methods.seen_batch import SeenBatch
from keras_sparse.methods.tensor import Tensor, tensors_of
from keras_sparse.slots import iterations


@dataclasses.dataclass(frozen=True)
class Seen(Tensor):
    """A `Tensor` with its dense gradient.

    Attributes:
        gradient: array of the kernel's shape.
    """

    gradient: np.ndarray


class RigL(SparseMethod):
    """Trains masked layers by RigL.

    At each update every layer drops the fraction f(t) of its live weights with the smallest |w|, and grows as many
    where the gradient of the loss is largest, were the weight there. f falls from `fraction` to 0 by half a cosine.
    Each layer keeps the sparsity it starts with; the paper's is `keras_sparse.sparsify(...,
    distribution="erdos_renyi_kernel")`.

    Grown weights start at 0. What was just dropped does not come straight back, as with every method here. Of kernel
    slices the mean |gradient| counts.

    Args:
        fraction: the paper's alpha, the part of each layer's live mask elements that the first update drops, in (0, 1].
        period: optimizer steps between updates: int, dict `{first epoch: int}` or function `epoch -> int`, epochs
            from 0.
        until: int, number of epochs after which f is 0 and the masks stay as they are; None for three quarters of the
            epochs of `fit`.
        probe: `(x, y)` or `(x, y, sample_weight)`, a batch to take gradients on; None for the one that training saw
            last.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked layer, or if
            `steps_per_execution` exceeds the period; in `update` outside of `fit`, if `until` or `probe` is missing.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.9, distribution="erdos_renyi_kernel")
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.RigL(period=10)])
    ```

    Reference:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020.
    """

    def __init__(self, fraction=0.3, period=100, until=None, probe=None):
        super().__init__(period=period, until=until)
        check_fraction(fraction, "fraction")
        if probe is not None and (not isinstance(probe, (tuple, list)) or len(probe) not in (2, 3)):
            raise ValueError(
                f"`probe` must be a batch, (x, y) or (x, y, sample_weight). Received: {type(probe).__name__}."
            )
        self.fraction = fraction
        self.probe = probe

    _source = _gradients = _steps_per_epoch = None

    def ends(self):
        """The number of epochs after which the masks stay as they are."""
        if self.until is None and not self.params:
            raise ValueError("RigL needs `until`, a number of epochs, where `fit` does not tell how long it trains.")
        return self.until or math.ceil(0.75 * self.params["epochs"])

    def on_train_begin(self, logs=None):
        """Stands where the batches pass."""
        super().on_train_begin(logs)
        batches, per_step = self.params["steps"], iterations(self.model.optimizer)[1]
        self._steps_per_epoch = batches / per_step if batches else None
        if self.probe is None:
            self._per_execution = self.model.steps_per_execution
            self._source = SeenBatch(self.model, self._next_if_due)

    def on_train_batch_begin(self, batch, logs=None):
        """Counts."""
        self._batch = batch

    def _next_if_due(self):
        """How many batches the next execution has, if an update is due after it; else 0."""
        count = min(self._per_execution, (self.params["steps"] or math.inf) - self._batch)
        due = self._active and self.due(self._examined, (self._seen + self._batch + count) // self._per_step)
        return count if due else 0

    def on_train_end(self, logs=None):
        """Gives way to the batches."""
        super().on_train_end(logs)
        if self._source:
            self._source.release()
            self._source = None

    def recall(self, memory):
        """Forgets another model's gradients."""
        self._gradients = None

    def observe(self, model, layers):
        """The tensors with their dense gradients."""
        batch = self.probe or (self._source and self._source.batch)
        if not batch:
            raise ValueError(
                "RigL saw no batch to take gradients on: it sees those of `fit` only, and with steps_per_execution "
                "above 1 only if `fit` knows the number of steps of an epoch. Give it one of your own, probe=(x, y)."
            )
        self._gradients = self._gradients or dense_gradients(model, layers)
        gradients = self._gradients(*keras.utils.unpack_x_y_sample_weight(tuple(batch)))
        tensors = zip(tensors_of(layers), gradients, strict=True)
        return [Seen(t.kernel, t.mask_shape, t.live, gradient) for t, gradient in tensors]

    def drop(self, tensors):
        """The weakest of each layer, a fraction that decays by half a cosine."""
        steps = self._steps_per_epoch
        progress = (self._step / steps if steps else self._epoch) / self.ends()
        fraction = self.fraction / 2 * (1 + math.cos(math.pi * min(progress, 1.0)))
        counts = [min(round(fraction * len(t.live)), t.free, max(0, len(t.live) - 1)) for t in tensors]
        return [criteria.weakest(t.scores, n) for t, n in zip(tensors, counts, strict=True)]

    def grow(self, tensor, count, rng):
        """Where the dense gradient is largest."""
        scores = tensor.magnitude(to_elements(tensor.gradient, tensor.mask_shape))
        return criteria.grow_strongest(tensor.live, scores, count)

"""Growing where the gradient says: what RigL does, for any method that drops otherwise."""

import dataclasses
import math

import keras
import numpy as np

from keras_sparse import criteria
from keras_sparse.layers.masks import to_elements
from keras_sparse.training.dense_gradients import dense_gradients
from keras_sparse.training.layer_state import tensors_of
from keras_sparse.training.seen_batch import SeenBatch
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import EPOCH


class GradientGrowth(SparseMethod):
    """Base of methods that grow where the loss would fall fastest, among what was dead before the update's drop.

    Of kernel slices the mean |gradient| counts. Grown weights start at 0.

    Args:
        probe: `(x, y)` or `(x, y, sample_weight)`, a batch to take gradients on; None for the one that training saw
            last.
        **kwargs: of `SparseMethod`.
    """

    periodic = True

    def __init__(self, probe=None, **kwargs):
        super().__init__(**kwargs)
        if probe is not None and (not isinstance(probe, (tuple, list)) or len(probe) not in (2, 3)):
            raise ValueError(
                f"`probe` must be a batch, (x, y) or (x, y, sample_weight). Received: {type(probe).__name__}."
            )
        self.probe = probe

    _source = _gradients = None

    def on_train_begin(self, logs=None):
        """Has seen nothing."""
        super().on_train_begin(logs)
        self._source = None

    def on_epoch_begin(self, epoch, logs=None):
        """Stands where the batches pass, before what is done inside of the step."""
        super().on_epoch_begin(epoch, logs)
        if self.probe is None and not self._source:
            self._source = SeenBatch(self.model, self._next_if_due)

    def on_train_batch_begin(self, batch, logs=None):
        """Counts."""
        super().on_train_batch_begin(batch, logs)
        self._batch = batch

    def _next_if_due(self):
        """How many batches the next execution has, if an update is due after it; else 0."""
        steps = self.params["steps"] or math.inf
        count = min(self._per_execution, steps - self._batch)
        due = self.due(self._examined, (self._seen + self._batch + count) // self._per_step)
        due = due or (self.period == EPOCH and self._batch + count == steps)
        return count if self._active and due else 0

    def on_train_end(self, logs=None):
        """Forgets the batch."""
        super().on_train_end(logs)
        self._source = None

    def recall(self, memory):
        """Forgets another model's gradients."""
        super().recall(memory)
        self._gradients = None

    def observe(self, model, layers):
        """The tensors with their dense gradients."""
        batch = self.probe or (self._source and self._source.batch)
        if not batch:
            raise ValueError(
                f"{type(self).__name__} saw no batch to take gradients on: it sees those of `fit` only, and with "
                "steps_per_execution above 1 only if `fit` knows the number of steps of an epoch. Give it one of your "
                "own, probe=(x, y)."
            )
        if not model.compiled:
            raise ValueError(
                f"{type(self).__name__} takes gradients of the loss that the model is compiled with, and "
                f"{model.name!r} is not. Call model.compile(optimizer, loss) before."
            )
        self._gradients = self._gradients or dense_gradients(model, layers)
        try:
            gradients = self._gradients(*keras.utils.unpack_x_y_sample_weight(tuple(batch)))
        except Exception as error:
            if self.probe is None:
                raise
            shapes = keras.tree.map_structure(np.shape, tuple(batch))
            raise ValueError(
                f"`probe` must be a batch (x, y) that {model.name!r} can be trained on, whose inputs have the shape "
                f"{model.input_shape}. Received arrays of the shapes {shapes}."
            ) from error
        tensors = zip(tensors_of(layers), gradients, strict=True)
        return [dataclasses.replace(t, gradient=gradient) for t, gradient in tensors]

    def grow(self, tensor, count, rng):
        """Where the dense gradient is largest."""
        scores = tensor.magnitude(to_elements(tensor.gradient, tensor.mask_shape))
        return criteria.grow_strongest(tensor.live, scores, count)

    def initial_values(self, shape, rng):
        """Zeros."""
        return np.zeros(shape)

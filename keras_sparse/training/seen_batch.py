"""A batch that training saw, for methods that look at gradients: `fit` shows a callback none."""

import itertools

import keras

from keras_sparse.training.standing import Standing


class SeenBatch(Standing):
    """Keeps the last batch of the executions that are wanted, and trains on it all the same.

    Keras hands its training function an iterator over batches. This stands before that function, and takes the batch
    out of the iterator where one is wanted.

    Args:
        model: compiled `keras.Model`, in `fit`.
        wanted: function `() -> int`, asked before each execution: how many batches it has if its last one is wanted,
            else 0.

    Attributes:
        batch: `(x, y, sample_weight)`, the last one kept; None before the first.
    """

    def __init__(self, model, wanted):
        super().__init__(model)
        self.batch = None
        self._wanted = wanted
        self._shorter = {}

    def train(self, *arguments):
        """Trains, and keeps the batch if it is wanted."""
        count = self._wanted()
        if not count:
            return self.usual(*arguments)
        *state, iterator = arguments  # JAX hands over its state, too.
        if keras.backend.backend() != "tensorflow":
            # These loop over it outside of the compiled step; on PyTorch it is a list.
            batches = list(itertools.islice(iterator, count))
            if batches:
                self._keep(batches[-1])
            return self.usual(*state, batches if isinstance(iterator, list) else iter(batches))
        outputs = None
        if count > 1:
            outputs = self._first(count - 1, iterator)
        try:
            last = next(iterator)
        except StopIteration:
            if outputs is None:
                raise
            return outputs  # The epoch was shorter than Keras knew.
        self._keep(last)
        return self.usual(iter([last]))

    def _keep(self, data):
        self.batch = keras.utils.unpack_x_y_sample_weight(_whole(data))

    def _first(self, steps, iterator):
        """Trains on as many batches in one compiled loop."""
        model, usual = self.model, self.model.steps_per_execution
        model.steps_per_execution = steps  # Keras reads it when it traces.
        try:
            if steps not in self._shorter:
                self._shorter[steps] = self._made()
            return self._shorter[steps](iterator)
        finally:
            model.steps_per_execution = usual

    def _made(self):
        """A training function like the usual one."""
        other = getattr(self.usual, "__self__", None)
        if isinstance(other, Standing):
            return other.made()
        self.model.make_train_function(force=True)
        function, self.model.train_function = self.model.train_function, self.train
        return function


def _whole(data):
    """What several replicas get, together."""
    if keras.backend.backend() != "tensorflow":
        return data
    import tensorflow as tf

    return keras.tree.map_structure(
        lambda x: tf.concat(x.values, axis=0) if isinstance(x, tf.distribute.DistributedValues) else x, data
    )

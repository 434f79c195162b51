"""Keras 3 alone, or with keras_sparse: `python keras3.py dense|dynamic_sparse lenet 100 0.98`."""

import time

import keras
import networks
import serving

import keras_sparse as ks

what, network, batch_size, sparsity = serving.arguments()
model = networks.BUILD[network](keras)
callbacks, updates = [], []
if what == "dynamic_sparse":
    model = ks.sparsify(model, sparsity)
    method = ks.DynamicSparse(fraction=0.1, period=50)
    callbacks.append(method)
    update = method.update

    def timed(*args, **kwargs):
        """The update, with its seconds noted."""
        started = time.perf_counter()
        update(*args, **kwargs)
        updates.append(time.perf_counter() - started)

    method.update = timed

model.compile(
    keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)


class Clock(keras.callbacks.Callback):
    """Seconds from the first step of an epoch to the end of the last, without what `fit` does before and after."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Ends."""
        self.seconds = time.perf_counter() - self.started


def turn(steps):
    """See `serving.serve`."""
    updates.clear()
    x, y = serving.batches(network, batch_size, steps)
    clock = Clock()
    model.fit(x, y, batch_size=batch_size, verbose=0, callbacks=[*callbacks, clock])
    return (clock.seconds - sum(updates)) / steps, list(updates)


packages = ["keras", {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[keras.backend.backend()]]
serving.serve(turn, *packages)

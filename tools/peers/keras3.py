"""Keras 3 without or with keras_sparse: `python keras3.py dense|dynamic_sparse lenet 100 0.98`."""

import time

import keras
import networks
import worker

import keras_sparse as ks

variant, network, batch_size, sparsity = worker.parse_arguments()
model = networks.BUILD[network](keras)
callbacks, updates = [], []
if variant == "dynamic_sparse":
    model = ks.sparsify(model, sparsity)
    method = ks.DynamicSparse(fraction=0.1, period=50 if network == "lenet" else 2)
    callbacks.append(method)
    update = method.update

    def timed_update(*args, **kwargs):
        """Makes an update, and records its seconds, without those of steps that JAX still computes."""
        keras.ops.convert_to_numpy(model.trainable_variables[0])
        started = time.perf_counter()
        update(*args, **kwargs)
        updates.append(time.perf_counter() - started)

    method.update = timed_update

model.compile(
    keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)


class Clock(keras.callbacks.Callback):
    """Measures the seconds of an epoch, without the overhead of `fit` before and after it."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stops the clock."""
        self.seconds = time.perf_counter() - self.started


def measure(steps):
    """See `worker.run_worker`."""
    updates.clear()
    x, y = worker.random_batches(network, batch_size, steps)
    clock = Clock()
    model.fit(x, y, batch_size=batch_size, verbose=0, callbacks=[*callbacks, clock])
    return (clock.seconds - sum(updates)) / steps, list(updates)


packages = ["keras", {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[keras.backend.backend()]]
worker.run_worker(measure, *packages)

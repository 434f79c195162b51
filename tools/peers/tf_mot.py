"""Keras 2 with the pruning of TF-MOT, or without: `python tf_mot.py prune|dense lenet 100 0.98`."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import time

import networks
import tf_keras
import worker

variant, network, batch_size, sparsity = worker.parse_arguments()


def compiled(frequency):
    """Returns the model and callbacks, pruned every `frequency` steps."""
    model, callbacks = networks.BUILD[network](tf_keras), []
    if variant == "prune":
        import tensorflow_model_optimization as tfmot

        schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=0, frequency=frequency)
        model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
        callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    model.compile(
        tf_keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, callbacks


class Clock(tf_keras.callbacks.Callback):
    """Measures the seconds of an epoch, without the overhead of `fit` before and after it."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stops the clock."""
        self.seconds = time.perf_counter() - self.started


def seconds_per_step(model, callbacks, steps):
    """Trains for some steps, and returns the seconds of one."""
    x, y = worker.random_batches(network, batch_size, steps)
    clock = Clock()
    model.fit(x, y, batch_size=batch_size, verbose=0, callbacks=[*callbacks, clock])
    return clock.seconds / steps


# Updates are inside of the compiled step. Their time is the difference between steps with and without an update.
without_updates = compiled(10**9)
with_updates = compiled(1) if variant == "prune" else None


def measure(steps):
    """See `worker.run_worker`."""
    step = seconds_per_step(*without_updates, steps)
    return step, [max(0.0, seconds_per_step(*with_updates, max(2, steps // 10)) - step)] if with_updates else []


worker.run_worker(measure, "tensorflow", "tf_keras", *(["tensorflow-model-optimization"] if variant == "prune" else []))

"""TF-MOT's pruning of a Keras 2 model, or Keras 2 alone: `python tf_mot.py prune|dense lenet 100 0.98`."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import time

import networks
import serving
import tf_keras

what, network, batch_size, sparsity = serving.arguments()


def compiled(frequency):
    """The model, pruned again every `frequency` steps."""
    model, callbacks = networks.BUILD[network](tf_keras), []
    if what == "prune":
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
    """As in keras3.py."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Ends."""
        self.seconds = time.perf_counter() - self.started


def timed(model, callbacks, steps):
    """Seconds a step."""
    x, y = serving.batches(network, batch_size, steps)
    clock = Clock()
    model.fit(x, y, batch_size=batch_size, verbose=0, callbacks=[*callbacks, clock])
    return clock.seconds / steps


rarely = compiled(10**9)
always = compiled(1) if what == "prune" else None  # The update is inside of the step: what it takes is the difference.


def turn(steps):
    """See `serving.serve`."""
    step = timed(*rarely, steps)
    return step, [max(0.0, timed(*always, max(2, steps // 10)) - step)] if always else []


serving.serve(turn, "tensorflow", "tf_keras", *(["tensorflow-model-optimization"] if what == "prune" else []))

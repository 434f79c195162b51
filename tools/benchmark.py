"""Step times, measured on this machine.

    python tools/benchmark.py step

prints the time of a training step, masked over dense, alternating in one process; the share of the training time that
the updates of each method take at the periods of Table 4; and the step time of DeepR, which acts after each. Run it on
an idle machine.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

import keras
import numpy as np
from absl import app, flags
from common import methods
from common.data import Images
from common.experiment import LENET_MNIST
from common.models import lenet_300_100, wide_resnet
from common.train import define_flags, steps_per_execution

import keras_sparse as ks

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 15, "How often dense and masked take turns.", 1)
flags.DEFINE_integer("images", 60_000, "How many LeNet trains on in an epoch; a multiple of 100.", 100)
flags.DEFINE_integer("depth", 10, "Of the WRN.")
flags.DEFINE_float("widen_factor", 2, "Of the WRN.")


class Clock(keras.callbacks.Callback):
    """Seconds from the first to the last execution of an epoch, and of all epochs of a `fit`."""

    total = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Starts with the first."""
        if batch == 0:
            self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Ends with the last."""
        self.seconds = time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        """Adds up."""
        self.total += self.seconds


class Bench:
    """A compiled model, and random images that it trains on as the recipe does, input pipeline included.

    Args:
        model: `keras.Model`.
        images: number of images; a multiple of the batch size, 100.
        per_execution: steps a call; None for what the recipes take.
    """

    def __init__(self, model, images, per_execution=None):
        rng = np.random.default_rng(0)
        self.model, self.steps = model, images // 100
        pixels = rng.integers(0, 256, (images, *model.input_shape[1:]), dtype=np.uint8)
        classes = model.output_shape[-1]
        self.data = Images(pixels, rng.integers(0, classes, images), classes, (127.5,), (74.0,))
        model.compile(
            optimizer=keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=keras.backend.backend() != "torch",
            steps_per_execution=per_execution or steps_per_execution(self.steps, most=100),
        )

    def seconds_per_step(self, epochs=1, callbacks=()):
        """Trains some epochs."""
        clock = Clock()
        self.model.fit(
            self.data.batches(100, seed=0),
            epochs=epochs,
            steps_per_epoch=self.steps,
            callbacks=[*callbacks, clock],
            verbose=0,
            shuffle=False,
        )
        return clock.total / (epochs * self.steps)


def step(name, build, keep_dense, sparsity, images):
    """Prints one network's step times and returns its masked `Bench`."""
    dense = Bench(build(), images)
    masked = Bench(ks.sparsify(build(), sparsity, keep_dense=keep_dense), images)
    for bench in (dense, masked):
        bench.seconds_per_step()  # compiles
    times = []
    for i in range(FLAGS.rounds):  # who goes first takes turns as well
        pair = {bench: bench.seconds_per_step() for bench in ((dense, masked), (masked, dense))[i % 2]}
        times.append((pair[dense], pair[masked]))
    d, m = (1e3 * statistics.median(t) for t in zip(*times, strict=True))
    print(f"{name}: dense {d:.2f} ms a step, masked {m:.2f} ms, masked/dense {m / d:.3f}")
    return masked


def timed(method):
    """The method, with the seconds of each of its updates in `seconds`."""
    update, method.seconds = method.update, []

    def against_the_clock(*args, **kwargs):
        started = time.perf_counter()
        update(*args, **kwargs)
        method.seconds.append(time.perf_counter() - started)

    method.update = against_the_clock
    return method


def shares(name, bench, experiment, options):
    """Prints what part of a training run the updates of each method are, timed while it trains.

    Args:
        name: of the network.
        bench: its masked `Bench`, with as many images as the training set.
        experiment: `common.experiment.Experiment`.
        options: flags of the recipe.
    """
    epochs = experiment.training.epochs
    for method in ("dynamic_sparse", "set", "rigl"):
        callback = timed(methods.callback(method, experiment, options, bench.model))
        step = bench.seconds_per_step(5, [callback])
        update = statistics.median(callback.seconds)
        updates = sum(bench.steps / callback.period(epoch) for epoch in range(callback.until))
        _print_share(name, method, update, updates * update / (bench.steps * epochs * step), step)
    settings = experiment.compressed
    pruning = timed(ks.GradualPruning(lambda step: (step % 100 == 0, step / 1e5)))
    step = bench.seconds_per_step(5, [pruning])
    update = statistics.median(pruning.seconds)
    share = settings.prunings * update / (bench.steps * settings.epochs * step)
    _print_share(name, "compressed", update, share, step)


def _print_share(name, method, update, share, step):
    print(
        f"{name}, {method}: an update takes {1e3 * update:.2f} ms, {share:.2%} of the training at Table 4's periods, "
        f"a step of which takes {1e3 * step:.2f} ms"
    )


def every_step(name, build, keep_dense, sparsity, images, experiment, options):
    """Prints the step time of DeepR, which acts after each step, over the dense one, a call a step in both."""
    dense = Bench(build(), images, per_execution=1)
    masked = Bench(ks.sparsify(build(), sparsity, keep_dense=keep_dense), images, per_execution=1)
    for bench in (dense, masked):
        bench.seconds_per_step()
    pairs = []
    for _ in range(FLAGS.rounds):
        callback = methods.callback("deepr", experiment, options, masked.model)
        pairs.append((dense.seconds_per_step(), masked.seconds_per_step(1, [callback])))
    d, m = (1e3 * statistics.median(t) for t in zip(*pairs, strict=True))
    print(f"{name}, deepr: {m:.2f} ms a step, dense {d:.2f} ms a step of one call, deepr/dense {m / d:.3f}")


def main(argv):
    """Runs the benchmark named on the command line."""
    if argv[1:] != ["step"]:
        raise app.UsageError(f"Name a benchmark: step. Received: {argv[1:]}.")
    options = flags.FlagValues()
    define_flags(LENET_MNIST, options)
    options(["recipe"])
    lenet = step("LeNet-300-100", lenet_300_100, (), 0.98, images=FLAGS.images)
    shares("LeNet-300-100", lenet, LENET_MNIST, options)
    every_step("LeNet-300-100", lenet_300_100, (), 0.98, FLAGS.images // 6 // 100 * 100 or 100, LENET_MNIST, options)
    wrn = (
        f"WRN-{FLAGS.depth}-{FLAGS.widen_factor:g}",
        lambda: wide_resnet(FLAGS.depth, FLAGS.widen_factor),
        lambda layer: "block" not in layer.name,
        0.9,
        400,
    )
    step(*wrn)
    every_step(*wrn, LENET_MNIST, options)


if __name__ == "__main__":
    app.run(main)

"""Measures the time of training steps, updates and input pipelines on this machine.

    python tools/benchmark.py step                                       # LeNet-300-100
    python tools/benchmark.py step --network wrn --rounds 15 --steps 3   # WRN-28-2
    python tools/benchmark.py step --network resnet50 --batch_size 16 --rounds 15 --steps 1
    python tools/benchmark.py step --network lstm --rounds 15 --steps 50     # or transformer

prints the times of a training step of the dense and of the masked network, which train alternately in one process.
Then it prints, for each method, the time of an update and the mean time of a step including updates, at the update
periods of Table 4 of the paper on dynamic sparse reparameterization. Run it on an idle machine.

    python tools/benchmark.py input --network wrn --rounds 5 --steps 3

prints the time to load and augment a batch of the recipe's data, without training, and the time of a masked step.

    python tools/benchmark.py fit --rounds 15                            # see benchmark_fit.py
    python tools/benchmark.py logging --rounds 15

print the time of a plain call of `fit` for dense, masked and dynamic sparse networks, and that of TensorBoard's logs.

    python tools/benchmark.py export --rounds 30                         # see benchmark_export.py
    python tools/benchmark.py peers --rounds 10                           # see benchmark_peers.py

print the size and latency of exported models, and the times of other libraries for sparse training. With --write they
write these tables to docs/benchmarks.md.
"""

import functools
import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

import keras
import numpy as np
from absl import app, flags

import benchmark_export
import benchmark_fit
import benchmark_peers
import keras_sparse as ks
from common import data, methods, stream
from common.augment import PadCropFlip
from common.data import Images
from common.experiment import LENET_MNIST, RESNET50_IMAGENET, WRN_CIFAR10
from common.models import lenet_300_100, resnet, wide_resnet
from common.options import define_flags
from common.sequence_experiments import LSTM_MNIST, TRANSFORMER_MNIST
from common.sequence_models import lstm, transformer
from common.train import largest_divisor, steps_per_execution

NETWORKS = {  # name -> (function that makes the network, its experiment, number of training images)
    "lenet": (lenet_300_100, LENET_MNIST, 60_000),
    "wrn": (wide_resnet, WRN_CIFAR10, 50_000),
    "resnet50": (resnet, RESNET50_IMAGENET, 1_281_167),
    "transformer": (transformer, TRANSFORMER_MNIST, 60_000),
    "lstm": (lstm, LSTM_MNIST, 60_000),
}

LOAD = {
    "lenet": data.load,
    "wrn": functools.partial(data.load, augmentation=PadCropFlip(4)),
    "resnet50": stream.load,
    "transformer": data.load,
    "lstm": data.load,
}

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "For `input` and `export`: see the recipes.")
flags.DEFINE_enum("network", "lenet", tuple(NETWORKS), "Network.")
flags.DEFINE_integer("rounds", 15, "Number of rounds; each network trains or runs once in each.", 1)
flags.DEFINE_integer("steps", 600, "Steps per epoch; a round is an epoch of each network.", 1)
flags.DEFINE_integer("batch_size", 100, "Images per step.", 1)
flags.DEFINE_bool(
    "jit_compile", keras.backend.backend() != "torch", "Whether XLA compiles the step, as in the recipes."
)
flags.DEFINE_integer("depth", 28, "Depth of the WRN.")
flags.DEFINE_float("widen_factor", None, "Factor of the width; default: that of the paper.")


class Clock(keras.callbacks.Callback):
    """Measures the seconds of each epoch: of its training steps (`steps`), and with evaluation (`with_evaluation`)."""

    async_safe = True  # as the callbacks of the recipes

    def on_train_begin(self, logs=None):
        """Resets the lists of times."""
        self.steps, self.with_evaluation = [], []

    def on_train_batch_begin(self, batch, logs=None):
        """Starts the clock at the first batch."""
        if batch == 0:
            self.started = time.perf_counter()

    def on_test_begin(self, logs=None):
        """Records the time of the steps, after which Keras evaluates the model."""
        self.steps.append(time.perf_counter() - self.started)

    def on_epoch_end(self, epoch, logs=None):
        """Records the time of both; it is that of the steps if there is no evaluation."""
        self.with_evaluation.append(time.perf_counter() - self.started)
        self.steps += self.with_evaluation[len(self.steps) :]


class BenchmarkModel:
    """A compiled model with random images, which trains as in its recipe, with the input pipeline.

    Args:
        model: `keras.Model`.
    """

    def __init__(self, model):
        rng = np.random.default_rng(0)
        self.model, self.steps = model, FLAGS.steps
        count = min(FLAGS.steps, 600) * FLAGS.batch_size
        pixels = rng.integers(0, 256, (count, *model.input_shape[1:]), dtype=np.uint8)
        classes = model.output_shape[-1]
        self.data = Images(pixels, rng.integers(0, classes, count), classes, (127.5,), (74.0,))
        self.tests = self.data.evaluation(max(1, count // 6), 1000)
        model.compile(
            optimizer=keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=FLAGS.jit_compile,
            steps_per_execution=steps_per_execution(self.steps, most=100),
        )
        self.fit()  # compiles the train function

    def fit(self, epochs=1, callbacks=(), evaluated=False):
        """Trains for some epochs.

        Args:
            epochs: int, number of epochs.
            callbacks: list of callbacks.
            evaluated: bool, whether the model is evaluated after each epoch.

        Returns:
            Two lists with the seconds per step of each epoch, without and with the evaluation. If there are several
            epochs, the first is left out.
        """
        clock = Clock()
        self.model.fit(
            self.data.batches(FLAGS.batch_size, seed=0),
            epochs=epochs,
            steps_per_epoch=self.steps,
            validation_data=self.tests if evaluated else None,
            validation_batch_size=min(1000, 10 * FLAGS.batch_size),
            callbacks=[*callbacks, clock],
            verbose=0,
            shuffle=False,
        )
        first = int(epochs > 1)  # The first epoch may include compilation.
        return [[x / self.steps for x in seconds[first:]] for seconds in (clock.steps, clock.with_evaluation)]

    def time_epoch(self):
        """Trains for one epoch, and returns the milliseconds per step."""
        return 1e3 * self.fit()[0][0]


def time_updates(method):
    """Returns the method, changed to append the seconds of each update to its new attribute `seconds`."""
    update, method.seconds = method.update, []

    def timed_update(*args, **kwargs):
        started = time.perf_counter()
        update(*args, **kwargs)
        method.seconds.append(time.perf_counter() - started)

    method.update = timed_update
    return method


class AlternateTraining(keras.callbacks.Callback):
    """Trains another model for one epoch after each epoch of a `fit`, except for the first.

    Args:
        other: `BenchmarkModel`.
    """

    def __init__(self, other):
        super().__init__()
        self.other, self.times = other, []

    def on_epoch_end(self, epoch, logs=None):
        """Trains the other model."""
        if epoch:
            self.times.append(self.other.time_epoch())


def medians(first, second):
    """Returns the medians of two lists of times, and of the ratios second / first of times of the same round."""
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    return [statistics.median(times) for times in (first, second, ratios)]


def print_update_times(masked, experiment, options, images):
    """Prints the time of the updates of each method, measured during training.

    Args:
        masked: `BenchmarkModel` of the masked network.
        experiment: `common.experiment.Experiment`.
        options: flags of its recipe, with a period that is at most the number of steps of an epoch.
        images: int, number of training images.
    """
    training, settings = experiment.training, experiment.compressed
    per_epoch = images / training.batch_size
    epochs = 1 + min(5, FLAGS.rounds)
    weights = masked.model.get_weights()
    for name in ("dynamic_sparse", "set", "rigl", "compressed"):
        if name == "compressed":
            begin = int(keras.ops.convert_to_numpy(masked.model.optimizer.iterations))
            schedule = functools.partial(pruning_schedule, experiment.sparsity, options.period, begin)
            method = time_updates(ks.GradualPruning(schedule))
            update_rate = settings.prunings / (settings.epochs * per_epoch)
        else:
            table = methods.callback(name, experiment, recipe_options(experiment), masked.model)
            update_rate = sum(1 / table.period(epoch) for epoch in range(table.until)) / training.epochs
            method = time_updates(methods.callback(name, experiment, options, masked.model))
            method.update_schedule.until = None
        step, run = map(statistics.median, masked.fit(epochs, [method], evaluated=True))
        update = statistics.median(method.seconds)
        step, run = step - update / options.period, run - update / options.period
        print(
            f"  {name}: an update takes {1e3 * update:.2f} ms; at Table 4's periods "
            f"{1e3 * (step + update_rate * update):.2f} ms a step, {update_rate * update / step:.2%} of it updates "
            f"({update_rate * update / run:.2%} of a run with evaluation)"
        )
    masked.model.set_weights(weights)  # restores the pruned weights


def pruning_schedule(start, period, begin, step):
    """Returns `(due, sparsity)` of a schedule that removes one percent of the live weights every `period` steps.

    The sparsity is `start` at the step `begin`.
    """
    return step % period == 0, 1 - (1 - start) * 0.99 ** ((step - begin) // period)


def recipe_options(experiment, *arguments):
    """Returns the flags of a recipe, parsed from command line arguments."""
    options = flags.FlagValues()
    define_flags(experiment, options)
    options(["recipe", *arguments])
    return options


def benchmark_step(build, experiment, images):
    """Prints the times of training steps and updates of a network."""
    masked_model = lambda: ks.sparsify(build(), experiment.sparsity, keep_dense=experiment.keep_dense)  # noqa: E731
    dense, masked = BenchmarkModel(build()), BenchmarkModel(masked_model())
    times = {dense: [], masked: []}
    for i in range(FLAGS.rounds):
        for network in ((dense, masked), (masked, dense))[i % 2]:
            times[network].append(network.time_epoch())
    d, m, ratio = medians(times[dense], times[masked])
    print(f"{FLAGS.network}: dense {d:.2f} ms a step, masked {m:.2f} ms, masked/dense {ratio:.3f}")
    # A divisor, so that each execution ends at an update.
    options = recipe_options(experiment, f"--period={largest_divisor(FLAGS.steps, most=100)}")
    print_update_times(masked, experiment, options, images)

    # One `fit` for all rounds, since DeepR compiles in the first epoch of each `fit`.
    alternate = AlternateTraining(dense)
    steps, _ = masked.fit(1 + FLAGS.rounds, [methods.callback("deepr", experiment, options, masked.model), alternate])
    d, m, ratio = medians(alternate.times, [1e3 * x for x in steps])
    print(f"  deepr: {m:.2f} ms a step, dense {d:.2f} ms, deepr/dense {ratio:.3f}")


def benchmark_input(build, experiment, images):
    """Prints the time to load a batch of the data of a network."""
    model = BenchmarkModel(ks.sparsify(build(), experiment.sparsity, keep_dense=experiment.keep_dense))
    step = statistics.median(model.time_epoch() for _ in range(FLAGS.rounds))
    train, _ = LOAD[FLAGS.network](experiment.dataset, ("train", experiment.test_split), FLAGS.data_dir)
    batches = iter(train.batches(FLAGS.batch_size, seed=0))
    count = max(30, FLAGS.steps)
    for _ in range(10):  # more batches than are prefetched
        next(batches)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    load = 1e3 * (time.perf_counter() - started) / count
    print(
        f"{FLAGS.network}: a batch of {FLAGS.batch_size} takes {load:.2f} ms to load, a masked step "
        f"{step:.2f} ms: the input is {step / load:.1f} times as fast"
    )


def main(argv):
    """Runs the benchmark named on the command line."""
    sizes = {"rounds": FLAGS.rounds, "steps": FLAGS.steps, "batch_size": FLAGS.batch_size}
    benchmarks = {
        "step": benchmark_step,
        "input": benchmark_input,
        "fit": lambda build, experiment, _: benchmark_fit.compare_fits(build, experiment, **sizes),
        "logging": lambda build, experiment, _: benchmark_fit.compare_logging(build, experiment, **sizes),
    }
    others = {
        "export": lambda: benchmark_export.export(FLAGS.rounds),
        "peers": lambda: benchmark_peers.peers(FLAGS.rounds, FLAGS.steps, FLAGS.batch_size),
    }
    if len(argv) != 2 or argv[1] not in {**benchmarks, **others}:
        raise app.UsageError(f"Name a benchmark: {', '.join([*benchmarks, *others])}. Received: {argv[1:]}.")
    if argv[1] in others:
        others[argv[1]]()
        return
    build, experiment, images = NETWORKS[FLAGS.network]
    given = {"depth": FLAGS.depth} if experiment.depth and FLAGS.network == "wrn" else {}
    widen_factor = FLAGS.widen_factor or experiment.widen_factor
    benchmarks[argv[1]](lambda: build(widen_factor=widen_factor, **given), experiment, images)


if __name__ == "__main__":
    app.run(main)

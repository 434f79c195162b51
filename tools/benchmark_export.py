"""Measures size and latency of exported models, dense and sparse, for `tools/benchmark.py export`."""

import functools
import statistics
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
from absl import flags

import benchmark_page
import keras_sparse as ks
from common import data
from common.experiment import LENET_MNIST, RESNET50_IMAGENET, WRN_CIFAR10
from common.models import lenet_300_100, resnet, wide_resnet
from keras_sparse.export import litert, run_exported

FLAGS = flags.FLAGS
flags.DEFINE_list("exported", ["lenet", "wrn", "mobilenet", "resnet50"], "For `export`: networks to export.")
flags.DEFINE_list("models", [], "For `export`: .keras files of recipes, whose accuracy is measured after each export.")
flags.DEFINE_bool("write", False, "For `export` and `peers`: whether to write the tables to docs/benchmarks.md.")

_SECONDS_PER_MEASUREMENT = 0.02  # A measurement has as many calls as fit into this time.
# Network -> (function that builds it, sparsities, layers that stay dense).
_NETWORKS = {
    "lenet": (lenet_300_100, (0.9, 0.95, 0.98, 0.99), LENET_MNIST.keep_dense),
    "wrn": (wide_resnet, (0.9,), WRN_CIFAR10.keep_dense),
    "mobilenet": (lambda: keras.applications.MobileNetV2(weights=None), (0.9,), ("Conv1",)),
    "resnet50": (resnet, (0.9,), RESNET50_IMAGENET.keep_dense),
}
# Shape of the images -> (name of the network, experiment whose test images measure the accuracy), for `--models`.
_TRAINED = {(28, 28, 1): ("LeNet-300-100", LENET_MNIST), (32, 32, 3): ("WRN-28-2", WRN_CIFAR10)}
_HEADER = ["network", "sparsity", "route", "bytes", "size / dense", "latency", "speedup", "difference", "accuracy"]


def export(rounds):
    """Prints a table of all networks, and writes it to the page if `--write` is set.

    Args:
        rounds: int, the number of measurements of each latency.
    """
    rows = []
    for path in FLAGS.models:
        model = keras.models.load_model(path, compile=False)
        name, experiment = _TRAINED[model.input_shape[1:]]
        rows += _rows(f"{name}, trained", model, rounds, _tests(experiment.dataset, experiment.test_split))
    for name in FLAGS.exported:
        build, sparsities, keep_dense = _NETWORKS[name]
        for sparsity in sparsities:
            rows += _rows(name, ks.sparsify(build(), sparsity, keep_dense=keep_dense), rounds)
        if FLAGS.write:  # after each network, since large ones take long
            benchmark_page.write_section("export", _text(rows, rounds))
    print(_text(rows, rounds))


def _text(rows, rounds):
    """Returns the section of the page."""
    names = ("keras", "tensorflow", "ai-edge-litert")
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in names)
    return "\n".join(
        [
            "## Exported models",
            "",
            f"{benchmark_page.machine_description()}; {versions}. Batch size 1, one thread; medians of {rounds} "
            "rounds, in which all routes of a model take turns in one process. Dense files are written by TensorFlow's "
            "converter from the same weights, with zeros stored as numbers. The speedup is relative to dense float32, "
            "the difference is that of the outputs from the model's. Networks that are not trained have random weights "
            "and masks: their sizes and latencies are those of trained networks, except for shrunk ones, since random "
            "masks leave more units without a live weight.",
            "",
            benchmark_page.markdown_table(_HEADER, rows),
        ]
    )


def _rows(name, model, rounds, tests=None):
    """Returns the rows of the table for a masked model. `tests` is `(images, classes)`, to measure the accuracy."""
    masked = ks.masked_weights(model)
    sparsity = 1 - sum(w.mask.numpy().sum() for w in masked) / sum(w.mask.numpy().size for w in masked)
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(32, *model.input_shape[1:])).astype("float32") if tests is None else tests[0][:200]
    files = dict(_routes(model, samples))
    calls = {route: _latency_function(file, samples[:1]) for route, file in files.items() if isinstance(file, bytes)}
    times = _measure_latencies(calls, rounds)
    expected = model.predict(samples[:16], verbose=0)
    accuracy = lambda f: "" if tests is None else f"{np.mean(np.argmax(f(tests[0]), -1) == tests[1]):.2%}"  # noqa: E731
    rows = []
    for route, file in files.items():
        if not isinstance(file, bytes):
            size, f = file
            rows.append([name, f"{sparsity:.2f}", route, f"{size:,}", "", "", "", "", accuracy(f)])
            continue
        run = run_exported.litert_function(file)
        f = lambda x, run=run: run([x])[0]  # noqa: E731
        difference = np.abs(f(samples[:16]) - expected).max() / max(1, np.abs(expected).max())
        dense = f"dense {route.split()[-1]}"
        speedup = statistics.median(a / b for a, b in zip(times["dense float32"], times[route], strict=True))
        size, base = len(file), len(files[dense])
        latency = statistics.median(times[route])
        rows.append(
            [
                *(name, f"{sparsity:.2f}", route, f"{size:,}", f"{size / base:.2f}"),
                *(f"{1e6 * latency:.1f} us" if latency < 1e-3 else f"{1e3 * latency:.2f} ms", f"{speedup:.2f}"),
                *(f"{difference:.0e}", accuracy(f)),
            ]
        )
        print("  ".join(rows[-1]), flush=True)
    return rows


def _routes(model, samples):
    """Yields `(route, file)` for each way to export a model.

    A file is the bytes of a `.tflite` file, or `(size, function that computes the outputs)` of a `.keras` file.
    """
    dense = ks.densify(model)
    dense.predict(samples[:1], verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        predict = lambda x: model.predict(x, verbose=0, batch_size=1000)  # noqa: E731
        for compression in ("none", "bzip2", "lzma"):
            size = ks.save_model(model, Path(folder) / "m.keras", compression=compression)
            yield f".keras, {compression}", (size, predict)
        path = Path(folder) / "m.tflite"
        for weights in ("float32", "float16", "int8"):
            converted = litert.convert(dense, path, weights, [samples], 1)
            yield f"dense {weights}", converted.dense
            yield f"sparse {weights}", converted.sparse
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shrunk = ks.shrink(model)
        shrunk.predict(samples[:1], verbose=0)
        if shrunk.count_params() < dense.count_params():
            yield "shrunk, sparse float32", litert.convert(shrunk, path, "float32", [samples], 1).sparse
            yield "shrunk, sparse int8", litert.convert(shrunk, path, "int8", [samples], 1).sparse


def _latency_function(file, sample):
    """Returns a function that runs a `.tflite` file on one input several times, and returns the mean seconds."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], sample)
    interpreter.invoke()
    started = time.perf_counter()
    interpreter.invoke()
    count = max(1, int(_SECONDS_PER_MEASUREMENT / (time.perf_counter() - started)))

    def measure():
        started = time.perf_counter()
        for _ in range(count):
            interpreter.invoke()
        return (time.perf_counter() - started) / count

    return measure


def _measure_latencies(calls, rounds):
    """Returns the seconds of each function in a dict, measured alternately: dict from name to a list of floats."""
    times = {name: [] for name in calls}
    for i in range(rounds):
        for name in list(calls)[:: 1 if i % 2 else -1]:
            times[name].append(calls[name]())
    return times


@functools.cache
def _tests(dataset, split):
    """Returns the images of a test split, preprocessed as in the recipes, and their classes."""
    _, tests = data.load(dataset, ("train", split), FLAGS.data_dir)
    return tests.evaluation(len(tests), 1000)

"""Bytes and latency of exported models, dense and sparse, by every route; for `tools/benchmark.py export`."""

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
from keras_sparse.export import litert, running

FLAGS = flags.FLAGS
flags.DEFINE_list("exported", ["lenet", "wrn", "mobilenet", "resnet50"], "For `export`: which networks.")
flags.DEFINE_list(
    "models", [], "For `export`: .keras files that the LeNet recipe wrote; their accuracy is measured before and after."
)
flags.DEFINE_bool("write", False, "For `export` and `peers`: whether the tables go to docs/benchmarks.md.")

_TURN = 0.02  # seconds, of which each holds as many calls as fit
# Network -> how it is built, sparsities, what stays dense.
_NETWORKS = {
    "lenet": (lenet_300_100, (0.9, 0.95, 0.98, 0.99), LENET_MNIST.keep_dense),
    "wrn": (wide_resnet, (0.9,), WRN_CIFAR10.keep_dense),
    "mobilenet": (lambda: keras.applications.MobileNetV2(weights=None), (0.9,), ("Conv1",)),
    "resnet50": (resnet, (0.9,), RESNET50_IMAGENET.keep_dense),
}
_HEADER = ["network", "sparsity", "route", "bytes", "of dense", "latency", "over dense", "off by", "accuracy"]


def export(rounds):
    """Prints a table of each network, and writes it if asked.

    Args:
        rounds: int, how often the routes take turns.
    """
    rows = []
    tests = _mnist() if FLAGS.models else None
    for path in FLAGS.models:
        model = keras.models.load_model(path, compile=False)
        rows += _rows("LeNet-300-100, trained", model, rounds, tests)
    for name in FLAGS.exported:
        build, sparsities, keep_dense = _NETWORKS[name]
        for sparsity in sparsities:
            rows += _rows(name, ks.sparsify(build(), sparsity, keep_dense=keep_dense), rounds)
        if FLAGS.write:  # after each network: the large ones take long
            benchmark_page.write("export", _text(rows, rounds))
    print(_text(rows, rounds))


def _text(rows, rounds):
    names = ("keras", "tensorflow", "ai-edge-litert")
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in names)
    return "\n".join(
        [
            "## Exported models",
            "",
            f"{benchmark_page.machine()}; {versions}. One input a call, one thread, all routes of a model in one "
            f"process, taking turns {rounds} times; medians. Dense is what TensorFlow's converter makes of the same "
            "weights, zeros stored as numbers; how many times a route is faster is over dense float32. Networks that "
            "are not trained have random weights: bytes and latency are those of trained ones, but for shrunk ones, "
            "since random masks leave more units without a live weight.",
            "",
            benchmark_page.table(_HEADER, rows),
        ]
    )


def _rows(name, model, rounds, tests=None):
    masked = ks.masked_weights(model)
    sparsity = 1 - sum(w.mask.numpy().sum() for w in masked) / sum(w.mask.numpy().size for w in masked)
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(32, *model.input_shape[1:])).astype("float32") if tests is None else tests[0][:200]
    files = dict(_routes(model, samples))
    runs = {route: _calls(file, samples[:1]) for route, file in files.items() if isinstance(file, bytes)}
    times = _taking_turns(runs, rounds)
    expected = model.predict(samples[:16], verbose=0)
    accuracy = lambda f: "" if tests is None else f"{np.mean(np.argmax(f(tests[0]), -1) == tests[1]):.2%}"  # noqa: E731
    rows = []
    for route, file in files.items():
        if not isinstance(file, bytes):
            size, f = file
            rows.append([name, f"{sparsity:.2f}", route, f"{size:,}", "", "", "", "", accuracy(f)])
            continue
        run = running.run_litert(file)
        f = lambda x, run=run: run([x])[0]  # noqa: E731
        off = np.abs(f(samples[:16]) - expected).max() / max(1, np.abs(expected).max())
        dense = route.replace("sparse", "dense") if route.replace("sparse", "dense") in files else "dense float32"
        over = statistics.median(a / b for a, b in zip(times["dense float32"], times[route], strict=True))
        size, base = len(file), len(files[dense])
        latency = statistics.median(times[route])
        rows.append(
            [
                *(name, f"{sparsity:.2f}", route, f"{size:,}", f"{size / base:.2f}"),
                *(f"{1e6 * latency:.1f} us" if latency < 1e-3 else f"{1e3 * latency:.2f} ms", f"{over:.2f}"),
                *(f"{off:.0e}", accuracy(f)),
            ]
        )
        print("  ".join(rows[-1]), flush=True)
    return rows


def _routes(model, samples):
    """`(route, bytes of a .tflite file)` of each; for `.keras` files `(size, function)`."""
    dense = ks.densify(model)
    dense.predict(samples[:1], verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        predict = lambda x: model.predict(x, verbose=0, batch_size=1000)  # noqa: E731
        for compression in ("none", "bzip2"):
            size = ks.save_model(model, Path(folder) / "m.keras", compression=compression)
            yield f".keras, {compression}", (size, predict)
        path = Path(folder) / "m.tflite"
        for weights in ("float32", "float16", "int8"):
            made = litert.convert(dense, path, weights, [samples], 1)
            yield f"dense {weights}", made.dense
            yield f"sparse {weights}", made.sparse
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shrunk = ks.shrink(model)
        shrunk.predict(samples[:1], verbose=0)
        if shrunk.count_params() < dense.count_params():
            yield "shrunk, sparse float32", litert.convert(shrunk, path, "float32", [samples], 1).sparse
            yield "shrunk, dense int8", litert.convert(shrunk, path, "int8", [samples], 1).sparse


def _calls(file, sample):
    """A function that computes one input some times and returns the seconds of one."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], sample)
    interpreter.invoke()
    started = time.perf_counter()
    interpreter.invoke()
    count = max(1, int(_TURN / (time.perf_counter() - started)))

    def turn():
        started = time.perf_counter()
        for _ in range(count):
            interpreter.invoke()
        return (time.perf_counter() - started) / count

    return turn


def _taking_turns(runs, rounds):
    times = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            times[name].append(runs[name]())
    return times


def _mnist():
    """Test images as the recipe gives them to the network, and their classes."""
    _, tests = data.load(LENET_MNIST.dataset, ("train", LENET_MNIST.test_split), FLAGS.data_dir)
    return tests.evaluation(len(tests), 1000)

"""Tests the recipes on JAX if neither TensorFlow nor its dependencies can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.methods import METHODS

pytestmark = pytest.mark.jax

ROOT = Path(__file__).parents[1]
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "tensorflow_model_optimization", "tf_keras")

# Python imports a module of this name at startup.
SITECUSTOMIZE = """
import os, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["MISSING"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
# The main function of the recipe for each method, in one process, since starting a process takes longer.
RUN = """
import runpy, sys
from absl import flags
script, folder, methods, *arguments = sys.argv[1:]
main = runpy.run_path(script)["main"]
for method in methods.split(","):
    flags.FLAGS([script, f"--method={method}", f"--output_dir={folder}/{method}", *arguments])
    main([script])
"""


def write_arrays(folder, shape, train=48, test=16, classes=10):
    """Writes a data set "images" of noise in the format of tools/export_arrays.py."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, n in (("train", train), ("test", test)):
        np.save(folder / "images" / f"{split}_images.npy", rng.integers(0, 256, (n, *shape), dtype=np.uint8))
        np.save(folder / "images" / f"{split}_labels.npy", rng.integers(0, classes, n).astype("int32"))
    info = {"splits": {"train": train, "test": test}, "classes": classes}
    (folder / "images" / "info.json").write_text(json.dumps(info) + "\n")


def python(tmp_path, *command, missing=(*TENSORFLOW, "tensorboard")):
    """Runs Python without some packages; returns the finished process."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    paths = [str(p) for p in (tmp_path, ROOT, ROOT / "recipes")]
    environment = {
        "MISSING": ",".join(missing),
        "PYTHONPATH": os.pathsep.join(paths),
        "KERAS_BACKEND": "jax",
        # Most methods share the training step, whose compilation takes longer than training.
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("KERAS_SPARSE_COMPILED", str(tmp_path / "compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.run(
        [sys.executable, *map(str, command)], env={**os.environ, **environment}, capture_output=True, text=True
    )


def run(tmp_path, recipe, methods, shape, *arguments, **settings):
    """Runs a recipe for an epoch with some methods; returns their results and the output."""
    write_arrays(tmp_path / "arrays", shape)
    small = ["--dataset=images", f"--data_dir={tmp_path / 'arrays'}", "--test_split=test", "--epochs=1", "--verbose=0"]
    script = ROOT / "recipes" / f"{recipe}.py"
    command = ["-c", RUN, script, tmp_path / "runs", ",".join(methods), *small, "--batch_size=16", *arguments]
    process = python(tmp_path, *command, **settings)
    assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads((tmp_path / "runs" / m / "result.json").read_text()) for m in methods], process.stdout


def assert_whole(results, epochs=1):
    assert all(0 <= r["test_accuracy"] <= 1 and r["epochs"] >= epochs and r["backend"] == "jax" for r in results)
    sparse = [r for r, method in zip(results, METHODS, strict=True) if method not in ("dense", "thin_dense")]
    assert all(0 < r["live_weights"] < r["sparse_weights"] for r in sparse)


def test_every_method_trains_lenet(tmp_path):
    results, printed = run(tmp_path, "lenet_mnist", METHODS, (28, 28, 1), "--period=1", "--widen_factor=0.2")
    assert_whole(results)
    assert {r["live_weights"] for r in results} == {0, 969}
    assert not list(tmp_path.rglob("tensorboard"))
    note = (
        "Note: no TensorBoard logs are written (No module named 'tensorboard'). To have them: pip install tensorboard"
    )
    assert printed.count(note) == len(METHODS)  # Once for each run, also for the one that trains a dense network first.
    assert "tensorboard --logdir" not in printed


def test_tensorboard_needs_no_tensorflow(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, printed = run(tmp_path, "lenet_mnist", ["compressed"], (28, 28, 1), missing=TENSORFLOW)
    assert "no TensorBoard logs" not in printed
    assert "tensorboard --logdir" in printed
    for folder, tag in (("dense/tensorboard/train", "loss"), ("tensorboard/train", "target_sparsity")):
        logs = events.EventAccumulator(str(tmp_path / "runs/compressed" / folder)).Reload()
        assert f"epoch_{tag}" in logs.Tags()["tensors"]


def test_a_data_set_that_needs_tfds_is_refused(tmp_path):
    arguments = ["--dataset=mnist", f"--output_dir={tmp_path / 'run'}"]
    process = python(tmp_path, ROOT / "recipes/lenet_mnist.py", *arguments)
    assert process.returncode == 1
    assert "comes by TensorFlow Datasets, which cannot be imported here" in process.stderr
    assert "tools/export_arrays.py" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "shape", "small"),
    [
        ("wrn_cifar10", (16, 16, 3), ["--depth=10", "--widen_factor=0.25"]),
        ("resnet50_imagenet", (40, 40, 3), ["--depth=14", "--widen_factor=0.0625", "--image_size=32"]),
    ],
)
def test_every_method_trains_the_convolutional_recipes(recipe, shape, small, tmp_path):
    results, _ = run(tmp_path, recipe, METHODS, shape, *small, "--period=1", "--sparsity=0.7")
    assert_whole(results)

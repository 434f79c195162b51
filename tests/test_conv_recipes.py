"""Tests the recipes of WRN and ResNet, with small networks on synthetic images."""

import json
import shutil
import socket
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app, flags

import keras_sparse as ks
from common import data, devices, stream, train
from common.augment import PadCropFlip
from common.experiment import RESNET50_IMAGENET, WRN_CIFAR10
from common.models import resnet, wide_resnet
from common.options import define_flags
from image_sets import data_dir  # noqa: F401
from nets import UNCOMPILED, numpy
from processes import Script

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
METHODS = ["dynamic_sparse", "set", "deepr", "rigl", "compressed", "static", "thin_dense", "dense"]


def squares(*args, **kwargs):
    return data.load(*args, **kwargs, augmentation=PadCropFlip(2))


def run(experiment, build, load, folder, *arguments):
    options = flags.FlagValues()
    define_flags(experiment, options)
    options(["recipe", "--verbose=0", *UNCOMPILED, f"--output_dir={folder}", *arguments])
    return train.run(experiment, build, load, options)


def wrn(folder, data_dir, *arguments):  # noqa: F811
    small = ["--dataset=squares", f"--data_dir={data_dir}", "--depth=10", "--widen_factor=0.5", "--batch_size=16"]
    return run(WRN_CIFAR10, wide_resnet, squares, folder, *small, "--prune_count=100", "--period=3", *arguments)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_keeps_its_budget(method, data_dir, tmp_path):  # noqa: F811
    result = wrn(tmp_path, data_dir, f"--method={method}", "--epochs=10", "--sparsity=0.7")
    assert result["test_accuracy"] > 0.5  # of three classes
    sizes = [1152, 576, 1152, 2304, 4608, 9216]
    sparse = sum(sizes)
    if method in ("dense", "thin_dense"):
        assert result["sparse_weights"] == 0
    else:
        live = sum(round(0.3 * n) for n in sizes) if method == "compressed" else round(0.3 * sparse)
        assert (result["sparse_weights"], result["live_weights"]) == (sparse, live)
    if method == "thin_dense":
        assert result["parameters"] == pytest.approx(0.3 * sparse + 1_786 + 227, rel=0.1)


def test_kernel_slices(data_dir, tmp_path):  # noqa: F811
    result = wrn(tmp_path, data_dir, "--granularity=kernel_slice", "--epochs=2", "--prune_count=20", "--sparsity=0.5")
    assert result["live_weights"] == result["sparse_weights"] // 2
    model = keras.models.load_model(tmp_path / "model.keras")
    assert ks.masked_layers(model)[0].kernel_mask.numpy().shape == (1, 1, 16, 8)


def test_the_paper_s_number_of_slices():
    options = flags.FlagValues()
    define_flags(WRN_CIFAR10, options)
    options(["recipe", "--granularity=kernel_slice"])
    model = ks.sparsify(wide_resnet(), 0.9, keep_dense=WRN_CIFAR10.keep_dense, granularity="kernel_slice")
    method = train.methods.callback("dynamic_sparse", WRN_CIFAR10, options, model)
    assert (method.prune_count(0), method.period(80), method.until) == (2000, 400, 190)


def photos(folder, data_dir):  # noqa: F811
    small = ["--dataset=photos", f"--data_dir={data_dir}", "--test_split=test", "--image_size=32", "--batch_size=8"]
    small += ["--depth=14", "--widen_factor=0.125", "--epochs=2", "--period=4", "--prune_count=200"]
    return run(RESNET50_IMAGENET, resnet, stream.load, folder, *small)


def test_resnet_on_photos(data_dir, tmp_path):  # noqa: F811
    result = photos(tmp_path, data_dir)
    assert result["steps_per_epoch"] == 5
    assert 0 <= result["test_accuracy"] <= result["test_top_5_accuracy"] == 1  # of three classes
    report = ks.report(keras.models.load_model(tmp_path / "model.keras"))
    assert report.live_weights == round(0.2 * report.sparse_weights)


# After the error, CSVLogger of Keras leaves its file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("harm", ["byte", "end", "all"])
def test_photos_that_cannot_be_read_while_training(data_dir, tmp_path, harm):  # noqa: F811
    folder = shutil.copytree(data_dir, tmp_path / "tfds")
    (path,) = folder.glob("photos/*/*train.tfrecord*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes({"byte": content, "end": content[: len(content) // 2], "all": b""}[harm])
    with pytest.raises(app.UsageError, match="--dataset=photos is damaged or gone.*TFDS prepare it again.*--resume"):
        photos(tmp_path / "run", folder)


def test_the_same_command_gives_the_same_bits(data_dir, tmp_path):  # noqa: F811
    models = []
    for name in "ab":
        wrn(tmp_path / name, data_dir, "--epochs=2", "--seed=3")
        models.append(keras.models.load_model(tmp_path / name / "model.keras"))
    for a, b in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


def test_precision(data_dir, tmp_path):  # noqa: F811
    try:
        wrn(tmp_path, data_dir, "--epochs=1", "--precision=mixed_bfloat16")
        layer = ks.masked_layers(keras.models.load_model(tmp_path / "model.keras"))[0]
        assert (layer.compute_dtype, layer.kernel_variable.dtype) == ("bfloat16", "float32")
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy=multiworker"], "multiworker is refused.*MultiWorkerMirroredStrategy fails.*data_parallel"),
        (["--devices=2"], "--devices=2 has no meaning without a strategy"),
    ],
)
def test_unsupported_strategies_are_refused(arguments, message, data_dir, tmp_path):  # noqa: F811
    with pytest.raises(app.UsageError, match=message):
        wrn(tmp_path, data_dir, *arguments)


def test_a_strategy_of_another_backend_is_refused(data_dir, tmp_path):  # noqa: F811
    other = {"tensorflow": "data_parallel"}.get(keras.backend.backend(), "mirrored")
    with pytest.raises(app.UsageError, match=f"--strategy={other} needs the .* backend.*set KERAS_BACKEND="):
        wrn(tmp_path, data_dir, f"--strategy={other}")


def test_a_batch_that_cannot_be_divided_among_devices_is_refused():
    with pytest.raises(app.UsageError, match="batch of 100 images cannot be divided among 3 devices"):
        devices.check_batch_size(devices.Devices(replicas=3), 100)


@pytest.mark.parametrize(
    ("images", "replicas", "expected"), [(10_000, 1, 1000), (37, 1, 37), (10_000, 8, 1000), (9_972, 4, 36), (6, 2, 6)]
)
def test_devices_share_every_test_batch(images, replicas, expected):
    assert train.evaluation_batch(images, replicas) == expected


# These runs need processes of their own, since devices can only be set before the backend starts.


def start(folder, data_dir, *arguments):  # noqa: F811
    small = ["--dataset=squares", f"--data_dir={data_dir}", "--depth=10", "--widen_factor=0.25", "--batch_size=16"]
    small += ["--epochs=2", "--prune_count=100", "--period=3", "--verbose=0", "--sparsity=0.7", *UNCOMPILED]
    return Script(ROOT / "recipes/wrn_cifar10.py", *small, f"--output_dir={folder}", *arguments)


def assert_same_run(one, other):
    a, b = (keras.models.load_model(x / "model.keras") for x in (one, other))
    for x, y in zip(ks.masked_layers(a), ks.masked_layers(b), strict=True):
        np.testing.assert_array_equal(x.kernel_mask.numpy(), y.kernel_mask.numpy())
    for v, w in zip(a.weights, b.weights, strict=True):
        np.testing.assert_allclose(numpy(v).astype("float32"), numpy(w), atol=2e-4, err_msg=v.path)
    accuracies = [json.loads((x / "result.json").read_text())["test_accuracy"] for x in (one, other)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


@pytest.mark.tensorflow
def test_two_mirrored_devices_give_the_run_of_one(data_dir, tmp_path):  # noqa: F811
    start(tmp_path / "one", data_dir).finish()
    start(tmp_path / "two", data_dir, "--strategy=mirrored", "--devices=2", "--check_replicas").finish()
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.jax
def test_two_jax_devices_and_two_processes_give_the_run_of_one(data_dir, tmp_path):  # noqa: F811
    start(tmp_path / "one", data_dir).finish()
    start(tmp_path / "devices", data_dir, "--strategy=data_parallel", "--devices=2", "--check_replicas").finish()
    assert_same_run(tmp_path / "one", tmp_path / "devices")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"--coordinator=localhost:{free.getsockname()[1]}"
    cluster = ["--strategy=data_parallel", address, "--processes=2", "--check_replicas"]
    for process in [start(tmp_path / "processes", data_dir, *cluster, f"--process={i}") for i in range(2)]:
        process.finish()
    assert_same_run(tmp_path / "one", tmp_path / "processes")

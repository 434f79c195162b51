"""All ways of saving a masked model at any time: dead weights are 0 in the file, and it can be loaded."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_sparse as ks
from nets import assert_dead_is_zero, compiled, mlp, numpy, ready, state
from test_contract import METHODS, assert_equal_states, residual_conv

pytestmark = pytest.mark.long

OPTIMIZERS = {  # The last two optimizers change whole kernels, including dead weights.
    "SGD": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "Muon": lambda: keras.optimizers.Muon(0.05),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.05, epsilon_1=1e-16),  # With the default of 1e-30 it makes NaN.
}
LOAD = """
import json, sys
import keras, keras_sparse

found = {}
for path in sys.argv[1:]:
    if path.endswith(".keras"):
        model = keras.models.load_model(path)
    else:
        net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="first", activation="relu"),
                                keras.layers.Dense(12, name="second", activation="relu"),
                                keras.layers.Dense(3, name="last")])
        model = keras_sparse.sparsify(net, 0.6)
        model.load_weights(path)
    report = keras_sparse.report(model)
    dead = [abs(keras.ops.convert_to_numpy(x.kernel_variable))[~x.kernel_mask.numpy()].sum()
            for x in keras_sparse.masked_layers(model)]
    outputs = keras.ops.convert_to_numpy(model(keras.ops.ones((1, *model.input_shape[1:])))).tolist()
    found[path] = [report.live_weights, float(sum(dead)), outputs]
    assert "tensorflow_model_optimization" not in sys.modules and "tensorflow_datasets" not in sys.modules
print(json.dumps(found))
"""


def trained(blobs, name, *callbacks, optimizer=None, epochs=2):
    """Trains a model with callbacks before and after a method."""
    model = ready(optimizer=optimizer)
    before, after = callbacks
    model.fit(*blobs, batch_size=8, epochs=epochs, callbacks=[*before, METHODS[name](), *after], verbose=0)
    return model


def checkpoints(folder):
    """Returns callbacks of Keras that save during training: after epochs, and between updates."""
    return [
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(folder / "step{batch}.keras", save_freq=5),
    ]


class AfterEachBatch(keras.callbacks.Callback):
    """Checks the variables after each batch, instead of the state tree, which Keras cannot make for Adafactor."""

    looks = 0

    def on_train_batch_end(self, batch, logs=None):
        assert_dead_is_zero(self.model)
        self.looks += 1


def test_files_load_in_a_process_that_has_imported_keras_and_this_package_only(blobs, tmp_path):
    expected = {}
    for name in METHODS:
        folder = tmp_path / name
        model = trained(blobs, name, [], [])
        for path in (folder / "end.keras", folder / "end.weights.h5"):
            path.parent.mkdir(exist_ok=True)
            (model.save if path.suffix == ".keras" else model.save_weights)(path)
            outputs = numpy(model(np.ones((1, 8))))
            expected[str(path)] = [ks.report(model).live_weights, 0.0, pytest.approx(outputs, abs=1e-6)]
    conv = residual_conv()
    conv.save(tmp_path / "conv.keras")
    outputs = numpy(conv(np.ones((1, 8, 8, 2))))
    expected[str(tmp_path / "conv.keras")] = [ks.report(conv).live_weights, 0.0, pytest.approx(outputs, abs=1e-5)]
    process = subprocess.run([sys.executable, "-c", LOAD, *expected], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.strip().splitlines()[-1])
    assert found.keys() == expected.keys()
    for path, (live, dead, outputs) in found.items():
        assert [live, dead, np.array(outputs)] == expected[path], path


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("first", [True, False], ids=["checkpoints first", "method first"])
def test_dead_weights_are_zero_in_every_checkpoint_with_any_order_of_callbacks(blobs, name, optimizer, first, tmp_path):
    after_each = AfterEachBatch()
    savers = [*checkpoints(tmp_path), after_each]
    around = (savers, []) if first else ([], savers)
    trained(blobs, name, *around, optimizer=OPTIMIZERS[optimizer])
    assert after_each.looks == 24
    files = sorted(tmp_path.iterdir())
    assert {f.name for f in files} >= {"1.keras", "2.keras", "1.weights.h5", "2.weights.h5", "step5.keras"}
    for file in files:
        if file.suffix == ".keras":
            model = keras.models.load_model(file)
        else:
            model = mlp()
            model.load_weights(file)
        for weights, mask in state(model):
            assert not weights[~mask].any(), file
            assert weights[mask].any()


@pytest.mark.parametrize("name", METHODS)
def test_a_state_tree_round_trips(blobs, name):
    """Libraries such as Orbax save the state tree."""
    keras.utils.clear_session()  # The tree has the names of models; automatic names are numbered.
    model = compiled(mlp(), keras.optimizers.Adam(0.01))
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[METHODS[name]()], verbose=0)
    tree = keras.tree.map_structure(np.array, model.get_state_tree(value_format="numpy_array"))
    keras.utils.clear_session()
    other = compiled(mlp(seed=9), keras.optimizers.Adam(0.01))
    other.optimizer.build(other.trainable_variables)
    other.set_state_tree(tree)
    assert_equal_states(state(model), state(other))
    assert_dead_is_zero(other)
    for one, same in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(same), err_msg=one.path)
    assert ks.report(other).live_weights == ks.report(model).live_weights


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", METHODS)
def test_a_saved_model_of_tensorflow(blobs, name, tmp_path):
    import tensorflow as tf

    model = trained(blobs, name, [], [])
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(blobs[0]).numpy(), numpy(model(blobs[0])), atol=1e-5)
    values = {v.name: v.numpy() for v in served.variables}
    for layer, (weights, mask) in zip(ks.masked_layers(model), state(model), strict=True):
        (kernel,) = (v for n, v in values.items() if n.split(":")[0] == layer.kernel_variable.path)
        np.testing.assert_array_equal(kernel, weights)
        assert not kernel[~mask].any()

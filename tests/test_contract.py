"""Checks the invariants of every method on every backend. `METHODS` has one row for each method."""

import inspect
import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sparse as ks
from nets import assert_dead_is_zero, live_weights, mlp, needs_steps_per_execution, numpy, ready, state
from processes import Script


def documented_method():
    """Runs the first code block of docs/new_method.md, and returns the source and the class that it defines."""
    guide = Path(__file__).parents[1] / "docs" / "new_method.md"
    source = re.search(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)[1]
    names = {"__name__": "new_method"}
    exec(compile(source, str(guide), "exec"), names)
    return source, names["Beside"]


SOURCE_OF_BESIDE, Beside = documented_method()

METHODS = {
    "Beside": lambda: Beside(fraction=0.2, period=4),
    "DynamicSparse": lambda: ks.DynamicSparse(prune_count=15, period=4, threshold=0.02),
    "DeepR": lambda: ks.DeepR(alpha=1e-3, temperature=1e-4, eta=0.05),
    "GradualPruning": lambda: ks.GradualPruning(lambda step: (step % 4 == 1, min(0.9, 0.6 + 0.03 * step))),
    "RigL": lambda: ks.RigL(period=4, until=3),
    "SET": lambda: ks.SET(fraction=0.3, period=4),
    "Static": lambda: ks.Static(),
}
PRUNED_TO = {"GradualPruning": 0.9}  # the final sparsity of methods that do not keep the budget


def budget_after(name, model):
    """Returns the number of weights that must be live after training."""
    if name in PRUNED_TO:
        return sum(round(w.size * (1 - PRUNED_TO[name])) for w, _ in state(model))
    return live_weights(model)


def residual_conv():
    images = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(6, 3, padding="same", use_bias=False)(images)
    y = keras.layers.BatchNormalization()(x)
    y = keras.layers.Conv2D(6, 3, padding="same")(keras.layers.ReLU()(y))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.add([x, y]))
    return ks.sparsify(keras.Model(images, keras.layers.Dense(3)(x)), 0.7)


NETS = {"mlp": (mlp, (8,)), "residual conv": (residual_conv, (8, 8, 2))}


def data(shape):
    images = np.random.default_rng(0).normal(size=(48, *shape)).astype("float32")
    return images, np.arange(48, dtype="int32") % 3


@pytest.fixture(params=NETS)
def net(request):
    build, shape = NETS[request.param]
    return build, *data(shape)


def fit(model, method, x, y, epochs=2, **kwargs):
    return model.fit(x, y, batch_size=8, epochs=epochs, callbacks=[method], shuffle=False, verbose=0, **kwargs).history


class Trained:
    """Trains a net by one method, and keeps the results.

    The model itself is not kept, since the next call of `ready` trains it again.
    """

    def __init__(self, name, net, folder):
        self.name, (self.build, shape) = name, NETS[net]
        self.x, self.y = data(shape)
        model = ready(self.build)
        self.before, self.budget = live_weights(model), budget_after(name, model)
        self.history = fit(model, METHODS[name](), self.x, self.y)
        self.state, self.predicted = state(model), numpy(model(self.x))
        self.after = live_weights(model)
        assert_dead_is_zero(model)
        self.files = folder / "m.keras", folder / "m.weights.h5"
        model.save(self.files[0])
        model.save_weights(self.files[1])


@pytest.fixture(scope="module", params=list(itertools.product(METHODS, NETS)), ids=" ".join)
def trained(request, tmp_path_factory):
    return Trained(*request.param, tmp_path_factory.mktemp("trained"))


def assert_equal_states(one, other):
    for (a, m), (b, n) in zip(one, other, strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(a, b)


def test_every_exported_method_and_the_documented_one_have_a_row():
    exported = {n for n, x in vars(ks).items() if isinstance(x, type) and issubclass(x, ks.SparseMethod)}
    assert exported - {"SparseMethod", "PerStepMethod"} | {"Beside"} == set(METHODS)


def test_the_documented_method_takes_at_most_25_lines_and_nothing_private():
    block = inspect.cleandoc(SOURCE_OF_BESIDE[SOURCE_OF_BESIDE.index("class Beside") :])
    assert len(block.splitlines()) <= 25
    assert not re.search(r"[ .]_[a-z]", block)


def test_budget_zeros_and_logs(trained):
    history, size = trained.history, sum(w.size for w, _ in trained.state)
    assert trained.after == trained.budget
    assert history["sparsity"][-1] == pytest.approx(1 - trained.budget / size)
    assert sum(history["dropped"]) - sum(history["grown"]) == trained.before - trained.budget
    assert sum(history["dropped"]) > 0 or trained.name == "Static"


def test_save_and_load(trained):
    whole, weights = trained.files
    other = trained.build()
    other.load_weights(weights)
    for loaded in (keras.models.load_model(whole), other):
        assert_equal_states(trained.state, state(loaded))
        np.testing.assert_array_equal(trained.predicted, numpy(loaded(trained.x)))


def test_the_same_run_gives_the_same_bits_and_dead_weights_stay_zero_without_the_callback(trained):
    """Masks must hold between the calls of the callback, and after its last one."""
    model = ready(trained.build)
    fit(model, METHODS[trained.name](), trained.x, trained.y)
    assert_equal_states(trained.state, state(model))
    model.fit(trained.x, trained.y, batch_size=8, verbose=0)  # without the callback
    for (_, n), (_, m) in zip(state(model), trained.state, strict=True):
        np.testing.assert_array_equal(n, m)
    assert_dead_is_zero(model)


@needs_steps_per_execution
def test_steps_per_execution_gives_the_run_of_single_steps(trained):
    model = ready(trained.build, steps_per_execution=2)
    fit(model, METHODS[trained.name](), trained.x, trained.y)
    for (a, m), (b, n) in zip(trained.state, state(model), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_compiled_by_xla_and_in_mixed_precision(name, net):
    if keras.backend.backend() == "torch":
        pytest.skip("Keras compiles torch models by torch.compile, which needs a C++ compiler at run time")
    build, x, y = net
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = ready(build, jit_compile=True, steps_per_execution=2)
    finally:
        keras.config.set_dtype_policy("float32")
    budget = budget_after(name, model)
    history = fit(model, METHODS[name](), x, y)
    assert np.isfinite(history["loss"]).all()
    assert live_weights(model) == budget
    assert_dead_is_zero(model)


@pytest.mark.long
@pytest.mark.tensorflow
def test_two_logical_devices():
    """Runs in a process of its own, since logical devices can only be set before TensorFlow starts."""
    printed = Script(Path(__file__).with_name("two_devices.py")).finish()
    assert [line for line in printed.splitlines() if line in METHODS] == list(METHODS)

"""What every method keeps, on every backend: one row a method."""

from pathlib import Path

import keras
import numpy as np
import pytest
from nets import assert_dead_is_zero, live_weights, mlp, needs_steps_per_execution, numpy, ready, state
from processes import Script

import keras_sparse as ks

METHODS = {
    "DynamicSparse": lambda: ks.DynamicSparse(prune_count=15, period=4, threshold=0.02),
    "DeepR": lambda: ks.DeepR(alpha=1e-3, temperature=1e-4, eta=0.05),
    "GradualPruning": lambda: ks.GradualPruning(lambda step: (step % 4 == 1, min(0.9, 0.6 + 0.03 * step))),
    "RigL": lambda: ks.RigL(period=4, until=3),
    "SET": lambda: ks.SET(fraction=0.3, period=4),
    "Static": lambda: ks.Static(),
}
PRUNED_TO = {"GradualPruning": 0.9}  # methods that do not keep the budget they start with


def budget_after(name, model):
    """How many weights must live after training by a method."""
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


@pytest.fixture(params=NETS)
def net(request):
    build, shape = NETS[request.param]
    images = np.random.default_rng(0).normal(size=(48, *shape)).astype("float32")
    return build, images, np.arange(48, dtype="int32") % 3


def fit(model, method, x, y, epochs=2, **kwargs):
    return model.fit(x, y, batch_size=8, epochs=epochs, callbacks=[method], shuffle=False, verbose=0, **kwargs).history


def assert_equal_states(one, other):
    for (a, m), (b, n) in zip(one, other, strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(a, b)


def test_every_exported_method_is_in_the_contract():
    exported = {n for n, x in vars(ks).items() if isinstance(x, type) and issubclass(x, ks.SparseMethod)}
    assert exported - {"SparseMethod"} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_budget_zeros_and_logs(name, net):
    build, x, y = net
    model = ready(build)
    before, budget = live_weights(model), budget_after(name, model)
    history = fit(model, METHODS[name](), x, y)
    assert live_weights(model) == budget
    assert_dead_is_zero(model)
    size = sum(w.size for w, _ in state(model))
    assert history["sparsity"][-1] == pytest.approx(1 - budget / size)
    assert sum(history["dropped"]) - sum(history["grown"]) == before - budget
    assert sum(history["dropped"]) > 0 or name == "Static"


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_twice_gives_the_same_bits(name, net):
    build, x, y = net
    runs = []
    for _ in range(2):
        model = ready(build)
        fit(model, METHODS[name](), x, y)
        runs.append(state(model))
    assert_equal_states(*runs)


@pytest.mark.parametrize("name", METHODS)
def test_save_and_load(name, net, tmp_path):
    build, x, y = net
    model = ready(build)
    fit(model, METHODS[name](), x, y)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    other = build()
    other.load_weights(tmp_path / "m.weights.h5")
    for loaded in (keras.models.load_model(tmp_path / "m.keras"), other):
        assert_equal_states(state(model), state(loaded))
        np.testing.assert_array_equal(numpy(model(x[:4])), numpy(loaded(x[:4])))


@needs_steps_per_execution
@pytest.mark.parametrize("name", METHODS)
def test_steps_per_execution_gives_the_run_of_single_steps(name, net):
    build, x, y = net
    runs = []
    for per_execution in (1, 2):
        model = ready(build, steps_per_execution=per_execution)
        fit(model, METHODS[name](), x, y)
        runs.append(state(model))
    for (a, m), (b, n) in zip(*runs, strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(a, b, atol=1e-5)


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


@pytest.mark.parametrize("name", METHODS)
def test_nothing_regrows_after_the_last_update(name, net):
    """Defect 1: pruned weights regrow between a callback's calls and after its last step."""
    build, x, y = net
    model = ready(build)
    fit(model, METHODS[name](), x, y)
    masks = [m for _, m in state(model)]
    model.fit(x, y, batch_size=8, verbose=0)  # without the callback
    for (_, n), m in zip(state(model), masks, strict=True):
        np.testing.assert_array_equal(m, n)
    assert_dead_is_zero(model)


@pytest.mark.tensorflow
def test_two_logical_devices():
    """In a process of its own: logical devices can only be set before TensorFlow starts."""
    printed = Script(Path(__file__).with_name("two_devices.py")).finish()
    assert [line for line in printed.splitlines() if line in METHODS] == list(METHODS)

"""Tests unusual training: every method keeps its budget and dead weights at 0, or raises a clear error."""

import keras
import numpy as np
import pytest

import keras_sparse as ks
from nets import assert_dead_is_zero, live_weights, mlp, needs_steps_per_execution, numpy, ready, state
from test_contract import METHODS, PRUNED_TO, assert_equal_states, budget_after

pytestmark = [pytest.mark.long, pytest.mark.parametrize("name", METHODS)]


def fit(model, blobs, *callbacks, epochs=2, **kwargs):
    settings = {"batch_size": 8, "verbose": 0, **kwargs}
    return model.fit(*blobs, epochs=epochs, callbacks=list(callbacks), **settings).history


def masks(model):
    return [m for _, m in state(model)]


def assert_masks_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


class Look(keras.callbacks.Callback):
    """Records the masks before the first step."""

    def on_train_begin(self, logs=None):
        self.before = None

    def on_train_batch_begin(self, batch, logs=None):
        self.before = self.before or masks(self.model)


def clipped():
    return keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_leave_the_masks_alone_and_give_one_warning(blobs, name, bad):
    model = ready(optimizer=clipped)
    x, look = blobs[0].copy(), Look()
    x[:, 3] = bad  # in each batch, so that all updates after the first step are skipped
    if name == "Static":  # it makes no updates
        fit(model, (x, blobs[1]), METHODS[name](), look)
    else:
        with pytest.warns(
            UserWarning, match=f"{name} skipped its update at step .*NaN or infinite.*TerminateOnNaN"
        ) as w:
            fit(model, (x, blobs[1]), METHODS[name](), look)
        assert [x.category for x in w].count(UserWarning) == 1
    assert_masks_equal(look.before, masks(model))
    assert_dead_is_zero(model)


def test_a_fit_with_no_epoch_left(blobs, name):
    """This happens when a run that was killed after its last epoch is resumed."""
    model = ready()
    fit(model, blobs, METHODS[name]())
    before = state(model)
    fit(model, blobs, METHODS[name](), initial_epoch=2)
    assert_equal_states(before, state(model))


def layer_used_twice():
    inputs = keras.Input((8,))
    shared = keras.layers.Dense(8, activation="relu", name="shared")
    x = shared(shared(inputs))
    return ks.sparsify(keras.Model(inputs, keras.layers.Dense(3)(x)), 0.5)


def test_a_layer_used_twice(blobs, name):
    model = ready(layer_used_twice)
    assert len(ks.masked_layers(model)) == 2
    budget = budget_after(name, model)
    fit(model, blobs, METHODS[name]())
    assert live_weights(model) == budget
    assert_dead_is_zero(model)


def test_fit_twice_with_one_callback(blobs, name):
    model = ready()
    method, budget = METHODS[name](), budget_after(name, model)
    moved = sum(sum(fit(model, blobs, method)["dropped"]) for _ in range(2))
    assert live_weights(model) == budget
    assert (moved > 0) == (name != "Static")
    assert_dead_is_zero(model)


def test_one_callback_on_two_models(blobs, name):
    """The second model is trained as with a callback of its own."""
    method, ends = METHODS[name](), []
    fit(ready(mlp, 0.7), blobs, method)
    for callback in (method, METHODS[name]()):
        model = ready()
        fit(model, blobs, callback, shuffle=False)
        ends.append(state(model))
    for (w, m), (v, n) in zip(*ends, strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(w, v)


def test_train_on_batch(blobs, name):
    model = ready(mlp, 0.0 if name == "GradualPruning" else 0.6)
    probe = (blobs[0][:8], blobs[1][:8])  # Outside `fit`, RigL does not see the training batches.
    method = ks.RigL(period=4, until=3, probe=probe) if name == "RigL" else METHODS[name]()
    budget, start = budget_after(name, model), masks(model)
    for step in range(1, 25):
        batch = slice(8 * (step % 12), 8 * (step % 12) + 8)
        model.train_on_batch(blobs[0][batch], blobs[1][batch])
        if step % 4 == 1:
            method.update(model, step)
            assert_dead_is_zero(model)
    assert live_weights(model) == budget
    assert all(map(np.array_equal, masks(model), start)) == (name == "Static")


def test_class_weights_and_sample_weights(blobs, name):
    for weighting in ({"class_weight": {0: 1.0, 1: 0.0, 2: 3.0}}, {"sample_weight": np.linspace(0, 2, 96)}):
        model = ready()
        budget = budget_after(name, model)
        history = fit(model, blobs, METHODS[name](), **weighting)
        assert np.isfinite(history["loss"]).all()
        assert live_weights(model) == budget
        assert_dead_is_zero(model)


@needs_steps_per_execution
def test_a_batch_count_that_steps_per_execution_does_not_divide(blobs, name):
    runs = []
    for per_execution in (1, 4):
        model = ready(steps_per_execution=per_execution)
        fit(model, (blobs[0][:72], blobs[1][:72]), METHODS[name](), epochs=1, shuffle=False)  # nine batches
        assert int(numpy(model.optimizer.iterations)) == 9
        assert_dead_is_zero(model)
        runs.append(live_weights(model))
    assert runs[0] == runs[1] or name in PRUNED_TO  # which prunes before steps 1 and 5, at steps 4 and 8 here


def sparse_already():
    return ks.sparsify(ks.densify(mlp(0.7)), sparsity=None)


def test_an_already_sparse_start(blobs, name):
    model = ready(sparse_already)
    assert live_weights(model) == live_weights(mlp(0.7))
    budget = budget_after(name, model)
    fit(model, blobs, METHODS[name]())
    assert live_weights(model) == budget
    assert_dead_is_zero(model)


@pytest.mark.filterwarnings("ignore:.*(can move nothing|none of them dropped):UserWarning")
@pytest.mark.parametrize("sparsity", [0.0, 0.02, 0.97])
def test_nearly_dense_and_nearly_empty(blobs, name, sparsity):
    """Layers with fewer free positions than weights to move, and with one live weight, which must be kept."""
    model = ready(mlp, sparsity)
    budget = budget_after(name, model)
    method = ks.DynamicSparse(3, 4, threshold=10.0) if name == "DynamicSparse" else METHODS[name]()
    if name == "GradualPruning" and sparsity == 0.97:  # sparser than the end of the schedule
        budget = live_weights(model)
    fit(model, blobs, method)
    assert live_weights(model) == budget
    assert all(m.any() for m in masks(model))
    assert_dead_is_zero(model)

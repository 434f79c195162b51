"""Tests DeepR: by hand, and both variants against plain Python in a real fit."""

import collections
import functools
import itertools
import math
import re

import keras
import numpy as np
import pytest

import keras_sparse as ks
import threefry as plain
from keras_sparse.backend import tensors
from keras_sparse.layers import MaskedDense
from keras_sparse.training import rewiring
from keras_sparse.training.layer_state import layer_specs, variables_of
from keras_sparse.training.optimizer_state import slots
from nets import assert_dead_is_zero, compiled, live_weights, mlp, needs_steps_per_execution, numpy, ready, state
from replay import Replay


def signs_for_life(seed, first, size):
    return np.array([plain.sign(plain.key_of(seed), first + i) for i in range(size)])


def reference(reading, seed, alpha, temperature, eta, rate, momentum, now):
    """DeepR in plain Python, written from the paper, in the form that `Replay` takes."""
    signs, key = {}, plain.key_of(seed)

    def step(weights, masks, choose):
        gone, grown, first = [], [], 0
        for layer, (w, m) in enumerate(zip(weights, masks, strict=True)):
            sign = signs[layer]
            live = [i for i in range(len(w)) if m[i]]
            for i in live:
                noise = plain.deviation(eta, temperature) * plain.normal(key, first + i, now())
                if reading == "bellec":
                    w[i] += noise - eta * alpha * sign[i]
                else:
                    w[i] -= rate * (1 + momentum) * (noise + alpha * ((w[i] > 0) - (w[i] < 0)))
            crossed = [i for i in live if w[i] * sign[i] < 0]
            dead = [i for i in range(len(w)) if not m[i]]
            activated, lost = plain.activate(key, now(), layer, dead, crossed, len(w))
            first += len(w)
            for i in live:
                if reading == "table_4":
                    sign[i] = 0 if i in lost else (w[i] > 0) - (w[i] < 0)
                elif i in crossed and i not in lost:
                    w[i] = 0
            gone.append(lost)
            grown.append(set(activated))
        return gone, grown

    step.signs = signs
    return step


class NoteSigns(keras.callbacks.Callback):
    """Records the signs before the first step."""

    def __init__(self, signs, seed, reading):
        super().__init__()
        self.signs, self.seed, self.reading = signs, seed, reading

    def on_epoch_begin(self, epoch, logs=None):
        first = 0
        for i, (w, _) in enumerate(state(self.model) if epoch == 0 else ()):
            if self.reading == "bellec":
                self.signs[i] = signs_for_life(self.seed, first, w.size).tolist()
                first += w.size
                assert (w.ravel() * self.signs[i] >= 0).all()
            else:
                self.signs[i] = np.sign(w.ravel()).astype(int).tolist()


@pytest.mark.parametrize("reading", ["bellec", "table_4"])
@pytest.mark.parametrize(("sparsity", "seed"), [(0.8, 0), (0.3, 1)])
def test_a_real_fit_replayed_in_plain_python(blobs, reading, sparsity, seed):
    alpha, temperature, eta = (1e-2, 3e-3, 0.02) if reading == "bellec" else (0.05, 0.5, 0.01)
    model = ready(mlp, sparsity, seed, run_eagerly=True)  # SGD(0.05), Nesterov momentum 0.9
    step = reference(reading, seed, alpha, temperature, eta, 0.05, 0.9, lambda: replay.step)
    replay = Replay(step, period=1, seed=seed, tolerance=1e-6, inside=True)
    method = ks.DeepR(alpha, temperature, eta, reading=reading, seed=seed)
    callbacks = [*replay.around(method), NoteSigns(step.signs, seed, reading)]
    history = model.fit(*blobs, batch_size=8, epochs=2, callbacks=callbacks, verbose=0).history
    assert replay.updates == 24
    assert sum(history["dropped"]) > 15


def one_layer(weights):
    model = keras.Sequential([keras.Input((2,)), MaskedDense(3, use_bias=False)])
    (layer,) = model.layers
    weights = np.reshape(weights, (2, 3)).astype("float32")
    layer.kernel_variable.assign(weights)
    layer.kernel_mask.value.assign(weights != 0)
    return compiled(model, keras.optimizers.SGD(0.1)), layer


def test_weights_that_cross_zero_are_replaced_by_new_ones_at_zero():
    model, layer = one_layer([0.5, -0.4, 0.3, 0.2, 0, 0])
    method = ks.DeepR(alpha=0.0, temperature=0.0, reading="table_4")
    method.update(model, 1)
    assert numpy(layer.kernel_variable).ravel() == pytest.approx([0.5, -0.4, 0.3, 0.2, 0, 0])
    layer.kernel_variable.assign([[0.5, 0.1, 0.3], [-0.1, 0, 0]])  # the second and the fourth crossed
    method.update(model, 2)
    assert numpy(layer.kernel_variable).ravel() == pytest.approx([0.5, 0, 0.3, 0, 0, 0])
    assert layer.kernel_mask.numpy().ravel().tolist() == [True, False, True, False, True, True]
    layer.kernel_variable.assign([[0.5, 0, 0.3], [0, 0.01, -0.02]])  # new weights take the sign of their first move
    method.update(model, 3)
    assert layer.kernel_mask.numpy().ravel().tolist() == [True, False, True, False, True, True]
    layer.kernel_variable.assign([[0.5, 0, 0.3], [0, -0.01, -0.01]])
    method.update(model, 4)
    assert not layer.kernel_mask.numpy()[1, 1]
    assert live_weights(model) == 4


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_gradient_term_can_be_added_after_the_step_of_sgd(momentum, nesterov):
    """SGD with momentum is linear in the gradient. The L1 term is tested, since it needs no random numbers."""
    gradients, alpha = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32"), 0.3
    results = []
    for after in (False, True):
        model, layer = one_layer([5.0] * 6)  # large weights, which never become negative
        model.optimizer = sgd = keras.optimizers.SGD(0.1, momentum, nesterov)
        sgd.build([layer.kernel_variable])
        method = ks.DeepR(alpha=alpha, temperature=0.0, reading="table_4")
        for step, g in enumerate(gradients, start=1):
            sgd.apply([keras.ops.convert_to_tensor(g if after else g + alpha)])
            if after:
                method.update(model, step)
        results.append(numpy(layer.kernel_variable))
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_fixed_signs_negate_weights_of_a_new_network_only(blobs, tmp_path):
    model = ready(mlp, 0.8)
    fresh = [w for w, _ in state(model)]
    model.fit(*blobs, batch_size=96, epochs=1, callbacks=[ks.DeepR(1e-4, 1e-6, seed=3)], verbose=0)
    reflected = first = 0
    for before, (w, m) in zip(fresh, state(model), strict=True):
        signs = signs_for_life(3, first, w.size).reshape(w.shape)
        first += w.size
        assert (w[m] * signs[m] >= 0).all()
        reflected += np.count_nonzero(before[m] * signs[m] < 0)
    assert 20 < reflected < 51  # of 71
    trained = state(model)
    for seed, changes in ((3, False), (4, True)):
        ks.DeepR(1e-4, 1e-6, seed=seed).start(model, model.optimizer)
        assert any((w != v).any() for (w, _), (v, _) in zip(trained, state(model), strict=True)) == changes


def test_temperature_and_alpha_by_epoch(blobs):
    model = ready(mlp, 0.8)
    method = ks.DeepR(alpha={0: 1e-3, 1: 0.0}, temperature={0: 1e-2, 1: 0.0}, eta=0.1)
    history = model.fit(*blobs, batch_size=8, epochs=3, callbacks=[method], verbose=0).history
    assert history["dropped"][0] > 3 * history["dropped"][2]


@pytest.mark.parametrize("optimizer", ["Adam", "Muon", "Adagrad", "accumulating", "scaled"])
def test_any_optimizer(blobs, optimizer):
    """If the optimizer makes no step, the walk makes none either."""
    made = {
        "accumulating": lambda: keras.optimizers.SGD(0.05, 0.9, gradient_accumulation_steps=3),
        "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05, 0.9)),
    }
    model = compiled(mlp(0.8), made.get(optimizer, lambda: getattr(keras.optimizers, optimizer)(0.01))())
    method, masks = ks.DeepR(0.05, 5.0, 0.05, reading="table_4"), []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append([m for _, m in state(self.model)])

    history = model.fit(*blobs, batch_size=8, epochs=2, callbacks=[method, Look()], verbose=0).history
    assert live_weights(model) == 71
    assert sum(history["dropped"]) > 0
    assert_dead_is_zero(model)
    if optimizer == "accumulating":
        same = [all(map(np.array_equal, a, b)) for a, b in itertools.pairwise(masks)]
        assert all(kept for batch, kept in enumerate(same, start=2) if batch % 3)


@needs_steps_per_execution
def test_steps_per_execution_gives_the_run_of_single_steps(blobs):
    runs = []
    for steps in (1, 5):
        runs.append(ready(mlp, 0.8, steps_per_execution=steps))
        history = (
            runs[-1]
            .fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.DeepR(1e-2, 1e-3, 0.02)], shuffle=False, verbose=0)
            .history
        )
        assert sum(history["dropped"]) > 5
    for (w, m), (v, n) in zip(*map(state, runs), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(w, v, atol=1e-6)


@pytest.mark.parametrize(("hook", "callbacks"), [("end", []), ("begin", [ks.Static()])], ids=["end", "begin"])
def test_an_interrupted_fit_leaves_no_walk_in_the_next_fit(blobs, hook, callbacks):
    def stop(batch, logs=None):
        raise KeyboardInterrupt

    cut = keras.callbacks.LambdaCallback(**{f"on_train_batch_{hook}": stop})
    model = ready(mlp, 0.8)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*blobs, batch_size=8, callbacks=[ks.DeepR(0.1, 0.1, 0.05), cut], verbose=0)
    before = [m for _, m in state(model)]
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=callbacks, verbose=0)
    for (_, m), n in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(m, n)
    assert_dead_is_zero(model)


def test_a_mask_changed_by_other_code_raises_an_error(blobs):
    model = ready(mlp, 0.8)

    class Meddle(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            mask = ks.masked_layers(self.model)[1].kernel_mask.value
            mask.assign(np.ones(mask.shape, bool))

    with pytest.raises(
        RuntimeError, match="DeepR broke an invariant: 38 weights of 'second' must be live after step 6"
    ):
        model.fit(*blobs, batch_size=16, callbacks=[Meddle(), ks.DeepR(1e-3, 1e-4)], verbose=0)


def test_masks_stay_fixed_after_until(blobs):
    model = ready(mlp, 0.8)
    history = model.fit(
        *blobs, batch_size=8, epochs=4, callbacks=[ks.DeepR(0.1, 0.1, 0.05, until=2)], verbose=0
    ).history
    assert history["dropped"][1] > 0
    assert history["dropped"][2:] == [0, 0]


ROWS, COLUMNS = 1100, 1000  # of a kernel so large that its mask is handled alone


def large_layer(reading):
    """Returns the function that acts on a large layer within the step, and its arguments."""
    model = keras.Sequential([keras.Input((ROWS,)), MaskedDense(COLUMNS, use_bias=False, sparsity=0.999)])
    model.compile(keras.optimizers.SGD(0.1, 0.9))
    method = ks.DeepR(1e-3, 1e-6, reading=reading)
    specs = layer_specs(model)
    weights = ks.masked_weights(model)
    own, variables = method.begin(specs, weights), variables_of(weights, model.optimizer)
    method._epoch = 0
    values = keras.tree.map_structure(numpy, variables)
    return functools.partial(method.act_on_layers, specs), (
        np.int32(1),
        np.float32(0.1),
        method.settings(),
        values,
        own,
    )


@pytest.mark.parametrize("reading", ["bellec", "table_4"])
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="counts what a compiler makes")
def test_only_single_elements_of_a_large_layer_are_read_and_written(reading):
    """The time must depend on the live weights only: no array of the size of the kernel is computed or copied."""
    act, arguments = large_layer(reading)
    if keras.backend.backend() == "jax":
        import jax

        # Donated buffers, as in a training step, may be written in place.
        compiled_act = jax.jit(act, donate_argnums=(3, 4)).lower(*arguments).compile().as_text()
        found = re.findall(r"= \(?\w+\[([\d,]*)\]\S* ([\w-]+)\(", compiled_act)
        found = [(op, math.prod(map(int, filter(None, shape.split(","))))) for shape, op in found]
        scatters, allowed = "scatter", {"parameter", "get-tuple-element", "bitcast", "fusion"}
    else:
        import tensorflow as tf

        graph = tf.function(act, autograph=False).get_concrete_function(*tensors(arguments)).graph
        functions = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
        found = [
            (op.type, output.shape.num_elements() or 0)
            for graph in functions
            for op in graph.get_operations()
            for output in op.outputs
        ]
        scatters, allowed = "TensorScatterUpdate", {"Placeholder", "Identity", "Reshape", "While", "StatelessWhile"}
    large = collections.Counter(op for op, size in found if size >= ROWS * COLUMNS)
    assert set(large) - allowed == {scatters}
    assert large["fusion"] <= large[scatters]  # XLA fuses each scatter with the computation of its updates.
    # One scatter each for kernel, momentum, new mask elements and dropped ones.
    assert large[scatters] in (3, 4)


def test_too_many_weights_for_the_draws_are_refused(blobs, monkeypatch):
    monkeypatch.setattr(rewiring, "MOST_POSITIONS", 355)
    model = compiled(mlp(0.8))
    with pytest.raises(ValueError, match="at most 355. Received: 356 weights.*use another method"):
        model.fit(*blobs, callbacks=[ks.DeepR(1e-3, 1e-4)], verbose=0)
    with pytest.raises(ValueError, match="at most 355. Received: 356 weights.*use another method"):
        ks.DeepR(1e-3, 1e-4).update(model, 1)


def test_a_custom_loop_needs_the_learning_rate(blobs):
    model = mlp(0.8)
    with pytest.raises(ValueError, match="goes by the optimizer's learning rate.*Pass optimizer=... of the loop"):
        ks.DeepR(1e-3, 1e-4).update(model, 1)


def test_masks_over_slices_are_refused():
    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    model = compiled(ks.sparsify(model, 0.5, granularity="kernel_slice"))
    with pytest.raises(ValueError, match='single weights.*granularity="weight"'):
        model.fit(np.zeros((4, 8, 8, 2)), np.zeros(4), callbacks=[ks.DeepR(1e-5, 1e-5)], verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1e-5}, "`alpha` must be a number of at least 0. Received: alpha=-1e-05"),
        ({"temperature": {0: "hot"}}, "`temperature` must be a number of at least 0. Received: temperature='hot'"),
        ({"eta": 0}, "`eta` must be a number above 0. Received: eta=0"),
        ({"reading": "mine"}, "`reading` must be one of .*'bellec', 'table_4'.*Received: reading='mine'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.DeepR(**{"alpha": 1e-5, "temperature": 1e-5, **arguments})


@pytest.mark.parametrize("reading", ["bellec", "table_4"])
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless its flag is set")
def test_in_double_precision(blobs, reading):
    keras.config.set_floatx("float64")
    try:
        model = ready(mlp)
        before = [m for _, m in state(model)]
        method = ks.DeepR(alpha=1e-3, temperature=1e-2, reading=reading)
        model.fit(blobs[0].astype("float64"), blobs[1], batch_size=8, epochs=2, callbacks=[method], verbose=0)
        assert any((a != b).any() for a, (_, b) in zip(before, state(model), strict=True))
        assert live_weights(model) == sum(map(np.count_nonzero, before))
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -3}, "`step` must be an int of at least 0"),
        ({"step": 1, "epoch": 1.5}, "`epoch` must be an int of at least 0"),
        (
            {"step": 1, "optimizer": "sgd"},
            "`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer='sgd'",
        ),
    ],
)
def test_bad_arguments_of_an_update(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.DeepR(alpha=1e-3, temperature=1e-2).update(ready(mlp), **arguments)


def test_update_may_follow_a_fit_with_the_same_method(blobs):
    model, method = ready(mlp), ks.DeepR(alpha=1e-3, temperature=1e-2)
    model.fit(*blobs, batch_size=8, callbacks=[method], verbose=0)
    before = state(model)
    for step in range(13, 20):
        model.train_on_batch(*blobs)
        method.update(model, step)
    assert any((a != b).any() for (_, a), (_, b) in zip(before, state(model), strict=True))
    assert sum(m.sum() for _, m in before) == sum(m.sum() for _, m in state(model))


def test_negated_weights_stay_so_with_an_optimizer_that_copies_them(blobs):
    """ScheduleFreeAdamW computes the weights from a slot that starts as their copy."""
    model = compiled(mlp(), keras.optimizers.ScheduleFreeAdamW(1e-6))
    history = model.fit(*blobs, batch_size=96, callbacks=[ks.DeepR(0.0, 0.0)], verbose=0).history
    assert history["dropped"] == [0]
    first = ks.masked_layers(model)[0]
    mask = first.kernel_mask.numpy()
    signs = signs_for_life(0, 0, mask.size).reshape(mask.shape)
    assert (numpy(first.kernel_variable)[mask] * signs[mask] > 0).all()


def test_an_update_of_a_model_that_is_not_compiled(blobs):
    """ScheduleFreeAdamW holds a copy of the weights, which must be negated with them."""
    model, optimizer = mlp(), keras.optimizers.ScheduleFreeAdamW(1e-6)
    optimizer.build(model.trainable_variables)
    before = state(model)
    ks.DeepR(0.0, 0.0).update(model, 1, optimizer=optimizer)
    for layer, (weights, mask) in zip(ks.masked_layers(model), before, strict=True):
        now, copies = numpy(layer.kernel_variable), [numpy(v) for v, _ in slots(optimizer, layer.kernel_variable)]
        np.testing.assert_array_equal(abs(now[mask]), abs(weights[mask]))
        assert any((now[mask] == copy[mask]).all() for copy in copies)
    assert_dead_is_zero(compiled(model))

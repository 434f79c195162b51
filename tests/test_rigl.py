"""Tests RigL: the dense gradient, by hand, and against plain Python in a real fit."""

import math

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.layers import MaskedDense
from keras_sparse.training.growth import LargestGradient
from nets import compiled, live_weights, mlp, needs_steps_per_execution, numpy, ready, state
from replay import Replay


def dense_gradients(model, layers):
    """Returns a function from a batch to the gradients that RigL uses."""

    def take(*batch):
        growth = LargestGradient("RigL", probe=batch)
        return [s.gradient for s in growth.observe(model, layers)]

    return take


def losses(model, x, y, layer, position, by):
    """Computes the training loss of the dense twin with one weight changed."""
    kernel = numpy(layer.kernel_variable).copy()
    kernel.flat[position] += by
    mask = layer.kernel_mask.numpy().copy()
    mask.flat[position] = True
    before = numpy(layer.kernel_variable).copy(), layer.kernel_mask.numpy().copy()
    layer.kernel_variable.assign(kernel)
    layer.kernel_mask.value.assign(mask)
    loss = float(numpy(model.compute_loss(x=x, y=y, y_pred=model(x, training=True))))
    layer.kernel_variable.assign(before[0])
    layer.kernel_mask.value.assign(before[1])
    return loss


def test_dense_gradients_equal_differences_of_the_loss_for_dead_weights_too(blobs):
    model = ready(mlp, 0.7, 1)
    x, y = (keras.ops.convert_to_tensor(a) for a in blobs)
    layers = ks.masked_layers(model)
    for i, layer in enumerate(layers):  # biases, so that units without live inputs are not at the kink of ReLU
        layer.bias.assign(np.random.default_rng(i).normal(size=layer.bias.shape))
    gradients = dense_gradients(model, ks.masked_weights(model))(x, y, None)
    for layer, gradient in zip(layers, gradients, strict=True):
        assert gradient.shape == tuple(layer.kernel_variable.shape)
        dead = np.flatnonzero(~layer.kernel_mask.numpy())[::7]
        live = np.flatnonzero(layer.kernel_mask.numpy())[::5]
        for position in [*dead, *live]:
            up, down = (losses(model, x, y, layer, position, by) for by in (2e-3, -2e-3))
            assert gradient.flat[position] == pytest.approx((up - down) / 4e-3, abs=2e-3)
    assert np.abs(gradients[0][~layers[0].kernel_mask.numpy()]).max() > 0.01


def test_the_dense_gradient_includes_that_of_regularizers():
    kernel, other = keras.regularizers.L2(0.5), keras.regularizers.L2(3.0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            MaskedDense(3, sparsity=0.5, kernel_regularizer=kernel, bias_regularizer=other),
            keras.layers.BatchNormalization(gamma_regularizer=other),
        ]
    )
    model.compile("sgd", lambda y, p: 0.0 * keras.ops.sum(p))
    (layer,) = ks.masked_layers(model)
    (gradient,) = dense_gradients(model, layer.masked_weights)(
        np.ones((2, 4), "float32"), np.zeros((2, 3), "float32"), None
    )
    live = layer.kernel_mask.numpy()
    np.testing.assert_allclose(gradient, np.where(live, numpy(layer.kernel_variable), 0), atol=1e-6)


def test_dense_gradients_change_no_variable():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    model = compiled(ks.sparsify(model, 0.5))
    model.optimizer.build(model.trainable_variables)
    x, y = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 3
    before = [numpy(v).copy() for v in [*model.variables, *model.optimizer.variables]]
    gradients = dense_gradients(model, ks.masked_weights(model))
    first = gradients(x, y, None)
    for v, b in zip([*model.variables, *model.optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(numpy(v), b)
    for layer in ks.masked_layers(model):
        layer.kernel_variable.assign(numpy(layer.kernel_variable) * 2)
    assert (first[0] != gradients(x, y, None)[0]).any()  # the gradient is that of the current weights
    weighted = gradients(x, y, np.zeros(8, "float32"))
    assert not np.abs(weighted[0]).any()


@pytest.mark.parametrize(("sparsity", "fraction"), [(0.8, 0.3), (0.4, 0.6)])
def test_a_real_fit_replayed_in_plain_python(blobs, sparsity, fraction):
    x, y = blobs
    model = ready(mlp, sparsity)
    total = 24  # two of four epochs of twelve steps

    def reference(weights, masks, choose):
        batch = slice((replay.step - 1) % 12 * 8, (replay.step - 1) % 12 * 8 + 8)
        scale = fraction / 2 * (1 + math.cos(math.pi * replay.step / total))
        gradients = in_numpy(model, weights, masks, x[batch], y[batch])
        gone, grown = [], []
        for w, m, g in zip(weights, masks, gradients, strict=True):
            live, free = ([i for i in range(len(w)) if m[i] == alive] for alive in (True, False))
            count = min(round(scale * len(live)), len(free), len(live) - 1)
            gone.append(set(sorted(live, key=lambda i: abs(w[i]))[:count]))
            grown.append(set(sorted(free, key=lambda i: -abs(g[i]))[:count]))
        return gone, grown

    replay = Replay(reference, period=4, until=total - 1)
    method = ks.RigL(fraction, period=4, until=2)
    model.fit(x, y, batch_size=8, epochs=4, callbacks=replay.around(method), shuffle=False, verbose=0)
    assert replay.updates == 5


def in_numpy(model, weights, masks, x, y):
    """Computes the gradients of the mean cross-entropy of the three-layer net by hand."""
    kernels = [np.reshape(w, v.shape) for w, (v, _) in zip(weights, state(model), strict=True)]
    biases = [numpy(layer.bias) for layer in ks.masked_layers(model)]
    inputs = [x.astype("float64")]
    for i, (k, b) in enumerate(zip(kernels, biases, strict=True)):
        z = inputs[-1] @ k + b
        inputs.append(np.maximum(z, 0) if i < 2 else z)
    logits = inputs.pop()
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    delta = (p - np.eye(3)[y]) / len(y)
    gradients = []
    for i in (2, 1, 0):
        gradients.insert(0, (inputs[i].T @ delta).ravel().tolist())
        delta = (delta @ kernels[i].T) * (inputs[i] > 0)
    return gradients


@needs_steps_per_execution
@pytest.mark.parametrize("per_execution", [2, 4, 5])
def test_executions_of_several_steps_train_on_every_batch_once(blobs, per_execution):
    """The batch on which the gradient is computed is trained on, too."""
    x, y = blobs
    models = []
    for n in (1, per_execution):
        models.append(ready(mlp, 0.8, steps_per_execution=n))
        method = ks.RigL(0.3, period=12, until=2)
        models[-1].fit(x, y, batch_size=8, epochs=3, callbacks=[method], shuffle=False, verbose=0)
        assert int(numpy(models[-1].optimizer.iterations)) == 36
    for (w, m), (v, n) in zip(*map(state, models), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(w, v, atol=1e-5)


def test_a_probe_batch_is_used_instead(blobs):
    x, y = blobs
    model = ready(mlp, 0.8)
    before = state(model)
    method = ks.RigL(0.3, period=5, until=10, probe=(x[:16], y[:16]))
    method.update(model, step=5)
    gradients = in_numpy(model, [w.ravel() for w, _ in before], None, x[:16], y[:16])
    for (_, m), (_, n), g in zip(before, state(model), gradients, strict=True):
        grown, free = np.flatnonzero(n & ~m), np.flatnonzero(~m)
        assert len(grown)
        best = sorted(free, key=lambda i: -abs(g[i]))[: len(grown)]
        assert set(grown) == set(best)


def test_the_train_function_is_restored(blobs):
    model = ready(mlp, 0.8)
    for _ in range(2):
        model.fit(*blobs, batch_size=8, epochs=1, callbacks=[ks.RigL(period=4, until=2)], verbose=0)
    function = model.train_function
    assert type(getattr(function, "__self__", None)).__name__ != "NextBatch"
    model.fit(*blobs, batch_size=8, epochs=1, verbose=0)
    assert model.train_function == function


def test_updates_end_at_three_quarters_by_default(blobs):
    model = ready(mlp, 0.8)
    history = model.fit(*blobs, batch_size=8, epochs=4, callbacks=[ks.RigL(period=4)], verbose=0).history
    assert history["dropped"][0] > history["dropped"][1] > history["dropped"][2] >= 0
    assert history["dropped"][3] == 0
    assert live_weights(model) == live_weights(mlp(0.8))


def test_a_second_phase_decays_from_its_own_first_epoch(blobs):
    """The optimizer's step continues from an earlier training, but the schedule counts epochs of this `fit`."""
    histories = []
    for epochs_before in (0, 3):
        model = ready(mlp, 0.8)
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(12 * epochs_before)
        fit = model.fit(*blobs, batch_size=8, epochs=4, callbacks=[ks.RigL(0.5, period=4)], verbose=0)
        histories.append(fit.history["dropped"])
    assert histories[0] == histories[1]


def test_an_update_with_nan_gradients_is_skipped(blobs):
    x, y = blobs
    model = ready(mlp, 0.8)
    before = [m for _, m in state(model)]
    with pytest.warns(UserWarning, match="RigL skipped its update at step 1.*NaN or infinite.*Lower the learning rate"):
        ks.RigL(0.3, until=5, probe=(np.full_like(x, np.nan), y)).update(model, 1)
    for mask, (_, now) in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(mask, now)


def test_an_update_outside_fit_needs_until_and_a_probe(blobs):
    model = ready(mlp, 0.8)
    with pytest.raises(ValueError, match="RigL saw no batch.*probe="):
        ks.RigL(until=5).update(model, 1)
    with pytest.raises(ValueError, match="RigL needs `until`"):
        ks.RigL(probe=blobs).update(model, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0}, r"`fraction` must be a number in \(0, 1\]. Received: fraction=0"),
        ({"probe": np.zeros((3, 8))}, "`probe` must be a batch.*Received: ndarray"),
        ({"until": 2.5}, "`until` must be an int of at least 1. Received: until=2.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.RigL(**arguments)


def two_heads():
    """Makes a net whose second output has no loss."""
    inputs = keras.Input((8,))
    x = keras.layers.Dense(12, activation="relu")(inputs)
    outputs = {name: keras.layers.Dense(3, name=name)(x) for name in ("used", "unused")}
    model = ks.sparsify(keras.Model(inputs, outputs), 0.6)
    model.compile("sgd", {"used": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    return model


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_an_output_without_a_loss_has_gradient_0(blobs):
    model, (x, y) = two_heads(), blobs
    gradients = dense_gradients(model, ks.masked_weights(model))(x, {"used": y}, None)
    by_name = dict(zip([layer.name for layer in ks.masked_layers(model)], gradients, strict=True))
    assert not by_name["unused"].any()
    assert by_name["used"].any()
    budget = live_weights(model)
    model.fit(x, {"used": y}, batch_size=8, epochs=2, callbacks=[ks.RigL(period=3, until=2)], verbose=0)
    assert live_weights(model) == budget


@pytest.mark.parametrize("per_execution", [1, pytest.param(5, marks=needs_steps_per_execution)])
def test_period_epoch_uses_the_last_batch(blobs, per_execution):
    """The update uses the last batch, also if the executions do not divide the epoch."""
    model = ready(mlp, steps_per_execution=per_execution)
    method = ks.RigL(period="epoch", until=3)
    history = model.fit(*blobs, batch_size=8, epochs=3, callbacks=[method], shuffle=False, verbose=0).history
    assert history["grown"][1] > history["grown"][2] > history["grown"][0] == 0
    x, y = blobs
    probed = ready(mlp)
    method = ks.RigL(period="epoch", until=3, probe=(x[-8:], y[-8:]))
    probed.fit(*blobs, batch_size=8, epochs=3, callbacks=[method], shuffle=False, verbose=0)
    for (_, one), (_, other) in zip(state(model), state(probed), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_steps_per_execution
def test_dead_weights_are_cleared_within_an_execution_of_many_steps_too(blobs):
    """A constraint on columns changes dead weights, and live weights depending on them."""

    def trained(per_execution):
        keras.utils.set_random_seed(1)
        net = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(12, kernel_constraint=Centered()), keras.layers.Dense(3)]
        )
        model = compiled(ks.sparsify(net, 0.6), steps_per_execution=per_execution)
        model.fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.RigL(period=4, until=2)], shuffle=False, verbose=0)
        return state(model)

    for (one, mask), (other, same) in zip(trained(1), trained(4), strict=True):
        np.testing.assert_array_equal(mask, same)
        np.testing.assert_allclose(one, other, atol=1e-6)


class Centered(keras.constraints.Constraint):
    """Constraint: columns have mean 0."""

    def __call__(self, w):
        return w - keras.ops.mean(w, axis=0, keepdims=True)


def test_an_l1_regularizer_has_no_gradient_at_dead_weights():
    """JAX takes 1 for the derivative of |w| at 0, TensorFlow and PyTorch take 0."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 20)).astype("float32"), rng.normal(size=(64, 5)).astype("float32")
    layer = keras.layers.Dense(5, use_bias=False, kernel_regularizer=keras.regularizers.L1(0.05))
    model = ks.sparsify(keras.Sequential([keras.Input((20,)), layer]), 0.8)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    (weight,) = ks.masked_weights(model)
    before = weight.mask.numpy()
    kernel = numpy(weight.value())
    gradient = 2 * x.T @ (x @ kernel - y) / y.size + 0.05 * np.sign(kernel)
    ks.RigL(fraction=0.5, until=1000, probe=(x, y)).update(model, 1)
    grown = np.flatnonzero(weight.mask.numpy() & ~before)
    order = np.argsort(-np.where(before, -1, np.abs(gradient)).ravel())
    assert set(grown) == set(order[: len(grown)])
    assert len(grown) == 10


def test_a_loop_after_a_fit_counts_whole_epochs_only(blobs):
    """The steps of the `fit` say nothing about those of the loop."""
    model = compiled(mlp(0.8))
    method = ks.RigL(0.5, period=4, until=10, probe=blobs)
    model.fit(*blobs, batch_size=16, callbacks=[method], verbose=0)
    live = ks.masked_layers(model)[0].kernel_mask.numpy()
    method.update(model, 1000, epoch=5)
    gone = live & ~ks.masked_layers(model)[0].kernel_mask.numpy()
    assert gone.sum() == round(0.25 * live.sum())

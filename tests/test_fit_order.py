"""Tests that the model after a `fit` agrees with what was counted, logged and saved, for fits in any order."""

import copy
import pickle

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_sparse as ks
from keras_sparse.layers import MaskedDense
from nets import assert_dead_is_zero, compiled, live_weights, mlp, needs_steps_per_execution, numpy, ready, state

pytestmark = [
    pytest.mark.long,
    # Keras warns about every generator that ends.
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),
]

BACKEND = keras.backend.backend()
BATCHES = 12  # of eight, in an epoch of `blobs`


def fit(model, data, *callbacks, epochs=2, **kwargs):
    settings = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*data, epochs=epochs, callbacks=list(callbacks), **settings).history


def masks(model):
    return [m for _, m in state(model)]


def moved(before, after):
    """Returns how many mask elements died between two states."""
    return sum(int((a & ~b).sum()) for a, b in zip(before, after, strict=True))


def assert_masks_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


class Watched:
    """Counts the effects of a method's updates on a model from outside."""

    def __init__(self, method):
        self.method, self.died, self.updates, self.last = method, 0, 0, None
        update = method.update

        def watched(model, *args, **kwargs):
            before = masks(model)
            update(model, *args, **kwargs)
            self.last = masks(model)
            self.died += moved(before, self.last)
            self.updates += 1

        method.update = watched

    def assert_all_there(self, model, history):
        """Asserts that the logged counts are right, and that the masks are those of the last update."""
        assert sum(history["dropped"]) == self.died
        if self.last is not None:
            assert_masks_equal(self.last, masks(model))
        assert_dead_is_zero(model)


# Two fits in a row.

RIGL = {
    "the same again": [lambda: ks.RigL(0.3, period=8)] * 2,
    "another period": [lambda: ks.RigL(0.3, period=8), lambda: ks.RigL(0.3, period=6)],
    "a shorter period": [lambda: ks.RigL(0.3, period=8), lambda: ks.RigL(0.3, period=1)],
    "a longer period": [lambda: ks.RigL(0.3, period=4), lambda: ks.RigL(0.3, period=24, until=9)],
    "after SET": [lambda: ks.SET(0.3, period=6), lambda: ks.RigL(0.3, period=6)],
    "after SET that ended before": [lambda: ks.SET(0.3, period=6, until=2), lambda: ks.RigL(0.3, period=6)],
    "after SET by epoch": [lambda: ks.SET(0.3), lambda: ks.RigL(0.3, period="epoch", until=9)],
    "by epoch": [lambda: ks.RigL(0.3, period="epoch", until=9)] * 2,
    "before SET": [lambda: ks.RigL(0.3, period=8), lambda: ks.SET(0.3, period=8)],
    "after DeepR": [lambda: ks.DeepR(1e-3, 1e-4, eta=0.05), lambda: ks.RigL(0.3, period=8)],
    "after Static": [lambda: ks.Static(), lambda: ks.RigL(0.3, period=12, until=9)],
    "three times": [lambda: ks.RigL(0.5, period=7)] * 3,
}


@pytest.mark.parametrize("kind", RIGL)
def test_a_fit_with_rigl_after_any_other_fit(kind, blobs):
    model = ready()
    budget = live_weights(model)
    for make in RIGL[kind]:
        method = make()
        watched = Watched(method)
        history = fit(model, blobs, method, epochs=4)
        assert watched.died > 0 or isinstance(method, ks.DeepR | ks.Static)
        if not isinstance(method, ks.DeepR):
            watched.assert_all_there(model, history)
        assert live_weights(model) == budget


def test_one_rigl_callback_in_two_fits(blobs):
    """The settings of the example in the guide: 16 steps per epoch, period=8, four epochs."""
    model = ready()
    method, data = ks.RigL(fraction=0.3, period=8), [np.resize(a, (128, *a.shape[1:])) for a in blobs]
    dropped = [sum(fit(model, data, method, epochs=4)["dropped"]) for _ in range(3)]
    assert min(dropped) > 0
    assert_dead_is_zero(model)


def test_rigl_after_the_model_is_compiled_again(blobs):
    model = ready()
    for _ in range(2):
        model = compiled(ks.sparsify(ks.densify(model), None))
        assert sum(fit(model, blobs, ks.RigL(0.3, period=8), epochs=2)["dropped"]) > 0
        compiled(model)
        assert sum(fit(model, blobs, ks.RigL(0.3, period=5), epochs=2)["dropped"]) > 0


def test_rigl_resumes_from_a_file_written_just_before_an_update(blobs, tmp_path):
    """A callback before the method writes a checkpoint at step 12, so that it lacks the update at step 12."""
    model = ready()
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, blobs, save, ks.RigL(0.3, period=12, until=9), epochs=2)
    loaded = keras.models.load_model(tmp_path / "1.keras")
    budget, before = live_weights(loaded), masks(loaded)
    method = ks.RigL(0.3, period=12, until=9)
    history = fit(loaded, blobs, method, epochs=3, initial_epoch=1)
    assert live_weights(loaded) == budget
    assert moved(before, masks(loaded)) > 0
    assert min(history["dropped"]) > 0
    assert_dead_is_zero(loaded)


# Epochs of unknown length.


def batches(data, count=BATCHES):
    x, y = data
    for i in range(count):
        part = slice(8 * i % len(x), 8 * i % len(x) + 8)
        yield x[part], y[part]


def pruned_every(n):
    """Schedule that prunes after every n steps. After the last step there is no next step, hence no pruning."""
    return lambda step: (step > 1 and (step - 1) % n == 0, min(0.9, 0.5 + step / 60))


METHODS = {
    "SET": lambda n: ks.SET(0.3, period=n),
    "SET by count": lambda n: ks.SET(count=20, period=n),
    "DynamicSparse": lambda n: ks.DynamicSparse(prune_count=15, period=n, threshold=0.02),
    "RigL": lambda n: ks.RigL(0.3, period=n, until=9),
    "GradualPruning": lambda n: ks.GradualPruning(pruned_every(n)),
}


def fed_by_generator(model, data, method, **kwargs):
    return model.fit(batches(data), callbacks=[method], shuffle=False, verbose=0, **kwargs).history


@pytest.mark.parametrize("period", [12, 6, 5])
@pytest.mark.parametrize("name", METHODS)
def test_every_update_of_an_epoch_of_unknown_length_is_in_the_model(name, period, blobs):
    model = ready(mlp, 0.4)
    method = METHODS[name](period)
    watched, before = Watched(method), masks(model)
    history = fed_by_generator(model, blobs, method)
    assert watched.updates == BATCHES // period
    watched.assert_all_there(model, history)
    if watched.updates == 1:
        assert moved(before, masks(model)) == sum(history["dropped"]) > 0


@pytest.mark.filterwarnings("ignore:.*will not reach:UserWarning")
def test_pruning_by_a_polynomial_schedule_reaches_its_end_where_the_epoch_has_no_known_length(blobs):
    model = ready(mlp, 0.0)
    schedule = ks.schedules.polynomial_decay(0.0, 0.8, begin_step=1, end_step=BATCHES + 1, frequency=4)
    history = fed_by_generator(model, blobs, ks.GradualPruning(schedule))
    assert history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    assert ks.report(model).sparsity == pytest.approx(0.8, abs=0.01)
    assert_dead_is_zero(model)


def test_the_last_update_is_made_before_the_validation(blobs):
    """The val_loss of the last epoch is that of the model after `fit`."""
    model = ready()
    history = fed_by_generator(model, blobs, ks.SET(0.5, period=BATCHES), validation_data=blobs)
    assert model.evaluate(*blobs, verbose=0) == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_a_second_generator_continues_where_the_first_ended(blobs):
    model, died = ready(), 0
    for _ in range(3):
        before, method = masks(model), ks.SET(0.3, period=BATCHES)
        history = fed_by_generator(model, blobs, method)
        died = moved(before, masks(model))
        assert died == sum(history["dropped"]) > 0


@needs_steps_per_execution
@pytest.mark.parametrize("name", [n for n in METHODS if n != "RigL"])
def test_executions_of_several_steps_lose_no_update_of_an_epoch_of_unknown_length(name, blobs):
    model = ready(mlp, 0.4, steps_per_execution=4)
    method = METHODS[name](BATCHES)
    watched = Watched(method)
    history = fed_by_generator(model, blobs, method)
    assert watched.updates == 1
    watched.assert_all_there(model, history)
    assert watched.died > 0


@pytest.mark.skipif(BACKEND == "torch", reason="tf.data is for the other two")
@pytest.mark.parametrize("name", METHODS)
def test_epochs_of_a_dataset_of_unknown_length_lose_no_update(name, blobs):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(blobs).batch(8).filter(lambda x, y: True)
    assert int(data.cardinality()) < 0
    model = ready(mlp, 0.4)
    method = METHODS[name](6)
    watched = Watched(method)
    history = model.fit(data, epochs=2, callbacks=[method], shuffle=False, verbose=0).history
    assert watched.updates == 4
    watched.assert_all_there(model, history)


def test_a_fit_stopped_within_an_epoch_has_the_updates_that_it_counted(blobs):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 5:
                self.model.stop_training = True

    model = ready()
    method = ks.SET(0.3, period=6)
    watched = Watched(method)
    history = fit(model, blobs, method, Stop(), epochs=2)
    watched.assert_all_there(model, history)
    assert watched.updates >= 1


# The gradient that RigL uses.


class Penalty(keras.layers.Layer):
    """Layer that adds a loss."""

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x - 1)) + 0.1 * ops.mean(x[:, :1] ** 3))
        return x


class Orthogonal(keras.regularizers.Regularizer):
    """Regularizer whose gradient is not 0 at weights of 0."""

    def __call__(self, w):
        return ops.sum(ops.square(ops.matmul(ops.transpose(w), w) - ops.ones((w.shape[1], w.shape[1]))))


def first(sparsity, **kwargs):
    return MaskedDense(6, activation="tanh", sparsity=sparsity, seed=3, name="first", **kwargs)


def head(sparsity=0.0):
    return MaskedDense(3, sparsity=sparsity, seed=4, name="head")


def sequential(*parts):
    return keras.Sequential([keras.Input((8,)), *parts])


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class WithLoss(keras.Model):
    """Model that overrides `compute_loss`."""

    def __init__(self, sparsity):
        super().__init__()
        self.parts = [first(sparsity), head(sparsity)]

    def call(self, x):
        return self.parts[1](self.parts[0](x))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        usual = super().compute_loss(x, y, y_pred, sample_weight, training)
        return usual + ops.mean(ops.square(y_pred[:, 0] - ops.cast(y, "float32") - 2))


def called(model):
    model(np.zeros((1, 8), "float32"))
    return model


L2 = keras.regularizers.L2
# Each is a function of the sparsity, with arguments of `compile`.
LOSSES = {
    "a loss": (lambda s: sequential(first(s), head(s)), {"loss": crossentropy}),
    "an activity regularizer": (
        lambda s: sequential(first(s, activity_regularizer=L2(1.0)), head(s)),
        {"loss": crossentropy},
    ),
    "an activity regularizer of the last layer": (
        lambda s: sequential(first(s), MaskedDense(3, sparsity=s, seed=4, name="head", activity_regularizer=L2(1.0))),
        {"loss": crossentropy},
    ),
    # No L1: it has no derivative at 0, and central differences across 0 are not the gradient.
    "an ActivityRegularization": (
        lambda s: sequential(first(s), layers.ActivityRegularization(l2=1.0), head(s)),
        {"loss": crossentropy},
    ),
    "a regularizer that looks at the whole kernel": (
        lambda s: sequential(first(s, kernel_regularizer=Orthogonal()), head(s)),
        {"loss": crossentropy},
    ),
    "add_loss beside a loss": (lambda s: sequential(first(s), Penalty(), head(s)), {"loss": crossentropy}),
    "add_loss alone": (lambda s: sequential(first(s), head(s), Penalty()), {}),
    "compute_loss": (lambda s: called(WithLoss(s)), {"loss": crossentropy}),
    "loss_weights": (
        lambda s: sequential(first(s, activity_regularizer=L2(0.2)), head(s)),
        {"loss": crossentropy, "loss_weights": lambda: [0.05]},
    ),
}


def losing(kind, sparsity, rate=0.0):
    build, arguments = LOSSES[kind]
    model = build(sparsity)
    jit = {"jit_compile": False} if BACKEND == "tensorflow" else {}
    model.compile(keras.optimizers.SGD(rate), **{k: v() for k, v in arguments.items()}, **jit)
    return model


def differences(kind, model, data, eps=0.02):
    """Computes central differences of the training loss for each weight of the first layer, as if it were live."""
    other = losing(kind, 0.0)
    for masked, dense in zip(ks.masked_layers(model), ks.masked_layers(other), strict=True):
        assert dense.kernel_mask.numpy().all()
        dense.kernel_variable.assign(numpy(masked.kernel))  # A copy through NumPy, since JAX arrays would be shared.
        dense.bias.assign(numpy(masked.bias))
    variable = ks.masked_layers(other)[0].kernel_variable
    kernel = numpy(variable).copy()
    gradient = np.zeros(kernel.shape)
    for place in np.ndindex(*kernel.shape):
        values = []
        for sign in (1, -1):
            moved = kernel.copy()
            moved[place] += sign * eps
            variable.assign(moved)
            values.append(other.test_on_batch(*data))
        gradient[place] = (values[0] - values[1]) / (2 * eps)
    return gradient


def assert_grown_where_largest(before, after, gradient):
    """Asserts that growth is at the dead positions with the largest gradient."""
    grown, dead = after & ~before, ~before
    assert grown.any()
    scores = np.abs(gradient)
    assert scores[dead].max() > 1e-4
    best = np.sort(scores[dead])[::-1][: grown.sum()]
    chosen = np.sort(scores[grown])[::-1]
    np.testing.assert_allclose(chosen, best, rtol=0.03, atol=2e-4)


@pytest.fixture
def few(blobs):
    return blobs[0][:16] / 3, blobs[1][:16]


@pytest.mark.parametrize("kind", LOSSES)
def test_rigl_grows_where_the_training_loss_falls_fastest(kind, few):
    model = losing(kind, 0.7)
    data = few[:1] if kind == "add_loss alone" else few
    for w in ks.masked_layers(model):
        w.bias.assign(np.linspace(-0.5, 0.5, w.bias.shape[0]))
    gradient, before = differences(kind, model, data), masks(model)
    fit(model, data, ks.RigL(0.4, period=1, until=5), epochs=1, batch_size=16)
    assert_grown_where_largest(before[0], masks(model)[0], gradient)
    assert_dead_is_zero(model)


def test_a_probe_batch_has_the_gradient_of_the_training_loss_too(few):
    model = losing("an activity regularizer", 0.7)
    gradient, before = differences("an activity regularizer", model, few), masks(model)
    model.optimizer.build(model.trainable_variables)
    ks.RigL(0.4, until=5, probe=few).update(model, 1)
    assert_grown_where_largest(before[0], masks(model)[0], gradient)


def test_rigl_uses_losses_that_layers_add(few):
    """Only the loss that a layer adds has a gradient here."""
    model = losing("add_loss alone", 0.7)
    before = masks(model)
    fit(model, few[:1], ks.RigL(0.4, period=1, until=5), epochs=1, batch_size=16)
    gradient = differences("add_loss alone", model, few[:1])
    assert moved(before, masks(model)) > 0
    assert np.abs(gradient).max() > 1e-3


def own_step(backend=BACKEND):
    """Returns a model class for this backend whose `train_step` trains on twice the loss."""

    class Tensorflow(keras.Model):
        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = 2 * self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True)
            )
            return {"loss": loss}

    class Torch(keras.Model):
        def train_step(self, data):
            import torch

            x, y = data
            self.zero_grad()
            loss = 2 * self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
            return {"loss": loss}

    class Jax(keras.Model):
        def train_step(self, state, data):
            return super().train_step(state, data)

    return {"tensorflow": Tensorflow, "torch": Torch, "jax": Jax}[backend]


def with_own_step():
    inputs = keras.Input((8,))
    outputs = MaskedDense(3, sparsity=0.5, seed=2, name="head")(first(0.7)(inputs))
    return compiled(own_step()(inputs, outputs, name="stepper"), keras.optimizers.SGD(0.01))


def test_rigl_refuses_a_custom_train_step(few):
    model = with_own_step()
    before = masks(model)
    with pytest.raises(ValueError, match=r"(?s)^(?=.*train_step)(?=.*stepper)(?=.*gradients=)"):
        fit(model, few, ks.RigL(0.4, period=1, until=5), epochs=1)
    assert_masks_equal(before, masks(model))


def test_rigl_refuses_a_custom_train_step_also_with_a_probe(few):
    model = with_own_step()
    with pytest.raises(ValueError, match=r"(?s)^(?=.*train_step)(?=.*gradients=)"):
        ks.RigL(0.4, until=5, probe=few).update(model, 1)


class Gradients:
    """Returns random gradients, and records its calls."""

    def __init__(self, model):
        rng = np.random.default_rng(3)
        self.values = [rng.normal(size=x.kernel.shape).astype("float32") for x in ks.masked_layers(model)]
        self.asked = []

    def __call__(self, model, x, y, sample_weight):
        self.asked.append((model, keras.tree.map_structure(np.shape, x), np.shape(y)))
        return self.values


def assert_grown_by(gradients, before, model):
    for mask, now, gradient in zip(before, masks(model), gradients.values, strict=True):
        assert_grown_where_largest(mask, now, gradient)


def test_rigl_uses_the_gradients_of_a_custom_function(few):
    model = with_own_step()
    gradients, before = Gradients(model), masks(model)
    fit(model, few, ks.RigL(0.4, period=2, until=5, gradients=gradients), epochs=1)
    assert_grown_by(gradients, before, model)
    assert gradients.asked == [(model, (8, 8), (8,))]
    assert_dead_is_zero(model)


def test_rigl_uses_custom_gradients_without_a_compiled_model(few):
    model = sequential(first(0.7), head(0.5))
    gradients, before = Gradients(model), masks(model)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    method = ks.RigL(0.4, until=5, probe=few, gradients=gradients)
    method.update(model, 1, optimizer=optimizer)
    assert_grown_by(gradients, before, model)


def test_rigl_refuses_an_uncompiled_model_and_says_what_to_do(few):
    model = sequential(first(0.7), head(0.5))
    optimizer = keras.optimizers.SGD(0.01)
    with pytest.raises(ValueError, match=r"(?s)^(?=.*compile)(?=.*gradients=)"):
        ks.RigL(0.4, until=5, probe=few).update(model, 1, optimizer=optimizer)


def bad(number=2, shape=None, kind=np.asarray):
    def gradients(model, x, y, sample_weight):
        return [kind(np.ones(shape or layer.kernel.shape)) for layer in ks.masked_layers(model)][:number]

    return gradients


@pytest.mark.parametrize(
    "gradients",
    [bad(number=1), bad(shape=(2, 2)), lambda *batch: None, lambda *batch: np.ones(3)],
    ids=["too few", "other shapes", "None", "one array"],
)
def test_invalid_custom_gradients_are_refused_before_anything_is_written(gradients, few):
    model = sequential(first(0.7), head(0.5))
    compiled(model)
    before = masks(model)
    with pytest.raises(ValueError, match="gradients"):
        ks.RigL(0.4, until=5, probe=few, gradients=gradients).update(model, 1)
    assert_masks_equal(before, masks(model))


def test_gradients_must_be_a_function():
    with pytest.raises(ValueError, match="`gradients` must be a function.*Received: gradients=3"):
        ks.RigL(gradients=3)


# The best model is the one that was evaluated.

BY_EPOCH = {
    "SET": lambda: ks.SET(0.5),
    "DynamicSparse": lambda: ks.DynamicSparse(prune_count=40, period="epoch", threshold=0.1),
    "RigL": lambda: ks.RigL(0.5, period="epoch", until=9),
    "SET at an epoch's last step": lambda: ks.SET(0.5, period=6),
}
ORDERS = {"the method first": 1, "the method last": -1}


def noisy(blobs):
    """Returns noisy data, so that the best epoch is not always the last."""
    x, y = blobs
    return x[:48], y[:48], x[48:], (y[48:] + (np.arange(48) % 4 == 0)) % 3


def measured(model, x, y):
    return model.evaluate(x, y, batch_size=8, verbose=0)


def fit_measured(model, data, callbacks, order):
    x, y, *validation = data
    return fit(model, (x, y), *callbacks[:: ORDERS[order]], epochs=4, validation_data=validation)["val_loss"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", BY_EPOCH)
def test_the_best_model_that_is_saved_is_the_one_that_was_evaluated(name, order, blobs, tmp_path):
    model, data = ready(), noisy(blobs)
    best = {"monitor": "val_loss", "save_best_only": True}
    callbacks = [
        BY_EPOCH[name](),
        keras.callbacks.ModelCheckpoint(tmp_path / "keras.keras", **best),
        ks.ModelCheckpoint(tmp_path / "ours.keras", **best, from_sparsity=0.5),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True, **best),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
    ]
    losses = fit_measured(model, data, callbacks, order)
    for file in ("keras.keras", "ours.keras"):
        loaded = keras.models.load_model(tmp_path / file)
        assert measured(loaded, *data[2:]) == pytest.approx(min(losses), rel=1e-5)
    model.load_weights(tmp_path / "best.weights.h5")
    assert measured(model, *data[2:]) == pytest.approx(min(losses), rel=1e-5)
    for epoch, loss in enumerate(losses, 1):
        loaded = keras.models.load_model(tmp_path / f"{epoch}.keras")
        assert measured(loaded, *data[2:]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", BY_EPOCH)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "keras's"])
def test_early_stopping_restores_the_weights_that_were_evaluated(name, order, ours, blobs):
    model, data = ready(), noisy(blobs)
    settings = {"monitor": "val_loss", "patience": 1, "restore_best_weights": True}
    stop = ks.EarlyStopping(**settings, from_sparsity=0.5) if ours else keras.callbacks.EarlyStopping(**settings)
    losses = fit_measured(model, data, [BY_EPOCH[name](), stop], order)
    assert measured(model, *data[2:]) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("name", BY_EPOCH)
def test_a_callback_at_the_end_of_an_epoch_sees_the_evaluated_model(name, blobs):
    model, (x, y, *validation), seen = ready(), noisy(blobs), []

    class See(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights = [numpy(w).copy() for w in self.model.weights]
            seen.append((logs["val_loss"], weights))

    fit(model, (x, y), See(), BY_EPOCH[name](), See(), epochs=3, validation_data=validation)
    for loss, weights in seen:
        model.set_weights(weights)
        assert measured(model, *validation) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("name", BY_EPOCH)
def test_updates_by_epoch_are_made_and_logged(name, blobs):
    model = ready()
    budget, method = live_weights(model), BY_EPOCH[name]()
    watched = Watched(method)
    history = fit(model, blobs, method, epochs=4)
    assert watched.updates >= 3
    assert sum(history["dropped"]) == watched.died > 0
    assert live_weights(model) == budget
    assert_dead_is_zero(model)


# Copies of a method after training.


def falling(step):
    return step % 4 == 1, min(0.9, 0.6 + 0.03 * step)


TRAINED = {
    "DynamicSparse": lambda: ks.DynamicSparse(prune_count=15, period=4, threshold=0.02),
    "DynamicSparse by schedule": lambda: ks.DynamicSparse(prune_count={0: 15, 1: 10}, period={0: 4, 1: 3}),
    "DeepR": lambda: ks.DeepR(alpha=1e-3, temperature=1e-4, eta=0.05),
    "GradualPruning": lambda: ks.GradualPruning(falling),
    "RigL": lambda: ks.RigL(period=4, until=3),
    "SET": lambda: ks.SET(fraction=0.3, period=4),
    "SET by epoch": lambda: ks.SET(fraction=0.3),
    "Static": lambda: ks.Static(),
}


def my_loss(y, z):
    return keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)


@pytest.mark.filterwarnings("ignore:.*none of them dropped:UserWarning")
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_copy_of_a_method_after_training_trains_like_a_new_method(name, how, blobs):
    """Copying a method must not copy or save the model, which cannot be saved here."""
    model = mlp()
    model.compile(keras.optimizers.SGD(0.05), my_loss, run_eagerly=BACKEND == "tensorflow")
    method = TRAINED[name]()
    fit(model, blobs, method, epochs=2)
    other = copy.deepcopy(method) if how == "deepcopy" else pickle.loads(pickle.dumps(method))
    assert type(other) is type(method)
    ends = []
    for callback in (other, TRAINED[name]()):
        model = ready()
        fit(model, blobs, callback, epochs=2)
        ends.append(state(model))
    for (w, m), (v, n) in zip(*ends, strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(w, v)


@pytest.mark.filterwarnings("ignore:.*none of them dropped:UserWarning")
def test_a_method_can_be_copied_while_it_trains(blobs):
    copies = []

    class Copy(keras.callbacks.Callback):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                copies.append(copy.deepcopy(self.other))
                copies.append(pickle.loads(pickle.dumps(self.other)))

    for name in ("DynamicSparse", "RigL", "DeepR"):
        method = TRAINED[name]()
        fit(ready(), blobs, method, Copy(method), epochs=1)
    assert len(copies) == 6


@pytest.mark.parametrize("name", ["SET", "RigL"])
def test_a_scikit_learn_wrapper_with_a_method_is_pickled_after_its_fit(name, blobs):
    base = pytest.importorskip("sklearn.base")
    x, y = blobs

    model = mlp()
    model.compile("sgd", "categorical_crossentropy", run_eagerly=BACKEND == "tensorflow")
    method = TRAINED[name]()
    classifier = keras.wrappers.SKLearnClassifier(
        model, fit_kwargs={"callbacks": [method], "epochs": 2, "batch_size": 8, "verbose": 0}
    )
    classifier.fit(x, y)
    expected = classifier.predict(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict(x), expected)
    assert base.clone(classifier).fit(x, y).predict(x).shape == expected.shape


# Custom training loops.


def assert_dead_kernels_are_zero(model):
    for w, m in state(model):
        assert not w[~np.broadcast_to(m, w.shape)].any()


@pytest.mark.jax
@pytest.mark.parametrize("name", ["SET", "DynamicSparse", "RigL", "DeepR", "Static"])
def test_a_loop_over_stateless_functions_puts_its_state_into_the_variables_for_an_update(name, blobs):
    import jax

    x, y = blobs
    model, optimizer = mlp(), keras.optimizers.Adam(0.01)
    model.compile(optimizer, crossentropy())
    optimizer.build(model.trainable_variables)
    probe = {"probe": (x[:8], y[:8])} if name == "RigL" else {}
    method = {**TRAINED, "RigL": lambda: ks.RigL(period=4, until=3, **probe)}[name]()
    budget, start = live_weights(model), masks(model)
    groups = [model.trainable_variables, model.non_trainable_variables, optimizer.variables]

    def put_back(values):
        for group, arrays in zip(groups, values, strict=True):
            for variable, array in zip(group, arrays, strict=True):
                variable.assign(array)

    def loss(trainable, others, x, y):
        z, others = model.stateless_call(trainable, others, x, training=True)
        return ops.mean(my_loss(y, z)), others

    @jax.jit
    def step(state, x, y):
        trainable, others, held = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, x, y)
        trainable, held = optimizer.stateless_apply(held, gradients, trainable)
        return value, (trainable, others, held)

    values = tuple([v.value for v in group] for group in groups)
    losses = []
    for i in range(1, 37):
        part = slice(8 * (i % 12), 8 * (i % 12) + 8)
        value, values = step(values, x[part], y[part])
        losses.append(float(value))
        if i % 4 == 0 or name == "DeepR":
            put_back(values)
            method.update(model, i, optimizer=optimizer)
            assert_dead_is_zero(model)
            values = tuple([v.value for v in group] for group in groups)
    put_back(values)
    assert_dead_is_zero(model)
    assert live_weights(model) == budget
    assert losses[-1] < losses[0]
    assert name == "DeepR" or (moved(start, masks(model)) > 0) == (name != "Static")


@pytest.mark.skipif(BACKEND != "torch", reason="torch.optim trains torch's parameters")
@pytest.mark.filterwarnings("ignore:.*optimizer:UserWarning")
@pytest.mark.parametrize("handed", [False, True])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_after_an_update_dead_weights_are_0_with_any_optimizer_of_torch(optimizer, handed, blobs):
    import torch

    x, y = blobs
    model = mlp()
    budget = live_weights(model)
    settings = {"SGD": {"lr": 0.05, "momentum": 0.9}, "Adam": {"lr": 0.01}, "AdamW": {"lr": 0.01}}[optimizer]
    moves = getattr(torch.optim, optimizer)(model.parameters(), **settings)
    method = ks.SET(0.3)
    for i in range(1, 25):
        part = slice(8 * (i % 12), 8 * (i % 12) + 8)
        moves.zero_grad()
        ops.mean(my_loss(y[part], model(x[part], training=True))).backward()
        moves.step()
        if i % 3 == 0:
            method.update(model, i, **({"optimizer": moves} if handed else {}))
            assert_dead_kernels_are_zero(model)
            assert live_weights(model) == budget


# Random sequences of fits.

METHOD = st.one_of(
    st.tuples(st.just("SET"), st.sampled_from([1, 3, 4, 6, 12, "epoch"])),
    st.tuples(st.just("RigL"), st.sampled_from([1, 3, 4, 6, 12, "epoch"])),
    st.tuples(st.just("DynamicSparse"), st.sampled_from([2, 4, 6, 12, "epoch"])),
    st.tuples(st.just("Static"), st.none()),
)
FITS = st.lists(
    st.tuples(METHOD, st.integers(1, 2), st.sampled_from(["arrays", "generator"]), st.booleans()),
    min_size=1,
    max_size=3,
)
MAKE = {
    "SET": lambda period: ks.SET(0.3, period=period),
    "RigL": lambda period: ks.RigL(0.3, period=period, until=9),
    "DynamicSparse": lambda period: ks.DynamicSparse(prune_count=10, period=period, threshold=0.05),
    "Static": lambda period: ks.Static(),
}


@pytest.mark.filterwarnings("ignore:.*(made no update|none of them dropped):UserWarning")
def test_the_model_agrees_with_the_counts_after_any_order_of_fits(request, blobs):
    examples = max(25, request.config.getoption("--examples") // 4)

    @settings(max_examples=examples, deadline=None, phases=(Phase.generate, Phase.shrink))
    @given(FITS)
    def check(fits):
        model = ready()
        budget = live_weights(model)
        for (name, period), epochs, source, anew in fits:
            if anew:
                for v in model.optimizer.variables[:1]:
                    v.assign(0)  # like a new optimizer, without tracing again
            method = MAKE[name](period)
            watched = Watched(method)
            if source == "arrays":
                history = fit(model, blobs, method, epochs=epochs)
            else:
                history = fed_by_generator(model, blobs, method)
            if period != "epoch":
                watched.assert_all_there(model, history)
            assert watched.died > 0 or period in (None, "epoch") or name == "DynamicSparse"
            assert live_weights(model) == budget
            assert_dead_is_zero(model)

    check()

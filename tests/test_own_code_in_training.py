"""Tests methods with code of the user's in training: losses, training steps, loops over several models, and data."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_sparse as ks
from keras_sparse import criteria
from keras_sparse.training.dead_weights import leaves_zeros
from keras_sparse.training.optimizer_state import slots
from nets import compiled, live_weights, mlp, numpy, ready

BACKEND = keras.backend.backend()


def assert_dead_weights_and_slots_are_zero(model, optimizer=None):
    for weight in ks.masked_weights(model):
        dead = ~weight.live()
        for variable in [weight.variable, *(v for v, _ in slots(optimizer or model.optimizer, weight.variable))]:
            assert not numpy(variable)[dead].any(), variable.path


class ChecksEachStep(keras.callbacks.Callback):
    """Checks after each step that dead weights and their slots are 0."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        assert_dead_weights_and_slots_are_zero(self.model)
        self.steps += 1


def penalty(variables):
    """Returns a penalty of the variables themselves, whose gradient at dead weights is not 0."""
    return sum(ops.sum(ops.square(v - 1.0)) for v in variables)


VARIABLES = {}


def loss_of_global_names(y, predicted):
    return ops.mean(predicted**2) + 1e-2 * penalty(VARIABLES["all"])


class PenaltyLoss(keras.Loss):
    """A loss that holds the variables."""

    def __init__(self, variables):
        super().__init__()
        self.variables = variables

    def call(self, y, predicted):
        return ops.mean(predicted**2) + 1e-2 * penalty(self.variables)


@pytest.mark.parametrize("kind", ["closure", "model in a closure", "object", "global names"])
@pytest.mark.parametrize("method", [lambda: ks.SET(0.3, period=3), lambda: ks.DeepR(1e-4, 1e-6)], ids=["SET", "DeepR"])
def test_a_loss_with_a_penalty_of_the_variables_leaves_dead_weights_at_zero(kind, method, blobs, monkeypatch):
    model = mlp(0.8)
    variables = [w.variable for w in ks.masked_weights(model)]
    monkeypatch.setitem(VARIABLES, "all", variables)
    loss = {
        "closure": lambda y, p: ops.mean(p**2) + 1e-2 * penalty(variables),
        "model in a closure": lambda y, p: ops.mean(p**2) + 1e-2 * penalty(model.trainable_variables),
        "object": PenaltyLoss(variables),
        "global names": loss_of_global_names,
    }[kind]
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    before, checks = live_weights(model), ChecksEachStep()
    model.fit(*blobs, batch_size=16, epochs=2, verbose=0, callbacks=[method(), checks])
    assert (live_weights(model), checks.steps) == (before, 12)


class Penalized(keras.Model):
    """A model that adds a penalty of its variables in a method that `call` uses."""

    def __init__(self):
        super().__init__()
        self.body, self.head = layers.Dense(16, activation="relu"), layers.Dense(3)

    def call(self, inputs):
        self.add_penalty(inputs)
        return self.head(self.body(inputs))

    def add_penalty(self, inputs):
        self.add_loss(1e-2 * penalty(self.trainable_variables) + ops.sum(inputs) * 0.0)


@pytest.mark.parametrize("method", [lambda: ks.SET(0.3, period=3), lambda: ks.DeepR(1e-4, 1e-6)], ids=["SET", "DeepR"])
def test_a_penalty_that_a_layer_adds_leaves_dead_weights_at_zero(method, blobs):
    model = Penalized()
    model(blobs[0])
    sparse = compiled(ks.sparsify(model, 0.8))
    before, checks = live_weights(sparse), ChecksEachStep()
    sparse.fit(*blobs, batch_size=16, epochs=2, verbose=0, callbacks=[method(), checks])
    assert (live_weights(sparse), checks.steps) == (before, 12)


@pytest.mark.parametrize("loss", ["ce", "crossentropy"])
def test_names_of_losses_that_only_compile_knows(loss, blobs):
    net = [keras.Input((8,)), layers.Dense(16), layers.Dense(3, activation="softmax")]
    model = ks.sparsify(keras.Sequential(net), 0.5)
    model.compile("sgd", loss)
    targets = np.eye(3, dtype="float32")[blobs[1]]
    history = model.fit(blobs[0], targets, verbose=0, callbacks=[ks.DeepR(1e-4, 1e-6)]).history
    assert np.isfinite(history["loss"][0])


def test_a_loss_that_holds_another_model_needs_no_action_in_the_step(blobs):
    teacher, model = mlp(), mlp(0.8)
    weights = ks.masked_weights(model)
    model.compile("sgd", lambda y, p: ops.mean((p - ops.mean(teacher.layers[0].kernel)) ** 2))
    assert leaves_zeros(model, weights, model.optimizer)
    model.compile("sgd", lambda y, p: ops.mean(p**2) + ops.sum(ops.abs(weights[0].variable)))
    assert not leaves_zeros(model, weights, model.optimizer)


def batches(data, size=16):
    x, y = data
    for i in range(0, len(x), size):
        yield x[i : i + size], y[i : i + size]


class SeenBatches(ks.RigL):
    """RigL that records the first input of each batch on which it takes gradients."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs, gradients=self.take)
        self.seen = []

    def take(self, model, x, y, sample_weight):
        self.seen.append(float(numpy(x)[0, 0]))
        return [np.random.default_rng(0).normal(size=w.shape) for w in ks.masked_weights(model)]


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("is_known", [True, False])
def test_rigl_by_epoch_takes_gradients_on_a_new_batch_for_each_update(is_known, blobs):
    tf = pytest.importorskip("tensorflow")
    made = iter(range(1, 1000))

    def epoch():
        for _ in range(6):
            yield blobs[0][:16] * np.float32(next(made)), blobs[1][:16]

    data = tf.data.Dataset.from_generator(epoch, output_types=(tf.float32, tf.int32), output_shapes=((16, 8), (16,)))
    if is_known:
        data = data.apply(tf.data.experimental.assert_cardinality(6))
    model, method = ready(mlp, 0.8), SeenBatches(period="epoch", until=8)
    model.fit(data, epochs=5, shuffle=False, verbose=0, callbacks=[method])
    assert len(method.seen) == len(set(method.seen)) == 4


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("method", [lambda: ks.SET(0.3), lambda: ks.DeepR(1e-4, 1e-6)], ids=["SET", "DeepR"])
def test_an_epoch_without_a_batch_changes_nothing(method, blobs):
    model = compiled(mlp(0.8))
    before = live_weights(model)
    model.fit(batches(blobs), steps_per_epoch=6, epochs=3, shuffle=False, verbose=0, callbacks=[method()])
    assert live_weights(model) == before
    assert_dead_weights_and_slots_are_zero(model)


class TwoSteps(keras.Model):
    """A model whose training step calls the optimizer twice."""

    def __init__(self):
        super().__init__()
        self.body = layers.Dense(16, activation="relu")
        self.head = layers.Dense(3)

    def call(self, inputs):
        return self.head(self.body(inputs))

    def train_step(self, *arguments):
        if BACKEND == "jax":
            state, data = arguments
            _, state = super().train_step(state, data)
            return super().train_step(state, data)
        super().train_step(*arguments)
        return super().train_step(*arguments)


def test_a_training_step_that_calls_the_optimizer_twice_is_counted(blobs):
    model = TwoSteps()
    model(blobs[0])
    sparse = compiled(ks.sparsify(model, 0.8))
    method = ks.DynamicSparse(fraction=0.1, period=4)
    sparse.fit(*blobs, batch_size=4, epochs=2, verbose=0, callbacks=[method])
    assert int(sparse.optimizer.iterations) == 96
    assert method.updates_in_fit == 24


def test_one_deepr_in_a_loop_over_two_models_rewires_each_as_one_of_its_own(blobs):
    def train(models, methods):
        optimizers = [keras.optimizers.SGD(0.5) for _ in models]
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.build(model.trainable_variables)
        rng = np.random.default_rng(0)
        for step in range(1, 30):
            for model, optimizer, method in zip(models, optimizers, methods, strict=True):
                gradients = [rng.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
                optimizer.apply(list(map(ops.convert_to_tensor, gradients)))
                method.update(model, step, optimizer=optimizer)
        return [[w.mask.numpy() for w in ks.masked_weights(m)] for m in models]

    def deepr():
        return ks.DeepR(1e-4, 0.0, seed=3)

    keras.utils.set_random_seed(1)
    shared = [mlp(0.8), mlp(0.8)]
    keras.utils.set_random_seed(1)
    apart = [mlp(0.8), mlp(0.8)]
    one = deepr()
    start = [[w.mask.numpy() for w in ks.masked_weights(m)] for m in shared]
    for a, b, before in zip(train(shared, [one, one]), train(apart, [deepr(), deepr()]), start, strict=True):
        for x, y, first in zip(a, b, before, strict=True):
            np.testing.assert_array_equal(x, y)
            assert (x != first).any()


def test_deepr_in_a_loop_clears_dead_weights_and_slots(blobs):
    model = mlp(0.8)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    method = ks.DeepR(1e-4, 1e-6)
    for step in range(1, 4):  # a gradient that is not 0 at dead weights
        optimizer.apply([ops.ones(v.shape) for v in model.trainable_variables])
        method.update(model, step, optimizer=optimizer)
        assert_dead_weights_and_slots_are_zero(model, optimizer)


def test_infinite_gradients_of_dead_weights_are_the_largest(blobs):
    def gradients(model, x, y, sample_weight):
        found = [np.zeros(w.shape, "float32") for w in ks.masked_weights(model)]
        for gradient, weight in zip(found, ks.masked_weights(model), strict=True):
            gradient.flat[np.flatnonzero(~weight.live())[:40]] = np.inf
        return found

    model = ready(mlp, 0.8)
    dead = [np.flatnonzero(~w.live())[:40] for w in ks.masked_weights(model)]
    ks.RigL(0.5, until=5, probe=blobs, gradients=gradients).update(model, 1)
    for positions, weight in zip(dead, ks.masked_weights(model), strict=True):
        assert weight.live().ravel()[positions].any()


def test_deepr_and_gradual_pruning_with_a_full_and_an_empty_layer(blobs):
    model = compiled(ks.sparsify(ks.densify(mlp()), 0.8, distribution=lambda shapes, sparsity: [0.5, 0.0, 0.0]))
    before = live_weights(model)
    model.fit(*blobs, batch_size=16, verbose=0, callbacks=[ks.DeepR(1e-2, 1e-4)])
    assert live_weights(model) == before
    first, *others = ks.masked_weights(model)
    first.mask.value.assign(np.zeros(first.mask.value.shape, "uint8"))
    kept = sum(w.count_live() for w in others)
    model = compiled(model)
    schedule = ks.schedules.polynomial_decay(0.0, 0.5, 0, 4, frequency=1)
    model.fit(*blobs, batch_size=16, verbose=0, callbacks=[ks.GradualPruning(schedule)])
    assert 0 < live_weights(model) < kept


def test_the_threshold_never_becomes_zero():
    threshold = 1e-3
    for _ in range(2000):
        threshold = criteria.adapt_threshold(threshold, 10, 1, 0.1)
    assert threshold > 0
    assert criteria.adapt_threshold(threshold, 0, 1, 0.1) == 2 * threshold

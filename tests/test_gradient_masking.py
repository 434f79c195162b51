"""Tests the training steps that read masked weights as they are, since dead ones are 0, and mask gradients only."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import any_models
import keras_sparse as ks
from keras_sparse.layers import gradient_masking
from keras_sparse.layers.traversal import masked_weights
from nets import Interrupts, assert_dead_is_zero, compiled, mlp, numpy, state
from test_contract import METHODS

BACKEND = keras.backend.backend()


class Waited(keras.callbacks.Callback):
    """Keras waits for this callback after each step, since it might write to weights. It does nothing."""

    def on_train_batch_end(self, batch, logs=None):
        pass


@pytest.fixture
def kinds(monkeypatch):
    """Returns a list to which each trace of a masked weight adds whether only its gradient is masked."""
    found = []

    def recorded(variable):
        found.append(ask(variable))
        return found[-1]

    ask = gradient_masking.masks_only_gradient
    monkeypatch.setattr("keras_sparse.layers.masked_weight.masks_only_gradient", recorded)
    return found


def trained(model, x, y, *callbacks, **settings):
    """Trains a model, and returns the values of all its variables."""
    compiled(model, **settings)
    keras.utils.set_random_seed(1)
    model.fit(x, y, batch_size=16, epochs=2, callbacks=list(callbacks), verbose=0)
    for weight in masked_weights(model):
        assert not numpy(weight.variable)[~weight.live()].any()
    return [numpy(v) for v in [*model.weights, *model.optimizer.variables]]


def assert_same_steps(make, x, y, kinds, method, settings=dict, masks_gradients=True):
    """Asserts that steps with masked weights and those with masked gradients train alike."""
    masked = trained(make(), x, y, method(), Waited(), **settings())
    assert kinds
    assert not any(kinds)
    kinds.clear()
    found = trained(make(), x, y, method(), **settings())
    assert any(kinds) == masks_gradients
    for one, other in zip(masked, found, strict=True):
        np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in METHODS if n != "DeepR"])
def test_each_method_trains_alike(name, blobs, kinds):
    assert_same_steps(mlp, *blobs, kinds, METHODS[name])


SGD = keras.optimizers.SGD
SETTINGS = {
    "Adam, weight decay": lambda: {"optimizer": keras.optimizers.AdamW(0.01, weight_decay=0.1)},
    "clipping": lambda: {"optimizer": SGD(0.1, momentum=0.9, global_clipnorm=0.5)},
    "EMA": lambda: {"optimizer": SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)},
    "accumulation": lambda: {"optimizer": SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)},
    "loss scaling": lambda: {"optimizer": keras.optimizers.LossScaleOptimizer(SGD(0.1))},
    "eagerly": lambda: {"run_eagerly": True},
    "XLA": lambda: {"jit_compile": BACKEND != "torch"},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_setting_of_compile_trains_alike(settings, blobs, kinds):
    assert_same_steps(mlp, *blobs, kinds, METHODS["DynamicSparse"], SETTINGS[settings])


@pytest.mark.parametrize("granularity", ["4x4", "2:4", (1, 12)])
def test_each_granularity_trains_alike(granularity, blobs, kinds):
    def make():
        keras.utils.set_random_seed(1)
        net = [keras.Input((8,)), layers.Dense(12, activation="relu"), layers.Dense(12), layers.Dense(3, name="last")]
        return ks.sparsify(keras.Sequential(net), 0.5, granularity=granularity, keep_dense=["last"])

    assert_same_steps(make, *blobs, kinds, lambda: ks.DynamicSparse(fraction=0.3, period=3))


def test_regularized_weights_train_alike(blobs, kinds):
    def make():
        keras.utils.set_random_seed(1)
        both = keras.regularizers.L1L2(0.01, 0.01)
        net = [keras.Input((8,)), layers.Dense(16, kernel_regularizer=both), layers.Dense(3)]
        return ks.sparsify(keras.Sequential(net), 0.5)

    assert_same_steps(make, *blobs, kinds, METHODS["DynamicSparse"])


# The others have layers of their own, or `SpectralNormalization`, whose gradient moves dead weights on JAX.
OF_KERAS = ["lstm", "gru and simple", "stacked cells", "bidirectional", "time distributed", "separable"]
OF_KERAS += ["convolutional lstm", "attention", "embedding"]


@pytest.mark.long
@pytest.mark.parametrize("case", any_models.CASES)
def test_each_kind_of_model_trains_alike(case, kinds):
    build, shape, _, include = any_models.CASES[case]

    def make():
        keras.utils.set_random_seed(1)
        return ks.sparsify(build(), 0.5, include=include)

    data = any_models.data(shape, 48)
    method = lambda: ks.DynamicSparse(fraction=0.3, period=2)  # noqa: E731
    assert_same_steps(make, *data, kinds, method, masks_gradients=case in OF_KERAS)


@pytest.mark.parametrize("granularity", ["weight", "2x4"])
def test_dense_layers_of_images_train_alike(granularity, kinds):
    """On TensorFlow, the gradient of their kernels has no static shape."""

    def make():
        keras.utils.set_random_seed(1)
        net = [keras.Input((4, 4, 4)), layers.Dense(8), layers.EinsumDense("bhwi,io->bhwo", (4, 4, 8))]
        net = [*net, layers.Flatten(), layers.Dense(4)]
        return ks.sparsify(keras.Sequential(net), 0.5, granularity=granularity)

    x, y = np.random.default_rng(0).normal(size=(48, 4, 4, 4)).astype("float32"), np.arange(48) % 3
    assert_same_steps(make, x, y, kinds, lambda: ks.DynamicSparse(fraction=0.3, period=2))


class Tied(layers.Layer):
    """Computes with the transposed variable of another layer, past its mask."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.dense.weights[0]))


def net(*more, **settings):
    first = ks.layers.MaskedDense(8, sparsity=0.5, seed=1, activation="tanh", name="first")
    x = keras.Input((8,))
    y = first(x)
    for layer in more:
        y = layer(first)(y)
    return compiled(keras.Model(x, ks.layers.MaskedDense(3, sparsity=0.5, seed=2)(y)), **settings)


def penalized(model, y, y_pred):
    loss = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
    return loss + 0.1 * sum(ops.sum(ops.square(v - 0.1)) for v in model.trainable_variables)


def with_loss():
    model = net()
    model.compile(keras.optimizers.Adam(0.01), lambda y, y_pred: penalized(model, y, y_pred))
    return model


def with_compute_loss():
    model = net()
    model.compute_loss = lambda x, y, y_pred, *others, **named: ops.mean(penalized(model, y, y_pred))
    return model


def with_regularizer():
    model = net()
    model.get_layer("first").kernel_variable.regularizer = keras.regularizers.OrthogonalRegularizer(0.1)
    return model


OTHER_CODE = {
    "layer": lambda: net(Tied),
    "lambda": lambda: net(lambda first: layers.Lambda(lambda x: ops.matmul(x, ops.transpose(first.weights[0])))),
    "loss": with_loss,
    "compute_loss": with_compute_loss,
    "regularizer": with_regularizer,
}


@pytest.mark.parametrize("kind", OTHER_CODE)
def test_code_that_may_use_weights_past_their_masks(kind, blobs, kinds):
    """Dead weights may change in each step. They have no effect where the mask is applied."""
    keras.utils.set_random_seed(1)
    OTHER_CODE[kind]().fit(*blobs, batch_size=16, callbacks=[ks.Static()], verbose=0)
    assert kinds
    assert not any(kinds)


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
def test_methods_with_hooks_of_their_own(hook, blobs, kinds):
    class Own(ks.Static):
        pass

    setattr(Own, hook, lambda self, batch, logs=None: getattr(ks.Static, hook)(self, batch, logs))
    trained(mlp(), *blobs, Own())
    assert kinds
    assert not any(kinds)


def test_a_method_of_the_users_own_masks_gradients(blobs, kinds):
    trained(mlp(), *blobs, METHODS["Beside"]())
    assert any(kinds)


def writer(hook, in_class, dead):
    """Returns a callback that sets the weights of the first layer once, dead ones to `dead`."""

    def write(self, number, logs=None):
        if number == 1 and not self.done:
            layer = ks.masked_layers(self.model)[0]
            layer.kernel_variable.assign(np.where(layer.kernel_mask.numpy(), 0.1, dead))
            self.done = True

    cls = type("Writer", (keras.callbacks.Callback,), {"done": False, **({hook: write} if in_class else {})})
    callback = cls()
    if not in_class:
        setattr(callback, hook, write.__get__(callback))
    return callback


@pytest.mark.parametrize("in_class", [True, False])
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_batch_end"])
def test_dead_weights_that_a_callback_writes_have_no_effect(hook, in_class, blobs, kinds):
    found = [trained(mlp(), *blobs, ks.Static(), writer(hook, in_class, dead)) for dead in (0.0, 5.0)]
    assert kinds
    assert any(kinds) == (hook == "on_epoch_begin")
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_callbacks_of_keras_and_of_this_package_do_not_write_between_steps(blobs, kinds, tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "m.keras", save_freq=3),
        keras.callbacks.EarlyStopping(monitor="loss"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        ks.SparsityTensorBoard(tmp_path / "logs", update_freq="epoch"),
        ks.BackupAndRestore(tmp_path / "backup"),
    ]
    trained(mlp(), *blobs, METHODS["DynamicSparse"](), *callbacks)
    assert any(kinds)


def test_a_callback_that_may_run_in_another_thread_writes_no_weights(blobs, kinds):
    class Draws(Waited):
        async_safe = True

    trained(mlp(), *blobs, METHODS["DynamicSparse"](), Draws())
    assert any(kinds)


def test_frozen_masked_layers_stay_masked(blobs, kinds):
    """Nobody clears their dead weights."""
    model = mlp()
    first = ks.masked_layers(model)[0]
    first.trainable = False
    compiled(model)
    first.kernel_variable.assign(np.ones(first.kernel_variable.shape))
    losses = (
        model.evaluate(*blobs, verbose=0),
        model.fit(*blobs, batch_size=96, callbacks=[ks.Static()], verbose=0).history["loss"][0],
    )
    assert any(kinds)
    assert not all(kinds)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_only_training_steps_take_zeros_for_granted(blobs):
    """Validation, prediction, and all that comes after `fit` apply the masks."""
    model = compiled(mlp())
    model.fit(*blobs, batch_size=16, validation_data=blobs, callbacks=[ks.Static()], verbose=0)
    before = numpy(model(blobs[0])), model.predict(blobs[0], verbose=0), model.evaluate(*blobs, verbose=0)
    layer = ks.masked_layers(model)[0]
    value, mask = numpy(layer.kernel_variable), layer.kernel_mask.numpy()
    layer.kernel_variable.assign(np.where(mask, value, 7.0))
    after = numpy(model(blobs[0])), model.predict(blobs[0], verbose=0), model.evaluate(*blobs, verbose=0)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    loss = model.train_on_batch(*blobs)
    assert loss == pytest.approx(after[2], rel=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="steps are not compiled on PyTorch")
def test_a_loop_of_fit_compiles_once(blobs, kinds):
    model = compiled(mlp())
    traces = []
    for _ in range(4):
        model.fit(*blobs, batch_size=16, callbacks=[METHODS["DynamicSparse"]()], verbose=0)
        traces.append(sum(kinds))
    assert traces[0] > 0
    assert traces == traces[:1] * 4


def test_a_callback_that_compiles_the_model_anew(blobs, kinds):
    """Adafactor and Muon change dead weights. The step is traced anew within the `fit`."""

    class Compiles(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kinds.clear()
                compiled(self.model, keras.optimizers.Muon(0.01))
                self.model.optimizer.build(self.model.trainable_variables)
                self.model.make_train_function(force=True)

    model = compiled(mlp())
    model.fit(*blobs, batch_size=16, epochs=2, callbacks=[ks.Static(), Compiles()], verbose=0)
    assert kinds
    assert not any(kinds)


def test_a_step_that_the_user_sets_after_an_interrupted_fit_stays(blobs):
    model = compiled(mlp())
    with pytest.raises(KeyboardInterrupt):
        model.fit(*blobs, batch_size=16, callbacks=[METHODS["DynamicSparse"](), Interrupts()], verbose=0)
    usual, calls = type(model).train_step, []
    compiled(model)

    def own(*arguments):
        calls.append(arguments)
        return usual(model, *arguments)

    model.train_step = own
    model.fit(*blobs, batch_size=16, verbose=0)
    assert calls
    assert model.train_step is own


def test_a_loop_of_the_users_own_that_calls_the_callbacks(blobs, kinds):
    model = compiled(mlp())
    callbacks = keras.callbacks.CallbackList([METHODS["DynamicSparse"]()], model=model, epochs=1, steps=6)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for i in range(6):
        callbacks.on_train_batch_begin(i)
        model.train_on_batch(*blobs)
        callbacks.on_train_batch_end(i)
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()
    assert kinds
    assert not any(kinds)
    assert_dead_is_zero(model)


@pytest.mark.parametrize("again", [False, True])
def test_after_an_interrupted_fit_the_usual_step_is_back(again, blobs, kinds):
    model = compiled(mlp())
    with pytest.raises(KeyboardInterrupt):
        model.fit(*blobs, batch_size=16, callbacks=[METHODS["DynamicSparse"](), Interrupts()], verbose=0)
    assert any(kinds)
    if again:
        compiled(model, keras.optimizers.Adam())
    kinds.clear()
    before = state(model)
    model.fit(*blobs, batch_size=16, verbose=0)
    assert kinds
    assert not any(kinds)
    assert "train_step" not in vars(model)
    assert "make_train_function" not in vars(model)
    assert (state(model)[0][0] != before[0][0]).any()
    if again:
        assert int(model.optimizer.iterations) == 6


def test_after_a_fit_that_was_interrupted_while_it_kept_a_batch(blobs, kinds):
    """RigL replaces the train function for the batch before an update."""

    class Stops(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    model = compiled(mlp())
    with pytest.raises(KeyboardInterrupt):
        model.fit(*blobs, batch_size=16, callbacks=[ks.RigL(period=3, until=3), Stops()], verbose=0)
    model.fit(*blobs, batch_size=16, epochs=2, callbacks=[ks.RigL(period=4, until=3)], verbose=0)
    assert any(kinds)
    assert getattr(model.train_function, "__self__", None) is None
    assert_dead_is_zero(model)

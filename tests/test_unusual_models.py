"""Tests models, layers and optimizers in states in which users have them when they call `sparsify` or train."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_sparse as ks
from any_models import Block
from keras_sparse.layers.method_state import MethodState
from keras_sparse.training.optimizer_state import slots
from nets import assert_dead_is_zero, compiled, live_weights, mlp, numpy, ready


def dense_net(**settings):
    return compiled(ks.densify(mlp()), **settings)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_that_accumulates_gradients(blobs, in_place):
    model = dense_net(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=4))
    assert live_weights(ks.sparsify(model, 0.9)) == 36
    model.fit(*blobs, batch_size=48, verbose=0)  # Less than a step: random masks would be drawn before it.
    kept = numpy(model.layers[0].kernel).copy()
    sparse = ks.sparsify(model, 0.9, in_place=in_place)
    weights, mask = numpy(sparse.layers[0].kernel_variable), sparse.layers[0].kernel_mask.numpy()
    assert abs(weights[mask]).min() >= np.sort(abs(kept).ravel())[-mask.sum()]


class Classifier(keras.Model):
    """A model with a part that is masked in place, as the backbone of a task of keras-hub."""

    def __init__(self):
        super().__init__()
        self.backbone = keras.Sequential([keras.Input((8,)), layers.Dense(16, activation="relu")])
        self.head = layers.Dense(3)

    def call(self, inputs):
        return self.head(self.backbone(inputs))


def test_a_part_that_is_masked_in_place_after_the_whole_model_has_trained(blobs):
    model = compiled(Classifier())
    model.fit(*blobs, batch_size=8, validation_data=blobs, verbose=0)
    ks.sparsify(model.backbone, 0.9, in_place=True)
    history = model.fit(*blobs, batch_size=8, validation_data=blobs, callbacks=[ks.Static()], verbose=0).history
    assert_dead_is_zero(model)
    assert history["val_loss"][0] == pytest.approx(model.evaluate(*blobs, verbose=0), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`:UserWarning")
def test_densify_after_loading_gives_a_model_that_can_be_quantized(tmp_path):
    mlp().save(tmp_path / "sparse.keras")
    dense = ks.densify(keras.models.load_model(tmp_path / "sparse.keras"))
    x = np.ones((2, 8), "float32")
    before = numpy(dense(x))
    dense.quantize("int8")
    assert dense.layers[0].quantization_mode == "int8"
    np.testing.assert_allclose(numpy(dense(x)), before, atol=0.1 * abs(before).max())


def test_what_lora_changes_is_not_masked():
    tokens = keras.Input((4,), dtype="int32")
    x = layers.Dense(8, name="query")(layers.Embedding(10, 8, name="tokens")(tokens))
    model = keras.Model(tokens, layers.Dense(8, name="out")(x))
    model.get_layer("tokens").enable_lora(2)
    with pytest.raises(ValueError, match=r"LoRA-enabled and quantized layers cannot be masked: \['tokens'\]"):
        ks.sparsify(model, 0.5, include=["embeddings"])
    assert len(ks.masked_layers(ks.sparsify(model, 0.5))) == 2
    model.get_layer("query").enable_lora(2)
    with pytest.raises(ValueError, match=r"cannot be masked: \['query'\]"):
        ks.sparsify(model, 0.5)


def test_part_of_a_path_keeps_a_layer_with_lora():
    block = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="query")], name="block")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(3, name="out")(block(inputs)))
    block.get_layer("query").enable_lora(2)
    (name,) = {x.path for x in block.layers}
    assert [x.name for x in ks.masked_layers(ks.sparsify(model, 0.5, keep_dense=[name]))] == ["out"]


@pytest.mark.parametrize(("policy", "of_cell"), [("mixed_bfloat16", "float32"), ("float32", "mixed_bfloat16")])
def test_a_cell_computes_in_its_own_dtype(policy, of_cell):
    inputs = keras.Input((5, 8))
    rnn = layers.RNN(layers.LSTMCell(16, dtype=of_cell), dtype=policy)
    model = keras.Model(inputs, rnn(inputs))
    sparse = ks.sparsify(model, 0.0)
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    expected, got = (numpy(ops.cast(m(x), "float32")) for m in (model, sparse))
    np.testing.assert_array_equal(got, expected)


class Nested(layers.Layer):
    """A cell that reads its input by an LSTM."""

    def __init__(self, units):
        super().__init__()
        self.units = self.state_size = units
        self.inner, self.mix = layers.LSTM(units), layers.Dense(units)

    def build(self, shape):
        self.inner.build((None, 1, shape[-1]))
        self.mix.build((None, 2 * self.units))

    def call(self, inputs, states):
        h = self.mix(ops.concatenate([self.inner(inputs[:, None]), states[0]], axis=-1))
        return h, [h]


def test_a_recurrent_layer_inside_of_a_cell():
    inputs = keras.Input((5, 8))
    model = ks.sparsify(keras.Model(inputs, layers.RNN(Nested(4))(inputs)), 0.5)
    x = np.ones((2, 5, 8), "float32")
    np.testing.assert_allclose(numpy(model(x)), numpy(ks.densify(model)(x)), rtol=1e-5)
    assert not any("_held_weights" in vars(x.layer) for x in ks.masked_weights(model))


class OldLoss(keras.Sequential):
    """A model with a `compute_loss` as before Keras 3.3."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True))


def test_rigl_with_a_loss_without_the_argument_training(blobs):
    model = compiled(ks.sparsify(OldLoss([keras.Input((8,)), layers.Dense(16), layers.Dense(3)]), 0.8))
    history = model.fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.RigL(0.3, period=4)], verbose=0).history
    assert history["grown"][0] > 0
    assert_dead_is_zero(model)


def test_rigl_with_batches_that_have_none(blobs):
    def batches():
        while True:
            for i in range(12):
                yield (*(a[8 * i : 8 * i + 8] for a in blobs), None)

    model = ready(mlp, 0.8)
    callbacks = [ks.RigL(0.3, period=4)]
    settings = {"steps_per_epoch": 12, "shuffle": False, "verbose": 0}
    history = model.fit(batches(), epochs=2, callbacks=callbacks, **settings).history
    assert min(history["grown"]) > 0


@pytest.mark.tensorflow
def test_an_optimizer_of_native_variables(blobs):
    import tensorflow as tf

    model, optimizer = mlp(), keras.optimizers.SGD(0.1, momentum=0.9)
    method = ks.SET(0.5, period=1)
    for step in range(1, 4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(blobs[0]) ** 2)
            variables = tape.watched_variables()
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        method.update(model, step, optimizer=optimizer)
    for layer in ks.masked_layers(model):
        ((slot, _),) = slots(optimizer, layer.kernel_variable)
        assert numpy(slot).any()
        assert not numpy(slot)[~layer.kernel_mask.numpy()].any()


def test_an_optimizer_and_a_loss_of_a_model_that_is_not_compiled(blobs):
    class Own(keras.Sequential):
        pass

    model = Own([keras.Input((8,)), layers.Dense(3)])
    model.optimizer, model.loss = keras.optimizers.Adam(0.1), "mine"
    momentum = keras.optimizers.SGD(0.1, momentum=0.9)
    model.helper = keras.optimizers.MultiOptimizer(lambda variable: momentum)
    for optimizer in (model.optimizer, model.helper):
        optimizer.build(model.trainable_variables)
    sparse = ks.sparsify(model, 0.5)
    assert sparse.loss == "mine"
    assert not sparse.compiled
    before = numpy(sparse.trainable_variables[0]).copy()
    for optimizer in (sparse.optimizer, sparse.helper):
        assert optimizer not in (model.optimizer, model.helper)
        optimizer.apply([ops.ones(v.shape) for v in sparse.trainable_variables], sparse.trainable_variables)
    assert (numpy(sparse.trainable_variables[0]) != before).all()
    assert (numpy(model.trainable_variables[0])[sparse.layers[0].kernel_mask.numpy()] == before[before != 0]).all()


def test_a_state_that_something_has_overwritten_gives_a_warning(blobs):
    model = ready()
    fit = {"batch_size": 8, "verbose": 0}
    model.fit(*blobs, callbacks=[ks.DynamicSparse(fraction=0.1, period=4)], **fit)
    (holder,) = [w.mask for w in ks.masked_weights(model) if w.mask.method_state is not None]
    for harm in (b'{"method":"Dyn', b"\xff\xfe", b'{"other":1}'):
        broken = np.zeros(holder.method_state.shape, "uint8")
        broken[: len(harm)] = list(harm)
        holder.method_state.assign(broken)
        with pytest.warns(UserWarning, match="state of the method .* cannot be read.* mean of several `get_weights"):
            model.fit(*blobs, callbacks=[ks.DynamicSparse(fraction=0.1, period=4)], **fit)
        assert MethodState.from_bytes(numpy(holder.method_state)).method == "DynamicSparse"


class PixelConvolution(layers.Layer):
    """The layer of the PixelCNN example of keras.io, which masks its own kernel."""

    def __init__(self):
        super().__init__()
        self.conv, self.after = layers.Conv2D(4, 3, padding="same"), layers.Conv2D(4, 1)

    def build(self, shape):
        self.conv.build(shape)
        self.after.build((*shape[:-1], 4))
        self.causal = np.tril(np.ones((3, 3)))[..., None, None].astype("float32")

    def call(self, inputs):
        self.conv.kernel.assign(self.conv.kernel * self.causal)
        return self.after(self.conv(inputs))


def test_a_weight_that_a_layer_around_assigns_to_stays_dense():
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, PixelConvolution()(inputs))
    sparse = ks.sparsify(model, 0.5)
    assert [w.shape for w in ks.masked_weights(sparse)] == [(1, 1, 4, 4)]
    assert "is assigned to in the `call`" in str([d.reason for d in ks.report(sparse).dense])
    assert sparse(np.ones((1, 6, 6, 2))).shape == (1, 6, 6, 4)


class Teacher(layers.Layer):
    """A layer that assigns to the weights of some layers inside, and to one that is deeper inside."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = layers.Dense(4), layers.Dense(4)
        self.block = PixelConvolution()

    def build(self, shape):
        self.student.build(shape)
        self.teacher.build(shape)
        self.block.build((None, 2, 2, 4))

    def call(self, inputs):
        for layer in [self.teacher]:
            layer.bias.assign(0.9 * layer.bias)
        update = lambda: self.block.after.kernel.assign(0.9 * self.block.after.kernel)  # noqa: E731
        update()
        return self.student(inputs) + self.teacher(inputs)


def test_only_weights_that_are_assigned_to_stay_dense():
    model = keras.Sequential([keras.Input((8,)), Teacher()])
    sparse = ks.sparsify(model, 0.5)
    assert [w.shape for w in ks.masked_weights(sparse)] == [(8, 4), (8, 4)]
    assert sparse(np.ones((1, 8))).shape == (1, 4)


@keras.saving.register_keras_serializable("test_unusual_models")
class Subclassed(keras.Model):
    """A subclassed model that its config makes anew."""

    def __init__(self, units=16, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.last = layers.Dense(units, activation="relu"), layers.Dense(3)

    def call(self, inputs):
        return self.last(self.first(inputs))

    def get_config(self):
        return {"units": self.units}


def test_a_model_from_a_config_has_its_masks_when_it_trains(blobs):
    model = Subclassed()
    model(blobs[0])
    sparse = ks.sparsify(model, 0.9)
    new = compiled(type(sparse).from_config(sparse.get_config()))
    if keras.backend.backend() == "tensorflow":  # which builds the model in its first step, after callbacks have begun
        with pytest.raises(ValueError, match="is not built.*Call it once on a batch"):
            new.fit(*blobs, batch_size=8, callbacks=[ks.Static()], verbose=0)
        new(blobs[0])
    new.fit(*blobs, batch_size=8, callbacks=[ks.Static()], verbose=0)
    assert live_weights(new) == live_weights(sparse)
    assert_dead_is_zero(new)
    before = [numpy(v).copy() for v in new.trainable_variables]
    new(blobs[0])
    for a, b in zip(before, new.trainable_variables, strict=True):
        np.testing.assert_array_equal(numpy(b), a)


class Autoencoder(keras.Model):
    """A subclassed model with an encoder that is used on its own."""

    def __init__(self):
        super().__init__()
        recurrent = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
        self.encoder = keras.Sequential([keras.Input((5, 8)), Block(8), recurrent])
        self.decoder = layers.Dense(8)

    def call(self, inputs):
        return self.decoder(self.encoder(inputs))


@keras.saving.register_keras_serializable("test_unusual_models")
class Trained(keras.Model):
    """A functional model of a user's class, as the backbones of keras-hub."""


def test_a_part_of_a_subclassed_model_keeps_its_masks_in_files(tmp_path):
    model, x = Autoencoder(), np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    model(x)
    sparse = ks.sparsify(model, 0.7)
    sparse.encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    masks, expected = ([w.mask.numpy() for w in ks.masked_weights(m)] for m in (loaded, sparse.encoder))
    assert len(masks) == 6  # two of the block, four of the recurrent layers
    for a, b in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(numpy(loaded(x)), numpy(sparse.encoder(x)), rtol=1e-5)
    assert not ks.masked_layers(ks.densify(sparse))
    assert type(ks.densify(sparse).encoder.layers[0]) is Block


def test_a_clone_of_a_functional_model_of_a_users_class_has_masks():
    inputs = keras.Input((5, 8))
    model = Trained(inputs, layers.Dense(3)(layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)))
    sparse = ks.sparsify(model, 0.7)
    clone = keras.models.clone_model(sparse)
    assert len(ks.masked_weights(clone)) == len(ks.masked_weights(sparse)) == 5
    config = sparse.get_layer("attention").get_config()
    config["name"] = "another"
    other = type(sparse.get_layer("attention")).from_config(config)
    other.build(inputs.shape, inputs.shape)
    other(np.ones((1, 5, 8)), np.ones((1, 5, 8)))
    assert (other.name, len(ks.masked_layers(other))) == ("another", 4)

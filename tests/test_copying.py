"""Tests that a copy computes the same as the original, and shares no variable with it."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import any_models
import keras_sparse as ks
from keras_sparse.layers import MaskedDense
from nets import compiled, numpy

TRAINED = {"epochs": 1, "batch_size": 48, "verbose": 0}
# On TensorFlow tracing takes longer than a few eager steps, on JAX it is the reverse.
EAGERLY = {} if keras.backend.backend() == "jax" else {"run_eagerly": True}


def rng(seed=0):
    return np.random.default_rng(seed)


def randomized(model, seed=5):
    """Sets random weights instead of zeros and ones, and returns the model."""
    draw = rng(seed)
    for w in model.weights:
        if "float" in keras.backend.standardize_dtype(w.dtype):
            w.assign(draw.uniform(0.1, 0.6, w.shape))
    return model


def outputs(model, x):
    return [numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_same_function(one, other, x):
    for a, b in zip(outputs(one, x), outputs(other, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def assert_converted(model, x, **kwargs):
    """Asserts that copies compute the same: masked without dead weights, and dense; a sparse one and its dense copy."""
    assert_same_function(model, ks.sparsify(model, 0.0, **kwargs), x)
    sparse = ks.sparsify(model, 0.5, **kwargs)
    dense = ks.densify(sparse)
    assert_plain(dense)
    assert_same_function(sparse, dense, x)


def assert_plain(model):
    """Asserts that no layer is of a class of keras_sparse."""
    left = [x.path for x in model._flatten_layers() if type(x).__module__.startswith("keras_sparse")]
    assert not left


def weights(model):
    return [numpy(w).copy() for w in model.weights]


def assert_weights(model, expected):
    for w, value in zip(model.weights, expected, strict=True):
        np.testing.assert_array_equal(numpy(w), value, err_msg=w.path)


# A copy shares nothing with its original.


def rich():
    """Makes a model with all kinds of variables: biases, averages, the state of a random generator, an embedding."""
    inputs = keras.Input((8,))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.Dropout(0.2, seed=3)(layers.BatchNormalization()(x))
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="inner"), layers.LayerNormalization()])
    x = inner(inner(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def conv():
    images = keras.Input((8, 1))
    x = layers.Conv1D(4, 3, activation="relu")(images)
    return keras.Model(images, layers.Dense(3)(layers.Flatten()(x)))


NETS = {"rich": rich, "conv": conv}


@pytest.fixture(params=NETS)
def net(request):
    return randomized(NETS[request.param]())


def train(model, blobs, **kwargs):
    x, y = blobs
    x = x[..., None] if len(model.input_shape) == 3 else x
    compiled(model, **EAGERLY).fit(x, y, **TRAINED, **kwargs)
    return x


def assert_apart(used, other, blobs):
    """Asserts that training one model does not change the other, which can still predict and train."""
    before = weights(other)
    x = train(used, blobs)
    assert_weights(other, before)
    assert np.isfinite(other.predict(x, verbose=0)).all()
    after = weights(used)
    train(other, blobs)
    assert_weights(used, after)
    assert np.isfinite(used.predict(x, verbose=0)).all()
    assert any((numpy(w) != b).any() for w, b in zip(other.weights, before, strict=True))


def test_training_a_sparse_copy_leaves_the_original_usable(net, blobs):
    assert_apart(ks.sparsify(net, 0.5), net, blobs)


def test_training_the_original_leaves_its_sparse_copy_usable(net, blobs):
    assert_apart(net, ks.sparsify(net, 0.5), blobs)


def test_training_a_sparse_model_leaves_its_dense_copy_usable(net, blobs):
    sparse = ks.sparsify(net, 0.5)
    assert_apart(sparse, ks.densify(sparse), blobs)


def test_training_a_dense_copy_leaves_the_sparse_model_usable(net, blobs):
    sparse = ks.sparsify(net, 0.5)
    assert_apart(ks.densify(sparse), sparse, blobs)


def test_two_copies_of_one_model_are_trained_apart(blobs):
    net = randomized(conv())
    assert_apart(ks.sparsify(net, 0.5), ks.sparsify(net, 0.9), blobs)


def test_layers_kept_dense_are_not_shared_with_the_original(blobs):
    net = randomized(rich())
    assert_apart(ks.sparsify(net, 0.5, keep_dense=["logits", "inner"]), net, blobs)


def test_a_model_without_a_masked_layer_can_be_densified_and_is_not_shared(blobs):
    net = randomized(conv())
    assert_apart(ks.densify(net), net, blobs)


def test_a_masked_model_can_be_made_dense_and_sparse_again_while_all_are_trained(blobs):
    models = [randomized(conv())]
    for _ in range(2):
        models.append(ks.sparsify(models[-1], 0.5))
        models.append(ks.densify(models[-1]))
    for model in [*models, *reversed(models)]:
        x = train(model, blobs)
    for model in models:
        assert np.isfinite(model.predict(x, verbose=0)).all()


# Copies of compiled models.


def my_loss(y, z):
    return keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)


def my_metric(y, z):
    return ops.mean(ops.max(z, axis=-1))


class MyLoss(keras.losses.Loss):
    def call(self, y, z):
        return my_loss(y, z)


class MyMetric(keras.metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_pred)


class MySchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01 / (1.0 + ops.cast(step, "float32"))


class MyOptimizer(keras.optimizers.SGD):
    def __init__(self, factor):
        super().__init__(0.01 * factor)


COMPILED = {
    "a function as loss": lambda: {"optimizer": "adam", "loss": my_loss},
    "a lambda as loss": lambda: {"optimizer": "adam", "loss": lambda y, z: my_loss(y, z)},
    "a class as loss": lambda: {"optimizer": "adam", "loss": MyLoss()},
    "a function as metric": lambda: {"optimizer": "adam", "loss": my_loss, "metrics": [my_metric]},
    "a class as metric": lambda: {"optimizer": "adam", "loss": my_loss, "metrics": [MyMetric(name="mine")]},
    "a schedule": lambda: {"optimizer": keras.optimizers.Adam(MySchedule()), "loss": my_loss},
    "an optimizer": lambda: {"optimizer": MyOptimizer(2.0), "loss": my_loss},
    "Keras's own": lambda: {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    },
}


def chain():
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, activation="relu", name="a"), layers.Dense(3, name="b")]
    )


def functional():
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(3, name="b")(layers.Dense(8, activation="relu", name="a")(inputs)))


def within_another():
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Activation("linear")(chain()(inputs)))


CASES = [(kind, chain) for kind in COMPILED] + [("a schedule", functional), ("a class as metric", within_another)]


@pytest.mark.parametrize(("kind", "build"), CASES)
def test_a_compiled_model_is_copied_uncompiled_and_stays_compiled(kind, build, blobs):
    model = build()
    model.compile(**COMPILED[kind](), **EAGERLY)
    model.fit(*blobs, **TRAINED)
    optimizer, loss, before = model.optimizer, model.loss, weights(model)
    sparse = ks.sparsify(model, 0.5)
    dense = ks.densify(sparse)
    for copy in (sparse, dense):
        assert not copy.compiled
        assert getattr(copy, "optimizer", None) is None
    assert model.compiled
    assert model.optimizer is optimizer
    assert model.loss is loss
    assert_weights(model, before)
    assert int(numpy(model.optimizer.iterations)) == 2
    model.fit(*blobs, **TRAINED)
    assert int(numpy(model.optimizer.iterations)) == 4
    sparse.compile(**COMPILED[kind](), **EAGERLY)
    sparse.fit(*blobs, **TRAINED, callbacks=[ks.SET(0.3, period=1)])
    assert not ks.densify(sparse).compiled
    assert sparse.compiled


def test_a_compiled_model_nested_in_another_is_copied_uncompiled(blobs):
    inner = chain()
    inner.compile(optimizer=MyOptimizer(1.0), loss=my_loss)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    sparse = ks.sparsify(model, 0.5)
    assert [x.compiled for x in sparse._flatten_layers() if isinstance(x, keras.Model)] == [False, False]
    assert inner.compiled
    assert_same_function(sparse, ks.densify(sparse), blobs[0])


def test_a_densified_file_is_as_small_as_that_of_a_model_never_compiled(tmp_path):
    def build():
        return keras.Sequential([keras.Input((100,)), layers.Dense(400, name="a"), layers.Dense(10, name="b")])

    x, y = rng().normal(size=(16, 100)).astype("float32"), np.arange(16) % 10
    model = build()
    model.save(tmp_path / "never.keras")
    model.compile("adam", my_loss)
    sparse = ks.sparsify(model, 0.5)
    sparse.compile("adam", my_loss)
    sparse.fit(x, y, verbose=0)
    ks.densify(sparse).save(tmp_path / "dense.keras")
    never, dense = ((tmp_path / f"{name}.keras").stat().st_size for name in ("never", "dense"))
    assert dense < 1.2 * never
    loaded = keras.models.load_model(tmp_path / "dense.keras")
    assert_same_function(sparse, loaded, x)


# Layers in a model or composite layer named by keep_dense.


def encoder(name="backbone"):
    """Makes a model to be nested, which has a nested model itself."""
    block_inputs = keras.Input((8,))
    block = keras.Model(block_inputs, layers.Dense(8, name="deep")(block_inputs), name=f"{name}_block")
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(8, name="shallow")(block(inputs)), name=name)


def with_backbone():
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="stem")(inputs)
    return randomized(keras.Model(inputs, layers.Dense(3, name="head")(encoder()(x))))


def names(model):
    return [x.name for x in ks.masked_layers(model)]


@pytest.mark.parametrize(
    ("keep_dense", "masked"),
    [
        (["backbone"], ["stem", "head"]),
        ("backbone", ["stem", "head"]),
        (lambda layer: layer.name == "backbone", ["stem", "head"]),
        (lambda layer: isinstance(layer, keras.Model), ["stem", "head"]),
        (["backbone_block"], ["stem", "shallow", "head"]),
        (["deep"], ["stem", "shallow", "head"]),
        (["backbone", "head"], ["stem"]),
        ([], ["stem", "deep", "shallow", "head"]),
    ],
)
def test_a_nested_model_that_is_kept_dense_is_kept_whole(keep_dense, masked, blobs):
    model = with_backbone()
    assert names(ks.sparsify(model, 0.5, keep_dense=keep_dense)) == masked
    assert_converted(model, blobs[0], keep_dense=keep_dense)


def test_the_weights_of_a_nested_model_that_is_kept_dense_are_those_of_the_original():
    model = with_backbone()
    sparse = ks.sparsify(model, 0.9, keep_dense=["backbone"])
    assert_weights(sparse.get_layer("backbone"), weights(model.get_layer("backbone")))


def test_a_nested_sequential_that_is_kept_dense_is_kept_whole(blobs):
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(8)], name="body")
    model = randomized(keras.Sequential([keras.Input((8,)), inner, layers.Dense(3, name="head")]))
    assert names(ks.sparsify(model, 0.5, keep_dense=["body"])) == ["head"]
    assert_converted(model, blobs[0], keep_dense=["body"])


def test_a_model_all_of_which_is_kept_dense_has_nothing_to_mask():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, encoder()(inputs))
    with pytest.raises(ValueError, match="found no layer to mask"):
        ks.sparsify(model, 0.5, keep_dense=["backbone"])


def with_composites():
    sequence = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(sequence, sequence)
    x = layers.TimeDistributed(layers.Dense(8, name="each"), name="steps")(x)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(x)
    return randomized(keras.Model(sequence, layers.Dense(3, name="head")(x)))


def inside(model, name):
    """Returns the paths of the masked layers in a layer."""
    return ks.masked_layers(model.get_layer(name))


@pytest.mark.parametrize("kept", ["attention", "steps", "both"])
@pytest.mark.parametrize("by", ["name", "function"])
def test_a_composite_layer_that_is_kept_dense_is_kept_whole(kept, by):
    model = with_composites()
    keep = [kept] if by == "name" else lambda layer: layer.name == kept
    sparse = ks.sparsify(model, 0.5, keep_dense=keep)
    assert not inside(sparse, kept)
    assert "head" in names(sparse)
    assert_weights(sparse.get_layer(kept), weights(model.get_layer(kept)))
    assert_converted(model, rng().normal(size=(2, 4, 8)).astype("float32"), keep_dense=keep)


@pytest.mark.parametrize(("kept", "where"), [("query", "attention"), ("each", "steps")])
def test_a_layer_inside_of_a_composite_one_that_is_kept_dense_stays_dense(kept, where):
    model = with_composites()
    sparse = ks.sparsify(model, 0.5, keep_dense=[kept])
    assert kept not in names(sparse)
    inner = {x.name: x for x in sparse.get_layer(where)._flatten_layers()}[kept]
    original = {x.name: x for x in model.get_layer(where)._flatten_layers()}[kept]
    assert_weights(inner, weights(original))


class OwnModel(keras.Model):
    """A subclassed model that can be copied by its config."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, name="hidden")

    def build(self, shape):
        self.hidden.build(shape)

    def call(self, x):
        return self.hidden(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_subclassed_model_that_is_kept_dense_is_copied_as_it_is(blobs):
    inputs = keras.Input((8,))
    model = randomized(keras.Model(inputs, layers.Dense(3, name="head")(OwnModel(name="own")(inputs))))
    sparse = ks.sparsify(model, 0.5, keep_dense=["own"])
    assert names(sparse) == ["head"]
    assert_same_function(sparse, ks.densify(sparse), blobs[0])
    assert_apart(sparse, model, blobs)


# Layers that densify reaches.


def assert_densified_or_refused(model, x, *named):
    """Asserts that densify gives the same function without masked layers, or an error with one of these names."""
    expected = outputs(model, x)
    try:
        dense = ks.densify(model)
    except ValueError as error:
        if not any(name in str(error) for name in named):
            raise
        return
    assert not ks.masked_layers(dense)
    assert_plain(dense)
    for a, b in zip(expected, outputs(dense, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


SEQUENCE = rng(1).normal(size=(2, 4, 8)).astype("float32")


def masked_dense(**kwargs):
    return MaskedDense(8, sparsity=0.5, **kwargs)


@pytest.mark.parametrize("bare", [True, False])
def test_densify_reaches_into_time_distributed(bare):
    sequence = keras.Input((4, 8))
    x = layers.TimeDistributed(masked_dense(name="each"), name="steps")(sequence)
    model = randomized(keras.Model(sequence, x if bare else masked_dense(name="head")(x)))
    assert "each" in names(model)
    dense = ks.densify(model)
    assert not ks.masked_layers(dense)
    assert_plain(dense)
    assert_same_function(model, dense, SEQUENCE)


def test_densify_reaches_into_a_sequential_within_time_distributed():
    sequence = keras.Input((4, 8))
    inner = keras.Sequential([keras.Input((8,)), masked_dense(name="each"), layers.ReLU()], name="body")
    x = layers.TimeDistributed(inner, name="steps")(sequence)
    assert_densified_or_refused(randomized(keras.Model(sequence, x)), SEQUENCE, "each", "body", "steps")


class Block(keras.layers.Layer):
    """Custom layer with a masked layer inside."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = masked_dense(name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return x + self.inner(x)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class BlockOf(keras.layers.Layer):
    """Custom layer with a layer given as argument."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return x + self.inner(x)

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


class MaskedModel(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = masked_dense(name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return super().get_config()


OWN = {
    "a block": lambda: Block(name="own"),
    "a block that is given its layer": lambda: BlockOf(masked_dense(name="inner"), name="own"),
    "a subclassed model": lambda: MaskedModel(name="own"),
    "a block in TimeDistributed": lambda: layers.TimeDistributed(Block(name="own")),
    "a block in a block": lambda: BlockOf(Block(name="own"), name="outer"),
}


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("nested", [False, True])
def test_densify_leaves_no_masked_layer_in_code_of_ones_own_or_names_it(kind, nested):
    sequence = keras.Input((4, 8))
    x = OWN[kind]()(masked_dense(name="first")(sequence))
    if nested:
        inner = keras.Input((4, 8))
        x = keras.Model(inner, OWN[kind]()(inner), name="nest")(x)
    model = randomized(keras.Model(sequence, x))
    assert_densified_or_refused(model, SEQUENCE, "own", "inner")


# Adapted preprocessing layers.


def discretized():
    layer = layers.Discretization(num_bins=5, name="bins")
    layer.adapt(rng().normal(size=(200, 1)).astype("float32"))
    inputs = keras.Input((3,))
    x = layers.Embedding(5, 4, name="embedding")(layer(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))), rng(2).normal(size=(9, 3)).astype("float32")


def discretized_one_hot():
    layer = layers.Discretization(num_bins=4, output_mode="one_hot", name="bins")
    layer.adapt(rng().normal(size=(200, 1)).astype("float32"))
    x = rng(2).normal(size=(9, 1)).astype("float32")
    return keras.Sequential([keras.Input((1,)), layer, layers.Dense(3)]), x


def discretized_by_given_bounds():
    layer = layers.Discretization(bin_boundaries=[-0.5, 0.1, 0.7], name="bins")
    inputs = keras.Input((3,))
    x = layers.Flatten()(layers.Embedding(4, 4)(layer(inputs)))
    return keras.Model(inputs, layers.Dense(3)(x)), rng(2).normal(size=(9, 3)).astype("float32")


def normalized():
    layer = layers.Normalization(name="normalization")
    layer.adapt(rng().normal(3, 5, size=(100, 4)).astype("float32"))
    x = rng(2).normal(3, 5, size=(9, 4)).astype("float32")
    return keras.Sequential([keras.Input((4,)), layer, layers.Dense(3)]), x


def normalized_and_back():
    data = rng().normal(3, 5, size=(100, 4)).astype("float32")
    forth, back = layers.Normalization(name="forth"), layers.Normalization(invert=True, name="back")
    forth.adapt(data)
    back.adapt(data)
    model = keras.Sequential([keras.Input((4,)), forth, layers.Dense(4), back])
    return model, rng(2).normal(3, 5, size=(9, 4)).astype("float32")


def normalized_by_given_numbers():
    layer = layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 9.0, 16.0])
    x = rng(2).normal(3, 5, size=(9, 4)).astype("float32")
    return keras.Sequential([keras.Input((4,)), layer, layers.Dense(3)]), x


def normalized_inside():
    inner, x = normalized()
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2)(inner(inputs))), x


def normalized_in_time_distributed():
    layer = layers.Normalization(name="normalization")
    layer.adapt(rng().normal(3, 5, size=(100, 4)).astype("float32"))
    sequence = keras.Input((2, 4))
    model = keras.Model(sequence, layers.Dense(3)(layers.TimeDistributed(layer, name="steps")(sequence)))
    return model, rng(2).normal(3, 5, size=(9, 2, 4)).astype("float32")


ADAPTED = {
    f.__name__: f
    for f in (
        discretized,
        discretized_one_hot,
        discretized_by_given_bounds,
        normalized,
        normalized_and_back,
        normalized_by_given_numbers,
        normalized_inside,
        normalized_in_time_distributed,
    )
}


@pytest.mark.parametrize("kind", ADAPTED)
def test_a_copy_keeps_what_its_layers_were_adapted_to(kind):
    model, x = ADAPTED[kind]()
    assert np.ptp(outputs(model, x)[0], axis=0).max() > 1e-3  # The outputs depend on the data.
    assert_converted(model, x)


WORDS = np.array(["cat", "dog", "emu", "fox", "cat", "dog", "cat"])


def words(layer, size, shape=(1,), dtype="string"):
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Embedding(size, 4)(layer(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def string_lookup():
    layer = layers.StringLookup(name="lookup")
    layer.adapt(WORDS)
    return words(layer, 5), np.array([["dog"], ["fox"], ["cat"], ["bee"]])


def string_lookup_of_given_words():
    layer = layers.StringLookup(vocabulary=["a", "b", "c"], name="lookup")
    return words(layer, 4), np.array([["c"], ["b"], ["x"]])


def integer_lookup():
    layer = layers.IntegerLookup(name="lookup")
    layer.adapt(np.array([7, 9, 7, 11, 13, 7, 9]))
    return words(layer, 5, dtype="int64"), np.array([[7], [13], [9], [5]])


def integer_lookup_multi_hot():
    layer = layers.IntegerLookup(output_mode="multi_hot", name="lookup")
    layer.adapt(np.array([7, 9, 7, 11, 13, 7, 9]))
    inputs = keras.Input((2,), dtype="int64")
    return keras.Model(inputs, layers.Dense(3)(layer(inputs))), np.array([[7, 9], [13, 11], [9, 5]])


def text_vectorization():
    layer = layers.TextVectorization(max_tokens=10, output_sequence_length=3, name="text")
    layer.adapt(np.array(["the cat sat", "the dog sat", "a fox ran the mile"]))
    return words(layer, 10), np.array([["the fox sat"], ["a dog ran"], ["cat"]])


def text_vectorization_tf_idf():
    layer = layers.TextVectorization(max_tokens=10, output_mode="tf_idf", pad_to_max_tokens=True, name="text")
    layer.adapt(np.array(["the cat sat", "the dog sat", "a fox ran the mile"]))
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, layers.Dense(3)(layer(inputs))), np.array([["the fox sat"], ["a dog ran"], ["cat"]])


LOOKED_UP = {
    f.__name__: f
    for f in (
        string_lookup,
        string_lookup_of_given_words,
        integer_lookup,
        integer_lookup_multi_hot,
        text_vectorization,
        text_vectorization_tf_idf,
    )
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", LOOKED_UP)
def test_a_copy_keeps_the_vocabulary_of_its_layers(kind):
    model, x = LOOKED_UP[kind]()
    if x.dtype.kind == "U":
        import tensorflow as tf

        x = tf.constant(x.tolist())
    assert np.ptp(outputs(model, x)[0], axis=0).max() > 1e-3
    assert_converted(model, x)


# Custom code.


def double(x):
    return 2 * x


class Cell(keras.layers.Layer):
    """Custom recurrent cell without get_config."""

    def __init__(self, units):
        super().__init__()
        self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.state_size), name="kernel")
        self.recurrent = self.add_weight(shape=(self.state_size, self.state_size), name="recurrent")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent))
        return h, [h]


class Scale(keras.layers.Layer):
    """Layer without get_config, whose argument cannot be serialized."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")

    def call(self, x):
        return self.function(x) * self.scale

    def compute_output_shape(self, shape):
        return shape


class Wrapped(keras.layers.Wrapper):
    def call(self, x):
        return self.layer(x) + x


class Twice(keras.layers.Layer):
    """Layer with a list of two layers, without get_config."""

    def __init__(self, units, *, activation):
        super().__init__()
        self.parts = [layers.Dense(units, activation=activation), Scale(activation)]

    def build(self, shape):
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class PlainScale(keras.layers.Layer):
    """Typical custom layer, without get_config and name."""

    def __init__(self):
        super().__init__()
        self.inner = layers.LayerNormalization()

    def call(self, x):
        return self.inner(x) * 3


def ones(shape, dtype=None):
    return ops.ones(shape, dtype)


CODE = {
    "a lambda": lambda: layers.Lambda(lambda x: 3 * x),
    "a lambda over what surrounds it": lambda n=4.0: layers.Lambda(lambda x: n * x),
    "a function in Lambda": lambda: layers.Lambda(double),
    "a function as activation": lambda: layers.Dense(8, activation=double),
    "an Activation": lambda: layers.Activation(double),
    "an initializer of a layer that stays dense": lambda: layers.PReLU(
        alpha_initializer=lambda s, dtype=None: ops.ones(s, dtype)
    ),
    "a recurrent cell": lambda: layers.RNN(Cell(8), return_sequences=True),
    "stacked cells": lambda: layers.RNN([Cell(5), layers.GRUCell(8, activation=double)], return_sequences=True),
    "a GRU's activation": lambda: layers.GRU(8, activation=lambda x: ops.tanh(x), return_sequences=True),
    "a layer in TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(8, activation=double)),
    "an own layer in TimeDistributed": lambda: layers.TimeDistributed(Scale(double)),
    "a layer in SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(8)),
    "an activation in SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(8, activation=double)),
    "a layer without get_config": lambda: Scale(double),
    "a layer without get_config or arguments": lambda: PlainScale(),
    "a block without get_config": lambda: Twice(8, activation=double),
    "a Wrapper": lambda: Wrapped(layers.Dense(8, activation=double)),
}


def around(make):
    """Makes models with a layer at the top level, in a nested model, in a Sequential, and shared."""
    sequence = keras.Input((4, 8))
    x = make()(layers.Dense(8, name="before")(sequence))
    inner = keras.Input((4, 8))
    x = keras.Model(inner, make()(inner), name="nest")(layers.LayerNormalization()(x))
    x = keras.Sequential([keras.Input((4, 8)), layers.LayerNormalization(), make()], name="chain")(x)
    shared = make()
    x = layers.LayerNormalization()(shared(shared(layers.LayerNormalization()(x))))
    return randomized(keras.Model(sequence, layers.Dense(3, name="after")(x)))


@pytest.mark.parametrize("kind", CODE)
def test_code_of_ones_own_is_copied_in_the_process_that_holds_it(kind):
    model = around(CODE[kind])
    assert_converted(model, SEQUENCE)


@pytest.mark.parametrize("kind", CODE)
def test_the_copy_of_ones_own_code_shares_no_layer_or_weight_with_the_original(kind):
    model = around(CODE[kind])
    before, sparse = outputs(model, SEQUENCE), ks.sparsify(model, 0.5)
    for w in sparse.weights:
        w.assign(np.zeros(w.shape, keras.backend.standardize_dtype(w.dtype)))
    np.testing.assert_array_equal(before[0], outputs(model, SEQUENCE)[0])
    ours = {id(x) for x in model._flatten_layers()}
    assert not [x.name for x in sparse._flatten_layers() if id(x) in ours]


def test_a_model_with_a_lambda_is_converted_after_its_training(blobs):
    model = keras.Sequential([keras.Input((8,)), layers.Lambda(lambda x: x / 2), layers.Dense(3, activation=double)])
    train(model, blobs)
    sparse = ks.sparsify(model, 0.5)
    train(sparse, blobs)
    assert_same_function(sparse, ks.densify(sparse), blobs[0])


# The order of nested layers.


def in_order():
    """Makes a model of three levels; returns it and the names in the order of model.layers, depth first."""
    deepest = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="d"), layers.Dense(8, name="e")], name="deepest"
    )
    inner_inputs = keras.Input((8,))
    x = layers.Dense(8, name="c")(inner_inputs)
    inner = keras.Model(inner_inputs, layers.Dense(8, name="f")(deepest(x)), name="inner")
    second = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="g"), layers.Dense(8, name="h")], name="second")
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="b")(layers.Dense(8, name="a")(inputs))
    return keras.Model(inputs, layers.Dense(3, name="i")(second(inner(x))))


def test_masked_layers_come_in_the_order_of_the_model():
    model = ks.sparsify(in_order(), 0.5)
    assert "".join(names(model)) == "abcdefghi"
    assert [x.name.split("/")[-1] for x in ks.report(model).layers] == list("abcdefghi")
    table = str(ks.report(model)).splitlines()[1:10]
    assert [line.split()[0].split("/")[-1] for line in table] == list("abcdefghi")


def test_masked_layers_of_nested_models_that_are_used_twice_come_once_in_order():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="b"), layers.Dense(8, name="c")])
    inputs = keras.Input((8,))
    x = inner(layers.Dense(8, name="d")(inner(layers.Dense(8, name="a")(inputs))))
    model = ks.sparsify(keras.Model(inputs, x), 0.5)
    expected = []
    for layer in model.layers:
        expected += [x.name for x in layer.layers] if isinstance(layer, keras.Model) else [layer.name]
    assert names(model) == [name for name in expected if name in "abcd"]


def test_masked_layers_inside_of_blocks_come_where_the_block_is():
    sequence = keras.Input((4, 8))
    x = masked_dense(name="a")(sequence)
    x = BlockOf(masked_dense(name="b"))(x)
    x = layers.TimeDistributed(keras.Sequential([keras.Input((8,)), masked_dense(name="c"), masked_dense(name="d")]))(x)
    assert names(keras.Model(sequence, masked_dense(name="e")(x))) == list("abcde")


# Random models.

MAY_BE_REFUSED = (Block, BlockOf, OwnModel)


def adapted_normalization():
    layer = layers.Normalization(axis=-1)
    layer.adapt(rng().normal(1, 2, size=(20, 4, 8)).astype("float32"))
    return layer


LEAVES = {
    **CODE,
    "dense": lambda: layers.Dense(8),
    "frozen": lambda: layers.Dense(8, trainable=False),
    "conv": lambda: layers.Conv1D(8, 3, padding="same"),
    "einsum": lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d"),
    "batch norm": lambda: layers.BatchNormalization(),
    "group norm": lambda: layers.GroupNormalization(2),
    "dropout": lambda: layers.Dropout(0.5),
    "adapted": adapted_normalization,
    "own block": lambda: BlockOf(layers.Dense(8)),
    "own model": lambda: OwnModel(),
    "conv in TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(8)),
    "lstm": lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
}


def attention():
    layer = layers.MultiHeadAttention(2, 4)
    return lambda x: layer(x, x)


leaves = st.sampled_from(sorted(LEAVES)).map(lambda kind: ("leaf", kind))
TREES = st.recursive(
    leaves | st.just(("attention",)),
    lambda t: st.one_of(
        st.tuples(st.just("chain"), st.lists(t, min_size=2, max_size=3)),
        st.tuples(st.just("sequential"), st.lists(leaves, min_size=1, max_size=3)),
        st.tuples(st.just("nested"), t),
        st.tuples(st.just("residual"), t),
        st.tuples(st.just("branches"), t, t),
        st.tuples(st.just("used twice"), t),
    ),
    max_leaves=6,
)


def grow(tree):
    """Draws a function between tensors of shape (batch, 4, 8); two calls share its layers."""
    kind, *rest = tree
    if kind == "leaf":
        return LEAVES[rest[0]]()
    if kind == "attention":
        return attention()
    if kind == "sequential":
        return keras.Sequential([keras.Input((4, 8)), *(LEAVES[leaf]() for _, leaf in rest[0])])
    if kind == "nested":
        inputs, body = keras.Input((4, 8)), grow(rest[0])
        return keras.Model(inputs, layers.LayerNormalization()(body(inputs)))
    parts = [grow(part) for part in (rest[0] if kind == "chain" else rest)]
    if kind == "chain":
        return lambda x: functional_composition(parts, x)
    if kind == "residual":
        return lambda x: x + 0.5 * parts[0](x)
    if kind == "branches":
        return lambda x: layers.add([parts[0](x), parts[1](x)])
    return lambda x: parts[0](parts[0](x))


def functional_composition(parts, x):
    for part in parts:
        x = part(x)
    return x


@pytest.fixture(scope="module")
def examples(request):
    return request.config.getoption("--examples")


def test_any_composition_is_copied_exactly_or_refused_by_name(examples):
    @settings(max_examples=max(25, examples // 4), deadline=None, phases=(Phase.generate, Phase.shrink))
    @given(TREES, st.integers(0, 99))
    def check(tree, seed):
        sequence = keras.Input((4, 8))
        x = layers.LayerNormalization()(grow(tree)(sequence))
        model = randomized(keras.Model(sequence, layers.Dense(3, name="after")(x)), seed)
        before = outputs(model, SEQUENCE)
        try:
            assert_converted(model, SEQUENCE)
        except ValueError as error:
            own = [x for x in model._flatten_layers() if isinstance(x, MAY_BE_REFUSED)]
            if not any(x.name in str(error) for o in own for x in o._flatten_layers()):
                raise
        np.testing.assert_array_equal(before[0], outputs(model, SEQUENCE)[0])

    check()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="Only PyTorch lists the parameters of a copy anew")
def test_a_copy_can_be_exported_to_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ks.export(ks.sparsify(model, 0.5), tmp_path / "m.onnx") > 0
        dense = ks.densify(ks.sparsify(model, 0.5))
        dense(np.zeros((1, 8, 8, 3), "float32"))
        dense.export(tmp_path / "dense.onnx", format="onnx", verbose=False)


def checkpoint_values(model, folder):
    """Returns what `tf.train.Checkpoint` saves of a model: dict from keys to arrays."""
    import tensorflow as tf

    path = tf.train.Checkpoint(model=model).save(str(folder / "checkpoint"))
    reader = tf.train.load_checkpoint(path)
    return {k: reader.get_tensor(k) for k in reader.get_variable_to_shape_map() if k.startswith("model/")}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["functional", "nested", "subclassed"])
@pytest.mark.parametrize("in_place", [False, True])
def test_checkpoints_of_tensorflow_hold_the_weights_of_copies(name, in_place, tmp_path):
    """TensorFlow tracks objects beside Keras. A copy that it does not track would be saved without any weight."""
    import tensorflow as tf

    def build():
        if name == "subclassed":
            model = any_models.Subclassed()
            model(np.zeros((2, 6, 4), "float32"))
            return model
        inputs = keras.Input((6, 8))
        x = layers.Bidirectional(layers.LSTM(4))(layers.MultiHeadAttention(2, 4)(inputs, inputs))
        if name == "nested":
            x = keras.Sequential([keras.Input((8,)), layers.Dense(5), keras.Sequential([layers.Dense(4)])])(x)
        return keras.Model(inputs, layers.Dense(3)(x))

    model = build()
    model.compile("adam", "mse")  # A copy does not have the optimizer, which TensorFlow tracks, too.
    model.optimizer.build(model.trainable_variables)
    sparse = ks.sparsify(model, 0.5, in_place=in_place)
    # Keras does not let TensorFlow track lists of layers of a layer of one's own.
    of_copies = [v for v in (*sparse.weights, *ks.densify(sparse).weights) if "lazy" not in v.path]
    tracked = [v for v in sparse.weights if "lazy" not in v.path]
    saved = checkpoint_values(sparse, tmp_path)
    assert in_place or not [key for key in saved if "optimizer" in key]
    held = [*saved.values(), *checkpoint_values(ks.densify(sparse), tmp_path).values()]
    for v in of_copies:
        assert any(np.array_equal(numpy(v), x) for x in held), v.path
    path = tf.train.Checkpoint(model=sparse).save(str(tmp_path / "sparse"))
    before = [numpy(v) for v in tracked]
    for v in tracked:
        v.assign(np.zeros(v.shape, v.dtype))
    tf.train.Checkpoint(model=sparse).restore(path)
    assert all(np.array_equal(a, numpy(b)) for a, b in zip(before, tracked, strict=True))


@pytest.mark.tensorflow
def test_a_copy_with_a_lookup_table_can_be_exported(tmp_path):
    import tensorflow as tf

    inputs = keras.Input((1,), dtype="string")
    codes = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")(inputs)
    sparse = ks.sparsify(keras.Model(inputs, layers.Dense(8)(codes)), 0.5)
    words = np.array([["b"], ["z"]])
    with pytest.warns(UserWarning, match="The export to"):
        ks.export(sparse, tmp_path / "saved", representative_dataset=words)
    loaded = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.serve(words), sparse(tf.constant(words)), atol=1e-6)


def test_attributes_may_have_names_like_those_of_tensorflow():
    class Own(layers.Layer):
        def __init__(self):
            super().__init__()
            self._self_attention = layers.Dense(4)

        def call(self, x):
            return self._self_attention(x)

    model = keras.Sequential([keras.Input((3,)), Own()])
    x = np.ones((2, 3), "float32")
    copied = ks.densify(ks.sparsify(model, 0.5, initial="magnitude"))
    assert copied.layers[0]._self_attention is not model.layers[0]._self_attention
    assert numpy(copied(x)).shape == numpy(model(x)).shape

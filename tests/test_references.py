"""Tests layers that refer to weights and layers past their attributes, and what `sparsify` and copies do with them."""

import collections
import io
import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_sparse as ks
from nets import numpy

X = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
FEW = pytest.mark.filterwarnings("ignore:`sparsify` masks")


def weights(model):
    return {f"{w.layer.name}/{w.attribute}" for w in ks.masked_weights(model)}


def assert_same(a, b):
    np.testing.assert_allclose(numpy(a(X)), numpy(b(X)), atol=1e-6)


def transposed(tensor):
    return ops.matmul(tensor, ops.transpose(ENCODERS["one"].kernel))


def _decode(tensor):
    return transposed(tensor)  # which reads the layer by another global name


ENCODERS = {}


@FEW
def test_functions_with_layers_in_global_names_use_those_of_the_copy(monkeypatch):
    encoder = layers.Dense(4, use_bias=False, name="encoder")
    monkeypatch.setitem(ENCODERS, "one", encoder)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Lambda(_decode)(encoder(inputs)))
    sparse = ks.sparsify(model, 0.5)
    kernel = numpy(sparse.get_layer("encoder").kernel)
    assert np.count_nonzero(kernel) == 16
    np.testing.assert_allclose(numpy(sparse(X)), X @ kernel @ kernel.T, atol=1e-5)
    dense = ks.densify(sparse)
    encoder.kernel.assign(encoder.kernel + 1.0)
    np.testing.assert_allclose(numpy(sparse(X)), X @ kernel @ kernel.T, atol=1e-5)
    assert_same(dense, sparse)
    assert ENCODERS["one"] is encoder


@keras.saving.register_keras_serializable("tests")
class GlobalDecoder(layers.Layer):
    """A layer that reads another one by a global name, through a helper."""

    def call(self, inputs):
        return self.decode(inputs)

    def decode(self, inputs):
        return ops.matmul(inputs, ops.transpose(the_encoder().kernel))


encoder_of_module = None


def the_encoder():
    return encoder_of_module


def test_a_class_that_reads_layers_by_global_names_cannot_be_copied(monkeypatch, tmp_path):
    encoder = layers.Dense(4, use_bias=False, name="encoder")
    monkeypatch.setitem(globals(), "encoder_of_module", encoder)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(30)(GlobalDecoder()(encoder(inputs))))
    with pytest.raises(ValueError, match=r"reads layers.*global names in `decode`: \['the_encoder'\].*in_place"):
        ks.sparsify(model, 0.5)
    sparse = ks.sparsify(model, 0.5, in_place=True)
    assert len(weights(sparse)) == 2
    ks.save_model(sparse, tmp_path / "m.keras")
    with pytest.raises(ValueError, match="reads layers"):
        ks.densify(sparse)


class Ring(collections.deque):
    """A deque of a class of the user's, which its own code would have to copy."""


class Log(io.StringIO):
    """A class of the user's with a base in C."""


@pytest.mark.parametrize("held", [random.SystemRandom(), Ring([1]), Log()], ids=["SystemRandom", "deque", "StringIO"])
def test_objects_that_cannot_be_copied_are_shared(held):
    layer = layers.Dense(4)
    model = keras.Sequential([keras.Input((8,)), layer])
    layer.held = held
    assert_same(ks.sparsify(model, 0.0), model)


class CallsHelper:
    """An object whose method a Lambda layer calls."""

    def __init__(self, kernel):
        self.kernel = kernel

    def decode(self, tensor):
        return ops.matmul(tensor, ops.transpose(self.kernel))


@pytest.mark.parametrize("by", ["operation", "closure", "default", "list", "method"])
def test_a_weight_that_an_operation_or_function_holds_stays_dense(by):
    encoder = layers.Dense(4, use_bias=False, name="encoder")
    inputs = keras.Input((8,))
    hidden = encoder(inputs)
    kernel, held = encoder.kernel, [encoder.kernel]
    outputs = {
        "operation": lambda: ops.einsum("bh,ih->bi", hidden, encoder.kernel),
        "closure": lambda: layers.Lambda(lambda t: ops.matmul(t, ops.transpose(kernel)), name="decoder")(hidden),
        "default": lambda: layers.Lambda(lambda t, w=kernel: ops.matmul(t, ops.transpose(w)), name="decoder")(hidden),
        "list": lambda: layers.Lambda(lambda t: ops.matmul(t, ops.transpose(held[0])), name="decoder")(hidden),
        "method": lambda: layers.Lambda(CallsHelper(kernel).decode, name="decoder")(hidden),
    }[by]()
    model = keras.Model(inputs, layers.Dense(30, name="head")(outputs))
    sparse = ks.sparsify(model, 0.5)
    assert weights(sparse) == {"head/kernel"}
    reason = "shared with the operation 'einsum'" if by == "operation" else "shared with the layer 'decoder'"
    assert reason in str(ks.report(sparse))
    assert_same(ks.sparsify(model, 0.0), model)


Parts = collections.namedtuple("Parts", "first second")


class Holder(keras.Model):
    """A model with layers and state in containers and objects of the standard library."""

    def __init__(self):
        super().__init__()
        self.parts = Parts(layers.Dense(8), layers.Dense(3))
        self.seen = collections.deque([X[:1]], maxlen=2)
        self.random = random.Random(0)

    def call(self, inputs):
        return self.parts.second(self.parts.first(inputs))


def test_namedtuples_of_layers_and_objects_with_state_are_copied():
    model = Holder()
    model(X)
    copy = ks.sparsify(model, 0.0)
    assert_same(copy, model)
    assert len(weights(copy)) == 2
    assert copy.parts.first is not model.parts.first
    copy.seen.append(X[1:2])
    assert (len(copy.seen), copy.seen.maxlen, len(model.seen)) == (2, 2, 1)
    assert copy.random.random() == model.random.random()


class Tied(keras.Model):
    """A decoder that reads the kernel of the encoder past its mask, in a method that `call` uses."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = layers.Dense(4, name="encoder"), layers.Dense(9, name="head")

    def call(self, inputs):
        return self.head(self.decode(self.encoder(inputs)))

    def decode(self, hidden):
        return ops.matmul(hidden, self.decoder)

    @property
    def decoder(self):
        return ops.transpose(self.encoder._kernel)


class Blocks(layers.Layer):
    """A layer that lists the weights of one of its two layers, and has a string that is the name of such a list."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(8, name="first"), layers.Dense(8, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def call(self, inputs):
        made = {"weights": self.first(inputs)}
        return made["weights"] + ops.sum(self.second.trainable_weights[0])


def test_initializers_and_optimizers_that_hold_variables_do_not_matter():
    first = layers.Dense(8, name="first")
    optimizer = keras.optimizers.Adam()
    inputs = keras.Input((8,))
    hidden = layers.Lambda(lambda x: x * ops.cast(optimizer.iterations + 1, "float32"))(first(inputs))
    second = layers.Dense(8, kernel_initializer=keras.initializers.Constant(first.kernel), name="second")
    model = keras.Model(inputs, second(hidden))
    optimizer.build(model.trainable_variables)
    assert weights(ks.sparsify(model, 0.5)) == {"first/kernel", "second/kernel"}


class ByName(layers.Layer):
    """A layer that reads its weight by a name that it passes to another method."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, inputs):
        return ops.matmul(inputs, self.named("_w"))

    def named(self, name):
        return getattr(self, name, self.w)


def test_a_weight_that_is_read_by_a_string_stays_dense():
    model = keras.Sequential([keras.Input((8,)), ByName(name="own"), layers.Dense(30)])
    with pytest.raises(ValueError, match="own/w is read by `_w`"):
        ks.sparsify(model, 0.5, include=["own"])


@pytest.mark.filterwarnings("ignore:`sparsify` masks")
def test_lists_of_weights_of_another_layer_do_not_matter():
    model = keras.Sequential([keras.Input((8,)), Blocks()])
    assert weights(ks.sparsify(model, 0.5)) == {"first/kernel"}


class Mixer(layers.Layer):
    """A layer that reads its weight from a list in a method that `call` uses."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, inputs):
        return self.mix(inputs)

    def mix(self, inputs):
        return ops.matmul(inputs, self.trainable_weights[0])


class Normalized(layers.Dense):
    """A layer that assigns to its kernel in a method that `call` uses."""

    def call(self, inputs):
        self.normalize()
        return super().call(inputs)

    def normalize(self):
        self.kernel.assign(self.kernel / ops.norm(self.kernel))


@pytest.mark.filterwarnings("ignore:`sparsify` masks")
def test_methods_that_call_uses_are_examined():
    tied = Tied()
    tied(X)
    assert weights(ks.sparsify(tied, 0.5)) == {"head/kernel"}
    model = keras.Sequential([keras.Input((8,)), Mixer(name="mixer"), layers.Dense(3, name="head")])
    with pytest.raises(ValueError, match=r"mixer/w is read by `trainable_weights`"):
        ks.sparsify(model, 0.5, include=["mixer"])
    model = keras.Sequential([keras.Input((8,)), Normalized(5), layers.Dense(3, name="head")])
    assert weights(ks.sparsify(model, 0.5)) == {"head/kernel"}


def test_an_einsum_layer_without_an_axis_of_inputs():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.EinsumDense("bt,d->btd", output_shape=(None, 16))(inputs))
    (row,) = ks.report(ks.sparsify(model, 0.5)).layers
    assert (row.weights, row.live, row.dead_outputs) == (16, 8, 8)


class Auxiliary(keras.Model):
    """A model with a layer that is used in training only."""

    def __init__(self):
        super().__init__()
        self.body, self.auxiliary = layers.Dense(8), layers.Dense(3, name="extra")

    def call(self, inputs, training=False):
        hidden = self.body(inputs)
        return hidden + ops.sum(self.auxiliary(hidden)) if training else hidden


@pytest.mark.filterwarnings("ignore:.build... was called on layer:UserWarning")  # Keras, about such models
def test_a_layer_that_is_not_called_stays_dense_with_a_warning():
    model = Auxiliary()
    model(X)
    with pytest.warns(UserWarning, match=r"no weights yet, and stay dense: \['extra'\].*training=True"):
        sparse = ks.sparsify(model, 0.5)
    assert_same(ks.densify(sparse), sparse)
    ks.sparsify(model, 0.5, keep_dense=["extra"])
    model(X, training=True)
    assert len(weights(ks.sparsify(model, 0.5))) == 2


def nested():
    inputs = keras.Input((8,))
    inner = keras.Sequential([inputs, layers.Dense(8, name="d")], name="inner")
    middle = keras.Sequential([keras.Input((8,)), inner, layers.Dense(8, name="e")], name="middle")
    return keras.Sequential([keras.Input((8,)), middle], name="top")


@pytest.mark.parametrize("names", [{"middle": 0.5, "inner": None}, {"inner": None, "middle": 0.5}])
def test_of_the_names_of_nested_models_the_inner_one_counts(names):
    assert weights(ks.sparsify(nested(), names)) == {"e/kernel"}


def test_a_layer_with_lora_that_no_name_means_stays_as_it_is():
    model = nested()
    layer = model.get_layer("middle").get_layer("inner").get_layer("d")
    layer.enable_lora(2)
    assert weights(ks.sparsify(model, {"e": 0.5})) == {"e/kernel"}
    assert weights(ks.sparsify(model, {"e": 0.5, "d": None})) == {"e/kernel"}
    assert weights(ks.sparsify(model, 0.5, keep_dense=["d/kernel"])) == {"e/kernel"}
    for sparsity in (0.5, {"d": 0.5}):
        with pytest.raises(ValueError, match="LoRA"):
            ks.sparsify(model, sparsity)


@keras.saving.register_keras_serializable("tests")
class Reader(layers.Layer):
    """A layer that reads its weight in `get_config` and `save_own_variables`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units))

    def call(self, inputs):
        return ops.matmul(inputs, self.w)

    def get_config(self):
        return {**super().get_config(), "units": self.w.shape[-1]}

    def save_own_variables(self, store):
        store["w"] = self.w.numpy()

    def load_own_variables(self, store):
        self.w.assign(store["w"])


def test_own_code_that_saves_a_layer_may_read_its_masked_weight(tmp_path):
    model = keras.Sequential([keras.Input((8,)), Reader(30, name="reader")])
    sparse = ks.sparsify(model, 0.5, include=["reader"])
    sparse.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert weights(loaded) == {"reader/w"}
    assert_same(loaded, sparse)


@keras.saving.register_keras_serializable("tests")
class Lazy(keras.Model):
    """A subclassed model that can be made from its config."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = layers.Dense(6)

    def call(self, inputs):
        return self.body(inputs)


def test_a_config_of_a_model_that_is_not_built_yet_keeps_the_masks():
    model = Lazy()
    model(X)
    sparse = ks.sparsify(model, 0.5)
    once = type(sparse).from_config(sparse.get_config())
    twice = type(once).from_config(once.get_config())
    twice(X)
    assert len(ks.masked_weights(twice)) == 1
    np.testing.assert_array_equal(twice.body.kernel_mask.numpy(), sparse.body.kernel_mask.numpy())


def test_presets_of_sparse_models_are_refused(tmp_path):
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(
        vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=8
    )
    sparse = ks.sparsify(backbone, 0.5)
    with pytest.raises(NotImplementedError, match=r"preset cannot hold the masks.*densify"):
        sparse.save_to_preset(str(tmp_path / "preset"))
    ks.densify(sparse).save_to_preset(str(tmp_path / "dense"))
    assert (tmp_path / "dense" / "model.weights.h5").exists()

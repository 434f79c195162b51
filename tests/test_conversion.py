"""Tests sparsify and densify on typical models."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from keras_sparse.layers import MaskedConv2D, MaskedDense
from nets import compiled, mlp, numpy, state


def residual():
    """Makes a model with convolutions, a branch, a shared dense layer, and a nested model used twice."""
    inner_in = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inner_in)
    x = layers.BatchNormalization(name="bn")(x)
    inner = keras.Model(inner_in, layers.add([inner_in, x]), name="block")
    images = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(4, 1, name="stem")(images)
    x = inner(inner(x))
    a = layers.GlobalAveragePooling2D(name="gap")(x)
    shared = layers.Dense(4, name="shared")
    x = layers.concatenate([shared(a), shared(shared(a))])
    return keras.Model(images, [layers.Dense(3, name="logits")(x), a], name="net")


def random_weights(model):
    rng = np.random.default_rng(5)
    for w in model.weights:
        w.assign(rng.uniform(0.5, 1.5, w.shape))
    return model


def test_branches_shared_and_nested_models_stay_what_they_are():
    """The conversion must not assume that a network is a chain of layers."""
    model = random_weights(residual())
    sparse = ks.sparsify(model, 0.5)
    assert [x.name for x in ks.masked_layers(sparse)] == ["stem", "conv", "shared", "logits"]
    assert [w.path for w in sparse.trainable_weights] == [w.path for w in model.trainable_weights]
    assert (sparse.name, sparse.input.name, sparse.output_shape) == (
        model.name,
        model.input.name,
        model.output_shape,
    )
    # With the same weights set to 0, the original computes the same function.
    kernels = {x.name: numpy(x.kernel) for x in ks.masked_layers(sparse)}
    for name, layer in [
        ("stem", model.get_layer("stem")),
        ("conv", model.get_layer("block").get_layer("conv")),
    ]:
        layer.kernel.assign(kernels[name])
    for name in ("shared", "logits"):
        model.get_layer(name).kernel.assign(kernels[name])
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    for a, b in zip(model(x), sparse(x), strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5)


def test_live_weights_keep_their_values_and_the_model_is_not_touched():
    model = random_weights(residual())
    before = [numpy(w).copy() for w in model.weights]
    sparse = ks.sparsify(model, 0.5, seed=3)
    for layer in ks.masked_layers(sparse):
        mask = layer.kernel_mask.numpy()
        assert mask.sum() == round(mask.size / 2)
        assert (numpy(layer.kernel_variable)[mask] >= 0.5).all()
        assert not numpy(layer.kernel_variable)[~mask].any()
    for a, w in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, numpy(w))


def test_densify_gives_plain_keras_with_the_same_function(tmp_path):
    sparse = ks.sparsify(random_weights(residual()), 0.5)
    dense = ks.densify(sparse)
    assert not ks.masked_layers(dense)
    assert all(type(x).__module__.startswith("keras.") for x in dense._flatten_layers(include_self=False))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    for a, b in zip(dense(x), sparse(x), strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    dense.save(tmp_path / "dense.keras")
    keras.models.load_model(tmp_path / "dense.keras", custom_objects={})


def test_names_distribution_and_kept_layers():
    sparse = mlp(0.8, distribution="erdos_renyi", keep_dense=["last"])
    assert [x.name for x in ks.masked_layers(sparse)] == ["first", "second"]
    assert type(sparse.get_layer("last")) is layers.Dense
    live = [int(m.sum()) for _, m in state(sparse)]
    assert sum(live) == 64  # a fifth of 128 + 192
    assert live[0] > 128 / 5  # 24/128 : 28/192, so that the first is denser
    assert [x.name for x in ks.masked_layers(mlp(0.5, keep_dense=(n for n in ["last"])))] == ["first", "second"]
    calls = []
    mlp(0.5, keep_dense=lambda x: calls.append(x.name))
    assert len(calls) == len(set(calls))  # once for each layer
    assert [x.name for x in ks.masked_layers(mlp(0.5, keep_dense=lambda x: x.name == "first"))] == [
        "second",
        "last",
    ]


def test_masks_depend_on_seed_and_place_not_on_names_drawn_so_far():
    def masks(seed):
        model = keras.Sequential([keras.Input((9,)), layers.Dense(9), layers.Dense(9)])
        return [m for _, m in state(ks.sparsify(model, 0.5, seed=seed))]

    a, b, c = masks(0), masks(0), masks(1)
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert all((x != y).any() for x, y in zip(a, c, strict=True))
    assert (a[0] != a[1]).any()


def test_nested_models_with_equal_names_get_different_masks():
    def encoder():
        x = keras.Input((9,))
        return keras.Model(x, layers.Dense(9, name="fc")(x))

    x = keras.Input((9,))
    sparse = ks.sparsify(keras.Model(x, [encoder()(x), encoder()(x)]), 0.5)
    (_, a), (_, b) = state(sparse)
    assert (a != b).any()


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.floats(0, 0.999),
    st.sampled_from(["uniform", "erdos_renyi_kernel"]),
)
def test_any_chain_is_exact_to_the_weight(widths, sparsity, distribution):
    model = keras.Sequential([keras.Input((5,)), *(layers.Dense(n) for n in widths)])
    sparse = ks.sparsify(model, sparsity, distribution=distribution)
    sizes = [m.size for _, m in state(sparse)]
    assert sum(int(m.sum()) for _, m in state(sparse)) == round(sum(sizes) * (1 - sparsity))


def test_kernel_slices():
    model = keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.Conv2D(8, 3),
            layers.Conv2D(6, 1),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    first, second, dense = ks.masked_layers(ks.sparsify(model, 0.75, granularity="kernel_slice"))
    assert first.kernel_mask.numpy().shape == (1, 1, 4, 8)
    assert (first.kernel_mask.numpy().sum(), second.kernel_mask.numpy().sum()) == (8, 12)
    assert dense.kernel_mask.numpy().shape == dense.kernel.shape


def test_masked_layers_are_found_in_subclassed_models():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = MaskedDense(4, sparsity=0.5)
            self.b = [MaskedDense(4, sparsity=0.5), self.a]

        def call(self, x):
            return self.b[0](self.a(x))

    net = Net()
    net(np.ones((1, 4), "float32"))
    assert [x is y for x, y in zip(ks.masked_layers(net), [net.a, net.b[0]], strict=True)] == [
        True,
        True,
    ]
    with pytest.raises(ValueError, match="masked already"):
        ks.sparsify(net, 0.5)


def test_errors_say_what_to_do():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")])
    with pytest.raises(ValueError, match=r"must be a number in \[0, 1\).*Received: sparsity=1.0"):
        ks.sparsify(model, 1.0)
    with pytest.raises(ValueError, match="takes a keras.Model"):
        ks.sparsify(layers.Dense(3), 0.5)
    with pytest.raises(ValueError, match="not built. Start it with keras.Input"):
        ks.sparsify(keras.Sequential([layers.Dense(3)]), 0.5)
    with pytest.raises(ValueError, match="masked already, in \\['a'\\].*densify"):
        ks.sparsify(ks.sparsify(model, 0.5), 0.5)
    with pytest.raises(ValueError, match="found no layer to mask.*ReLU"):
        ks.sparsify(keras.Sequential([keras.Input((4,)), layers.ReLU()]), 0.5)
    with pytest.raises(ValueError, match="found no layer to mask"):
        ks.sparsify(model, 0.5, keep_dense=["a"])
    with pytest.raises(ValueError, match=r"names layers that the model does not have: \['z'\]. Its layers: \['a'\]"):
        ks.sparsify(model, 0.5, keep_dense=["z"])
    with pytest.raises(ValueError, match="Unknown distribution"):
        ks.sparsify(model, 0.5, distribution="x")
    with pytest.raises(ValueError, match="`granularity` must be"):
        ks.sparsify(model, 0.5, granularity="x")


def test_the_einsum_layers_inside_attention_are_masked():
    x = keras.Input((4, 8))
    y = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    sparse = ks.sparsify(keras.Model(x, layers.Dense(8, name="out")(y)), 0.5)
    assert sorted(x.name for x in ks.masked_layers(sparse)) == ["attention_output", "key", "out", "query", "value"]


def test_residual_connections_written_with_plus():
    x = keras.Input((4,))
    y = layers.Dense(4, name="a")(x)
    model = keras.Model(x, layers.Dense(2, name="b")(x + 2 * y))
    sparse = ks.sparsify(model, 0.5)
    assert [x.name for x in ks.masked_layers(sparse)] == ["a", "b"]
    assert ks.densify(sparse)(np.ones((1, 4), "float32")).shape == (1, 2)


def test_preprocessing_keeps_what_it_was_adapted_to():
    normalization = layers.Normalization()
    normalization.adapt(np.array([[1.0, 5.0], [3.0, 9.0]]))
    model = keras.Sequential([keras.Input((2,)), normalization, layers.Dense(3, use_bias=False)])
    x = np.array([[2.0, 7.0]], "float32")  # the mean
    np.testing.assert_allclose(numpy(ks.sparsify(model, 0.5)(x)), 0, atol=1e-6)
    np.testing.assert_allclose(numpy(ks.densify(ks.sparsify(model, 0.0))(x + 1)), numpy(model(x + 1)), rtol=1e-5)


def test_a_subclassed_model_inside_of_a_functional_one_is_masked():
    class Inner(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, x):
            return self.layer(x)

        def get_config(self):
            return {"layer": self.layer}

    def outer(layer):
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(3, name="out")(Inner(layer)(x)))

    sparse = ks.sparsify(outer(layers.Dense(4, name="hidden")), 0.5)
    assert sorted(x.name for x in ks.masked_layers(sparse)) == ["hidden", "out"]


def test_no_layer_starts_without_a_live_weight():
    sizes = [m.sum() for _, m in state(mlp(0.99))]  # 36 weights in the last layer, 0.36 of them live
    assert sorted(sizes) == [1, 1, 2]
    with pytest.raises(ValueError, match=r"leaves 2 live mask elements for 3 layers.*'first', 'second', 'last'"):
        mlp(0.995)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_a_bad_seed(seed):
    with pytest.raises(ValueError, match="`seed` must be an int of at least 0. Received: seed="):
        mlp(seed=seed)
    with pytest.raises(ValueError, match="`seed` must be an int of at least 0. Received: seed="):
        MaskedDense(3, sparsity=0.5, seed=seed)


def test_frozen_layers_and_activations_are_kept():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 2, activation="relu", name="c"),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.get_layer("c").trainable = False
    conv = ks.sparsify(model, 0.5).get_layer("c")
    assert type(conv) is MaskedConv2D
    assert not conv.trainable
    assert conv.activation is keras.activations.relu


@pytest.mark.tensorflow
def test_inside_a_distribution_strategy():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        sparse = mlp()
        sparse.compile("sgd", "mse")
    assert type(sparse.distribute_strategy) is type(strategy)
    assert [int(m.sum()) for _, m in state(sparse)] == [int(m.sum()) for _, m in state(mlp())]


class Own(keras.Sequential):
    """A custom class."""


@pytest.mark.parametrize("nested", [False, True])
def test_a_copy_keeps_the_class_of_a_model(nested):
    model = Own([keras.Input((4,)), layers.Dense(3)], name="mine")
    if nested:
        model = keras.Sequential([keras.Input((4,)), model, layers.Dense(2)])
    sparse = ks.sparsify(model, 0.5)
    for copy in (sparse, ks.densify(sparse)):
        assert isinstance(copy.get_layer("mine") if nested else copy, Own)
    dense = ks.densify(sparse)
    assert type(dense.get_layer("mine") if nested else dense) is Own


def test_what_is_not_registered_is_taken_over_as_it_is():
    class Halved(keras.constraints.Constraint):
        def __call__(self, w):
            return w / 2

    def double(x):
        return 2 * x

    def ones(shape, dtype=None):
        return np.ones(shape, dtype)

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation=double, kernel_constraint=Halved(), name="masked"),
            layers.Activation(double),
            layers.Dense(2, activation=double, kernel_initializer=ones, name="kept"),
        ]
    )
    sparse = ks.sparsify(model, 0.5, keep_dense=["kept"])
    masked = sparse.get_layer("masked")
    assert masked.activation is double
    assert isinstance(masked.kernel_constraint, Halved)
    x = np.ones((1, 4), "float32")
    np.testing.assert_allclose(numpy(ks.densify(sparse)(x)), numpy(sparse(x)), rtol=1e-6)


def attention():
    tokens = keras.Input((16,), dtype="int32")
    x = layers.Embedding(50, 32, name="tokens")(tokens)
    x = layers.add([x, layers.MultiHeadAttention(4, 8, name="attention")(x, x)])
    x = layers.Bidirectional(layers.LSTM(16, name="lstm"), name="recurrent")(x)
    return keras.Model(tokens, layers.Dense(5, name="logits")(x))


def test_of_several_names_the_one_closest_to_the_weight_counts():
    given = {"attention": 0.8, "recurrent": 0.9, "backward_lstm": None, "recurrent_kernel": 0.5, "tokens": 0.75}
    sparsities = {w.path: w.settings.sparsity for w in ks.masked_weights(ks.sparsify(attention(), given))}
    expected = {f"attention/{x}": 0.8 for x in ("query", "key", "value", "attention_output")}  # not their biases
    expected |= {
        "recurrent/forward_lstm/lstm_cell/kernel": 0.9,
        "recurrent/forward_lstm/lstm_cell/recurrent_kernel": 0.5,
        "recurrent/backward_lstm/lstm_cell": 0.5,
        "tokens": 0.75,
    }
    assert sparsities == pytest.approx(expected, abs=0.001)
    nested = ks.sparsify(attention(), {"recurrent/backward_lstm": 0.9, "kernel": 0.5})
    assert {w.path: round(w.settings.sparsity, 1) for w in ks.masked_weights(nested) if "backward" in w.path} == {
        "recurrent/backward_lstm/lstm_cell/kernel": 0.9,
        "recurrent/backward_lstm/lstm_cell/recurrent_kernel": 0.9,
    }
    biased = ks.sparsify(attention(), {"query/bias": 0.5})
    assert [w.attribute for w in ks.masked_weights(biased)] == ["bias"]


@pytest.mark.parametrize("granularity", ["2:4", "3x3", "4x4"])
def test_an_error_leaves_a_model_to_be_masked_in_place_unchanged(granularity):
    model = keras.Sequential([keras.Input((12,)), layers.Dense(6), layers.Dense(4), layers.Dense(3)])
    with pytest.raises(ValueError, match="granularity"):
        ks.sparsify(model, 0.5, granularity=granularity, in_place=True)
    assert not ks.masked_weights(model)
    model(np.ones((1, 12)))


def test_zeros_must_have_the_pattern():
    dense = keras.Sequential([keras.Input((8,)), layers.Dense(6)])
    with pytest.raises(ValueError, match="at most 2 nonzero weights in each group of 4 inputs. Received: up to 4"):
        ks.sparsify(dense, None, granularity="2:4")
    kernel = np.zeros((8, 6))
    kernel[[0, 5, 6]] = 1  # one nonzero weight in the first group of each unit, two in the second
    dense.layers[0].kernel.assign(kernel)
    mask = ks.sparsify(dense, None, granularity="2:4").layers[0].kernel_mask.numpy()
    np.testing.assert_array_equal(mask.reshape(2, 4, 6).sum(axis=1), 2)
    assert mask[kernel != 0].all()


def test_a_part_that_is_masked_already_may_be_kept_as_it_is(blobs):
    teacher = compiled(mlp())
    teacher.fit(*blobs, verbose=0, callbacks=[ks.DynamicSparse(15, 2, threshold=0.05)])
    inputs = keras.Input(teacher.input_shape[1:])
    x = layers.Dense(8, name="student")(inputs)
    both = keras.Model(inputs, layers.Add()([teacher(inputs), layers.Dense(3, name="out")(x)]))
    with pytest.raises(ValueError, match="masked already.*name them by `keep_dense`"):
        ks.sparsify(both, 0.5)
    sparse = compiled(ks.sparsify(both, 0.5, keep_dense=[teacher.name]))
    masks = {w.name: w.mask.numpy() for w in ks.masked_weights(sparse)}
    assert set(masks) == {"first", "second", "last", "student", "out"}
    for w in ks.masked_weights(teacher):
        np.testing.assert_array_equal(masks[w.name], w.mask.numpy())
    method = ks.DynamicSparse(15, 2, threshold=0.05)
    sparse.fit(*blobs, verbose=0, callbacks=[method])
    assert method.updates_in_fit

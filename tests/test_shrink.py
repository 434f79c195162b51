"""Tests that a shrunk model computes the same function and has no more parameters."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from nets import numpy


def randomized(model, seed, sparsity):
    """Returns the model with random weights, many of them 0: of kernels, of whole units, of scales and biases."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        value = rng.normal(size=v.shape)
        if v.name == "moving_variance":
            value = abs(value) + 0.1
        elif "kernel" in v.name:
            value *= rng.random(v.shape) > sparsity
            value[..., rng.random(v.shape[-1]) < 0.3] = 0
            value[..., rng.random(v.shape[-2]) < 0.3, :] = 0
        elif v.name in ("gamma", "bias"):
            value *= rng.random(v.shape) > 0.3
        if v.dtype == "float32":
            v.assign(value)
    return model


def assert_same(model, shrunk=None, tolerance=1e-5):
    shrunk = shrunk or ks.shrink(model)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(5, *t.shape[1:])).astype("float32") for t in model.inputs]
    x = x if len(x) > 1 else x[0]
    expected, got = (keras.tree.flatten(m.predict(x, verbose=0)) for m in (model, shrunk))
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=tolerance * max(1, abs(a).max()))
    assert shrunk.count_params() <= ks.densify(model).count_params()
    return shrunk


def units(model):
    return [x.units if hasattr(x, "units") else x.filters for x in model.layers if hasattr(x, "kernel")]


ACTIVATIONS = ["relu", "sigmoid", "tanh", "gelu", "softmax", "leaky_relu", None]
PHASES = (Phase.generate, Phase.shrink)
BLOCKS = ["mix", "mix", "norm", "activation", "merge", "concat", "flatten", "keep", "wide", "number", "gate", "nested"]
POINTWISE = [
    *(layers.ReLU, lambda: layers.Dropout(0.5), lambda: layers.Activation("silu"), lambda: keras.activations.relu),
    *(lambda: keras.ops.tanh, lambda: keras.ops.hard_silu, lambda: lambda x: keras.ops.leaky_relu(x, 0.3)),
]
OPERATORS = [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, keras.ops.maximum]
MERGES = [
    lambda x, y, kind=kind: kind()([x, y])
    for kind in (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
]


def network(draw):
    """Returns a functional network of random blocks for small images or vectors."""
    image = draw(st.booleans())
    x = inputs = keras.Input((6, 6, 3) if image else (7,))
    flat = not image
    for _ in range(draw(st.integers(1, 5))):
        block = draw(st.sampled_from(BLOCKS))
        n, activation = draw(st.integers(2, 9)), draw(st.sampled_from(ACTIVATIONS))
        bias = draw(st.booleans())
        if block in ("mix", "wide"):
            x = mixed(draw, x, flat, n, activation, bias)
        elif block == "norm":
            x = layers.BatchNormalization(scale=bias, center=draw(st.booleans()))(x)
        elif block == "activation":
            x = draw(st.sampled_from(POINTWISE))()(x)
        elif block == "merge":
            y = mixed(draw, x, flat, x.shape[-1], activation, bias, same=True)
            x = draw(st.sampled_from([*MERGES, *OPERATORS]))(x, y)
        elif block == "number":
            x = draw(st.sampled_from([lambda x: x + 1.0, lambda x: 2.0 * x, lambda x: 1.0 - x]))(x)
        elif block == "gate":
            x = gated(draw, x, flat, n)
        elif block == "concat":
            x = layers.Concatenate()([x, mixed(draw, x, flat, n, activation, bias, same=True)])
        elif block == "flatten" and not flat:
            x, flat = draw(st.sampled_from([layers.Flatten(), layers.GlobalAveragePooling2D()]))(x), True
        elif block == "nested":
            x = nested(draw, x, flat, n, activation, bias)
        elif block == "keep":
            x = layers.LayerNormalization()(x) if draw(st.booleans()) else mixed_twice(x)
    return keras.Model(inputs, x)


def gated(draw, x, flat, n):
    """Returns the image or vector with a factor for each channel, as in squeeze-and-excitation."""
    channels = x.shape[-1]
    y = x if flat else layers.GlobalAveragePooling2D()(x)
    y = layers.Dense(channels, activation="sigmoid")(layers.Dense(n, activation="relu")(y))
    y = y if flat else layers.Reshape((1, 1, channels))(y)
    return layers.Multiply()([x, y]) if draw(st.booleans()) else x * y


def nested(draw, x, flat, n, activation, bias):
    """Returns the output of a nested model, which may be called twice."""
    inner = inputs = keras.Input(x.shape[1:])
    inner = mixed(draw, inner, flat, n, activation, bias, same=True)
    model = keras.Model(inputs, mixed(draw, inner, flat, x.shape[-1], activation, bias, same=True))
    return model(model(x)) if draw(st.booleans()) else model(x)


def mixed(draw, x, flat, n, activation, bias, same=False):
    if flat:
        return layers.Dense(n, activation=activation, use_bias=bias)(x)
    padding = "same" if same or min(x.shape[1:3]) < 3 else draw(st.sampled_from(["same", "valid"]))
    kind = draw(st.integers(0, 7))
    if kind == 0 and not same:
        x = layers.ZeroPadding2D()(x)
    if kind == 1 and not same:
        return layers.DepthwiseConv2D(3, padding=padding, depth_multiplier=2, activation=activation, use_bias=bias)(x)
    if kind == 2 and not same:
        return layers.Conv2DTranspose(n, 3, padding=padding, activation=activation, use_bias=bias)(x)
    if kind == 4:
        multiplier = draw(st.integers(1, 2))
        return layers.SeparableConv2D(
            n, 3, padding=padding, depth_multiplier=multiplier, activation=activation, use_bias=bias
        )(x)
    if kind == 5 and not same and x.shape[1] < 10:
        x = layers.UpSampling2D(2, interpolation=draw(st.sampled_from(["nearest", "bilinear"])))(x)
    if kind == 3 and not same:
        x = draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))(2, padding="same")(x)
        padding = "same"
    return layers.Conv2D(n, 3, padding=padding, activation=activation, use_bias=bias)(x)


def mixed_twice(x):
    shared = layers.Dense(x.shape[-1], activation="relu")
    return shared(shared(x))


@pytest.mark.long
def test_random_networks_compute_the_same(request):
    """Hypothesis draws the networks inside of the test, since building a layer draws random numbers, too."""

    @settings(max_examples=request.config.getoption("--examples") // 5, phases=PHASES, database=None)
    @given(st.data(), st.integers(0, 2**16), st.sampled_from([0.5, 0.8, 0.95]))
    def run(data, seed, sparsity):
        assert_same(randomized(network(data.draw), seed, sparsity))

    run()


def chain(*parts, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *parts])


def set_kernels(model, **values):
    """Sets kernels by the names of layers."""
    for name, kernel in values.items():
        layer = model.get_layer(name)
        layer.kernel.assign(np.asarray(kernel, "float32").reshape(layer.kernel.shape))
    return model


def test_constants_are_folded_into_the_next_bias_through_other_layers():
    model = chain(
        layers.Dense(3, activation="sigmoid", name="a"),  # f(0) is 0.5
        layers.BatchNormalization(),
        layers.Dense(2, use_bias=False, name="b"),
        layers.Dense(1, name="c"),
    )
    set_kernels(model, a=[[1, 0, 2]] * 4, b=[[1, 2], [3, 4], [5, 6]])
    model.layers[1].moving_mean.assign([0.1, 0.2, 0.3])
    shrunk = assert_same(model)
    assert units(shrunk) == [2, 2, 1]
    assert shrunk.get_layer("b").use_bias
    # `b` gets a bias, one value for each unit, and loses a row of its kernel.
    assert shrunk.count_params() < model.count_params()


def test_units_that_only_feed_unused_units_are_removed():
    model = set_kernels(
        chain(*(layers.Dense(n, name=name) for n, name in ((3, "a"), (2, "b"), (1, "c")))), c=[[1], [0]]
    )
    model.get_layer("b").kernel.assign([[1, 1], [0, 1], [0, 1]])
    assert units(assert_same(model)) == [1, 1, 1]


def test_channels_of_both_inputs_of_an_addition_are_removed_together():
    x = inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(x)
    y = layers.Dense(3, name="b")(x)
    outputs = layers.Dense(2, name="c")(layers.Add()([x, y]))
    model = set_kernels(keras.Model(inputs, outputs), a=[[0, 1, 0]] * 4, b=[[0, 0, 1]] * 3)
    model.get_layer("a").bias.assign([1.0, 2, 3])
    # The first unit is constant on both sides, the others on one of them.
    assert units(assert_same(model)) == [2, 2, 2]


def test_a_channel_is_removed_with_all_its_positions_in_a_flattened_image():
    model = chain(layers.Conv2D(3, 3, name="a"), layers.Flatten(), layers.Dense(2, name="b"), shape=(5, 5, 2))
    kernel = model.get_layer("b").kernel.numpy().reshape(9, 3, 2)
    kernel[:, 1], kernel[1:, 2] = 0, 0
    assert units(assert_same(set_kernels(model, b=kernel))) == [2, 2]


@pytest.mark.parametrize(("padding", "bias", "left"), [("valid", 1.0, 1), ("same", 1.0, 2), ("same", 0.0, 1)])
def test_only_zeros_are_removed_before_a_padded_convolution(padding, bias, left):
    model = chain(
        layers.Conv2D(2, 1, activation="relu", name="a"), layers.Conv2D(2, 3, padding=padding), shape=(5, 5, 2)
    )
    model.get_layer("a").kernel.assign([[[[1, 0], [1, 0]]]])
    model.get_layer("a").bias.assign([0.5, bias])
    assert units(assert_same(model)) == [left, 2]


def test_a_separable_convolution_loses_input_and_output_channels():
    model = chain(
        layers.Conv2D(3, 1, name="a"),
        layers.SeparableConv2D(4, 3, depth_multiplier=2, name="separable"),
        layers.Conv2D(2, 1, name="b"),
        shape=(5, 5, 2),
    )
    separable = model.get_layer("separable")
    depthwise, pointwise = np.ones((3, 3, 3, 2)), np.ones((1, 1, 6, 4))
    depthwise[..., 1, 0], pointwise[..., 3, :] = 0, 0  # Both paths of channel 1 are dead, each in another kernel.
    separable.depthwise_kernel.assign(depthwise)
    separable.pointwise_kernel.assign(pointwise)
    model.get_layer("b").kernel.assign(np.array([1, 0, 1, 1])[:, None] * np.ones((1, 1, 4, 2)))
    shrunk = assert_same(model)
    assert shrunk.get_layer("a").filters == 2
    assert shrunk.get_layer("separable").depthwise_kernel.shape == (3, 3, 2, 2)
    assert shrunk.get_layer("separable").pointwise_kernel.shape == (1, 1, 4, 3)


def test_a_channel_that_a_gate_closes_is_removed():
    x = inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(3, 1, name="a")(x)
    y = layers.Dense(3, activation="relu", name="gate")(layers.GlobalAveragePooling2D()(x))
    outputs = layers.Conv2D(2, 1, name="b")(layers.Multiply()([x, layers.Reshape((1, 1, 3))(y)]))
    model = set_kernels(keras.Model(inputs, outputs), gate=[[1, 0, 1], [0, 0, 0], [0, 0, 1]])
    assert units(assert_same(model)) == [2, 2, 2]


@pytest.mark.parametrize("add", [lambda x: x + 1.0, lambda x: 1.0 + x, lambda x: 3.0 * x - 2.0])
def test_a_constant_unit_before_an_operation_with_a_number_stays(add):
    inputs = keras.Input((4,))
    x = add(layers.Dense(3, name="a")(inputs))
    model = set_kernels(keras.Model(inputs, layers.Dense(2, name="b")(x)), a=[[0, 1, 0]] * 4)
    assert units(assert_same(model)) == [3, 2]


@pytest.mark.parametrize(
    "layer",
    [
        *(layers.Activation("relu"), layers.ReLU(6.0), layers.LeakyReLU(), layers.ELU()),
        *(layers.Dropout(0.5), layers.SpatialDropout2D(0.5), layers.GaussianNoise(0.1), layers.BatchNormalization()),
        *(layers.MaxPooling2D(2), layers.AveragePooling2D(2, padding="same"), layers.ZeroPadding2D(1)),
        *(layers.UpSampling2D(2), layers.Cropping2D(1), layers.Reshape((2, 18, 3)), layers.Flatten()),
        *(layers.DepthwiseConv2D(3, activation="relu"), layers.GlobalMaxPooling2D()),
        layers.SeparableConv2D(3, 3, pointwise_initializer="he_normal", depthwise_regularizer="l2"),
        layers.Conv2DTranspose(3, 3, kernel_constraint=keras.constraints.MaxNorm(100.0)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_each_known_layer_is_made_anew_with_fewer_channels(layer):
    model = chain(layers.Conv2D(3, 1, name="a"), layer, layers.Dense(2, name="b"), shape=(6, 6, 2))
    model.get_layer("a").kernel.assign(np.array([1, 0, 1]) * np.ones((1, 1, 2, 3)))
    assert assert_same(model).get_layer("a").filters == 2


def test_what_a_model_does_in_training_only_changes_nothing():
    """Batch normalization with `training=True` moves its statistics at each call, dropout draws."""
    x = inputs = keras.Input((8,))
    x = layers.BatchNormalization(momentum=0.5)(layers.Dense(20)(x), training=True)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(x, training=True)))
    model.layers[2].moving_mean.assign(np.full(20, 5.0))
    before = [numpy(v) for v in model.variables]
    assert_same(ks.sparsify(model, 0.8))
    assert all(np.array_equal(a, numpy(b)) for a, b in zip(before, model.variables, strict=True))


def test_stateful_recurrent_layers_keep_their_state():
    inputs = keras.Input(batch_shape=(5, 4, 3))
    recurrent = layers.GRU(8, stateful=True)
    model = ks.sparsify(keras.Model(inputs, layers.Dense(2)(layers.Dense(20)(recurrent(inputs)))), 0.8)
    shrunk = ks.shrink(model)
    assert shrunk.count_params() < ks.densify(model).count_params()
    assert all(not numpy(v).any() for m in (model, shrunk) for x in m.layers for v in getattr(x, "states", None) or ())


def test_low_precision_is_no_difference():
    x = inputs = keras.Input((16,))
    for _ in range(2):
        x = layers.Dense(64, activation="relu", dtype="mixed_bfloat16")(x)
    model = keras.Model(inputs, layers.Dense(4, dtype="float32")(x))
    for seed in range(4):
        for v in model.trainable_variables:
            v.assign(np.random.default_rng(seed).normal(size=v.shape) * 0.3)
        sparse = ks.sparsify(model, 0.95, seed=seed)
        assert units(assert_same(sparse, tolerance=0.05))[1] < 64


class OwnStep(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


class OwnCall(keras.Model):
    def call(self, x):
        return 2 * super().call(x)


def test_a_functional_subclass_is_shrunk_unless_it_has_its_own_call():
    inputs = keras.Input((8,))
    outputs = layers.Dense(3)(layers.Dense(40)(inputs))
    shrunk = assert_same(ks.sparsify(OwnStep(inputs, outputs), 0.9))
    assert isinstance(shrunk, OwnStep)
    assert units(shrunk)[0] < 40
    with pytest.raises(ValueError, match="functional or Sequential model.*OwnCall"):
        ks.shrink(ks.sparsify(OwnCall(inputs, outputs), 0.9))


def test_unknown_layers_are_not_changed():
    class Own(layers.Dense):
        pass

    own = chain(layers.Dense(3, name="a"), Own(2, name="own"), layers.Dense(2), shape=(4,))
    set_kernels(own, a=[[0, 1, 0]] * 4)
    shrunk = assert_same(own)
    assert units(shrunk) == [3, 2, 2]
    assert type(shrunk.get_layer("own")) is Own
    nested = chain(layers.Dense(3, name="a"), chain(layers.Dense(2), shape=(3,)))
    set_kernels(nested, a=[[0, 1, 0]] * 4)
    assert shrunk.get_layer("a") is not own.get_layer("a")
    assert_same(nested)
    tokens = keras.Input((3,), dtype="int32")
    x = layers.Dense(2)(layers.Flatten()(layers.Embedding(5, 4)(tokens)))
    assert ks.shrink(keras.Model(tokens, x)).count_params() == 5 * 4 + 12 * 2 + 2


def test_nested_models_are_shrunk_and_keep_their_inputs_and_outputs():
    inner = chain(layers.Dense(3, name="a"), chain(layers.Dense(4, name="b"), layers.Dense(3), shape=(3,)), shape=(3,))
    set_kernels(inner, a=[[1, 0, 1]] * 3)
    set_kernels(inner.layers[1], b=[[0, 1, 0, 1]] * 3)
    x = inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inner(layers.Dense(3)(inner(x)))))
    shrunk = assert_same(model)
    (a,) = [x for x in shrunk.layers if isinstance(x, keras.Sequential)]
    assert a.name == inner.name
    assert units(a) == [3]  # the innermost model keeps its inputs
    assert units(a.layers[1]) == [2, 3]
    assert inner.layers[1].layers[0].units == 4


def test_a_nested_model_that_shares_a_layer_is_not_changed():
    shared = layers.Dense(3, name="shared")
    inner = chain(shared, layers.Dense(3), shape=(3,))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(shared(inner(inputs))))
    shared.kernel.assign([[1, 0, 1]] * 3)
    shrunk = assert_same(model)
    assert shrunk.get_layer("shared") is shrunk.get_layer(inner.name).layers[0]


@pytest.mark.parametrize("activation", ["relu", "gelu", "selu", "log_sigmoid", "tanh"])
def test_units_are_removed_through_activations_that_are_called_as_functions(activation):
    inputs = keras.Input((4,))
    x = getattr(keras.activations, activation)(layers.Dense(3, name="a")(inputs))
    model = set_kernels(keras.Model(inputs, layers.Dense(2, name="b")(x)), a=[[0, 1, 0]] * 4)
    model.get_layer("a").bias.assign([1, 2, -3])
    assert units(assert_same(model)) == [1, 2]


def test_a_constant_network_keeps_one_unit_in_each_layer():
    model = set_kernels(chain(layers.Dense(3, name="a"), layers.Dense(2)), a=np.zeros((4, 3)))
    assert units(assert_same(model)) == [1, 2]


def test_a_shrunk_model_can_be_saved_and_shrunk_again(tmp_path):
    inputs = {"x": keras.Input((4,), name="x"), "y": keras.Input((3,), name="y")}
    hidden = layers.Dense(20, activation="relu", kernel_regularizer="l2", name="hidden")
    merged = layers.Dense(12, activation="relu")(layers.Concatenate()([hidden(inputs["x"]), inputs["y"]]))
    model = ks.sparsify(keras.Model(inputs, {"a": layers.Dense(2)(merged), "b": layers.Dense(1)(merged)}), 0.9)
    shrunk = ks.shrink(model)
    assert shrunk.get_layer("hidden").units < 20
    assert isinstance(shrunk.get_layer("hidden").kernel_regularizer, keras.regularizers.L2)
    ks.save_model(shrunk, tmp_path / "m.keras")
    x = {"x": np.ones((2, 4), "float32"), "y": np.ones((2, 3), "float32")}
    for name, y in keras.models.load_model(tmp_path / "m.keras")(x).items():
        np.testing.assert_allclose(numpy(y), numpy(model(x)[name]), atol=1e-5)
    again = ks.shrink(shrunk)
    assert again.count_params() == shrunk.count_params()


def test_invalid_models():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="functional or Sequential model.*Subclassed"):
        ks.shrink(model)
    with pytest.raises(ValueError, match="`shrink` takes a keras.Model"):
        ks.shrink("model")


def test_inputs_stay_optional_and_sparse_and_keep_their_names():
    class Plus(layers.Layer):
        def call(self, x, y=None):
            return x if y is None else x + y

        def compute_output_shape(self, x_shape, y_shape=None):
            return x_shape

    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", optional=True)
    model = ks.sparsify(keras.Model({"a": a, "b": b}, layers.Dense(3)(layers.Dense(30)(Plus()(a, b)))), 0.9)
    shrunk, x = ks.shrink(model), {"a": np.ones((2, 4), "float32"), "b": None}
    assert shrunk.count_params() < ks.densify(model).count_params()
    np.testing.assert_allclose(numpy(shrunk(x)), numpy(model(x)), atol=1e-5)
    assert [x.name for x in shrunk.layers] == [x.name for x in model.layers]
    wide = keras.Input((30,), sparse=True)
    assert ks.shrink(keras.Model(wide, layers.Dense(3)(wide))).inputs[0].sparse


def test_an_infinite_weight_of_an_input_that_stays_is_not_multiplied_by_zero():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="sigmoid"), layers.Dense(3)])
    kernel = np.random.default_rng(0).normal(size=(4, 5))
    kernel[:, 3], kernel[0, 0] = 0, np.inf
    model.layers[0].kernel.assign(kernel)
    x = np.ones((1, 4), "float32")
    assert ks.shrink(model).layers[0].units == 4
    np.testing.assert_allclose(numpy(ks.shrink(model)(x)), numpy(model(x)), rtol=1e-5)


def test_layers_that_random_inputs_do_not_suit_are_shrunk():
    images = keras.Input((4,), dtype="int32")
    h = layers.Flatten()(layers.Embedding(1, 4)(images))  # valid for zeros only
    model = ks.sparsify(keras.Model(images, layers.Dense(3)(layers.Dense(30)(h))), 0.95)
    shrunk, x = ks.shrink(model), np.zeros((2, 4), "int32")
    assert shrunk.count_params() < ks.densify(model).count_params()
    np.testing.assert_allclose(numpy(shrunk(x)), numpy(model(x)), atol=1e-5)


@pytest.mark.parametrize("length", [6, None])
@pytest.mark.parametrize("kind", [layers.Multiply, layers.Maximum, layers.Minimum, layers.Add])
def test_masked_positions_are_merged_as_keras_does(kind, length):
    """Keras multiplies by 1 where a position is masked, and takes the maximum of the other inputs."""
    tokens, features = keras.Input((length,), dtype="int32"), keras.Input((length, 8))
    a = layers.Dense(8, name="a")(layers.Embedding(10, 8, mask_zero=True)(tokens))
    b = layers.Dense(8, name="b")(features)
    model = keras.Model([tokens, features], layers.Dense(4)(kind()([a, b])))
    set_kernels(model, a=np.outer(np.ones(8), [0, 0, 0, 0, 0, 1, 1, 1]), b=np.zeros((8, 8)))
    model.get_layer("b").bias.assign(np.arange(8) - 3.5)
    shrunk = ks.shrink(model)
    x = [np.array([[1, 2, 3, 0, 0, 0]] * 2), np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")]
    np.testing.assert_allclose(shrunk.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_a_shrunk_model_has_its_own_graph():
    x = layers.Conv2D(3, 3, activation="relu", name="a")(inputs := keras.Input((8, 8, 1)))
    x = layers.Conv2D(2, 3, name="b")(layers.MaxPooling2D(name="pool")(x))
    model = keras.Model(inputs, layers.Flatten(name="flat")(layers.Dropout(0.5, name="drop")(x)))
    kernel = numpy(model.get_layer("a").kernel)
    kernel[..., 1] = 0
    model.get_layer("a").kernel.assign(kernel)
    shrunk = assert_same(model)
    assert units(shrunk) == [2, 2]
    data = np.ones((1, 8, 8, 1), "float32")
    for layer in shrunk.layers[1:]:
        part = keras.Model(shrunk.inputs, layer.output)
        assert part.count_params() <= shrunk.count_params()
    np.testing.assert_array_equal(numpy(part([data])), numpy(shrunk(data)))
    assert len(shrunk.get_layer("drop")._inbound_nodes) == 1


@pytest.mark.parametrize("merge", [layers.Add, layers.Multiply, layers.Maximum])
def test_channels_of_a_merge_with_an_array_stay(merge):
    h = layers.Dense(4, name="a")(inputs := keras.Input((4,)))
    outputs = layers.Dense(2)(merge()([h, np.array([[1.0, 2, 3, 4]], "float32")]))
    model = set_kernels(keras.Model(inputs, outputs), a=[[1, 0, 2, 3]] * 4)
    assert units(assert_same(model)) == [4, 2]


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask attached to it:UserWarning")
def test_a_nested_model_that_gets_a_mask_of_positions_stays():
    """Where a position is masked, Keras multiplies by 1, so that a product with 0 is not 0."""
    a, b = keras.Input((6, 8)), keras.Input((6, 8))
    first, second = layers.Dense(8, name="first"), layers.Dense(8, name="second")
    inner = keras.Model([a, b], layers.Dense(4)(layers.Multiply()([first(a), second(b)])))
    kernel = numpy(first.kernel)
    kernel[:, 2] = 0
    first.kernel.assign(kernel)
    second.bias.assign(np.arange(8.0))
    tokens, others = keras.Input((6,), dtype="int32"), keras.Input((6, 8))
    model = keras.Model([tokens, others], inner([layers.Embedding(10, 8, mask_zero=True)(tokens), others]))
    data = [np.array([[0, 1, 2, 0, 3, 0]]), np.ones((1, 6, 8), "float32")]
    shrunk = ks.shrink(model)
    np.testing.assert_allclose(shrunk.predict(data, verbose=0), model.predict(data, verbose=0), atol=1e-5)
    assert shrunk.count_params() == model.count_params()


def test_a_nested_model_that_is_called_with_training_stays():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.BatchNormalization()])
    set_kernels(inner, a=[[1, 0, 2]] * 4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(inner(inputs, training=True)))
    assert ks.shrink(model).count_params() == model.count_params()


def test_the_noise_shape_of_dropout_fits():
    x = layers.Dense(6, name="a")(inputs := keras.Input((5, 8)))
    x = layers.Dropout(0.5, noise_shape=(None, 1, 6))(x)
    model = set_kernels(keras.Model(inputs, layers.Dense(2)(x)), a=np.arange(6)[None] * np.ones((8, 1)))
    shrunk = assert_same(model)
    shrunk.compile("sgd", "mse")
    shrunk.fit(np.ones((4, 5, 8)), np.ones((4, 5, 2)), verbose=0)


def ones_of_a_shape(shape, dtype=None):
    return np.ones((3, 2), "float32")


def test_initializers_that_suit_the_old_shape_only(tmp_path):
    model = chain(
        layers.Dense(3, name="a", bias_initializer=keras.initializers.Constant(np.arange(3.0))),
        layers.Dense(2, name="b", kernel_initializer=ones_of_a_shape),
    )
    set_kernels(model, a=np.array([1, 0, 1]) * np.ones((4, 3)))
    shrunk = assert_same(model)
    assert units(shrunk) == [2, 2]
    shrunk.save(tmp_path / "m.keras")
    assert_same(model, keras.models.load_model(tmp_path / "m.keras"))


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has float64 only if it is enabled")
def test_float64_weights_are_not_rounded():
    keras.config.set_dtype_policy("float64")
    try:
        model = chain(layers.Dense(3, name="a"), layers.BatchNormalization(), layers.Dense(2, name="b"))
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = np.random.default_rng(0).normal(size=(4, 3)) * [1, 0, 1]
    model.get_layer("a").kernel.assign(kernel)
    shrunk = ks.shrink(model)
    np.testing.assert_array_equal(numpy(shrunk.get_layer("a").kernel), kernel[:, [0, 2]])

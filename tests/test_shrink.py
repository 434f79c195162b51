"""A shrunk model computes the same, whatever the network, and never has more parameters."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from nets import numpy


def randomized(model, seed, sparsity):
    """The model with random weights, most of its kernels 0, some units without inputs or outputs, some scales 0."""
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


def network(draw):
    """A functional network of random blocks over a small image or a vector."""
    image = draw(st.booleans())
    x = inputs = keras.Input((6, 6, 3) if image else (7,))
    flat = not image
    for _ in range(draw(st.integers(1, 5))):
        block = draw(st.sampled_from(["mix", "mix", "norm", "activation", "add", "concat", "flatten", "keep", "wide"]))
        n, activation = draw(st.integers(2, 9)), draw(st.sampled_from(ACTIVATIONS))
        bias = draw(st.booleans())
        if block in ("mix", "wide"):
            x = mixed(draw, x, flat, n, activation, bias)
        elif block == "norm":
            x = layers.BatchNormalization(scale=bias, center=draw(st.booleans()))(x)
        elif block == "activation":
            x = draw(st.sampled_from([layers.ReLU(), layers.Activation(activation or "silu"), layers.Dropout(0.5)]))(x)
        elif block == "add":
            y = mixed(draw, x, flat, x.shape[-1], activation, bias, same=True)
            x = x + y if draw(st.booleans()) else layers.Add()([x, y])
        elif block == "concat":
            x = layers.Concatenate()([x, mixed(draw, x, flat, n, activation, bias, same=True)])
        elif block == "flatten" and not flat:
            x, flat = draw(st.sampled_from([layers.Flatten(), layers.GlobalAveragePooling2D()]))(x), True
        elif block == "keep":
            x = layers.LayerNormalization()(x) if draw(st.booleans()) else mixed_twice(x)
    return keras.Model(inputs, x)


def mixed(draw, x, flat, n, activation, bias, same=False):
    if flat:
        return layers.Dense(n, activation=activation, use_bias=bias)(x)
    padding = "same" if same or min(x.shape[1:3]) < 3 else draw(st.sampled_from(["same", "valid"]))
    kind = draw(st.integers(0, 5))
    if kind == 0 and not same:
        x = layers.ZeroPadding2D()(x)
    if kind == 1 and not same:
        return layers.DepthwiseConv2D(3, padding=padding, depth_multiplier=2, activation=activation, use_bias=bias)(x)
    if kind == 2 and not same:
        return layers.Conv2DTranspose(n, 3, padding=padding, activation=activation, use_bias=bias)(x)
    if kind == 3 and not same:
        x = draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))(2, padding="same")(x)
        padding = "same"
    return layers.Conv2D(n, 3, padding=padding, activation=activation, use_bias=bias)(x)


def mixed_twice(x):
    shared = layers.Dense(x.shape[-1], activation="relu")
    return shared(shared(x))


def test_random_networks_compute_the_same(request):
    """Hypothesis draws them in the test itself, since Keras draws weights while it makes a layer."""

    @settings(max_examples=request.config.getoption("--examples") // 5, phases=PHASES, database=None)
    @given(st.data(), st.integers(0, 2**16), st.sampled_from([0.5, 0.8, 0.95]))
    def run(data, seed, sparsity):
        assert_same(randomized(network(data.draw), seed, sparsity))

    run()


def chain(*parts, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *parts])


def kernels(model, **values):
    """Sets kernels by the names of layers."""
    for name, kernel in values.items():
        layer = model.get_layer(name)
        layer.kernel.assign(np.asarray(kernel, "float32").reshape(layer.kernel.shape))
    return model


def test_constants_go_to_the_next_bias_and_on_through_what_lies_between():
    model = chain(
        layers.Dense(3, activation="sigmoid", name="a"),  # f(0) is 0.5
        layers.BatchNormalization(),
        layers.Dense(2, use_bias=False, name="b"),
        layers.Dense(1, name="c"),
    )
    kernels(model, a=[[1, 0, 2]] * 4, b=[[1, 2], [3, 4], [5, 6]])
    model.layers[1].moving_mean.assign([0.1, 0.2, 0.3])
    shrunk = assert_same(model)
    assert units(shrunk) == [2, 2, 1]
    assert shrunk.get_layer("b").use_bias
    # `b` had none, so that what it gets is one value a unit for a row less.
    assert shrunk.count_params() < model.count_params()


def test_units_that_nothing_uses_go_all_the_way_back():
    model = kernels(chain(*(layers.Dense(n, name=name) for n, name in ((3, "a"), (2, "b"), (1, "c")))), c=[[1], [0]])
    model.get_layer("b").kernel.assign([[1, 1], [0, 1], [0, 1]])
    assert units(assert_same(model)) == [1, 1, 1]


def test_both_sides_of_an_addition_stay_or_go():
    x = inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(x)
    y = layers.Dense(3, name="b")(x)
    outputs = layers.Dense(2, name="c")(layers.Add()([x, y]))
    model = kernels(keras.Model(inputs, outputs), a=[[0, 1, 0]] * 4, b=[[0, 0, 1]] * 3)
    model.get_layer("a").bias.assign([1.0, 2, 3])
    # The first unit is constant on both sides, the others on one of them.
    assert units(assert_same(model)) == [2, 2, 2]


def test_a_channel_goes_with_all_its_places_in_a_flattened_image():
    model = chain(layers.Conv2D(3, 3, name="a"), layers.Flatten(), layers.Dense(2, name="b"), shape=(5, 5, 2))
    kernel = model.get_layer("b").kernel.numpy().reshape(9, 3, 2)
    kernel[:, 1], kernel[1:, 2] = 0, 0
    assert units(assert_same(kernels(model, b=kernel))) == [2, 2]


@pytest.mark.parametrize(("padding", "bias", "left"), [("valid", 1.0, 1), ("same", 1.0, 2), ("same", 0.0, 1)])
def test_at_the_border_of_a_padded_convolution_only_zeros_go(padding, bias, left):
    model = chain(
        layers.Conv2D(2, 1, activation="relu", name="a"), layers.Conv2D(2, 3, padding=padding), shape=(5, 5, 2)
    )
    model.get_layer("a").kernel.assign([[[[1, 0], [1, 0]]]])
    model.get_layer("a").bias.assign([0.5, bias])
    assert units(assert_same(model)) == [left, 2]


def test_what_is_not_known_stays_as_it_is():
    class Own(layers.Dense):
        pass

    own = chain(layers.Dense(3, name="a"), Own(2, name="own"), layers.Dense(2), shape=(4,))
    kernels(own, a=[[0, 1, 0]] * 4)
    shrunk = assert_same(own)
    assert units(shrunk) == [3, 2, 2]
    assert type(shrunk.get_layer("own")) is Own
    nested = chain(layers.Dense(3, name="a"), chain(layers.Dense(2), shape=(3,)))
    kernels(nested, a=[[0, 1, 0]] * 4)
    assert shrunk.get_layer("a") is not own.get_layer("a")
    assert_same(nested)
    tokens = keras.Input((3,), dtype="int32")
    x = layers.Dense(2)(layers.Flatten()(layers.Embedding(5, 4)(tokens)))
    assert ks.shrink(keras.Model(tokens, x)).count_params() == 5 * 4 + 12 * 2 + 2


def test_a_network_that_is_all_constant_keeps_a_unit_a_layer():
    model = kernels(chain(layers.Dense(3, name="a"), layers.Dense(2)), a=np.zeros((4, 3)))
    assert units(assert_same(model)) == [1, 2]


def test_a_shrunk_model_is_a_model_like_any_other(tmp_path):
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


def test_what_is_wrong_is_said():
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

"""Tests that the deployment report predicts the result of an export, and gives the reasons."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse as ks
from test_save_model import lenet


def row(report, name):
    return next(x for x in report.layers if name in x.name)


def wide(units, sparsity):
    return ks.sparsify(keras.Sequential([keras.Input((units,)), layers.Dense(units, name="fc")]), sparsity)


@pytest.mark.parametrize(
    ("units", "sparsity", "batch_size", "faster"),
    [
        (300, 0.95, 1, True),
        (300, 0.9, 1, False),
        (1024, 0.95, 1, False),
        (1024, 0.98, 1, True),
        (1024, 0.98, 16, False),
        (1024, 0.98, 15, True),
        (300, 0.95, 2, True),
        (300, 0.95, 3, False),
        (320, 0.95, 1, False),
        (320, 0.97, 1, True),
        (256, 0.97, 1, False),
        (256, 0.98, 1, True),
        (100, 0.98, 1, False),
    ],
)
def test_the_threshold_for_dense_layers_depends_on_their_size(units, sparsity, batch_size, faster):
    found = row(ks.deployment_report(wide(units, sparsity), batch_size=batch_size), "fc")
    assert (found.smaller, found.faster) == (True, faster)
    assert found.sparsity == pytest.approx(sparsity, abs=1e-3)


def test_int8_dense_layers_stay_dense_and_float16_ones_are_not_faster():
    int8 = row(ks.deployment_report(wide(300, 0.98), weights="int8"), "fc")
    assert not int8.smaller
    assert "cannot load sparse int8 weights" in int8.why
    float16 = row(ks.deployment_report(wide(300, 0.98), weights="float16"), "fc")
    assert (float16.smaller, float16.faster) == (True, False)


@pytest.mark.parametrize("target", ["litert-x86", "litert-arm64", "onnxruntime", "keras"])
def test_the_text_of_a_report(target):
    report = ks.deployment_report(lenet(), target)
    text = str(report)
    assert text.startswith(f"{report.name} on {target}, float32, batches of 1: ")
    assert len(report.layers) == 3
    assert "98.0% zeros" in text
    assert report.faster == target.startswith("litert")
    assert report.smaller == (target != "onnxruntime")


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:The export to:UserWarning")
@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("sparsity", [0.2, 0.6, 0.9, 0.99])
def test_an_export_has_the_predicted_storage(tmp_path, weights, sparsity):
    pytest.importorskip("ai_edge_litert")
    from keras_sparse.export import litert

    inputs = keras.Input((12, 12, 8))
    x = layers.Conv2D(64, 3, name="conv", activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(32, name="fc")(layers.Flatten()(x)))
    model = ks.sparsify(model, sparsity, seed=1)
    converted = litert.convert(ks.densify(model), tmp_path / "m.tflite", weights, None, 1)
    report = ks.deployment_report(model, weights=weights)
    assert len(converted.storage.computed_sparse) == sum(x.faster for x in report.layers)
    assert len(converted.storage.computed_sparse + converted.storage.densified) == sum(x.smaller for x in report.layers)


SEQUENCE, IMAGE, VOLUME = (6, 64), (10, 10, 16), (4, 4, 4, 2)
KINDS = {  # name -> (shape of the input, layers)
    "LSTM": (SEQUENCE, lambda: [layers.LSTM(64)]),
    "GRU": ((None, 64), lambda: [layers.GRU(48)]),
    "Bidirectional": (SEQUENCE, lambda: [layers.Bidirectional(layers.SimpleRNN(64)), layers.Dense(3)]),
    "Conv1D": (SEQUENCE, lambda: [layers.Conv1D(32, 3), layers.SeparableConv1D(32, 2)]),
    "Conv3D": (VOLUME, lambda: [layers.Conv3D(32, 3), layers.Flatten(), layers.Dense(5)]),
    "separable": (IMAGE, lambda: [layers.SeparableConv2D(64, 3), layers.DepthwiseConv2D(5, depth_multiplier=2)]),
    "small": ((16,), lambda: [layers.Dense(32), layers.Dense(2)]),
}


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:The export to:UserWarning")
@pytest.mark.parametrize(("weights", "sparsity"), [("float32", 0.5), ("float32", 0.96), ("int8", 0.8)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_each_kind_of_layer_has_the_predicted_storage(tmp_path, kind, weights, sparsity):
    pytest.importorskip("ai_edge_litert")
    from keras_sparse.export import litert

    shape, parts = KINDS[kind]
    if weights == "int8" and kind not in ("Conv1D", "separable", "small"):
        pytest.skip("Recurrent layers and Conv3D do not convert to int8 only")
    model = ks.sparsify(keras.Sequential([keras.Input(shape), *parts()]), sparsity)
    dense = ks.densify(model)
    samples = np.random.default_rng(0).random((4, *shape), "float32") if weights == "int8" else None
    storage = litert.convert(dense, tmp_path / "m.tflite", weights, [samples], 1).storage
    report = ks.deployment_report(model, weights=weights)
    assert len(storage.computed_sparse) == sum(x.faster for x in report.layers)
    assert len(storage.computed_sparse + storage.densified) == sum(x.smaller for x in report.layers)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:The export to:UserWarning")
@pytest.mark.parametrize(("length", "batch_size"), [(2, 1), (4, 1), (2, 8), (32, 1), (None, 1)])
def test_the_positions_of_a_sequence_count(tmp_path, length, batch_size):
    pytest.importorskip("ai_edge_litert")
    from keras_sparse.export import litert

    inputs = keras.Input((length, 300))
    x = layers.Dense(300, name="each", activation="relu")(inputs)
    x = layers.TimeDistributed(layers.Dense(300, name="inner"))(x) if length else x
    model = ks.sparsify(keras.Model(inputs, layers.Dense(300, name="once")(layers.GlobalAveragePooling1D()(x))), 0.97)
    report = ks.deployment_report(model, batch_size=batch_size)
    few = length == 2 and batch_size == 1
    assert row(report, "each").faster == few
    assert row(report, "once").faster == (batch_size == 1)
    assert not length or row(report, "inner").faster == (batch_size == 1)
    if not few:
        count = length and length * batch_size
        assert f"It gets {count or 'an unknown number of'} vectors in a call" in row(report, "each").why
    if length:
        storage = litert.convert(ks.densify(model), tmp_path / "m.tflite", "float32", None, batch_size).storage
        stored = "".join(storage.computed_sparse)  # The inner kernel has no name of its own.
        assert ("each" in stored, "once" in stored, len(storage.computed_sparse)) == (
            few,
            batch_size == 1,
            3 * few or 2 * (batch_size == 1),
        )


def mobile(padding="valid", first=3, end=True, activation="relu", sparsity=0.9):
    """Returns a small MobileNet: 1x1 and depthwise convolutions."""
    x = inputs = keras.Input((32, 32, 3))
    if padding == "valid":
        x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(16, first, strides=2, padding=padding, activation=activation, name="stem")(x)
    for i in range(2):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(32, 1, name=f"expand{i}")(x)))
        y = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{i}")(y)
        x = layers.Add()([x, layers.Conv2D(16, 1, name=f"project{i}")(y)])
    x = layers.ZeroPadding2D(1)(x)
    x = layers.DepthwiseConv2D(3, strides=2, name="down")(x)
    x = layers.Conv2D(64, 1, name="head")(x)
    x = layers.GlobalAveragePooling2D()(x) if end else layers.Flatten(name="flat")(x)
    return ks.sparsify(keras.Model(inputs, layers.Dense(10, name="logits")(x)), sparsity, keep_dense=["stem"])


def test_1x1_convolutions_are_faster_on_arm_where_the_whole_model_fits():
    report = ks.deployment_report(mobile(), "litert-arm64")
    assert row(report, "expand0").faster
    assert not row(report, "depthwise0").faster
    assert not row(ks.deployment_report(mobile(), "litert-x86"), "expand0").faster


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        ({"padding": "same"}, {}, "'stem' is the first convolution.*padding='same'"),
        ({"first": 5}, {}, "'stem' is the first convolution.*5x5"),
        ({"end": False}, {}, "'flat' is a Flatten layer"),
        ({"sparsity": 0.5}, {}, "50% of the weights of its 1x1 convolutions"),
        ({}, {"weights": "int8"}, "floating point"),
        ({}, {"batch_size": 2}, "one image at a time, not 2"),
    ],
)
def test_the_reason_for_dense_convolutions_on_arm(model, settings, named):
    report = ks.deployment_report(mobile(**model), "litert-arm64", **settings)
    assert not row(report, "expand0").faster
    assert re.search(named, report.notes[-1]), report.notes


def test_zeros_of_a_plain_model_count():
    plain = ks.densify(wide(300, 0.98))
    assert row(ks.deployment_report(plain), "fc").faster
    weight = ks.masked_weights(masked := wide(300, 0.98))[0]
    weight.variable.assign(np.ones(weight.shape))
    assert row(ks.deployment_report(masked), "fc").sparsity == pytest.approx(0.98, abs=1e-3)


def test_invalid_arguments():
    with pytest.raises(ValueError, match="`target` must be one of .*litert-x86"):
        ks.deployment_report(lenet(), "phone")
    with pytest.raises(ValueError, match="`weights` other than 'float32' are for LiteRT"):
        ks.deployment_report(lenet(), "keras", weights="int8")
    with pytest.raises(ValueError, match="takes a keras.Model"):
        ks.deployment_report(None)


@pytest.mark.tensorflow
def test_the_kernels_of_a_convolutional_lstm_are_stored_sparse(tmp_path):
    pytest.importorskip("ai_edge_litert")
    from keras_sparse.export import litert

    images = keras.Input((2, 8, 8, 8))
    model = ks.sparsify(keras.Model(images, layers.ConvLSTM2D(16, 3)(images)), 0.97)
    rows = ks.deployment_report(model).layers
    assert [(x.smaller, x.faster) for x in rows] == [(True, False)] * 2
    converted = litert.convert(ks.densify(model), tmp_path / "m.tflite", "float32", None, 1)
    assert len(converted.storage.densified) == 8  # of 4 gates
    assert len(converted.sparse) < len(converted.dense) / 3


@pytest.mark.parametrize(("features", "faster"), [(64, False), (256, True)])
def test_the_inputs_of_einsum_layers_are_those_of_their_equation(features, faster):
    """A query kernel of shape (features, heads, size) has as many inputs as there are features."""
    x = keras.Input((1, features))
    model = ks.sparsify(keras.Model(x, layers.MultiHeadAttention(4, 75)(x, x)), 0.985)
    report = ks.deployment_report(model)
    assert [row(report, name).faster for name in ("query", "key", "value")] == [faster] * 3
    assert row(report, "attention_output").faster  # 300 inputs


def test_a_mobile_network_inside_of_a_model_and_with_operations():
    """An export inlines nested models, and activation functions are operators like layers."""
    images = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(1)(layers.GaussianNoise(0.1)(layers.RandomFlip()(images)))
    inner_input = keras.Input(x.shape[1:])
    y = keras.ops.relu(layers.Conv2D(16, 3, strides=2, name="stem")(inner_input))
    y = keras.activations.silu(layers.Conv2D(16, 1, name="expand")(y)) * y + y
    backbone = keras.Model(inner_input, y, name="backbone")
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, name="head")(backbone(x))))
    model = ks.sparsify(keras.Model(images, outputs), 0.9, keep_dense=["stem"])
    report = ks.deployment_report(model, "litert-arm64")
    assert row(report, "expand").faster
    assert row(report, "head").faster
    outputs = layers.GlobalAveragePooling2D()(keras.ops.sin(layers.Conv2D(8, 1, name="head")(backbone(x))))
    report = ks.deployment_report(ks.sparsify(keras.Model(images, outputs), 0.9), "litert-arm64")
    assert "is an operation Sin, which XNNPACK cannot compute" in report.notes[-1]


def test_what_lora_changes_is_not_sparse():
    model = ks.densify(wide(300, 0.98))
    model.layers[0].enable_lora(4)
    found = ks.deployment_report(model).layers[0]
    assert (found.smaller, found.faster) == (False, False)
    assert "LoRA or quantization" in found.why


def test_a_batch_of_matrix_products_is_stored_dense(tmp_path):
    model = keras.Sequential([keras.Input((8, 256)), layers.EinsumDense("abc,bcd->abd", (8, 64))])
    pytest.importorskip("ai_edge_litert")
    from keras_sparse.export import litert

    sparse = ks.sparsify(model, 0.98)
    (found,) = ks.deployment_report(sparse).layers
    assert (found.smaller, found.faster) == (False, False)
    converted = litert.convert(ks.densify(sparse), tmp_path / "m.tflite", "float32", None, 1)
    assert not converted.storage.computed_sparse
    assert len(converted.sparse) > 0.95 * len(converted.dense)

"""Compares the report with counts by hand, and its multiply-accumulates with those of TensorFlow's profiler."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse as ks
from common.experiment import RESNET50_IMAGENET, WRN_CIFAR10
from common.models import lenet_300_100, resnet50, wide_resnet

# Operations that multiply by weights. The products of queries, keys and values, which are "Einsum", are not counted.
PRODUCTS = ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative")


def depthwise():
    """Returns a network for 8x8 images of 3 channels: 3x3 depthwise, 1x1 to 16 channels, 10 classes."""
    images = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(images)
    x = layers.Conv2D(16, 1)(x)
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer(length=12, width=32, heads=4, key=8):
    """Returns one block of attention and two dense layers, with a head for each position."""
    x = keras.Input((length, width))
    y = layers.Add()([x, layers.MultiHeadAttention(heads, key, name="attention")(x, x)])
    y = layers.LayerNormalization()(y)
    y = layers.Add()([y, layers.Dense(width)(layers.Dense(4 * width, activation="relu")(y))])
    return keras.Model(x, layers.Dense(5, name="head")(y))


# name: (network, masked weights, all trainable parameters, multiply-accumulates of the dense network), by hand.
NETWORKS = {
    # 784 x 300 + 300 x 100 + 100 x 10; 2 x 410 of batch norm
    "lenet": (lenet_300_100, 266_200, 267_020, 266_200),
    # Table 4's networks and numbers of weights; what is dense there is kept dense.
    "wrn_28_2": (functools.partial(wide_resnet, 28, 2), 1_451_520, 1_467_610, None),
    "resnet_50": (resnet50, 22_724_608, 25_557_032, None),
    # 3 x 9 + 3 x 16 + 160, with biases of 16 and 10; 64 positions of the first two
    "depthwise": (depthwise, 235, 261, 64 * 27 + 64 * 48 + 160),
    # 4 x 32 x 32 + 2 x 32 x 128 + 160; biases 4 x 32 + 128 + 32 + 5; layer norm 64
    "transformer": (transformer, 12_448, 12_805, 12 * 12_448),
}


def sparse_of(name, model, sparsity=0.5):
    kept = {"wrn_28_2": WRN_CIFAR10.keep_dense, "resnet_50": RESNET50_IMAGENET.keep_dense}
    return ks.sparsify(model, sparsity, keep_dense=kept.get(name, ()), include=lambda v: "depthwise" in v.path)


@functools.cache
def network(name):
    return NETWORKS[name][0]()


@pytest.mark.parametrize("name", NETWORKS)
def test_totals_by_hand(name):
    _, masked, trainable, macs = NETWORKS[name]
    sparse = sparse_of(name, network(name))
    report = ks.report(sparse)
    assert report.sparse_weights == masked
    assert report.sparse_weights + report.dense_parameters == trainable
    assert report.live_weights == sum(int(w.mask.numpy().sum()) for w in ks.masked_weights(sparse))
    assert report.parameters == report.live_weights + trainable - masked
    assert macs is None or report.dense_macs == macs
    assert report.macs < report.dense_macs


def profiled_multiply_accumulates(model):
    """Returns half of the floating-point operations that TensorFlow counts for the products, for one input."""
    import tensorflow as tf
    from tensorflow.python.framework import ops

    x = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(x).graph
    products = [op for op in graph.get_operations() if op.type in PRODUCTS]
    return sum(int(ops.get_stats_for_node_def(graph, op.node_def, "flops").value) for op in products) // 2


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_accumulates_equal_those_of_the_profiler(name):
    assert ks.report(network(name)).dense_macs == profiled_multiply_accumulates(network(name))


def test_attention_of_unknown_length_has_unknown_counts():
    x = keras.Input((None, 8))
    report = ks.report(ks.sparsify(keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x)), 0.5))
    assert [row.macs for row in report.layers] == [None] * 4


@pytest.mark.parametrize("rank", [1, 2])
def test_attention_of_queries_of_another_length(rank):
    """Weights of queries and outputs are used once for each query; those of keys and values, once for each key."""
    shape = (3,) * (rank - 1)
    query, value = keras.Input((*shape, 6, 8)), keras.Input((*shape, 10, 8))
    attention = layers.MultiHeadAttention(2, 4, attention_axes=tuple(range(1, rank + 1)))
    rows = ks.report(ks.sparsify(keras.Model([query, value], attention(query, value)), 0.5)).layers
    times = {row.name.split("/")[-1]: row.dense_macs // row.weights // 3 ** (rank - 1) for row in rows}
    assert times == {"query": 6, "key": 10, "value": 10, "attention_output": 6}


def test_each_call_of_a_layer_counts_with_the_shape_of_its_input():
    inputs, dense = keras.Input((64,)), layers.Dense(64)
    assert ks.report(keras.Model(inputs, dense(dense(dense(inputs))))).macs == 3 * 64 * 64
    block = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    assert ks.report(keras.Model(inputs, block(block(inputs)))).macs == 2 * 64 * 64
    conv, small = layers.Conv2D(4, 3, padding="same"), keras.Input((8, 8, 3))
    conv(keras.Input((32, 32, 3)))
    assert ks.report(keras.Model(small, conv(small))).macs == 64 * 108
    steps, other = keras.Input((10, 8)), layers.Dense(4)
    other.build((None, 8))
    assert ks.report(keras.Model(steps, other(steps))).macs == 320
    a, b = keras.Input((2, 64)), keras.Input((40, 64))
    assert ks.report(keras.Model([a, b], [dense(a), dense(b)])).macs == 42 * 64 * 64


def test_layers_inside_of_others_count_for_each_call_of_the_same_shape():
    steps, lstm = keras.Input((5, 8)), layers.LSTM(8, return_sequences=True)
    once = ks.report(keras.Model(steps, lstm(steps))).macs
    assert once == 5 * (8 * 32 + 8 * 32)
    assert ks.report(keras.Model(steps, lstm(lstm(steps)))).macs == 2 * once
    longer = keras.Input((7, 8))
    assert ks.report(keras.Model([steps, longer], [lstm(steps), lstm(longer)])).macs is None


def test_a_reversible_embedding_has_unknown_counts():
    tokens, embedding = keras.Input((5,), dtype="int32"), layers.ReversibleEmbedding(20, 8)
    assert ks.report(keras.Model(tokens, embedding(embedding(tokens), reverse=True))).macs is None


def test_keys_of_unknown_length_have_unknown_counts():
    query, value = keras.Input((10, 16)), keras.Input((None, 16))
    model = keras.Model([query, value], layers.MultiHeadAttention(2, 8)(query, value))
    macs = {row.name.split("/")[-1]: row.macs for row in ks.report(ks.sparsify(model, 0.5)).layers}
    assert {name for name, count in macs.items() if count is None} == {"key", "value"}


class Sum(layers.Layer):
    """Adds the tensors of a dict."""

    def call(self, tensors):
        return tensors["a"] + tensors["b"]


def test_layers_with_several_inputs_and_elementwise_weights_have_known_counts():
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], layers.Dense(3)(Sum()({"a": a, "b": b})))
    assert ks.report(ks.sparsify(model, 0.5)).macs == 6
    images = keras.Input((6, 6, 4))
    x = layers.LayerNormalization(axis=[1, 2, 3])(layers.PReLU()(images))
    assert ks.report(ks.sparsify(keras.Model(images, layers.Conv2D(2, 1)(x)), 0.5)).macs == 36 * 4
    steps, h, c = keras.Input((5, 8)), keras.Input((8,)), keras.Input((8,))
    model = keras.Model([steps, h, c], layers.LSTM(8)(steps, initial_state=[h, c]))
    assert ks.report(model).macs == 5 * (8 * 32 + 8 * 32)


def test_a_sequential_model_of_several_inputs_is_reported():
    """Keras gives it no graph."""
    model = keras.Sequential([layers.Concatenate(), layers.Dense(3)])
    model([np.ones((1, 3)), np.ones((1, 4))])
    sparse = ks.sparsify(model, 0.5)
    assert ks.report(sparse).live_weights == ks.report(sparse).macs == 10
    assert ks.deployment_report(sparse).layers
    with pytest.raises(ValueError, match="`shrink` takes a functional or Sequential model, whose layers have known"):
        ks.shrink(sparse)


def test_a_report_of_a_sequential_model_without_inputs_says_what_to_do():
    with pytest.raises(ValueError, match="not built"):
        ks.report(keras.Sequential([layers.Dense(2)]))


def test_a_layer_that_several_others_call_is_used_in_each():
    dense = layers.Dense(4, use_bias=False, name="shared")
    a, b = keras.Input((5, 8)), keras.Input((7, 8))
    outputs = [layers.TimeDistributed(dense)(a), layers.TimeDistributed(dense)(b)]
    assert ks.report(keras.Model([a, b], outputs)).dense_macs == 12 * 32
    # A direct call of the same layer is one more.
    single = keras.Input((8,))
    assert ks.report(keras.Model([a, b, single], [*outputs, dense(single)])).dense_macs == 13 * 32
    cell = layers.SimpleRNNCell(4)
    model = keras.Model([a, b], [layers.RNN(cell)(a), layers.RNN(cell)(b)])
    assert ks.report(model).dense_macs == 12 * (8 * 4 + 4 * 4)


def test_attention_with_values_of_several_lengths_is_unknown():
    attention = layers.MultiHeadAttention(2, 4)
    query, short, long = keras.Input((6, 8)), keras.Input((10, 8)), keras.Input((20, 8))
    assert ks.report(keras.Model([query, short], attention(query, short))).dense_macs == (6 + 10 + 10 + 6) * 64
    model = keras.Model([query, short, long], [attention(query, short), attention(query, long)])
    assert ks.report(model).dense_macs is None
    attention, mask = layers.MultiHeadAttention(2, 4), keras.Input((6, 10), dtype="bool")
    outputs = [attention(query, short), attention(query, short, attention_mask=mask)]
    assert ks.report(keras.Model([query, short, mask], outputs)).dense_macs == 2 * (6 + 10 + 10 + 6) * 64


def test_attention_of_a_subclass_with_one_input():
    class SelfAttention(layers.MultiHeadAttention):
        """Attention of a sequence to itself."""

        def build(self, shape):
            super().build(shape, shape)

        def call(self, inputs):
            return super().call(inputs, inputs)

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape, inputs.dtype)

    x = keras.Input((6, 8))
    for outputs in (SelfAttention(2, 4)(x), SelfAttention(2, 4)(inputs=x)):
        assert ks.report(keras.Model(x, outputs)).dense_macs == 4 * 6 * 64


def test_layers_that_no_call_reaches_count_for_the_shape_they_were_built_for():
    dense = layers.Dense(4, use_bias=False)
    dense.build((None, 8))
    (row,) = ks.report(ks.sparsify(keras.Sequential([keras.Input((8,)), dense]), 0.5).layers[0]).layers
    assert (row.dense_macs, row.macs) == (32, 16)

    class Twice(keras.Model):
        """A model that has a layer in two ways."""

        def __init__(self):
            super().__init__()
            self.encoder = layers.Dense(4, use_bias=False)
            self.net = keras.Sequential([self.encoder, layers.Dense(3, use_bias=False)])

        def call(self, inputs):
            return self.net(inputs)

    model = Twice()
    model(np.ones((2, 8), "float32"))
    assert ks.report(model).dense_macs == 32 + 12


def test_layers_that_a_subclassed_model_has_beside_the_one_that_calls_them():
    class Forecast(keras.Model):
        """A model that has the cell of its recurrent layer, too, and two branches with a shared layer."""

        def __init__(self):
            super().__init__()
            self.cell = layers.LSTMCell(4, use_bias=False)
            self.recurrent = layers.RNN(self.cell)
            shared = layers.Dense(4, use_bias=False)
            self.first = keras.Sequential([shared, layers.Dense(3, use_bias=False)])
            self.second = keras.Sequential([shared, layers.Dense(3, use_bias=False)])

        def call(self, inputs):
            hidden = self.recurrent(inputs)
            return self.first(hidden) + self.second(hidden)

    model = Forecast()
    model(np.ones((2, 5, 8), "float32"))
    assert ks.report(model).dense_macs == 5 * (8 * 16 + 4 * 16) + 2 * 16 + 2 * 12

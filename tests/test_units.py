"""Tests which units a kernel connects, by the outputs of the layer for inputs to single units."""

import math
from functools import partial

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from keras_sparse import criteria
from keras_sparse.layers.connected_units import units_of
from keras_sparse.training.layer_state import layer_states
from nets import numpy

BITS = 12  # bits by which the weights of a kernel are distinguished in one pass

EQUATIONS = {  # kernel shape, input shape, axes of input and output that index units
    "ab,bc->ac": ((4,), (3,), (1,), (1,)),
    "...x,xy->...y": ((2, 3), (2, 4), (2,), (2,)),
    "xb...,bc->xc...": ((3, 2), (4,), (1,), (1,)),
    "abc,cde->abde": ((2, 3), (None, 2, 3), (2,), (2, 3)),
    "abde,dec->abc": ((2, 2, 3), (None, 4), (2, 3), (2,)),
    "abhd,hde->abhe": ((2, 3, 2), (None, 3, 3), (2, 3), (2, 3)),  # a small dense layer for each head
    "abhd,edh->abhe": ((2, 3, 2), (None, 3, 2), (2, 3), (2, 3)),
    "abc,bcd->abd": ((3, 2), (3, 2), (1, 2), (1, 2)),  # one for each position
    "abc,bc->abc": ((3, 2), (3, 2), (1, 2), (1, 2)),  # a factor for each input
    "abcd,cdbe->aeb": ((2, 2, 3), (3, 2), (1, 2, 3), (1, 2)),
    "ab,b->a": ((5,), (), (1,), ()),
}


@st.composite
def drawn_layers(draw):
    """Draws a function that makes a layer without bias, its input shape, and the axes that index units."""
    small = st.integers(1, 3)
    kind = draw(st.sampled_from(["Conv1D", "Conv2D", "Conv3D", "Transpose", "Depthwise", "Dense", "Einsum"]))
    if kind == "Einsum":
        equation = draw(st.sampled_from(sorted(EQUATIONS)))
        shape, output, *axes = EQUATIONS[equation]
        return partial(layers.EinsumDense, equation, output), shape, *axes
    if kind == "Dense":
        return partial(layers.Dense, draw(small), use_bias=False), (2, draw(small)), (2,), (2,)
    convolution = {
        "kernel_size": draw(st.integers(1, 2)),
        "strides": draw(st.integers(1, 2)),
        "padding": draw(st.sampled_from(["valid", "same"])),
        "use_bias": False,
    }
    if kind == "Transpose":
        return partial(layers.Conv2DTranspose, draw(small), **convolution), (3, 3, draw(small)), (3,), (3,)
    if kind == "Depthwise":
        layer = partial(layers.DepthwiseConv2D, depth_multiplier=draw(small), **convolution)
        return layer, (4, 4, draw(small)), (3,), (3,)
    rank, groups, one = int(kind[4]), draw(small), st.integers(1, 2)
    layer = partial(getattr(layers, kind), groups * draw(one), groups=groups, **convolution)
    return layer, (*(4,) * rank, groups * draw(one)), (rank + 1,), (rank + 1,)


def each_unit(shape, axes):
    """Makes a batch of inputs of `shape`, each 1 for one unit and 0 for all others. `axes` include the batch axis."""
    sizes = [shape[a - 1] for a in axes]
    batch = np.zeros((math.prod(sizes), *shape), "float32")
    for number, unit in enumerate(np.ndindex(*sizes)):
        where = [slice(None)] * len(shape)
        for axis, index in zip(axes, unit, strict=True):
            where[axis - 1] = index
        batch[(number, *where)] = 1
    return batch


def by_unit(outputs, axes):
    """Reshapes an output to `(batch, units, positions)`."""
    others = [a for a in range(1, outputs.ndim) if a not in axes]
    outputs = outputs.transpose([0, *axes, *others])
    return outputs.reshape(len(outputs), math.prod(outputs.shape[1 : 1 + len(axes)]), -1)


def edges(layer, shape, inputs, outputs):
    """Finds out which units each weight connects: array `(weights, input units, output units)`."""
    size, x, found = math.prod(layer.kernel.shape), each_unit(shape, inputs), []
    for first in range(0, size, BITS):
        kernel = np.zeros(size)
        kernel[first : first + BITS] = 2.0 ** np.arange(len(kernel[first : first + BITS]))
        layer.kernel_variable.assign(kernel.reshape(layer.kernel.shape))
        seen = np.rint(by_unit(numpy(layer(x)), outputs)).astype(int)
        found += [(seen >> bit & 1).any(axis=-1) for bit in range(min(BITS, size - first))]
    return np.array(found)


@given(drawn_layers(), st.data())
@settings(max_examples=10 if keras.backend.backend() == "jax" else 40)  # JAX compiles each shape
def test_units_are_those_that_the_layer_connects(drawn, data):
    make, shape, inputs, outputs = drawn
    plain = make()
    dense = keras.Sequential([keras.Input(shape), plain])
    kernel = tuple(plain.kernel.shape)
    whole = data.draw(st.lists(st.booleans(), min_size=len(kernel), max_size=len(kernel)))
    granularity = tuple(1 if w else n for w, n in zip(whole, kernel, strict=True))
    model = ks.sparsify(dense, 0.0, granularity=granularity)
    (layer,) = ks.masked_layers(model)
    connects = edges(layer, shape, inputs, outputs)
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=math.prod(granularity), max_size=math.prod(granularity)))
    ).reshape(granularity)
    layer.kernel_mask.value.assign(mask)
    layer.kernel_variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, kernel))

    # A unit is dead if it does not affect the output.
    row = ks.report(model).layers[0]
    heard = by_unit(numpy(layer(each_unit(shape, inputs))), outputs).any(axis=-1)
    assert row.dead_inputs == np.count_nonzero(~heard.any(axis=1))
    assert row.dead_outputs == np.count_nonzero(~heard.any(axis=0))

    # Growth between live units.
    (tensor,) = layer_states(layer.masked_weights)
    units = units_of(layer, kernel)
    between = criteria.between_live_units(tensor.live, units.split(mask.shape), units.inputs, units.outputs)
    alive = heard.any(axis=1)[:, None] & heard.any(axis=0)
    expected = (connects & alive).any(axis=(1, 2)).reshape(kernel)
    np.testing.assert_array_equal(np.broadcast_to(between.reshape(granularity), kernel), expected)

    # Groups, channels and heads as separate graphs.
    connected = connects.any(axis=0)
    graphs = {tuple(row) for row in connected.tolist()}
    assert units.groups == len(graphs)
    assert units.as_convolution[-2:] == (len(connected) // len(graphs), connected.shape[1])
    assert math.prod(units.as_convolution) == math.prod(kernel)


def one(layer, shape, mask):
    model = ks.sparsify(keras.Sequential([keras.Input(shape), layer]), 0.0)
    ks.masked_layers(model)[0].kernel_mask.value.assign(np.reshape(mask, layer.kernel.shape))
    return ks.report(model).layers[0]


def test_a_grouped_convolution_by_hand():
    """Kernel (3, 3, 2, 16) over 8 inputs in 4 groups: outputs 0 to 3 see inputs 0 and 1, 4 to 7 see 2 and 3."""
    mask = np.zeros((3, 3, 2, 16), bool)
    mask[1, 2, 0, 0] = mask[0, 0, 0, 3] = mask[1, 1, 1, 15] = mask[2, 2, 0, 4] = True  # inputs 0, 0, 7, 2
    row = one(layers.Conv2D(16, 3, groups=4), (10, 9, 8), mask)
    assert (row.weights, row.live, row.dead_inputs, row.dead_outputs) == (288, 4, 5, 12)
    assert (row.macs, row.dense_macs) == (4 * 8 * 7, 288 * 8 * 7)


def test_a_transposed_convolution_by_hand():
    """Kernel (2, 2, outputs 3, inputs 4): each weight is used once for each input position, 5 x 6."""
    mask = np.zeros((2, 2, 3, 4), bool)
    mask[0, 1, 2, 0] = mask[1, 1, 2, 3] = True
    row = one(layers.Conv2DTranspose(3, 2, strides=2), (5, 6, 4), mask)
    assert (row.weights, row.live, row.dead_inputs, row.dead_outputs) == (48, 2, 2, 2)
    assert (row.macs, row.dense_macs) == (60, 48 * 30)


def test_a_depthwise_convolution_by_hand():
    """Kernel (2, 2, inputs 3, multiplier 2): input 1 makes outputs 2 and 3; 4 x 3 positions."""
    mask = np.zeros((2, 2, 3, 2), bool)
    mask[0, 0, 1, 0] = mask[1, 0, 1, 1] = mask[1, 1, 1, 1] = True
    row = one(layers.DepthwiseConv2D(2, depth_multiplier=2), (5, 4, 3), mask)
    assert (row.weights, row.live, row.dead_inputs, row.dead_outputs) == (24, 3, 2, 4)
    assert (row.macs, row.dense_macs) == (36, 24 * 12)


def test_heads_by_hand():
    """Kernel (heads 2, inputs 3, outputs 2), a graph for each head; 5 positions."""
    mask = np.zeros((2, 3, 2), bool)
    mask[0, 0, 1] = mask[1, 0, 0] = mask[1, 1, 0] = True
    row = one(layers.EinsumDense("abhd,hde->abhe", (None, 2, 2)), (5, 2, 3), mask)
    assert (row.weights, row.live, row.dead_inputs, row.dead_outputs) == (12, 3, 3, 2)
    assert (row.macs, row.dense_macs) == (15, 60)


def densities(name, *drawn):
    inputs = [keras.Input(shape) for _, shape in drawn]
    model = keras.Model(inputs, [layer(x) for (layer, _), x in zip(drawn, inputs, strict=True)])
    sparse = ks.masked_layers(ks.sparsify(model, 0.9, distribution=name))
    return [x.kernel_mask.numpy().mean() for x in sparse]


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("uniform", 1),
        ("erdos_renyi", ((8 + 16) / (8 * 16)) / ((32 + 64) / (32 * 64))),
        ("erdos_renyi_kernel", ((3 + 3 + 8 + 16) / (9 * 8 * 16)) / ((32 + 64) / (32 * 64))),
    ],
)
def test_a_grouped_convolution_is_as_dense_as_each_of_its_groups(name, ratio):
    grouped, dense = densities(name, (layers.Conv2D(64, 3, groups=4), (4, 4, 32)), (layers.Dense(64), (32,)))
    assert grouped / dense == pytest.approx(ratio, rel=0.02)
    heads = (layers.EinsumDense("abhd,hde->abhe", (None, 4, 16)), (2, 4, 8))
    by_head, dense = densities(name, heads, (layers.Dense(64), (32,)))
    flat = ((8 + 16) / (8 * 16)) / ((32 + 64) / (32 * 64))
    assert by_head / dense == pytest.approx(1 if name == "uniform" else flat, rel=0.02)


def test_a_depthwise_convolution_is_a_graph_for_each_channel():
    """(1 + 2) / (1 * 2) exceeds 1, so that they stay dense with Erdos-Renyi."""
    depthwise, dense = densities(
        "erdos_renyi", (layers.DepthwiseConv2D(3, depth_multiplier=2), (4, 4, 8)), (layers.Dense(64), (64,))
    )
    assert depthwise == 1
    assert dense == pytest.approx((0.1 * (144 + 4096) - 144) / 4096, rel=0.01)


def test_a_function_of_the_users_gets_a_shape_for_each_layer():
    seen = []

    def halves(shapes, sparsity):
        seen.extend(shapes)
        return [0.5] * len(shapes)

    densities(
        halves,
        (layers.Conv2D(16, (3, 2), groups=4), (4, 4, 8)),
        (layers.Conv2DTranspose(3, 2), (4, 4, 5)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (4, 4, 8)),
    )
    assert seen == [(3, 2, 2, 16), (2, 2, 5, 3), (3, 3, 1, 16)]
    assert [s.groups for s in seen] == [4, 1, 8]


def test_growth_of_live_units_stays_in_a_group():
    model = ks.sparsify(keras.Sequential([keras.Input((6, 4)), layers.Conv1D(4, 3, groups=2)]), 0.0)
    (layer,) = ks.masked_layers(model)
    mask = np.zeros((3, 2, 4), bool)
    mask[0, 0, 0] = mask[1, 0, 1] = mask[2, 1, 3] = True  # inputs 0 and 3; outputs 0, 1 and 3
    layer.kernel_mask.value.assign(mask)
    layer.kernel_variable.assign(np.where(mask, 1e-9, 0.0))
    model.compile("sgd", "mse")
    method = ks.DynamicSparse(1, 1, threshold=0.5, growth="live_units")
    possible = np.zeros((3, 2, 4), bool)
    possible[:, 0, [0, 1]] = possible[:, 1, 3] = True
    for step in range(1, 20):
        before = layer.kernel_mask.numpy()
        method.update(model, step)
        grown = layer.kernel_mask.numpy() & ~before
        assert grown.any()
        assert possible[grown].all()
        layer.kernel_mask.value.assign(mask)
        layer.kernel_variable.assign(np.where(mask, 1e-9, 0.0))

"""Tests the report on small networks."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse as ks
from nets import mlp


def with_masks(model, masks):
    for layer, mask in zip(ks.masked_layers(model), masks, strict=True):
        layer.kernel_mask.value.assign(mask)
    return model


def test_a_small_net_by_hand():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a"), layers.Dense(2, name="b")])
    model = with_masks(ks.sparsify(model, 0.5), [[[1, 0], [1, 0], [0, 0]], [[0, 1], [0, 1]]])
    report = ks.report(model)
    a, b = report.layers
    assert (a.weights, a.live, a.density, a.macs, a.dense_macs) == (6, 2, 1 / 3, 2, 6)
    assert (a.dead_inputs, a.dead_outputs) == (1, 1)
    assert (b.live, b.dead_inputs, b.dead_outputs) == (2, 0, 1)
    assert (report.sparse_weights, report.live_weights, report.dense_parameters, report.parameters) == (10, 4, 4, 8)
    assert report.sparsity == pytest.approx(0.6)
    assert report.dense_bytes == 14 * 4
    assert report.bytes == 4 * 4 + 1 + 1 + 4 * 4  # live values, two masks of one byte each, biases
    json.dumps(report.to_dict())


@pytest.mark.parametrize(
    ("layer", "shape", "positions"),
    [
        (layers.Dense(4), (5,), 1),
        (layers.Dense(4), (7, 5), 7),
        (layers.Conv1D(4, 3), (9, 2), 7),
        (layers.Conv2D(4, 3, strides=2, padding="same"), (9, 8, 2), 5 * 4),
        (layers.Conv3D(4, 2), (4, 4, 4, 2), 27),
        (layers.Conv2DTranspose(4, 3, strides=2), (5, 6, 2), 30),
        (layers.DepthwiseConv2D(3), (6, 6, 2), 16),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (7, 5), 7),
        (layers.EinsumDense("...x,xy->...y", (7, 4)), (7, 5), 7),
        (layers.EinsumDense("ab,bc->ac", 4), (5,), 1),
    ],
)
def test_multiply_accumulates(layer, shape, positions):
    row = ks.report(ks.sparsify(keras.Sequential([keras.Input(shape), layer]), 0.5)).layers[0]
    assert row.macs == row.live * positions
    assert row.dense_macs == row.weights * positions


def test_multiply_accumulates_are_unknown_if_a_size_is():
    model = keras.Sequential([keras.Input((None, None, 2)), layers.Conv2D(4, 3)])
    report = ks.report(ks.sparsify(model, 0.5))
    assert report.layers[0].macs is None
    assert " ? " in str(report)


def test_dead_units_of_slices_and_other_axes():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    model = ks.sparsify(model, 0.5, granularity="kernel_slice")
    model = with_masks(model, [np.reshape([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], (1, 1, 3, 4))])
    row = ks.report(model).layers[0]
    assert (row.live, row.dead_inputs, row.dead_outputs) == (27, 1, 2)
    transposed = ks.sparsify(keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2DTranspose(2, 1)]), 0.5)
    row = ks.report(with_masks(transposed, [np.reshape([[1, 0, 0], [0, 0, 0]], (1, 1, 2, 3))])).layers[0]
    assert (row.dead_inputs, row.dead_outputs) == (2, 1)


def test_a_model_without_masks_has_only_sums():
    report = ks.report(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    assert (report.layers, report.parameters, report.sparsity, report.bytes) == ((), 8, 0.0, 32)


def test_a_report_prints_as_a_table():
    text = str(ks.report(mlp(0.75)))
    assert text.splitlines()[0].split() == [
        "layer",
        "weight",
        "weights",
        "live",
        "density",
        "MACs",
        "of",
        "dense",
        "bytes",
        "dead",
        "in",
        "dead",
        "out",
    ]
    assert "89 of 356 weights live, sparsity 0.7500; 120 parameters" in text


def test_a_comparison_is_shown_like_a_report():
    model = ks.sparsify(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="fc")]), 0.5)
    comparison = ks.compare(model, ks.sparsify(ks.densify(model), 0.25, initial="random", seed=1))
    assert json.loads(comparison.to_json())["layers"][0]["live"] == [16, 24]
    assert "<td" in comparison.to_html()
    assert comparison.to_html() == comparison._repr_html_()
    assert "/fc | 8x4 |" in comparison.to_markdown()
    assert "Jaccard index" in str(comparison)


def test_models_of_different_granularity_are_not_compared():
    dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    blocks, single = ks.sparsify(dense, 0.5, granularity="4x4"), ks.sparsify(dense, 0.5)
    with pytest.raises(ValueError, match=r"granularity. Received: \['\(8, 4\) with a mask of \(2, 1\)'\]"):
        ks.compare(blocks, single)

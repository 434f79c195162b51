"""Tests the networks of the recipes: parameter counts of the paper, and differences between PyTorch and Keras."""

import numpy as np
import pytest
from keras import ops

import keras_sparse as ks
from common.experiment import LENET_MNIST, RESNET50_IMAGENET, WRN_CIFAR10
from common.models import lenet_300_100, resnet, resnet50, wide_resnet


def of_the_paper(experiment, sparse):
    """Whether the sizes to which K of Table 4 refers are those of a network."""
    shapes = [x.kernel_variable.shape for x in ks.masked_layers(sparse)]
    slices = sum(int(np.prod(shape[-2:])) for shape in shapes)
    return (experiment.sparse_weights, experiment.kernel_slices) == (sum(map(np.prod, shapes)), slices)


def test_lenet_counts_and_initialization():
    model = lenet_300_100()
    sparse = ks.sparsify(model, 0.98)
    report = ks.report(sparse)
    assert of_the_paper(LENET_MNIST, sparse)
    assert (model.count_params() - 820, report.sparse_weights, report.live_weights) == (267_020, 266_200, 5_324)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 267_020
    kernel = ops.convert_to_numpy(model.get_layer("fc1").kernel)
    assert 0.99 / 28 < np.abs(kernel).max() <= 1 / 28  # +- 1 / sqrt(784)


def test_wrn_28_2_counts():
    model = wide_resnet(28, 2)
    sparse = ks.sparsify(model, 0.9, keep_dense=WRN_CIFAR10.keep_dense)
    report = ks.report(sparse)
    assert of_the_paper(WRN_CIFAR10, sparse)
    assert (len(report.layers), report.sparse_weights, report.live_weights) == (24, 1_451_520, 145_152)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 1_467_610
    std = ops.convert_to_numpy(model.get_layer("group3_block4_conv2").kernel).std()
    assert std == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_resnet_50_counts():
    model = resnet50()
    sparse = ks.sparsify(model, 0.9, keep_dense=RESNET50_IMAGENET.keep_dense)
    report = ks.report(sparse)
    assert of_the_paper(RESNET50_IMAGENET, sparse)
    assert (report.sparse_weights, report.live_weights, report.parameters) == (22_724_608, 2_272_461, 5_104_885)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 25_557_032
    assert ks.report(ks.sparsify(model, 0.8, keep_dense=RESNET50_IMAGENET.keep_dense)).parameters == 7_377_346


def test_an_invalid_depth_of_resnet_is_refused():
    with pytest.raises(ValueError, match=r"one of \[14, 26, 50, 101, 152\]. Received: depth=34"):
        resnet(34)


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    model = resnet(14, 0.125, input_shape=(32, 32, 3), classes=5)
    first, second = (model.get_layer(f"group2_block1_conv{i}") for i in (1, 2))
    assert (first.strides, second.strides, second.input.shape[1:3]) == ((1, 1), (2, 2), (10, 10))
    assert model.get_layer("group1_block1_conv1").input.shape[1:3] == (8, 8)  # a quarter of the size, like 56 of 224
    assert model.output_shape == (None, 5)


def test_an_invalid_depth_of_wrn_is_refused():
    with pytest.raises(ValueError, match=r"6 n \+ 4.*Received: depth=27"):
        wide_resnet(27)


def test_a_strided_convolution_pads_on_both_sides():
    """Padding "same" of Keras would pad an even input on one side only."""
    model = wide_resnet(10, 1, input_shape=(8, 8, 3))
    layer = model.get_layer("group2_block1_conv1")
    assert layer.input.shape[1:3] == (10, 10)
    assert layer.output.shape[1:3] == (4, 4)


def test_l2_is_weight_decay_of_pytorch_on_every_parameter():
    model = lenet_300_100(l2=0.5)  # half the sum of squares, whose gradient is l2 * weight
    for v in model.trainable_variables:
        v.assign(ops.ones(v.shape))
    expected = sum(0.25 * int(np.prod(v.shape)) for v in model.trainable_variables)
    assert ops.convert_to_numpy(sum(model.losses)) == pytest.approx(expected)

"""Whether XNNPACK computes 1x1 convolutions with sparse weights on arm64: it does so for whole models only.

It then keeps images as planes, a channel each, which few of its operators can. So a model must begin with the
convolution that makes planes of an image, have nothing in between that cannot read them, and end in the pooling that
makes a vector of them.

Reference:
    Elsen, Dukhan, Gale & Simonyan, "Fast sparse convnets", CVPR 2020; XNNPACK's `xnn_check_nchw_compatibility` and
    `xnn_subgraph_rewrite_for_nchw`, from which the conditions are.
"""

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras

_ACTIVATIONS = {"relu", "relu6", "elu", "hard_silu", "leaky_relu", "linear", "sigmoid", "silu"}
# Folded into a convolution, or gone when the model is in use, or read as planes.
_ANY_LAYOUT = (
    *(keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU),
    *(keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.Add, keras.layers.Multiply),
    *(keras.layers.Identity, keras.layers.GlobalAveragePooling2D),
)
_FROM = 2 / 3


def what_keeps_arm_dense(model, weights="float32", batch_size=1):
    """Returns what keeps XNNPACK from computing 1x1 convolutions sparse, a sentence, or None if nothing does.

    Args:
        model: a built `keras.Model`.
        weights: "float32", "float16" or "int8".
        batch_size: int.
    """
    if weights == "int8":
        return "its sparse kernels are for floating point."
    if batch_size != 1:
        return f"its sparse kernels take one image at a time, not {batch_size}."
    if not _keras.lists_layers_in_config(model) or not model.inputs:
        return f"the connections of the subclassed model {model.name!r} are not known before it runs."
    nodes = [n for n in _keras.graph_nodes(keras.Model(model.inputs, model.outputs)) if not n.is_input]
    images = [n for n in nodes if any(len(x.shape) == 4 for x in n.arguments.keras_tensors)]
    made_by = {id(x): n.operation for n in nodes for x in n.outputs}
    first = next((n for n in images if isinstance(n.operation, keras.layers.Conv2D)), None)
    if first is None:
        return "it has no convolution."
    for node in images:
        layer, given = node.operation, node.arguments.keras_tensors[0]
        reason = _of_first(layer, given, made_by) if node is first else _of_other(layer, given, made_by)
        if reason:
            return f"{layer.name!r} {reason}"
    if not any(isinstance(n.operation, keras.layers.GlobalAveragePooling2D) for n in images):
        return "it does not end in a GlobalAveragePooling2D layer."
    return _of_zeros([n.operation for n in images if n is not first and isinstance(n.operation, keras.layers.Conv2D)])


def _of_first(layer, given, made_by):
    """What is wrong with the first convolution, words after its name; None if nothing."""
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if size == (3, 3) and strides == (2, 2) and given.shape[-1] == 3 and _pads_evenly(layer, given, made_by):
        return None
    return (
        "is the first convolution, which must be 3x3 of 3 channels with stride 2, after ZeroPadding2D(1) and with "
        f"padding='valid'. It is {size[0]}x{size[1]} of {given.shape[-1]} channels with stride {strides[0]} and "
        f"padding={layer.padding!r}."
    )


def _of_other(layer, given, made_by):
    """What is wrong with a layer behind it or before."""
    name = type(layer).__name__
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return _of_depthwise(layer, given, made_by)
    if isinstance(layer, keras.layers.Conv2D):
        size, strides = tuple(layer.kernel_size), tuple(layer.strides)
        if size != (1, 1) or strides != (1, 1) or layer.groups != 1:
            return (
                f"is a {size[0]}x{size[1]} convolution with stride {strides[0]} in {layer.groups} groups. All but the "
                "first must be 1x1 with stride 1 in one group, or depthwise."
            )
        return _of_activation(layer)
    if isinstance(layer, keras.layers.Activation):
        return _of_activation(layer)
    if isinstance(layer, (*_ANY_LAYOUT, keras.layers.ZeroPadding2D, keras.layers.Rescaling)) or name == "Add":
        return None
    return f"is a {name} layer, which XNNPACK cannot compute on planes."


def _of_depthwise(layer, given, made_by):
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if size not in ((3, 3), (5, 5)) or strides not in ((1, 1), (2, 2)) or layer.depth_multiplier != 1:
        return "is not a 3x3 or 5x5 depthwise convolution with stride 1 or 2 and one output a channel."
    if not _pads_evenly(layer, given, made_by):
        half = size[0] // 2
        return (
            "does not pad all sides alike: put ZeroPadding2D("
            f"{half}) before it, with padding='valid'. It has stride {strides[0]} and padding={layer.padding!r}."
        )
    return _of_activation(layer)


def _of_activation(layer):
    name = getattr(layer.activation, "__name__", "linear")
    return None if name in _ACTIVATIONS else f"has the activation {name!r}, which XNNPACK cannot compute on planes."


def _pads_evenly(layer, given, made_by):
    """Whether half of the kernel is padded on each side. "same" does so with stride 1 only."""
    half = layer.kernel_size[0] // 2
    if tuple(layer.strides) == (1, 1) and layer.padding == "same":
        return True
    before = made_by.get(id(given))
    even = isinstance(before, keras.layers.ZeroPadding2D) and set(np.ravel(before.padding)) == {half}
    return even and layer.padding == "valid"


def _of_zeros(layers):
    """What is wrong with the sparsity of the 1x1 convolutions, which counts over all of them."""
    kernels = [ops.convert_to_numpy(ops.cast(x.kernel, "float32")) for x in layers]
    total = sum(x.size for x in kernels)
    zeros = sum(int((x == 0).sum()) for x in kernels)
    if total and zeros > _FROM * total:
        return None
    return f"{zeros / max(1, total):.0%} of the weights of its 1x1 convolutions are 0: more than two thirds must be."

"""Finds out whether XNNPACK computes the 1x1 convolutions of a model with sparse kernels on arm64.

XNNPACK uses its sparse kernels for whole models only. It then stores images channel by channel (NCHW), a layout that
few of its operators support: the model must begin with a convolution that converts an image to this layout, contain
only operators that support it, and end with global pooling, whose output is a vector.

Reference:
    Elsen, Dukhan, Gale & Simonyan, "Fast sparse convnets", CVPR 2020. The conditions are those of XNNPACK's
    `xnn_check_nchw_compatibility` and `xnn_subgraph_rewrite_for_nchw`.
"""

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras

_ACTIVATIONS = {"relu", "relu6", "elu", "hard_silu", "leaky_relu", "linear", "sigmoid", "silu"}
# Classes of the operations of `keras.ops` and `keras.activations` that support NCHW, in lower case.
_SUPPORTED_OPERATIONS = {"add", "multiply"} | {x.replace("_", "") for x in _ACTIVATIONS}
# Layers that are fused into a convolution, do nothing in inference, or support NCHW.
_SUPPORTED_LAYERS = (
    *(keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU),
    *(keras.layers.Add, keras.layers.Multiply, keras.layers.GlobalAveragePooling2D, keras.layers.ZeroPadding2D),
    *(keras.layers.Rescaling, keras.layers.Identity, keras.layers.Dropout, keras.layers.SpatialDropout2D),
    *(keras.layers.GaussianNoise, keras.layers.GaussianDropout, keras.layers.AlphaDropout),
    *(keras.layers.ActivityRegularization, keras.layers.RandomFlip, keras.layers.RandomRotation),
    *(keras.layers.RandomTranslation, keras.layers.RandomZoom, keras.layers.RandomContrast),
    keras.layers.RandomBrightness,
)
_MIN_SPARSITY = 2 / 3


def reason_for_dense_inference(model, weights="float32", batch_size=1):
    """Returns why XNNPACK computes the 1x1 convolutions of a model with dense kernels.

    Args:
        model: a built `keras.Model`.
        weights: "float32", "float16" or "int8".
        batch_size: int of at least 1.

    Returns:
        str, a sentence that names the first layer that prevents sparse kernels, if there is one; None if the kernels
        are sparse.
    """
    if weights == "int8":
        return "its sparse kernels are for floating point."
    if batch_size != 1:
        return f"its sparse kernels take one image at a time, not {batch_size or 'any number'}."
    if not _keras.is_functional(model):
        return f"the connections between layers of the subclassed model {model.name!r} are not known."
    producers = {}
    nodes = _nodes(model, producers)
    images = [n for n in nodes if any(len(x.shape) == 4 for x in n.arguments.keras_tensors)]
    first = next((n for n in images if isinstance(n.operation, keras.layers.Conv2D)), None)
    if first is None:
        return "it has no convolution."
    for node in images:
        layer, given = node.operation, node.arguments.keras_tensors[0]
        problem = _first_layer_problem(layer, given, producers) if node is first else _problem(layer, given, producers)
        if problem:
            return f"{layer.name!r} {problem}"
    if not any(isinstance(n.operation, keras.layers.GlobalAveragePooling2D) for n in images):
        return "it does not end in a GlobalAveragePooling2D layer."
    others = [n.operation for n in images if n is not first and isinstance(n.operation, keras.layers.Conv2D)]
    return _sparsity_problem(others)


def _nodes(model, producers):
    """Returns the calls of layers in a functional model and in functional models inside it, in their order.

    Args:
        model: functional `keras.Model`.
        producers: dict from the id of a tensor to the operation that makes it, which is filled.
    """
    found = []
    for node in _keras.graph_nodes(keras.Function(model.inputs, model.outputs)):
        inner = node.operation
        if node.is_input:
            continue
        if isinstance(inner, keras.Model) and _keras.is_functional(inner):
            given = zip(inner.inputs, node.arguments.keras_tensors, strict=False)
            producers.update((id(x), producers.get(id(outer))) for x, outer in given)
            found += _nodes(inner, producers)
            outputs = zip(node.outputs, inner.outputs, strict=False)
            producers.update((id(outer), producers.get(id(x))) for outer, x in outputs)
        else:
            producers.update((id(x), inner) for x in node.outputs)
            found.append(node)
    return found


# The functions below return why XNNPACK cannot use NCHW with a layer, as words that follow its name; None if it can.


def _first_layer_problem(layer, given, producers):
    """Returns why the first convolution cannot convert images to NCHW."""
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if size == (3, 3) and strides == (2, 2) and given.shape[-1] == 3 and _pads_evenly(layer, given, producers):
        return None
    return (
        "is the first convolution, which must be 3x3 of 3 channels with stride 2, after ZeroPadding2D(1) and with "
        f"padding='valid'. It is {size[0]}x{size[1]} of {given.shape[-1]} channels with stride {strides[0]} and "
        f"padding={layer.padding!r}."
    )


def _problem(layer, given, producers):
    """Returns why a layer other than the first convolution does not support NCHW."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return _depthwise_problem(layer, given, producers)
    if isinstance(layer, keras.layers.Conv2D):
        size, strides = tuple(layer.kernel_size), tuple(layer.strides)
        if size != (1, 1) or strides != (1, 1) or layer.groups != 1:
            return (
                f"is a {size[0]}x{size[1]} convolution with stride {strides[0]} in {layer.groups} groups. All but the "
                "first must be 1x1 with stride 1 in one group, or depthwise."
            )
        return _activation_problem(layer)
    if isinstance(layer, keras.layers.Activation):
        return _activation_problem(layer)
    operation = _keras.operation_name(layer)
    if isinstance(layer, _SUPPORTED_LAYERS) or (operation or "").lower() in _SUPPORTED_OPERATIONS:
        return None
    kind = f"a {type(layer).__name__} layer" if operation is None else f"an operation {operation}"
    return f"is {kind}, which XNNPACK cannot compute in the NCHW layout."


def _depthwise_problem(layer, given, producers):
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if size not in ((3, 3), (5, 5)) or strides not in ((1, 1), (2, 2)) or layer.depth_multiplier != 1:
        return "is not a 3x3 or 5x5 depthwise convolution with stride 1 or 2 and one output for each channel."
    if not _pads_evenly(layer, given, producers):
        half = size[0] // 2
        return (
            "does not pad all sides equally: put ZeroPadding2D("
            f"{half}) before it, with padding='valid'. It has stride {strides[0]} and padding={layer.padding!r}."
        )
    return _activation_problem(layer)


def _activation_problem(layer):
    name = getattr(layer.activation, "__name__", "linear")
    return None if name in _ACTIVATIONS else f"has the activation {name!r}, which XNNPACK cannot compute in NCHW."


def _pads_evenly(layer, given, producers):
    """Returns whether each side is padded by half of the kernel, which "same" does only with stride 1."""
    half = layer.kernel_size[0] // 2
    if tuple(layer.strides) == (1, 1) and layer.padding == "same":
        return True
    before = producers.get(id(given))
    even = isinstance(before, keras.layers.ZeroPadding2D) and set(np.ravel(before.padding)) == {half}
    return even and layer.padding == "valid"


def _sparsity_problem(layers):
    """Returns why the convolutions are not sparse enough: XNNPACK counts the zeros of all of them together."""
    kernels = [ops.convert_to_numpy(ops.cast(x.kernel, "float32")) for x in layers]
    total = sum(x.size for x in kernels)
    zeros = sum(int((x == 0).sum()) for x in kernels)
    if total and zeros > _MIN_SPARSITY * total:
        return None
    return f"{zeros / max(1, total):.0%} of the weights of its 1x1 convolutions are 0: more than two thirds must be."

"""Predicts whether sparsity makes each layer of an exported model smaller or faster."""

import dataclasses
import math

import keras
from keras import ops

from keras_sparse.conversion.trainable_weights import check_convertible, trainable_weights
from keras_sparse.export.litert import WEIGHTS
from keras_sparse.export.sparse_benefit import sparse_is_faster, sparse_is_smaller, sparsity_threshold
from keras_sparse.export.xnnpack import reason_for_dense_inference
from keras_sparse.layers.layer_kinds import (
    CELLS,
    CONVOLUTIONAL_CELLS,
    CONVOLUTIONS,
    DEPTHWISE_CONVOLUTIONS,
    is_modified,
    spatial_rank,
)
from keras_sparse.layers.multiply_accumulates import uses_per_call
from keras_sparse.validation import check_choice, check_positive_int

_TARGETS = ("litert-x86", "litert-arm64", "onnxruntime", "keras")
_ITEM_SIZES = {"float32": 4, "float16": 2, "int8": 1}


@dataclasses.dataclass(frozen=True)
class LayerDeployment:
    """The effect of sparsity on one weight.

    Attributes:
        name: str, path of the layer and name of the weight.
        shape: tuple of ints, shape of the weight.
        sparsity: float in [0, 1], the fraction of zeros.
        smaller: bool, whether it takes fewer bytes in the file than a dense weight of the same type.
        faster: bool, whether the layer is faster than with a dense weight of the same type.
        why: str, the reason, one or two sentences.
    """

    name: str
    shape: tuple
    sparsity: float
    smaller: bool
    faster: bool
    why: str


@dataclasses.dataclass(frozen=True)
class DeploymentReport:
    """The effect of sparsity on each weight of a model for one target. `print` shows it as text.

    Attributes:
        name: str, name of the model.
        target: str, argument of `deployment_report`.
        weights: str, argument of `deployment_report`.
        batch_size: int or None, argument of `deployment_report`.
        layers: tuple of `LayerDeployment`.
        notes: tuple of str, sentences about the whole model.
    """

    name: str
    target: str
    weights: str
    batch_size: int | None
    layers: tuple
    notes: tuple

    @property
    def smaller(self) -> bool:
        """Whether the file is smaller than that of a dense model."""
        return any(x.smaller for x in self.layers)

    @property
    def faster(self) -> bool:
        """Whether any layer is faster than in a dense model."""
        return any(x.faster for x in self.layers)

    def __str__(self):
        verdict = [
            f"{'' if holds else 'not '}{word}" for holds, word in ((self.smaller, "smaller"), (self.faster, "faster"))
        ]
        batches = f"batches of {self.batch_size or 'any size'}"
        lines = [f"{self.name} on {self.target}, {self.weights}, {batches}: {', '.join(verdict)}"]
        for x in self.layers:
            words = f"{'smaller' if x.smaller else 'not smaller'}, {'faster' if x.faster else 'not faster'}"
            lines.append(f"  {x.name} {'x'.join(map(str, x.shape))}, {x.sparsity:.1%} zeros: {words}. {x.why}")
        return "\n".join([*lines, *self.notes])


def deployment_report(
    model: keras.Model, target: str = "litert-x86", weights: str = "float32", batch_size: int | None = 1
) -> DeploymentReport:
    """Predicts for each weight of a model whether sparsity makes it smaller or faster in an exported file, and why.

    The thresholds were measured with the runtimes of 2026 on one thread of a CPU with AVX-512. `tools/benchmark.py
    export` measures your machine. Zeros count also if a weight is not masked.

    Args:
        model: a built `keras.Model` of any kind.
        target: "litert-x86", "litert-arm64", "onnxruntime", or "keras" for the file of `keras_sparse.save_model`.
        weights: "float32", "float16" or "int8"; the latter two for LiteRT only.
        batch_size: int of at least 1, the number of inputs in one call; None if it is not fixed.

    Returns:
        `DeploymentReport`.

    Raises:
        ValueError: if `model` is not a Keras model or not built, or an argument is not one of those above.

    Example:

    >>> print(deployment_report(model, target="litert-arm64"))
    """
    check_convertible(model, "deployment_report")
    check_choice(target, "target", _TARGETS)
    check_choice(weights, "weights", WEIGHTS)
    if batch_size is not None:
        check_positive_int(batch_size, "batch_size")
    if weights != "float32" and not target.startswith("litert"):
        raise ValueError(
            f"`weights` other than 'float32' are for LiteRT. Received: weights={weights!r} for target={target!r}."
        )
    found = [w for w in trainable_weights(model) if len(w.shape) > 1]
    uses_xnnpack = target == "litert-arm64" and any(map(_is_1x1_convolution, found))
    dense_reason = reason_for_dense_inference(model, weights, batch_size) if uses_xnnpack else None
    rows, uses = [], uses_per_call(model)
    for weight in found:
        sparsity, positions = _zero_fraction(weight), uses(weight.layer)
        vectors = math.inf if None in (positions, batch_size) else positions * batch_size
        if is_modified(weight.layer) and target != "keras":
            smaller, faster, why = False, False, _MODIFIED
        else:
            smaller, faster, why = _RULES[target](weight, sparsity, weights, vectors, dense_reason)
        rows.append(LayerDeployment(weight.path, weight.shape, sparsity, smaller, faster, why))
    return DeploymentReport(
        model.name, target, weights, batch_size, tuple(rows), tuple(_notes(target, weights, dense_reason))
    )


_MODIFIED = "LoRA or quantization changes the weights that the layer computes with, so that they have hardly any zeros."


def _zero_fraction(weight):
    """Returns the fraction of zeros in a weight. Dead weights count as zeros, even if an optimizer has changed them."""
    masked = {x.attribute: x for x in getattr(weight.layer, "masked_weights", ())}.get(weight.attribute)
    live = ops.convert_to_numpy(ops.cast(weight.variable, "float32")) != 0
    if masked is not None:
        live = live & masked.live()
    return 1 - float(live.mean())


# The functions below return `(smaller, faster, why)` of a weight, one for each target. `vectors` is the number of input
# vectors of a dense layer in one call, infinite if it is not fixed. LiteRT calls the layer inside of a TimeDistributed
# layer once a time step.


def _on_litert_x86(weight, sparsity, weights, vectors, dense_reason):
    kind = _kind(weight)
    if kind is None:
        return False, False, "LiteRT's operators for this layer need dense weights."
    if weights == "int8" and kind == "dense":
        return False, False, _INT8_DENSE
    rows, row_length = _rows(weight, kind)
    if not sparse_is_smaller(round((1 - sparsity) * weight.size), rows, row_length, _ITEM_SIZES[weights]):
        return (
            False,
            False,
            "With the indices of its live weights, it would not take fewer bytes than a dense one.",
        )
    if kind == "convolution":
        return True, False, "It is made dense when the file is loaded: on x86 LiteRT has no sparse convolutions."
    if weights == "float16":
        return True, False, "It is made dense and converted to float32 when the file is loaded."
    return (True, *_float32_dense_layer(weight, sparsity, vectors))


_INT8_DENSE = (
    "It is stored dense: LiteRT cannot load sparse int8 weights of dense layers. Dense int8 takes a quarter of the "
    "bytes of float32, and is faster than sparse float32."
)


def _float32_dense_layer(weight, sparsity, vectors):
    """Returns `(faster, why)`."""
    *_, inputs, units = weight.units.as_convolution
    needed, for_one = sparsity_threshold(inputs, units, vectors), sparsity_threshold(inputs, units)
    if needed is None:
        return False, f"It is made dense when the file is loaded: {inputs} inputs are too few for sparse to be faster."
    if sparse_is_faster(inputs, units, sparsity, vectors):
        return (
            True,
            f"LiteRT computes with its live weights only, which is faster from {needed:.0%} zeros on at this size.",
        )
    if sparse_is_faster(inputs, units, sparsity):
        return (
            False,
            f"It gets {_count(vectors)} vectors in a call, batch size times positions: a dense layer reads each weight "
            f"once for several of them. Sparse is faster from {needed:.0%} zeros on for 3 to 15, and not from 16 on.",
        )
    return (
        False,
        f"It is made dense when the file is loaded: sparse is faster only from {for_one:.0%} zeros on at this size.",
    )


def _count(vectors):
    return "an unknown number of" if vectors == math.inf else vectors


def _on_litert_arm64(weight, sparsity, weights, vectors, dense_reason):
    smaller, faster, why = _on_litert_x86(weight, sparsity, weights, vectors, dense_reason)
    if not smaller or _kind(weight) != "convolution":
        return smaller, faster, why
    if not _is_1x1_convolution(weight):
        return (
            True,
            False,
            "It is made dense when the file is loaded: on arm64 LiteRT has sparse 1x1 convolutions only.",
        )
    if dense_reason is not None:
        return True, False, f"XNNPACK has sparse 1x1 convolutions, but does not use them in this model: {dense_reason}"
    return True, True, "XNNPACK computes this 1x1 convolution with its live weights only."


def _on_onnxruntime(weight, sparsity, weights, vectors, dense_reason):
    return False, False, "ONNX Runtime stores zeros and computes with them."


def _on_keras(weight, sparsity, weights, vectors, dense_reason):
    smaller = sparsity > 0.1
    why = "`save_model` compresses its zeros" if smaller else "It has few zeros to compress"
    return smaller, False, f"{why}. Keras computes with dense weights."


_RULES = {
    "litert-x86": _on_litert_x86,
    "litert-arm64": _on_litert_arm64,
    "onnxruntime": _on_onnxruntime,
    "keras": _on_keras,
}


def _kind(weight):
    """Returns "dense" or "convolution" for the kernel of an operator that LiteRT has, else None."""
    if isinstance(weight.layer, CELLS) and weight.attribute in ("kernel", "recurrent_kernel"):
        return "dense"
    if spatial_rank(weight.layer) > 2:
        return None
    if isinstance(weight.layer, CONVOLUTIONAL_CELLS):
        return "convolution"
    if weight.attribute in ("kernel", "pointwise_kernel", "depthwise_kernel"):
        if isinstance(weight.layer, (keras.layers.Dense, keras.layers.EinsumDense)):
            # An axis of both sides, as in "abc,bcd->abd", makes one product of matrices for each of its indices.
            return "dense" if weight.units.groups == 1 else None
        if isinstance(weight.layer, (*CONVOLUTIONS, *DEPTHWISE_CONVOLUTIONS)) or weight.attribute != "kernel":
            return "convolution"
    return None


def _rows(weight, kind):
    """Returns the number of rows of a weight in LiteRT's layout, which has input channels last, and their length."""
    if kind == "dense":
        inputs = weight.units.as_convolution[-2]
        return weight.size // inputs, inputs
    depthwise = isinstance(weight.layer, DEPTHWISE_CONVOLUTIONS) or weight.attribute == "depthwise_kernel"
    row_length = math.prod(weight.shape[-2:]) if depthwise else weight.shape[-2]
    return weight.size // row_length, row_length


def _is_1x1_convolution(weight):
    return isinstance(weight.layer, keras.layers.Conv2D) and tuple(weight.shape[:2]) == (1, 1)


def _notes(target, weights, dense_reason):
    """Yields sentences about the whole model."""
    if target.startswith("litert"):
        yield "Sparsity does not reduce the peak memory."
        if weights == "float32":
            yield "int8 weights are faster, sparse or dense: weights='int8'."
    if target != "keras":
        yield "keras_sparse.shrink(model) removes unused units first, which helps on any target."
    if dense_reason is not None:
        yield f"XNNPACK computes no 1x1 convolution with sparse weights: {dense_reason}"

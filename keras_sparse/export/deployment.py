"""Tells before an export, layer by layer, whether sparsity makes a model smaller or faster on a device."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_sparse.conversion.maskable_weights import check_convertible, weights_of
from keras_sparse.export.on_arm import what_keeps_arm_dense
from keras_sparse.export.what_pays import sparse_dense_pays, sparsity_that_pays
from keras_sparse.validation import check_choice, check_positive_int

_TARGETS = ("litert-x86", "litert-arm64", "onnxruntime", "keras")
_WEIGHTS = ("float32", "float16", "int8")
_BYTES = {"float32": 4, "float16": 2, "int8": 1}
_SMALLER_FROM = {"float32": 1 / 3, "float16": 0.5, "int8": 2 / 3}  # where an index of 1 to 2 bytes is saved, too
_CONVOLUTIONS = (
    *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
)


@dataclasses.dataclass(frozen=True)
class LayerDeployment:
    """What sparsity gives for one weight.

    Attributes:
        name: path of the layer and name of the weight.
        shape: of the weight.
        sparsity: float, the fraction of its values that is 0.
        smaller: bool, whether the file has fewer bytes for it than a dense one of the same kind of weights.
        faster: bool, whether it computes in less time than a dense one.
        why: str, a sentence or two.
    """

    name: str
    shape: tuple
    sparsity: float
    smaller: bool
    faster: bool
    why: str


@dataclasses.dataclass(frozen=True)
class DeploymentReport:
    """What sparsity gives for each weight of a model on a target; `print` gives it in words.

    Attributes:
        name: of the model.
        target: as it was given.
        weights: as it was given.
        batch_size: as it was given.
        layers: tuple of `LayerDeployment`.
        notes: tuple of str, what holds for the whole model.
    """

    name: str
    target: str
    weights: str
    batch_size: int
    layers: tuple
    notes: tuple

    @property
    def smaller(self) -> bool:
        """Whether the file is smaller than a dense one."""
        return any(x.smaller for x in self.layers)

    @property
    def faster(self) -> bool:
        """Whether any layer is faster than a dense one."""
        return any(x.faster for x in self.layers)

    def __str__(self):
        verdict = [
            f"{'' if gives else 'not '}{word}" for gives, word in ((self.smaller, "smaller"), (self.faster, "faster"))
        ]
        lines = [f"{self.name} on {self.target}, {self.weights}, batches of {self.batch_size}: {', '.join(verdict)}"]
        for x in self.layers:
            words = f"{'smaller' if x.smaller else 'not smaller'}, {'faster' if x.faster else 'not faster'}"
            lines.append(f"  {x.name} {'x'.join(map(str, x.shape))}, {x.sparsity:.1%} zeros: {words}. {x.why}")
        return "\n".join([*lines, *self.notes])


def deployment_report(model, target="litert-x86", weights="float32", batch_size=1) -> DeploymentReport:
    """Returns what sparsity gives a model on a device: for each weight smaller or not, faster or not, and why.

    The rules are measurements of the runtimes of 2026 on one thread; see docs/benchmarks.md. Zeros of a model that is
    not masked count as well.

    Args:
        model: a built `keras.Model` of any kind.
        target: "litert-x86", "litert-arm64", "onnxruntime", or "keras", for `keras_sparse.save_model`.
        weights: "float32", "float16" or "int8"; the latter two for LiteRT.
        batch_size: int of at least 1, how many inputs are computed at once.

    Returns:
        `DeploymentReport`.

    Raises:
        ValueError: if the model is none or not built, or an argument is unknown.

    Example:

    >>> print(deployment_report(model, target="litert-arm64"))
    """
    check_convertible(model, "deployment_report")
    check_choice(target, "target", _TARGETS)
    check_choice(weights, "weights", _WEIGHTS)
    check_positive_int(batch_size, "batch_size")
    if weights != "float32" and not target.startswith("litert"):
        raise ValueError(
            f"`weights` other than 'float32' are for LiteRT. Received: weights={weights!r} for target={target!r}."
        )
    found = [w for w in weights_of(model) if len(w.shape) > 1]
    asks_arm = target == "litert-arm64" and any(map(_is_pointwise, found))
    blocker = what_keeps_arm_dense(model, weights, batch_size) if asks_arm else None
    rows = []
    for weight in found:
        sparsity = _zeros(weight)
        smaller, faster, why = _RULES[target](weight, sparsity, weights, batch_size, blocker)
        rows.append(LayerDeployment(weight.path, weight.shape, sparsity, smaller, faster, why))
    return DeploymentReport(
        model.name, target, weights, batch_size, tuple(rows), tuple(_notes(target, weights, blocker))
    )


def _zeros(weight):
    """The fraction of zeros in a weight, dead ones included, which an optimizer may have moved."""
    masked = {x.attribute: x for x in getattr(weight.layer, "masked_weights", ())}.get(weight.attribute)
    live = ops.convert_to_numpy(ops.cast(weight.variable, "float32")) != 0
    if masked is not None:
        live = live & np.broadcast_to(masked.mask.numpy(), live.shape)
    return 1 - float(live.mean())


def _on_litert(weight, sparsity, weights, batch_size, blocker):
    """`(smaller, faster, why)` on x86."""
    kind, needed = _kind(weight), _SMALLER_FROM[weights]
    if kind is None:
        return False, False, "LiteRT computes with this weight by operators for which it is stored dense."
    if weights == "int8" and kind == "dense":
        return False, False, _INT8_DENSE
    if sparsity < needed:
        return False, False, f"Values and indices take less than a dense weight from {needed:.0%} zeros on."
    if kind == "convolution":
        return True, False, "It is made dense when the file is loaded: on x86 no convolution computes sparse."
    if weights == "float16":
        return True, False, "It is made dense, and float32, when the file is loaded."
    return (True, *_dense_float32(weight, sparsity, batch_size))


_INT8_DENSE = (
    "It is stored dense: LiteRT cannot load sparse int8 weights of dense layers. int8 itself is a quarter of the bytes "
    "of float32, and faster than sparse float32."
)


def _dense_float32(weight, sparsity, batch_size):
    inputs, units = math.prod(weight.shape[:-1]), weight.shape[-1]
    needed = sparsity_that_pays(inputs, units)
    if sparse_dense_pays(inputs, units, sparsity, batch_size):
        return True, f"It computes with live weights only, which at this size is faster from {needed:.0%} zeros on."
    if round(sparsity, 3) >= needed:
        return False, "In batches of 16 and more a dense layer, which reads each weight once for all, is as fast."
    return False, f"It is made dense when the file is loaded: at this size sparse is faster from {needed:.0%} zeros on."


def _on_arm(weight, sparsity, weights, batch_size, blocker):
    """`(smaller, faster, why)` on arm64, which has sparse 1x1 convolutions, too."""
    smaller, faster, why = _on_litert(weight, sparsity, weights, batch_size, blocker)
    if not smaller or _kind(weight) != "convolution":
        return smaller, faster, why
    if not _is_pointwise(weight):
        return True, False, "It is made dense when the file is loaded: on arm64 only 1x1 convolutions compute sparse."
    if blocker is not None:
        return True, False, f"XNNPACK would compute 1x1 convolutions sparse, but not in this model: {blocker}"
    return True, True, "XNNPACK computes this 1x1 convolution with live weights only."


def _on_onnx(weight, sparsity, weights, batch_size, blocker):
    return False, False, "ONNX Runtime holds and computes zeros as numbers."


def _in_keras(weight, sparsity, weights, batch_size, blocker):
    smaller = sparsity > 0.1
    why = "save_model packs zeros" if smaller else "Few zeros to pack"
    return smaller, False, f"{why}; Keras computes dense."


_RULES = {"litert-x86": _on_litert, "litert-arm64": _on_arm, "onnxruntime": _on_onnx, "keras": _in_keras}


def _kind(weight):
    """ "dense" or "convolution" for weights that LiteRT has as such, else None."""
    if weight.attribute in ("kernel", "pointwise_kernel", "depthwise_kernel"):
        if isinstance(weight.layer, (keras.layers.Dense, keras.layers.EinsumDense)):
            return "dense"
        if isinstance(weight.layer, _CONVOLUTIONS) or weight.attribute != "kernel":
            return "convolution"
    return None


def _is_pointwise(weight):
    return isinstance(weight.layer, keras.layers.Conv2D) and tuple(weight.shape[:2]) == (1, 1)


def _notes(target, weights, blocker):
    if target.startswith("litert"):
        yield "The most memory that it takes is never less than a dense model's."
        if weights == "float32":
            yield "int8 is faster still, sparse or not: weights='int8'."
    if target != "keras":
        yield "keras_sparse.shrink(model) first takes out the units that take part in nothing, for any target."
    if blocker is not None:
        yield f"No 1x1 convolution computes sparse on arm64: {blocker}"

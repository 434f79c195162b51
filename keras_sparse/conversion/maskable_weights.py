"""Selects the weights of a model to mask, and tells why the others are not masked."""

import dataclasses
import math
from collections.abc import Iterable

import keras

from keras_sparse import _keras
from keras_sparse.conversion.own_code import reason_for_reading_past_a_mask
from keras_sparse.layers import kinds
from keras_sparse.layers.connected_units import Units, units_of
from keras_sparse.layers.mask_in_place import plain_class
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.traversal import check_model, flatten
from keras_sparse.validation import check_callable

# Classes of Keras layers, and the names of the weights that are masked by default, also in subclasses.
MASKED_BY_DEFAULT = (
    ((keras.layers.Dense, keras.layers.EinsumDense), ("kernel",)),
    ((*kinds.CONVOLUTIONS, *kinds.TRANSPOSED_CONVOLUTIONS, *kinds.DEPTHWISE_CONVOLUTIONS), ("kernel",)),
    (kinds.SEPARABLE_CONVOLUTIONS, ("depthwise_kernel", "pointwise_kernel")),
    ((*kinds.CELLS, *kinds.CONVOLUTIONAL_CELLS), ("kernel", "recurrent_kernel")),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A trainable weight of a model, masked or not.

    Attributes:
        layer: the layer that has the weight.
        attribute: str, the attribute of the layer; None if the layer has the weight in a list or dict.
        variable: `keras.Variable`.
        names: frozenset of str, names and paths of the layer and of the layers and models around it.
        other: another layer that has the same variable, or None.
    """

    layer: object
    attribute: str | None
    variable: object
    names: frozenset
    other: object = None

    @property
    def path(self) -> str:
        """The path of the layer and the name of the weight."""
        return f"{self.layer.path or self.layer.name}/{self.attribute or self.variable.name}"

    @property
    def name(self) -> str:
        """The name of the layer, followed by that of the weight unless it is "kernel"."""
        return self.layer.name if self.attribute == "kernel" else f"{self.layer.name}/{self.attribute}"

    @property
    def shape(self) -> tuple:
        """The shape of the weight: tuple of ints."""
        return tuple(self.variable.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def spatial_rank(self) -> int:
        """The number of leading axes that are spatial."""
        return kinds.spatial_rank(self.layer)

    @property
    def units(self) -> Units:
        """The units that the weight connects."""
        return units_of(self.layer, self.shape, self.attribute)

    @property
    def masked_by_default(self) -> bool:
        """Whether class and attribute are in `MASKED_BY_DEFAULT`."""
        return any(isinstance(self.layer, c) and self.attribute in names for c, names in MASKED_BY_DEFAULT)

    def is_named(self, name: str) -> bool:
        """Returns whether `name` is that of the layer, of one around it, or consecutive parts of the weight's path."""
        return name in self.names or f"/{name}/" in f"/{self.path}/"

    def depth_of(self, name: str) -> int:
        """Returns at which part of the weight's path a name ends, counted from 1; 0 if it is not in the path."""
        path = f"/{self.path}/"
        return path[: path.rfind(f"/{name}/") + len(name) + 1].count("/") if f"/{name}/" in path else 0

    def unmaskable(self) -> str | None:
        """Returns the reason why the weight cannot be masked, a phrase; None if it can."""
        if len(self.shape) < 2 and not self.masked_by_default:
            return "has one axis"
        if not keras.backend.is_float_dtype(self.variable.dtype):
            return f"is of type {self.variable.dtype}"
        if self.attribute is None:
            return "is held in a list or dict, and not as an attribute of its layer"
        if self.other is not None:
            return f"is shared with the layer {self.other.name!r}"
        return reason_for_reading_past_a_mask(self.layer, self.attribute, self.variable)

    def dense_reason(self) -> str:
        """Returns the reason why a weight without a mask has none, a phrase."""
        if (reason := self.unmaskable()) is not None:
            return reason
        if self.masked_by_default:
            return "kept dense"
        if self.attribute == "bias":
            return "bias"
        cls = plain_class(self.layer) or type(self.layer)
        if "Embedding" in cls.__name__ and "embedding" in self.attribute:  # also keras-hub's position embeddings
            return "embedding"
        return f"not masked by default: {cls.__name__}.{self.attribute}"


def weights_of(model: keras.Model) -> list[Weight]:
    """Returns the trainable weights of a model, frozen ones included, each once, in the order of the model."""
    layers = [x for x in (model, *flatten(model)) if not isinstance(x, Mask)]
    names = {id(x): {x.name, x.path} for x in layers}
    for outer in layers:
        for x in flatten(outer):
            if id(x) in names:
                names[id(x)] |= {outer.name, outer.path}
    found = {}
    for layer in layers:
        held = {id(v): name for name, v in vars(layer).items() if isinstance(v, keras.Variable)}
        for variable in _keras.own_weights(layer):
            weight = Weight(
                layer, _public_name(layer, held.get(id(variable))), variable, frozenset(names[id(layer)] - {None})
            )
            # A variable of two layers cannot be masked by one of them. SpectralNormalization is an exception: it has
            # the kernel of its layer as well, and only divides it by a number.
            known = found.get(id(variable))
            if known is None or isinstance(known.layer, keras.layers.SpectralNormalization):
                found[id(variable)] = weight
            elif not isinstance(layer, keras.layers.SpectralNormalization):
                found[id(variable)] = dataclasses.replace(known, other=layer)
    return list(found.values())


def _public_name(layer, name):
    """Returns the public attribute of a weight that a layer has as `name`: in Keras, `kernel` returns `_kernel`."""
    if name is None:
        return None
    if isinstance(layer, MaskedLayer) and name[1:] in layer.masked_attributes:
        return name[1:]
    reader = getattr(type(layer), name[1:], None) if name.startswith("_") else None
    is_of_keras = isinstance(reader, property) and reader.fget.__module__.startswith("keras.")
    return name[1:] if is_of_keras else name


def check_convertible(model, function: str) -> None:
    """Raises ValueError unless `model` is a built `keras.Model`. `function` is its name in the message."""
    check_model(model, f"`{function}` takes a keras.Model.", keras.Model)
    maskable = (MaskedLayer, *(c for classes, _ in MASKED_BY_DEFAULT for c in classes))
    unbuilt = [x.name for x in flatten(model) if isinstance(x, maskable) and not x.built]
    if not model.built or unbuilt:
        raise ValueError(
            f"`{function}` needs a built model: this one has no weights yet. Received: {model.name!r}, not built. "
            f"Start it with keras.Input(shape), or call it on a batch. Layers without weights: {unbuilt}."
        )


def eligible(
    model: keras.Model, weights: list[Weight], keep_dense=(), include=(), sparsities: dict | None = None
) -> list[Weight]:
    """Returns the weights of a model to mask, in the order of the model.

    Args:
        model: built `keras.Model`.
        weights: the `weights_of` the model.
        keep_dense: as for `keras_sparse.sparsify`.
        include: as for `keras_sparse.sparsify`.
        sparsities: dict from names to floats or None, as for `keras_sparse.sparsify`; None if there is no dict.

    Raises:
        ValueError: if there is nothing to mask, a selected weight cannot be masked, a name is unknown, or the model has
            masks already.
    """
    already = list(dict.fromkeys(w.layer.name for w in weights if isinstance(w.layer, MaskedLayer)))
    if already:
        raise ValueError(
            f"The model is masked already, in {already}. To draw new masks, give `sparsify` the model that "
            "`keras_sparse.densify` makes of it."
        )
    kept, included = kept_dense(model, weights, keep_dense), _chosen_weights(weights, include)
    if sparsities is None:
        found = [w for w in weights if w.masked_by_default or w in included]
    else:
        found = [w for w in weights if named_sparsity(w, sparsities) is not None]
        unknown = [n for n in sparsities if not any(w.is_named(n) for w in weights)]
        if unknown:
            raise ValueError(f"`sparsity` names nothing in the model: {unknown}. Its weights: {_paths(weights)}.")
    found = [w for w in found if w not in kept and w.unmaskable() is None]
    if not found:
        raise ValueError(
            f"`sparsify` found no layer to mask in {model.name!r}. It masks the weights of Keras's dense, convolution, "
            "EinsumDense and recurrent layers that `keep_dense` does not keep, and those that `include` names. The "
            f"model's layers: {sorted({type(x).__name__ for x in flatten(model)})}."
        )
    spared = _layers_kept_dense(model, keep_dense)
    changed = [x.name for x in flatten(model) if _is_changed(x) and id(x) not in spared]
    if changed:
        raise ValueError(
            f"LoRA-enabled and quantized layers cannot be masked: {changed}. Give `sparsify` the model as it was "
            "before, or keep them as they are by `keep_dense`."
        )
    return found


def named_sparsity(weight: Weight, sparsities: dict) -> float | None:
    """Returns the sparsity of a weight in a dict from names; None for dense.

    If several names match, that with the most parts counts; of these, the one that ends closest to the weight.
    """
    names = [n for n in sparsities if weight.is_named(n)]
    known = any(isinstance(weight.layer, classes) for classes, _ in MASKED_BY_DEFAULT)
    if known and not weight.masked_by_default:  # A name of an attention layer does not mean the biases inside.
        names = [n for n in names if n.split("/")[-1] == weight.attribute]
    return sparsities[max(names, key=lambda n: (n.count("/"), weight.depth_of(n)))] if names else None


def _is_changed(layer):
    """Returns whether a layer that is masked by default is quantized or has LoRA enabled."""
    is_default = any(isinstance(layer, classes) for classes, _ in MASKED_BY_DEFAULT)
    return is_default and bool(getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None))


def kept_dense(model: keras.Model, weights: list[Weight], keep_dense) -> list[Weight]:
    """Returns those of the `weights_of` a model that `keep_dense` of `keras_sparse.sparsify` selects."""
    if callable(keep_dense) and not isinstance(keep_dense, keras.layers.Layer):
        check_callable(keep_dense, "keep_dense", "layer -> bool")
        kept = _layers_kept_dense(model, keep_dense)
        return [w for w in weights if id(w.layer) in kept]
    names = [keep_dense] if isinstance(keep_dense, str) else keep_dense
    if not isinstance(names, Iterable) or not all(isinstance(x, str) for x in names):
        raise ValueError(
            "`keep_dense` must be a list of layer names, or a function `layer -> bool`. "
            f"Received: keep_dense={keep_dense!r}."
        )
    unknown = {n for n in names if not any(w.is_named(n) for w in weights)} - {x.name for x in flatten(model)}
    if unknown:
        raise ValueError(
            f"`keep_dense` names layers that the model does not have: {sorted(unknown)}. Its layers: "
            f"{[w.name for w in weights if w.masked_by_default]}."
        )
    return [w for w in weights if any(w.is_named(n) for n in names)]


def _layers_kept_dense(model, keep_dense):
    """Returns the ids of the layers that `keep_dense` selects, and of those inside of them."""
    names = [keep_dense] if isinstance(keep_dense, str) else keep_dense
    selects = keep_dense if callable(keep_dense) else lambda x: x.name in names or x.path in names
    return {id(y) for x in flatten(model) if selects(x) for y in (x, *flatten(x))}


def _chosen_weights(weights, include):
    """Returns the weights that `include` of `keras_sparse.sparsify` selects."""
    if callable(include) and not isinstance(include, keras.layers.Layer):
        check_callable(include, "include", "variable -> bool")
        return [w for w in weights if include(w.variable)]
    names = [include] if isinstance(include, str) else include
    if not isinstance(names, Iterable) or not all(isinstance(x, str) for x in names):
        raise ValueError(
            "`include` must be a list of names of weights or layers, or a function `variable -> bool`. "
            f"Received: include={include!r}."
        )
    for name in names:
        named = [w for w in weights if w.is_named(name)]
        if not named:
            raise ValueError(f"`include` names nothing in the model: {name!r}. Its weights: {_paths(weights)}.")
        if all(w.unmaskable() for w in named):
            raise ValueError(
                f"`include` names {name!r}, which cannot be masked: {named[0].path} {named[0].unmaskable()}. A weight "
                "that can be masked is of a float type, has at least two axes, and is an attribute of one layer."
            )
    return [w for w in weights if any(w.is_named(n) for n in names)]


def _paths(weights):
    return [w.path for w in weights if len(w.shape) > 1]

"""Lists the trainable weights of a model, and tells of each whether it can be masked."""

import dataclasses
import math

import keras

from keras_sparse import _keras
from keras_sparse.conversion.custom_layer_code import why_mask_has_no_effect
from keras_sparse.conversion.object_graph import NOT_COMPUTING, variables_in
from keras_sparse.layers import layer_kinds
from keras_sparse.layers.connected_units import Units, units_of
from keras_sparse.layers.mask_in_place import plain_class
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.traversal import check_model, flatten

# Ends of the names of attributes whose functions do not compute the output of a layer.
_NOT_IN_CALL = ("initializer", "regularizer", "constraint", "build", "quantize")
# Classes of Keras layers, and the names of the weights that are masked by default, also in subclasses.
MASKED_BY_DEFAULT = (
    ((keras.layers.Dense, keras.layers.EinsumDense), ("kernel",)),
    (layer_kinds.CONVOLUTIONS, ("kernel",)),
    (layer_kinds.TRANSPOSED_CONVOLUTIONS, ("kernel",)),
    (layer_kinds.DEPTHWISE_CONVOLUTIONS, ("kernel",)),
    (layer_kinds.SEPARABLE_CONVOLUTIONS, ("depthwise_kernel", "pointwise_kernel")),
    ((*layer_kinds.CELLS, *layer_kinds.CONVOLUTIONAL_CELLS), ("kernel", "recurrent_kernel")),
)


def is_masked_by_default(layer: keras.Layer) -> bool:
    """Returns whether a layer is of a class in `MASKED_BY_DEFAULT`."""
    return any(isinstance(layer, classes) for classes, _ in MASKED_BY_DEFAULT)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainableWeight:
    """A trainable weight of a model, masked or not.

    Attributes:
        layer: the layer that has the weight.
        attribute: str, the attribute of the layer; None if the layer has the weight in a list or dict.
        variable: `keras.Variable`.
        other: a layer or operation that uses the same variable past the attribute, or None.
        around: tuple of the layers and models that have the layer inside.
    """

    layer: object
    attribute: str | None
    variable: object
    other: object = None
    around: tuple = ()

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
        return layer_kinds.spatial_rank(self.layer)

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
        return any(name in (x.name, x.path) for x in (self.layer, *self.around)) or is_part(name, self.path)

    def depth_of(self, name: str) -> tuple[int, int]:
        """Returns how close to the weight a name is: the larger, the closer.

        Returns:
            Tuple of ints: at which part of the weight's path the name ends, counted from 1, or 0 if it is not in the
            path, as the name of a nested model; and the position in `around` of the innermost layer of the name, or -1.
        """
        path = f"/{self.path}/"
        part = path[: path.rfind(f"/{name}/") + len(name) + 1].count("/") if f"/{name}/" in path else 0
        return part, max((i for i, x in enumerate(self.around) if name in (x.name, x.path)), default=-1)

    def unmaskable(self) -> str | None:
        """Returns the reason why the weight cannot be masked, a phrase; None if it can."""
        if len(self.shape) < 2 and not self.masked_by_default:
            return "has one axis"
        if not keras.backend.is_float_dtype(self.variable.dtype):
            return f"is of type {self.variable.dtype}"
        if self.attribute is None:
            return "is held in a list or dict, and not as an attribute of its layer"
        if self.other is not None:
            kind = "layer" if isinstance(self.other, keras.Layer) else "operation"
            return f"is shared with the {kind} {self.other.name!r}"
        return why_mask_has_no_effect(self.layer, self.attribute, self.variable, self.around)

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


def is_part(name: str, path: str) -> bool:
    """Returns whether a name is one or several consecutive parts of a path."""
    return f"/{name}/" in f"/{path}/"


def trainable_weights(model: keras.Model) -> list[TrainableWeight]:
    """Returns the trainable weights of a model, frozen ones included, each once, in the order of the model."""
    layers = [x for x in (model, *flatten(model)) if not isinstance(x, Mask)]
    around = {id(x): [] for x in layers}
    for outer in layers:
        for x in flatten(outer):
            if id(x) in around:
                around[id(x)].append(outer)
    found, used = {}, _used_by_others(layers)
    for layer in layers:
        held = {id(v): name for name, v in vars(layer).items() if isinstance(v, keras.Variable)}
        for variable in _keras.own_weights(layer):
            weight = TrainableWeight(
                layer,
                _public_name(layer, held.get(id(variable))),
                variable,
                used.get(id(variable)),
                tuple(around[id(layer)]),
            )
            # A variable of two layers cannot be masked by one of them. SpectralNormalization is an exception: it has
            # the kernel of its layer as well, and only divides it by a number.
            known = found.get(id(variable))
            if known is None or isinstance(known.layer, keras.layers.SpectralNormalization):
                found[id(variable)] = weight
            elif not isinstance(layer, keras.layers.SpectralNormalization):
                found[id(variable)] = dataclasses.replace(known, other=layer)
    return list(found.values())


def _used_by_others(layers):
    """Returns the layers and operations that use the variables of other layers: dict from the ids of the variables.

    An operation of a functional model may have a variable as its argument, as in `ops.matmul(x, layer.kernel)`, and a
    function, as of a Lambda layer, in its closure. Neither would read the mask.
    """
    used = {}
    for layer in layers:
        if isinstance(layer, keras.Function):
            for node in _keras.graph_nodes(layer):
                arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
                used.update((id(x), node.operation) for x in arguments if isinstance(x, keras.Variable))
        # The functions of a model are its losses and training steps, which may list weights for a penalty.
        held = {} if isinstance(layer, keras.Model) else vars(layer)
        others = (type, keras.Operation, keras.Variable, *NOT_COMPUTING)
        functions = [
            x for k, x in held.items() if callable(x) and not isinstance(x, others) and not k.endswith(_NOT_IN_CALL)
        ]
        used.update((id(v), layer) for f in functions for v in variables_in(f))
    return used


def _public_name(layer, name):
    """Returns the public attribute of a weight that a layer has as `name`: in Keras, `kernel` returns `_kernel`."""
    if name is None:
        return None
    if isinstance(layer, MaskedLayer) and name[1:] in layer.masked_attributes:
        return name[1:]
    reader = getattr(type(layer), name[1:], None) if name.startswith("_") else None
    is_of_keras = isinstance(reader, property) and _keras.is_code_of_keras(reader.fget)
    return name[1:] if is_of_keras else name


def check_convertible(model, function: str) -> None:
    """Raises ValueError unless `model` is a built `keras.Model`. `function` is its name in the message.

    Some plain layers may have no weights, since they are never called, or in training only.
    """
    check_model(model, f"`{function}` takes a keras.Model.", keras.Model)
    unbuilt = layers_without_weights(model)
    has_none = len(unbuilt) == sum(map(_is_of_maskable_class, flatten(model)))
    if not model.built or (unbuilt and (has_none or any(isinstance(x, MaskedLayer) for x in unbuilt))):
        names = [x.name for x in unbuilt]
        raise ValueError(
            f"`{function}` needs a built model: this one has no weights yet. Received: {model.name!r}, not built. "
            f"Start it with keras.Input(shape), or call it on a batch. Layers without weights: {names}."
        )


def layers_without_weights(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers of the classes in `MASKED_BY_DEFAULT`, and masked ones, that are not built."""
    return [x for x in flatten(model) if _is_of_maskable_class(x) and not x.built]


def _is_of_maskable_class(layer):
    return isinstance(layer, MaskedLayer) or is_masked_by_default(layer)

"""The layers of a model at any depth, and the masked ones and masked weights among them."""

import keras

from keras_sparse import _keras
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.masked_weight import MaskedWeight
from keras_sparse.layers.masks import Mask


def flatten(layer):
    """The layers inside of a layer or model, at any depth, each once.

    Args:
        layer: a `keras.Layer`.

    Returns:
        List of layers, in the model's order: depth first, a layer before those inside of it.
    """
    found = {}

    def visit(outer):
        inner = _keras.sublayers(outer)
        if isinstance(outer, keras.Model):  # whose own order is that of its calls
            inner = [*outer.layers, *inner]
        for x in inner:
            if id(x) not in found:
                found[id(x)] = x
                visit(x)

    visit(layer)
    found.pop(id(layer), None)
    return list(found.values())


def addresses(outer):
    """Returns `(address, layer)` of a layer and each inside of it: "1.0" is the first sublayer of the second.

    Names cannot serve as addresses: Keras numbers those that a layer's code does not give anew in each process.

    Args:
        outer: `keras.Layer`. Its masks do not count as sublayers.

    Returns:
        List of pairs, each layer once, the outermost first, with the address "".
    """
    found = {}

    def visit(layer, address):
        if id(layer) in found:
            return
        found[id(layer)] = (address, layer)
        for i, inner in enumerate(x for x in _keras.sublayers(layer) if not isinstance(x, Mask)):
            visit(inner, f"{address}.{i}" if address else str(i))

    visit(outer, "")
    return list(found.values())


def masked_layers(model):
    """The masked layers of a model, nested ones included, each once, in the model's order.

    Args:
        model: a `keras.Model` of any kind: Sequential, functional or subclassed.

    Returns:
        List of layers.

    Raises:
        ValueError: if it is no model.
    """
    check_model(model, "A keras.Model is expected, with masked layers such as keras_sparse.sparsify makes.")
    return [x for x in (model, *flatten(model)) if isinstance(x, MaskedLayer)]


def check_model(model, expected, kind=keras.Layer):
    """Raises ValueError, which begins with the sentence `expected`, unless `model` is of a `kind`."""
    if isinstance(model, kind):
        return
    module = type(model).__module__
    legacy = (
        ""
        if not module.startswith("tf_keras")
        else (
            " That is a model of Keras 2: build it with Keras 3, `import keras`, and unset TF_USE_LEGACY_KERAS, "
            "which importing tensorflow_model_optimization sets."
        )
    )
    raise ValueError(f"{expected} Received: {model!r} of type {type(model).__name__}.{legacy}")


def masked_weights(model) -> list[MaskedWeight]:
    """Returns the masked weights of a model, in the order of `masked_layers`.

    Args:
        model: a `keras.Model` of any kind.

    Returns:
        List of `keras_sparse.layers.masked_weight.MaskedWeight`.

    Raises:
        ValueError: if it is no model, or a masked weight does not exist yet.
    """
    weights = [w for layer in masked_layers(model) for w in layer.masked_weights]
    unbuilt = [w.layer.name for w in weights if not w.built]
    if unbuilt:
        raise ValueError(
            f"The model {model.name!r} is not built: {unbuilt} have no weights yet. Call it once on a batch, "
            "`model(x[:1])`, before `fit`, or start a Sequential model with keras.Input(shape)."
        )
    return weights


def trainable_masked_weights(model) -> list[MaskedWeight]:
    """Returns the masked weights that a method may change: those of layers that are not frozen.

    Raises:
        ValueError: if there is none, or one that does not exist yet.
    """
    weights = [w for w in masked_weights(model) if w.trainable]
    if not weights:
        raise ValueError(
            f"The model {model.name!r} has no trainable masked layer, so there is nothing for a sparse training method "
            "to act on. Make one with keras_sparse.sparsify(model, sparsity=0.9), or build it of layers such as "
            "keras_sparse.layers.MaskedDense(300, sparsity=0.9)."
        )
    return weights

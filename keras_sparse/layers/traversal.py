"""Lists the layers of a model at any depth, the masked ones, and the masked weights."""

import keras

from keras_sparse import _keras
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.masked_weight import MaskedWeight
from keras_sparse.layers.masks import Mask


def flatten(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers inside a layer or model, at any depth, each once.

    Args:
        layer: `keras.Layer`.

    Returns:
        List of layers in the order of the model: depth first, a layer before the layers inside it.
    """
    found = {}

    def visit(outer):
        inner = _keras.sublayers(outer)
        if isinstance(outer, keras.Model):  # `layers` has the order in which a functional model calls them
            inner = [*outer.layers, *inner]
        for x in inner:
            if id(x) not in found:
                found[id(x)] = x
                visit(x)

    visit(layer)
    found.pop(id(layer), None)
    return list(found.values())


def addresses(outer: keras.Layer) -> list[tuple]:
    """Returns an address for a layer and for each layer inside it, for files.

    "1.0" is the address of the first sublayer of the second sublayer. Names cannot identify
    layers: Keras adds a counter to default names, which differs between processes.

    Args:
        outer: `keras.Layer`. Masks do not count as sublayers.

    Returns:
        List of pairs `(address, layer)`, each layer once, the outermost first with the address "".
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


def masked_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns the masked layers of a model at any depth, each once, in the order of the model.

    Args:
        model: `keras.Model` of any kind: Sequential, functional or subclassed.

    Raises:
        ValueError: if `model` is no Keras layer or model.

    Example:

    >>> model = sparsify(keras.Sequential([keras.Input((784,)), keras.layers.Dense(10, name="out")]), 0.9)
    >>> [layer.name for layer in masked_layers(model)]
    ['out']
    """
    return [x for x in _model_and_layers(model) if isinstance(x, MaskedLayer)]


def _model_and_layers(model):
    """Returns a tuple of a model and the layers inside it; raises ValueError if it is no Keras layer or model."""
    check_model(model, "A keras.Model is expected, with masked layers such as keras_sparse.sparsify makes.")
    return (model, *flatten(model))


def check_model(model, expected: str, kind: type = keras.Layer) -> None:
    """Raises ValueError unless `model` is an instance of `kind`. The message begins with the sentence `expected`."""
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


def masked_weights(model: keras.Model) -> list[MaskedWeight]:
    """Returns the masked weights of a model, in the order of `masked_layers`.

    Args:
        model: `keras.Model` of any kind.

    Returns:
        List of `keras_sparse.layers.masked_weight.MaskedWeight`.

    Raises:
        ValueError: if `model` is no Keras layer or model, or a masked layer is not built.
    """
    layers = _model_and_layers(model)
    weights = [w for x in layers if isinstance(x, MaskedLayer) for w in x.masked_weights]
    # A model that `from_config` has made gets its masks when it is built.
    pending = [x.name for x in layers if getattr(x, "pending_masks", None)]
    unbuilt = [*(w.layer.name for w in weights if not w.built), *pending]
    if unbuilt:
        raise ValueError(
            f"The model {model.name!r} is not built: {unbuilt} have no weights yet. Call it once on a batch, "
            "`model(x[:1])`, before `fit`, or start a Sequential model with keras.Input(shape)."
        )
    return weights


def trainable_masked_weights(model: keras.Model) -> list[MaskedWeight]:
    """Returns the masked weights that are not frozen, which are those that a method may change.

    Raises:
        ValueError: if there is none, or a masked layer is not built.
    """
    return [weight for _, weight in numbered_weights(model)]


def numbered_weights(model: keras.Model) -> list[tuple[int, MaskedWeight]]:
    """Returns `(place, weight)` of each of the `trainable_masked_weights`.

    Frozen weights are numbered, too, so that the place of a weight, on which random draws depend, does not change if
    others are frozen.

    Raises:
        ValueError: as for `trainable_masked_weights`.
    """
    weights = [(i, w) for i, w in enumerate(masked_weights(model)) if w.trainable]
    if not weights:
        raise ValueError(
            f"The model {model.name!r} has no trainable masked layer, so there is nothing for a sparse training method "
            "to act on. Make one with keras_sparse.sparsify(model, sparsity=0.9), or build it of layers such as "
            "keras_sparse.layers.MaskedDense(300, sparsity=0.9)."
        )
    return weights

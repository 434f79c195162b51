"""The masked layers of a model."""

import keras

from keras_sparse import _keras
from keras_sparse.layers.masked import MaskedKernel


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
    return [x for x in (model, *flatten(model)) if isinstance(x, MaskedKernel)]


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


def built_masked_layers(model):
    """The masked layers of a model, as `masked_layers`.

    Raises:
        ValueError: if one has no weights yet.
    """
    layers = masked_layers(model)
    unbuilt = [x.name for x in layers if not x.built]
    if unbuilt:
        raise ValueError(
            f"The model {model.name!r} is not built: {unbuilt} have no weights yet. Call it once on a batch, "
            "`model(x[:1])`, before `fit`, or start a Sequential model with keras.Input(shape)."
        )
    return layers


def trainable_masked_layers(model):
    """The masked layers that a method may change: those that are not frozen.

    Raises:
        ValueError: if there is none, or one that is not built.
    """
    layers = [x for x in built_masked_layers(model) if x.trainable]
    if not layers:
        raise ValueError(
            f"The model {model.name!r} has no trainable masked layer, so there is nothing for a sparse training method "
            "to act on. Make one with keras_sparse.sparsify(model, sparsity=0.9), or build it of layers such as "
            "keras_sparse.layers.MaskedDense(300, sparsity=0.9)."
        )
    return layers

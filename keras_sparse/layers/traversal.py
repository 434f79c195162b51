"""The masked layers of a model."""

import keras

from keras_sparse.layers.masked import MaskedKernel


def masked_layers(model):
    """The masked layers of a model, nested ones included, each once, in the model's order.

    Args:
        model: a `keras.Model` of any kind: Sequential, functional or subclassed.

    Returns:
        List of layers.

    Raises:
        ValueError: if it is no model.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            "A keras.Model is expected, with masked layers such as keras_sparse.sparsify makes. "
            f"Received: {model!r} of type {type(model).__name__}."
        )
    unique = {id(x): x for x in model._flatten_layers() if isinstance(x, MaskedKernel)}
    return list(unique.values())


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

"""Makes the smaller dense model of the same function."""

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras
from keras_sparse.conversion.densify import densify
from keras_sparse.conversion.maskable_weights import check_convertible
from keras_sparse.export.channels import Channels


def shrink(model):
    """Returns a smaller dense model that computes the same: without the units that take part in nothing.

    A unit or channel without a live weight into it is the same number for any input: it goes, and what it gave goes to
    the biases of the layers that use it. One that no live weight uses goes, too. That is followed through batch
    normalization, activations, pooling, flattening, concatenation and addition. A unit stays where it cannot be told
    to be superfluous: beside one that is needed in an addition, at the border of a padded convolution if it is not 0,
    before and after a layer that is not known here, one of your own, one that is called twice, or a nested model.

    The weights of the units that stay, dead ones included, are in plain dense layers of the same names. Inputs and
    outputs keep their shapes.

    Args:
        model: a built functional or Sequential `keras.Model`, sparse or dense. It is not changed.

    Returns:
        A new `keras.Model`, not compiled, with at most as many parameters.

    Raises:
        ValueError: if it is no model, not built, or a subclassed one, whose connections cannot be known.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
    >>> sparse = sparsify(model, sparsity=0.999)
    >>> shrink(sparse).layers[0].units < 300
    True
    """
    check_convertible(model, "shrink")
    copy = densify(model)
    if not _keras.lists_layers_in_config(copy) or not copy.inputs:
        raise ValueError(
            f"`shrink` takes a functional or Sequential model: what the layers of {type(model).__name__!r} give to "
            f"each other is known to its code only. Received: {model.name!r}. Shrink the functional models in it, or "
            "write its `call` as a functional model."
        )
    # Of a Sequential model, too, this has the graph; its layers are those of the copy.
    found = Channels(keras.Model(copy.inputs, copy.outputs))
    new = _remade_layers(found)
    made = keras.models.clone_model(copy, clone_function=lambda x: new[id(x)][0] if id(x) in new else x)
    for layer, weights in new.values():
        layer.set_weights(weights)
    _check_same(copy, made)
    return made


def _remade_layers(found):
    """`(new layer, its weights)` of the layers whose inputs or outputs lost channels, by id of the layer."""
    new = {}
    for node, rule in zip(found.nodes, found.rules, strict=True):
        tensors = node.arguments.keras_tensors
        kept = [found.of(found.kept, x) for x in tensors]
        output = found.of(found.kept, node.outputs[0])
        if all(map(np.all, (*kept, output))):
            continue
        made = rule.remade(kept, [found.of(found.constant, x) for x in tensors], output)
        if made is not None:
            new[id(node.operation)] = made
    return new


def _check_same(model, made):
    """Raises RuntimeError if a shrunk model computes something else on random inputs: that must never go unseen."""
    rng = np.random.default_rng(0)
    shapes = [tuple(x.shape[1:]) for x in model.inputs]
    if any(n is None for shape in shapes for n in shape):
        return
    given = [ops.cast(_random(rng, x.dtype, shape), x.dtype) for x, shape in zip(model.inputs, shapes, strict=True)]
    # Whatever structures the models take and give, these take and give lists.
    flat = [keras.Model(m.inputs, m.outputs) for m in (model, made)]
    for x, y in zip(*(m(given) for m in flat), strict=True):
        x, y = (ops.convert_to_numpy(ops.cast(v, "float32")) for v in (x, y))
        largest = float(np.abs(x).max(initial=0))
        limit = min(1e-4 * max(1.0, largest), 1e-2 * largest + 1e-9)  # Small outputs are compared as well.
        if not np.allclose(x, y, rtol=0, atol=limit, equal_nan=True):
            raise RuntimeError(
                f"The shrunk model of {model.name!r} would compute something else: {np.abs(x - y).max():.2g} off where "
                f"{limit:.2g} is rounding. This is an error of keras_sparse: use the model as it is, and report it."
            )


def _random(rng, dtype, shape):
    """A batch of 2; of whole numbers, which may be rows of a table, the first two."""
    if keras.backend.is_float_dtype(dtype):
        return rng.normal(size=(2, *shape)).astype("float32")
    return rng.integers(0, 2, (2, *shape))

"""Removes units and channels that do not contribute to the output of a model."""

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.densify import dense_copy
from keras_sparse.conversion.trainable_weights import check_convertible
from keras_sparse.export.channel_analysis import ChannelAnalysis
from keras_sparse.export.output_comparison import (
    accepted_difference,
    has_random_inputs,
    outputs_of,
    random_inputs,
    rounding_tolerance,
)

_TOLERANCE = 1e-3  # see `accepted_difference`: folding a constant changes the order of additions


def shrink(model: keras.Model) -> keras.Model:
    """Returns a smaller dense model that computes the same function, without unused units and channels.

    Two kinds of units are removed, where a unit is also a channel of a convolution:

    - A unit without live incoming weights has the same output for all inputs. Its contribution is added to the biases
      of the next layers.
    - A unit without live outgoing weights is not used.

    This is followed through batch normalization, activations, pooling, upsampling, flattening, concatenation, addition,
    multiplication and other merges. Units are kept if they cannot be removed safely: if they are added to a unit that
    is needed; if they are constant but not 0 before a padded convolution; before and after grouped convolutions,
    EinsumDense, recurrent and custom layers and others that are not known here, and layers that are called twice. A
    nested functional or Sequential model is shrunk, too, and keeps the channels of its inputs and outputs.

    The other weights, live or dead, are copied to dense layers of the same names. The shapes of inputs and outputs do
    not change.

    Args:
        model: a built functional or Sequential `keras.Model`, sparse or dense. It is not changed.

    Returns:
        A new `keras.Model`, not compiled, with at most as many parameters as `model`.

    Raises:
        ValueError: if `model` is not a Keras model, not built, or subclassed, so that its connections are not known.
        RuntimeError: if the smaller model computes something else, which would be an error of keras_sparse.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
    >>> sparse = sparsify(model, sparsity=0.999)
    >>> shrink(sparse).layers[0].units < 300
    True
    """
    check_convertible(model, "shrink")
    copy = dense_copy(model)
    if not _keras.is_functional(copy):
        raise ValueError(
            "`shrink` takes a functional or Sequential model, whose layers have known connections. Received: "
            f"{model.name!r} of class {type(model).__name__!r}. Shrink the functional models in it, or write it as a "
            "functional model."
        )
    shrunk = _shrunk(copy)
    _check_same_outputs(copy, shrunk)
    # Its unchanged layers still belong to the graph of `copy`, too. Those of another copy belong to its own only.
    return copy_model(shrunk)[0]


def _shrunk(model):
    """Returns the smaller model of a dense functional or Sequential model. It shares the layers that do not change."""
    # Makes a graph of a Sequential model, too. The layers are those of `model`.
    analysis = ChannelAnalysis(keras.Model(model.inputs, model.outputs))
    rebuilt = _rebuilt_layers(analysis)
    new = {key: layer for key, (layer, _) in rebuilt.items()}
    for layer in model.layers:
        # A nested model keeps its inputs and outputs, so that it is shrunk on its own, however often it is called. It
        # does not know about masks and settings of its calls, with which its layers may compute something else.
        plain = _keras.is_functional(layer) and analysis.is_called_plainly(layer)
        if plain and not analysis.shares_weights(layer):
            new[id(layer)] = _shrunk(layer)
    shrunk = keras.models.clone_model(model, _copied_inputs(model), clone_function=lambda x: new.get(id(x), x))
    for layer, weights in rebuilt.values():
        layer.set_weights(weights)
    return shrunk


def _copied_inputs(model):
    """Returns new inputs of a functional model in its structure; None for others, whose inputs Keras copies whole.

    Keras itself copies the inputs of functional models without `optional` and `sparse`.
    """
    layers = {id(x.output): x for x in model.layers if isinstance(x, keras.layers.InputLayer)}
    if isinstance(model, keras.Sequential) or not all(id(x) in layers for x in model.inputs):
        return None

    def copied(tensor):
        layer = layers[id(tensor)]
        return keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, sparse=layer.sparse, optional=layer.optional, name=layer.name
        )

    return keras.tree.map_structure(copied, model.input)


def _rebuilt_layers(analysis):
    """Returns the layers that lost input or output channels: dict from id of a layer to `(new layer, weights)`."""
    rebuilt = {}
    for node, rule in zip(analysis.nodes, analysis.rules, strict=True):
        tensors = node.arguments.keras_tensors
        kept = [analysis.of_tensor(analysis.kept, x) for x in tensors]
        kept_output = analysis.of_tensor(analysis.kept, node.outputs[0])
        if all(map(np.all, (*kept, kept_output))):
            continue
        new = rule.rebuild(kept, [analysis.of_tensor(analysis.constant, x) for x in tensors], kept_output)
        if new is not None:
            rebuilt[id(node.operation)] = new
    return rebuilt


def _check_same_outputs(model, shrunk):
    """Raises RuntimeError if two models differ by more than rounding on random inputs.

    Models with inputs of strings, or layers that random inputs do not suit, are not compared.
    """
    if not has_random_inputs(model):
        return
    given = random_inputs(model, 2)
    tolerance = max(_TOLERANCE, rounding_tolerance(model))
    # These models take and return lists, whatever the structures of inputs and outputs are.
    models = [keras.Model(m.inputs, m.outputs) for m in (model, shrunk)]
    try:
        expected = outputs_of(models[0], given)
    except Exception:  # Random integers may be no valid indices, random images too small.
        return
    got = outputs_of(models[1], given)
    for x, y in zip(expected, got, strict=True):
        limit = accepted_difference(x, tolerance)
        if not np.allclose(x, y, rtol=0, atol=limit, equal_nan=True):
            raise RuntimeError(
                f"The shrunk model of {model.name!r} computes something else. Expected: outputs that differ by at most "
                f"{limit:.2g}. Received: a difference of {np.abs(x - y).max():.2g}. This is an error of keras_sparse: "
                "use the model without `shrink`, and report it."
            )

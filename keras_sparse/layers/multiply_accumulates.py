"""Counts the multiply-accumulates of a layer: how often it uses each of its weights for one input.

Dense layers and convolutions use a weight once for each position of the output.
"""

import math
from collections.abc import Callable

import keras

from keras_sparse import _keras
from keras_sparse.layers import layer_kinds
from keras_sparse.layers.traversal import flatten

_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def uses_per_input(model: keras.Model) -> Callable[[keras.Layer], int | None]:
    """Returns a function that counts how often a layer of a model uses each of its weights for one input.

    Each use of a weight is one multiply-accumulate.

    Args:
        model: built `keras.Model`.

    Returns:
        Function that gets a layer and returns an int of at least 0; None if the size of an axis is not fixed, or the
        class of the layer is not known.
    """
    counts_in_calls, inner_calls = _uses_in_calls(model), _calls_of_inner_layers(model)

    def uses(layer):
        # Calls in a graph have inputs of known shapes. Those by other layers count for the shape it was built for.
        counts = counts_in_calls(layer)
        if calls := inner_calls.get(id(layer)) or ([] if counts else [1]):
            (built,) = counts_in_calls(layer, of_graph=False)
            counts = [*counts, None if built is None or None in calls else built * sum(calls)]
        return None if None in counts else sum(counts)

    return uses


def uses_per_call(model: keras.Model) -> Callable[[keras.Layer], int | None]:
    """Returns a function like that of `uses_per_input`, for one call, the one with most uses.

    A recurrent cell is called at each time step.
    """
    counts_in_calls = _uses_in_calls(model)

    def uses(layer):
        counts = counts_in_calls(layer) or counts_in_calls(layer, of_graph=False)
        return None if None in counts else max(counts)

    return uses


def _uses_in_calls(model):
    """Returns a function from a layer to the list of its uses of each weight, an int or None for each of its calls.

    Calls are those in the graph of a functional model, which are none for a layer inside of another one; or, with
    `of_graph=False`, one on the shape for which the layer was built.
    """
    lengths, calls = _query_lengths(model), _input_shapes(model)

    def uses(layer, of_graph=True):
        shapes = [shape for shape, *_ in calls.get(id(layer), ())] if of_graph else [_built_shape(layer)]
        return [_positions(layer, lengths.get(id(layer), ()), shape) for shape in shapes]

    return uses


def _input_shapes(model):
    """Returns the shapes of the inputs of each call in a functional model and in functional models inside it.

    Returns:
        Dict from the id of a layer to a list of lists of tuples; empty for a subclassed model.
    """
    shapes = {}
    if _keras.is_functional(model):
        for node in _keras.graph_nodes(keras.Function(model.inputs, model.outputs)):
            if isinstance(node.operation, keras.Model) and _keras.is_functional(node.operation):
                for layer, inner in _input_shapes(node.operation).items():
                    shapes.setdefault(layer, []).extend(inner)
            elif not node.is_input:
                shapes.setdefault(id(node.operation), []).append([tuple(x.shape) for x in _inputs_of_call(node)])
    return shapes


def _inputs_of_call(node):
    """Returns the tensors of a call; of attention, query and value only, as far as its `call` has them."""
    named = {}
    if isinstance(node.operation, _ATTENTIONS):
        named = {**dict(zip(("query", "value"), node.arguments.args, strict=False)), **node.arguments.kwargs}
    found = [named[name] for name in ("query", "value") if isinstance(named.get(name), keras.KerasTensor)]
    return found or node.arguments.keras_tensors


def _calls_of_inner_layers(model):
    """Returns how often layers inside of other layers, or of a subclassed model, are called for one input.

    A recurrent or time-distributed layer calls those inside of it at each time step.

    Returns:
        Dict from the id of a layer to a list with a number for each way to it from a layer of the graph, or from a
        subclassed model: the calls of that one times the time steps on the way. It is None if the number of time steps
        is not fixed, or calls have inputs of several shapes, since layers inside are known for one shape only.
    """
    found, shapes = {}, _input_shapes(model)

    def visit(outer, calls, way):
        if isinstance(outer, (keras.layers.RNN, keras.layers.TimeDistributed)):
            shape = _built_shape(outer)
            length = shape[1] if shape else None
            calls = None if None in (length, calls) else calls * length
        inner = {id(x): x for x in _keras.sublayers(outer) if id(x) not in way}  # A layer may refer to one around it.
        # One that is inside of another one, too, is taken to be called by that.
        deeper = {id(y) for x in inner.values() for y in flatten(x)}
        for layer in (x for i, x in inner.items() if i not in deeper):
            found.setdefault(id(layer), []).append(calls)
            visit(layer, calls, {*way, id(layer)})

    if not shapes:
        visit(model, 1, {id(model)})
    for outer in flatten(model):
        if given := shapes.get(id(outer)):
            built = _built_shape(outer)
            firsts = {x[1:] for x in (*(x for x, *_ in given), *([tuple(built)] if built else []))}
            # The layers inside of attention also depend on the lengths of its values, the second input.
            others = {tuple(x[1:] for x in call) for call in given} if isinstance(outer, _ATTENTIONS) else ()
            same = len(firsts) == 1 and len(others) <= 1
            visit(outer, len(given) if same else None, {id(outer)})
    return found


def _query_lengths(model: keras.Model) -> dict[int, tuple]:
    """Returns the lengths of the queries of attention layers, for each layer inside of them.

    The output projection of attention is built with an unknown length, which its build config does not contain.

    Returns:
        Dict from the id of such a layer to the sizes of the query's axes without batch and features: a tuple of ints,
        or of None for an axis whose size is not fixed.
    """
    lengths = {}
    for outer in (model, *flatten(model)):
        # The first shape is that of the query. A subclass may be built with one for query, key and value.
        if isinstance(outer, _ATTENTIONS) and outer.built and (query := _built_shape(outer)):
            others = ("key", "value")  # Keras's names of the layers that get other inputs than the query
            lengths.update((id(x), tuple(query[1:-1])) for x in flatten(outer) if x.name not in others)
    return lengths


def _positions(layer, lengths, shape):
    """Returns how often a layer uses each weight in one call on an input of a shape, or None if that is unknown."""
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        return None  # It looks weights up, or multiplies by all of them, as its argument `reverse` says.
    if isinstance(layer, keras.layers.Embedding):
        return 0  # Weights are looked up, not multiplied.
    if isinstance(layer, layer_kinds.CELLS):
        return 1
    if shape is None:
        return None
    if isinstance(layer, keras.layers.EinsumDense):
        if lengths and set(shape[1 : len(lengths) + 1]) == {None}:
            shape = (shape[0], *lengths, *shape[len(lengths) + 1 :])
        axes = _einsum_axes(layer.equation, shape)
    elif isinstance(layer, keras.layers.Dense):
        axes = shape[1:-1]
    elif isinstance(layer, layer_kinds.CONVOLUTIONAL_CELLS):
        padded = layer.padding == "same"
        spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
        sizes = zip(spatial, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        axes = [None if n is None else _convolved(n, k, s, d, padded) for n, k, s, d in sizes]
    elif isinstance(
        layer,
        (
            *layer_kinds.CONVOLUTIONS,
            *layer_kinds.DEPTHWISE_CONVOLUTIONS,
            *layer_kinds.SEPARABLE_CONVOLUTIONS,
            *layer_kinds.TRANSPOSED_CONVOLUTIONS,
        ),
    ):
        if not isinstance(layer, layer_kinds.TRANSPOSED_CONVOLUTIONS):
            shape = layer.compute_output_shape(shape)
        axes = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    else:
        return None
    return None if None in axes else math.prod(axes)


def _einsum_axes(equation, shape):
    """Returns the sizes of the axes of an EinsumDense's input that its kernel does not have, without the batch axis."""
    letters, kernel = equation.split("->")[0].split(",")
    ellipsis = "." * (len(shape) - len(letters.replace("...", "")))  # one dot for each axis of the ellipsis
    letters = letters.replace("...", ellipsis)
    return [n for n, letter in zip(shape, letters, strict=True) if letter not in kernel][1:]


def _convolved(size, kernel, stride, dilation, padded):
    """Returns the output size of a convolution along one axis."""
    return -(-(size if padded else size - dilation * (kernel - 1)) // stride)


def _built_shape(layer):
    """Returns the shape of the first input for which a layer was built, or None if it is unknown."""
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or config.get("shapes_dict")  # the latter if `build` takes several shapes
    while shape and (isinstance(shape, dict) or isinstance(shape[0], (list, tuple, dict))):  # of several inputs
        shape = next(iter(shape.values() if isinstance(shape, dict) else shape))
    return shape

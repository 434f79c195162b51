"""Selects the weights of a model to mask, from the arguments of `sparsify`."""

from collections.abc import Callable, Iterable

import keras

from keras_sparse.conversion.trainable_weights import TrainableWeight, is_masked_by_default, is_part
from keras_sparse.layers.layer_kinds import is_modified
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.traversal import flatten
from keras_sparse.validation import check_callable


def names_or_function(value, name: str, kind: str, form: str) -> tuple[str, ...] | Callable:
    """Converts `keep_dense` or `include` to a tuple of names or a function.

    Args:
        value: the argument: str, iterable of str, or function.
        name: str, name of the argument, for the message.
        kind: str, what it names, for the message.
        form: str, argument and result of the function, for the message.

    Raises:
        ValueError: if `value` is something else.
    """
    if callable(value) and not isinstance(value, keras.layers.Layer):
        check_callable(value, name, form)
        return value
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else None
    if names is None or not all(isinstance(x, str) for x in names):
        raise ValueError(f"`{name}` must be a list of {kind}, or a function `{form}`. Received: {name}={value!r}.")
    return names


def select_weights(
    model: keras.Model,
    weights: list[TrainableWeight],
    keep_dense: tuple | Callable,
    include: tuple | Callable,
    sparsities: dict | None,
) -> tuple[list[TrainableWeight], list[TrainableWeight]]:
    """Selects the weights of a model to mask.

    Args:
        model: built `keras.Model`.
        weights: the `trainable_weights` of the model.
        keep_dense, include: as for `keras_sparse.sparsify`, converted by `names_or_function`.
        sparsities: dict from names to floats or None, as for `keras_sparse.sparsify`; None if there is no dict.

    Returns:
        `(masked, kept)`: the weights to mask, and those that `keep_dense` selects, in the order of the model.

    Raises:
        ValueError: if there is nothing to mask, a named weight cannot be masked, a name is unknown, or weights that
            `keep_dense` does not select have masks already.
    """
    dense_layers = layers_kept_dense(model, keep_dense)
    kept = _kept_dense(model, weights, keep_dense, dense_layers)
    masked = list(dict.fromkeys(w.layer.name for w in weights if isinstance(w.layer, MaskedLayer) and w not in kept))
    if masked:
        raise ValueError(
            f"The model is masked already, in {masked}. To draw new masks, give `sparsify` the model that "
            "`keras_sparse.densify` makes of it. To leave these as they are, name them by `keep_dense`."
        )
    included = _included(weights, include)
    if sparsities is None:
        found = [w for w in weights if w.masked_by_default or w in included]
    else:
        for name, sparsity in sparsities.items():
            _check_name(name, "sparsity", weights, is_masked=sparsity is not None)
        found = [w for w in weights if named_sparsity(w, sparsities) is not None]
    found = [w for w in found if w not in kept and w.unmaskable() is None]
    if not found:
        raise ValueError(
            f"`sparsify` found no layer to mask in {model.name!r}. It masks the weights of Keras's dense, convolution, "
            "EinsumDense and recurrent layers that `keep_dense` does not keep, and those that `include` names. The "
            f"model's layers: {sorted({type(x).__name__ for x in flatten(model)})}."
        )
    # Without names, all layers of these classes are meant, also quantized ones, whose kernel is no trainable weight.
    partly_kept = {id(w.layer) for w in kept}
    maskable = [] if sparsities is not None else [x for x in flatten(model) if is_masked_by_default(x)]
    maskable = [x for x in maskable if id(x) not in dense_layers | partly_kept]
    if modified := list(dict.fromkeys(x.name for x in (*maskable, *(w.layer for w in found)) if is_modified(x))):
        raise ValueError(
            f"LoRA-enabled and quantized layers cannot be masked: {modified}. Give `sparsify` the model as it was "
            "before, or keep them as they are by `keep_dense`."
        )
    return found, kept


def named_sparsity(weight: TrainableWeight, sparsities: dict) -> float | None:
    """Returns the sparsity of a weight in a dict from names; None for dense.

    If several names match, that with the most parts counts; of these, the one that ends closest to the weight.
    """
    names = [n for n in sparsities if weight.is_named(n)]
    # A name of an attention layer does not mean the biases inside.
    if is_masked_by_default(weight.layer) and not weight.masked_by_default:
        names = [n for n in names if n.split("/")[-1] == weight.attribute]
    return sparsities[max(names, key=lambda n: (n.count("/"), *weight.depth_of(n)))] if names else None


def layers_kept_dense(model, keep_dense):
    """Returns the ids of the layers that `keep_dense` selects, and of those inside of them."""

    def is_named(layer):
        return layer.name in keep_dense or any(is_part(name, layer.path) for name in keep_dense)

    selects = keep_dense if callable(keep_dense) else is_named
    return {id(y) for x in flatten(model) if selects(x) for y in (x, *flatten(x))}


def _kept_dense(model, weights, keep_dense, dense_layers):
    """Returns the weights that `keep_dense` selects: of whole layers, or by the names of weights."""
    if callable(keep_dense):
        return [w for w in weights if id(w.layer) in dense_layers]
    unknown = {n for n in keep_dense if not any(w.is_named(n) for w in weights)} - {x.name for x in flatten(model)}
    if unknown:
        raise ValueError(
            f"`keep_dense` names layers that the model does not have: {sorted(unknown)}. Its layers: "
            f"{[w.name for w in weights if w.masked_by_default]}."
        )
    return [w for w in weights if any(w.is_named(n) for n in keep_dense)]


def _included(weights, include):
    """Returns the weights that `include` selects. A function may select weights that cannot be masked."""
    if callable(include):
        return [w for w in weights if include(w.variable)]
    for name in include:
        _check_name(name, "include", weights)
    return [w for w in weights if any(w.is_named(n) for n in include)]


def _check_name(name, argument, weights, is_masked=True):
    """Raises ValueError if a name in an argument names no weight, or if it is to mask only weights that cannot be."""
    named = [w for w in weights if w.is_named(name)]
    if not named:
        paths = [w.path for w in weights if len(w.shape) > 1]
        raise ValueError(f"`{argument}` names nothing in the model: {name!r}. Its weights: {paths}.")
    if is_masked and all(w.unmaskable() for w in named):
        raise ValueError(
            f"`{argument}` names {name!r}, which cannot be masked: {named[0].path} {named[0].unmaskable()}. A weight "
            "that can be masked is of a float type, has at least two axes, and is an attribute of one layer."
        )

"""Which models can be converted, and which of their layers are to be masked."""

from collections.abc import Iterable

import keras

from keras_sparse.layers.masked import MASKED, MaskedKernel
from keras_sparse.layers.traversal import check_model, flatten


def check_convertible(model, function, instead_of_subclass=None):
    """Raises ValueError unless `function` can convert a model.

    Args:
        model: what `function` got.
        function: str, its name.
        instead_of_subclass: str, what to do instead with a subclassed model; None if it can be converted.
    """
    check_model(model, f"`{function}` takes a keras.Model.", keras.Model)
    if instead_of_subclass and not _shows_its_layers(model):
        raise ValueError(
            f"`{function}` needs a Sequential or functional model, since a subclassed one cannot be cloned: it "
            f"does not show which layers it calls. Received: {model.name!r} of class {type(model).__name__}. "
            f"{instead_of_subclass}"
        )
    maskable = (*MASKED, MaskedKernel)
    unbuilt = [x.name for x in flatten(model) if isinstance(x, maskable) and not x.built]
    if not model.built or unbuilt:
        raise ValueError(
            f"`{function}` needs a built model: this one has no weights yet. Received: {model.name!r}, not built. "
            f"Start it with keras.Input(shape), or call it on a batch. Layers without weights: {unbuilt}."
        )


def eligible(model, keep_dense):
    """The layers of a model that are to be masked, each once, in the model's order.

    Args:
        model: built Sequential or functional `keras.Model`.
        keep_dense: as for `keras_sparse.sparsify`.

    Raises:
        ValueError: if there is none, or one that cannot be masked, or `keep_dense` names no layer.
    """
    layers = flatten(model)
    kept = {id(x) for layer in _kept(layers, keep_dense) for x in (layer, *flatten(layer))}
    already = [x.name for x in layers if isinstance(x, MaskedKernel)]
    if already:
        raise ValueError(
            f"The model is masked already, in {already}. To draw new masks, give `sparsify` the model that "
            "`keras_sparse.densify` makes of it."
        )
    found = [x for x in _layers_on_show(model, kept) if type(x) in MASKED and id(x) not in kept]
    if not found:
        raise ValueError(
            f"`sparsify` found no layer to mask in {model.name!r}. It masks layers of exactly these classes that "
            f"`keep_dense` does not keep: {[c.__name__ for c in MASKED]}. The model's: "
            f"{sorted({type(x).__name__ for x in layers})}."
        )
    changed = [x.name for x in found if getattr(x, "lora_enabled", False) or getattr(x, "quantization_mode", None)]
    if changed:
        raise ValueError(
            f"LoRA-enabled and quantized layers cannot be masked: {changed}. Give `sparsify` the model as it was "
            "before, or keep them as they are by `keep_dense`."
        )
    return found


def _kept(layers, keep_dense):
    """The layers that `keep_dense` names or returns True for."""
    if callable(keep_dense):
        return [x for x in layers if keep_dense(x)]
    names = [keep_dense] if isinstance(keep_dense, str) else keep_dense
    if not isinstance(names, Iterable) or not all(isinstance(x, str) for x in names):
        raise ValueError(
            "`keep_dense` must be a list of layer names, or a function `layer -> bool`. "
            f"Received: keep_dense={keep_dense!r}."
        )
    unknown = set(names) - {x.name for x in layers}
    if unknown:
        raise ValueError(
            f"`keep_dense` names layers that the model does not have: {sorted(unknown)}. Its layers: "
            f"{[x.name for x in layers if type(x) in MASKED]}."
        )
    return [x for x in layers if x.name in set(names)]


def _layers_on_show(model, kept):
    """The layers that a model and those nested in it list, each once, in the model's order.

    Layers inside a composite layer (the EinsumDense of a MultiHeadAttention, say) are its own affair.
    """
    found = {}
    for layer in model.layers:
        if not isinstance(layer, keras.Model):
            found[id(layer)] = layer
        elif _shows_its_layers(layer):
            found.update((id(x), x) for x in _layers_on_show(layer, kept))
        else:
            maskable = [x.name for x in flatten(layer) if type(x) in MASKED and id(x) not in kept]
            if maskable:
                raise ValueError(
                    f"The subclassed model {layer.name!r} inside of {model.name!r} does not show which layers it "
                    f"calls, so that its layers {maskable} cannot be masked. Build it from the layers of "
                    "`keras_sparse.layers`, make it a functional model, or keep it dense by `keep_dense`."
                )
    return list(found.values())


def _shows_its_layers(model):
    """Whether a model is Sequential or functional."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")

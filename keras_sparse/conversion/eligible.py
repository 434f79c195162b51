"""Which models can be converted, and which of their layers are to be masked."""

from collections.abc import Iterable

import keras

from keras_sparse.layers.masked import MASKED, MaskedKernel


def check_convertible(model, function, instead):
    """Raises ValueError unless `function` can copy a model; `instead` is what to do with a subclassed one."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`{function}` takes a keras.Model. Received: {model!r} of type {type(model).__name__}.")
    if not _is_cloned(model):
        raise ValueError(
            f"`{function}` needs a Sequential or functional model, since a subclassed one cannot be cloned. Received: "
            f"{model.name!r} of class {type(model).__name__}. {instead}"
        )
    if not model.built or (isinstance(model, keras.Sequential) and not model.inputs):
        raise ValueError(
            f"`{function}` needs a built model: this one has no weights yet. Received: {model.name!r}, not built. "
            "Start it with keras.Input(shape) or call model.build(input_shape)."
        )


def eligible(model, keep_dense):
    """The layers of a model that are to be masked, each once, in the model's order.

    Args:
        model: built Sequential or functional `keras.Model`.
        keep_dense: as for `keras_sparse.sparsify`.

    Raises:
        ValueError: if there is none, or one that cannot be masked, or `keep_dense` names no layer.
    """
    layers = list({id(x): x for x in model._flatten_layers()}.values())
    if not callable(keep_dense):
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
    keep = keep_dense if callable(keep_dense) else lambda layer: layer.name in names
    already = [x.name for x in layers if isinstance(x, MaskedKernel)]
    if already:
        raise ValueError(
            f"The model is masked already, in {already}. To draw new masks, give `sparsify` the model that "
            "`keras_sparse.densify` makes of it."
        )
    eligible = [x for x in _clonable_layers(model) if type(x) in MASKED and not keep(x)]
    if not eligible:
        raise ValueError(
            f"`sparsify` found no layer to mask in {model.name!r}. It masks layers of exactly these classes that "
            f"`keep_dense` does not keep: {[c.__name__ for c in MASKED]}. The model's: "
            f"{sorted({type(x).__name__ for x in layers})}."
        )
    changed = [x.name for x in eligible if getattr(x, "lora_enabled", False) or getattr(x, "quantization_mode", None)]
    if changed:
        raise ValueError(
            f"LoRA-enabled and quantized layers cannot be masked: {changed}. Give `sparsify` the model as it was "
            "before, or keep them as they are by `keep_dense`."
        )
    return eligible


def _clonable_layers(model):
    """The layers that `keras.models.clone_model` hands to its clone function, each once, in the model's order.

    Layers inside a composite layer (the EinsumDense of a MultiHeadAttention, say) are its own affair.
    """
    found = {}
    for layer in model.layers:
        if not isinstance(layer, keras.Model):
            found[id(layer)] = layer
        elif _is_cloned(layer):
            found.update((id(x), x) for x in _clonable_layers(layer))
        else:
            maskable = [x.name for x in layer._flatten_layers() if type(x) in MASKED]
            if maskable:
                raise ValueError(
                    f"The subclassed model {layer.name!r} inside of {model.name!r} cannot be cloned, so its layers "
                    f"{maskable} cannot be masked. Build it from the layers of `keras_sparse.layers`, or make it a "
                    "functional model."
                )
    return list(found.values())


def _is_cloned(model):
    """Whether a model is Sequential or functional."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")

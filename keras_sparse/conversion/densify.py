"""Converts a masked model to a dense one."""

import keras

from keras_sparse import _keras, backend
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.custom_layer_code import check_global_names
from keras_sparse.conversion.trainable_weights import check_convertible
from keras_sparse.layers.mask_in_place import RecordsMasks, plain_class, unmask_layer
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.traversal import flatten


def densify(model: keras.Model, in_place: bool = False) -> keras.Model:
    """Returns a copy of a model without masks, in which dead weights are 0.

    All masked layers become plain Keras layers, at any depth: inside wrappers, composite layers and nested models. The
    copy computes the same function and has the same names. It is not compiled, and can be saved and loaded without
    keras_sparse.

    Args:
        model: built `keras.Model` of any kind.
        in_place: bool, whether to change the model itself, which stays compiled.

    Returns:
        A new model, of the class that the model had before it was masked. With `in_place`, the model.

    Raises:
        ValueError: if `model` is no built Keras model, or has an object that cannot be copied, or a layer of a user's
            subclass of a masked class, or one whose `call` reads layers of the model by global names.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
    >>> type(densify(sparsify(model, sparsity=0.9)).layers[0]).__name__
    'Dense'
    """
    check_convertible(model, "densify")
    if not in_place:
        check_global_names(model)
    return _densified(model, in_place)


def dense_copy(model: keras.Model) -> keras.Model:
    """Returns what `densify` does, to be saved or exported at once, as long as the model does not change.

    Its layers may read those of the model by global names, which `densify` refuses.
    """
    return _densified(model, in_place=False)


def _densified(model, in_place):
    layers = [x for x in (model, *flatten(model)) if isinstance(x, (MaskedLayer, RecordsMasks))]
    own = [x.name for x in layers if plain_class(x) is None]
    if own:
        raise ValueError(
            f"`densify` makes Keras layers of the layers of `keras_sparse.layers`, and cannot know which layer a class "
            f"derived from them is to become. Received: {own}. Derive the class from the Keras layer, and mask it by "
            "`keras_sparse.sparsify`."
        )
    made, twin = (model, lambda layer: layer) if in_place else copy_model(model)
    for layer in layers:
        unmask_layer(twin(layer))
    backend.track_parameters(made)
    if in_place:
        _keras.forget_compiled_functions(made)
    return made

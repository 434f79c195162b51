"""From a masked model to a dense one."""

from keras_sparse import _keras
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.eligible import check_convertible
from keras_sparse.layers.masked import MaskedLayer
from keras_sparse.layers.masking import RecordsMasks, plain_class, unmask_layer
from keras_sparse.layers.traversal import flatten


def densify(model, in_place=False):
    """Copies a model and makes every masked layer of the copy the plain Keras layer again, its dead weights 0.

    That goes for layers at any depth: inside of wrappers, blocks of your own, and nested models. The copy computes the
    same function, has the same names, needs nothing of keras_sparse to be loaded, and is not compiled.

    Args:
        model: a built `keras.Model` of any kind.
        in_place: bool, whether to change the model itself, which then stays compiled.

    Returns:
        A new model of the class that the model had before it was masked; with `in_place`, the model.

    Raises:
        ValueError: if it is no model, or not built, has an object that cannot be copied, or a layer of a class derived
            from a masked one.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
    >>> type(densify(sparsify(model, sparsity=0.9)).layers[0]).__name__
    'Dense'
    """
    check_convertible(model, "densify")
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
    if in_place:
        _keras.forget_compiled_functions(made)
    return made

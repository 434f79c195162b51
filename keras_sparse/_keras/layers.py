"""Private attributes of layers and variables: sublayers, variables, device layouts, locks."""

import contextlib
import types

import keras


def sublayers(layer):
    """Returns the direct sublayers of a layer, in the order in which they were added.

    `Layer._layers`, since 3.0. Public: `Model.layers`, for models only. `Layer._flatten_layers` has another order.
    """
    return list(layer._layers)


def lists_layers_in_config(model):
    """Returns whether the config of a model contains those of its layers, as for Sequential and functional models.

    It does not for subclasses, whose own code makes the layers. `keras.src.models.Functional`, since 3.0; not exported.
    """
    return type(model) in (keras.Sequential, keras.src.models.Functional)


def is_functional(model):
    """Returns whether the connections of a model are known: a Sequential or functional model, also of a subclass.

    A subclass with a `call` of its own may compute something else. `keras.src.models.Functional`, since 3.0; not
    exported.
    """
    bases = keras.Sequential, keras.src.models.Functional
    # A Sequential model that was built for a list or dict of inputs has no graph, and `inputs` raises AttributeError.
    has_inputs = bool(getattr(model, "inputs", None))
    return isinstance(model, bases) and type(model).call in (base.call for base in bases) and has_inputs


def operation_name(operation):
    """Returns the class name of an operation of `keras.ops` or `keras.activations`, such as "Add"; None for layers.

    `keras.src.ops` and `keras.src.activations`, since 3.0; these classes are not exported.
    """
    kind = type(operation)
    return kind.__name__ if kind.__module__.startswith(("keras.src.ops.", "keras.src.activations.")) else None


def has_mask(tensor):
    """Returns whether a tensor of a functional model has a mask of positions, as `Embedding(mask_zero=True)` makes it.

    `KerasTensor._keras_mask`, since 3.0. `keras.src.backend.get_keras_mask` is not exported.
    """
    return getattr(tensor, "_keras_mask", None) is not None


def conv_lstm_cell():
    """Returns the class of the cells of `keras.layers.ConvLSTM2D`; since 3.0; not exported."""
    return keras.src.layers.rnn.conv_lstm.ConvLSTMCell


def autocast_scope(layer):
    """Returns the context in which `call` of a layer reads its variables: in the dtype in which the layer computes.

    `keras.src.backend.AutocastScope`, since 3.0. Public: none.
    """
    casts = layer.autocast and keras.backend.is_float_dtype(layer.compute_dtype)
    return keras.src.backend.AutocastScope(layer.compute_dtype if casts else None)


def own_weights(layer):
    """Returns the weights of a layer without those of its sublayers, frozen ones too: `Layer._trainable_variables`.

    Since 3.0. Public: `Layer.trainable_variables`, with those of sublayers and without frozen ones.
    """
    return list(layer._trainable_variables)


def seed_generators(layer):
    """Returns the seed generators of a layer without those of its sublayers: `Layer._seed_generators`, since 3.0.

    Those in lists and dicts are among them. Public: `Layer.non_trainable_variables` has their states among others.
    """
    return list(layer._seed_generators)


def in_stateless_scope():
    """Whether a `keras.StatelessScope` is active. The class is public, but not this function (since 3.0)."""
    return keras.src.backend.in_stateless_scope()


def in_symbolic_scope():
    """Whether a model is called without data, to build it: `keras.src.backend.common.symbolic_scope`, since 3.0.

    Variables that are made then get their values later. Public: none.
    """
    return keras.src.backend.common.symbolic_scope.in_symbolic_scope()


def held_value(variable):
    """Returns the array of a variable, or None: on JAX, `fit` removes it during an epoch. `Variable._value`, since 3.0.

    Public: `Variable.value` computes an initial value if there is no array.
    """
    return variable._value


def layout_of(variable):
    """Returns the layout of a variable over JAX devices: a `keras.distribution.TensorLayout`, a JAX sharding, or None.

    `Variable._layout`, since 3.15 on all backends. Public: `Distribution.get_variable_layout` reads this attribute, but
    needs the distribution that was active when the variable was made.
    """
    return variable._layout


def set_layout(variable, layout):
    """Sets the layout of a variable, which may have no value yet if it was made in a `keras.StatelessScope`.

    `Variable._layout` and `Variable._value`, since 3.15. Public: `keras.Variable` has an argument `layout`, but
    `Layer.add_weight` has none.
    """
    variable._layout = layout
    if variable._value is not None:
        variable.assign(variable.value)


def scope_of(layer):
    """Returns the name scope that gives the variables and sublayers of a layer their paths."""
    return name_scopes((layer.path or layer.name).split("/"))


def name_scopes(names):
    """Returns a context manager that enters the nested name scopes of a path."""
    stack = contextlib.ExitStack()
    for name in names:
        stack.enter_context(keras.name_scope(name))
    return stack


@contextlib.contextmanager
def unlocked(layer):
    """Context manager in which sublayers and variables can be added to and removed from a built layer.

    `Layer._tracker.unlock`, since 3.0, also used by `Layer.enable_lora`. Public: none, a built layer stays locked.
    """
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def rebind_wrapped_methods(layer):
    """Makes `build` and `quantize` of a layer call those of its class, which has changed.

    `Layer.__new__`, since 3.0, sets them as functions that have the method of the first class in their closure. Public:
    none.
    """
    for name in ("build", "quantize"):
        wrapper = vars(layer).get(name)
        for cell in getattr(wrapper, "__closure__", None) or ():
            held = cell.cell_contents
            if getattr(held, "__self__", None) is layer and held.__name__ == name:
                cell.cell_contents = wrapper.__wrapped__ = types.MethodType(getattr(type(layer), name), layer)


def remove_sublayer(layer, name):
    """Deletes a sublayer of a built layer. Public: `delattr` leaves it in `Layer._layers` (since 3.0)."""
    sublayer = getattr(layer, name)
    with unlocked(layer):
        delattr(layer, name)
        layer._tracker.untrack(sublayer)

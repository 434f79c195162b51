"""Examines the code of custom layers: whether it reads a weight in a way that a mask would not reach."""

import dis
import types

import keras

from keras_sparse.layers.mask_in_place import plain_class

_LIBRARIES = ("keras", "keras_sparse", "tensorflow", "torch", "builtins")  # whose classes read weights by public names


def why_mask_has_no_effect(layer: keras.Layer, attribute: str, variable: keras.Variable) -> str | None:
    """Returns why masking an attribute of a layer would have no effect on what it computes, a phrase; None if it would.

    A mask replaces the attribute by a property. A class may read the variable by another attribute, a list, or, in a
    subclass of Keras's layers, by the private name: `self._kernel` instead of `self.kernel`.

    Args:
        layer: `keras.Layer`.
        attribute: str, the name of the weight in the layer.
        variable: `keras.Variable`.
    """
    cls = plain_class(layer) or type(layer)
    own = [x for x in cls.__mro__ if x.__module__.split(".")[0] not in _LIBRARIES]
    if not own:
        return None
    names = (attribute, f"_{attribute}")
    others = [k for k, v in vars(layer).items() if v is variable and k not in names]
    held = [k for k, v in _own_attributes(layer).items() if any(x is variable for x in _elements(v))]
    if others or held:
        return f"is also held as {(others + held)[0]!r}, where its layer would read it without the mask"
    if any(f"_{attribute}" in _names_in(x) for x in own):
        return f"is read as `_{attribute}` by its layer's class, which is the weight without the mask"
    return None


def _own_attributes(layer):
    """Returns the attributes of a layer that plain layers of Keras do not have."""
    known = vars(keras.layers.Layer())
    return {k: v for k, v in vars(layer).items() if k not in known and not k.startswith("_self_")}


def _elements(value):
    """Returns the elements of a list, tuple or dict; none of any other object."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else ()


def _names_in(cls):
    """Returns the names of attributes that the methods of a class read, and the strings in them, as for `getattr`."""
    names = set()
    codes = [code for value in vars(cls).values() for code in _codes(value)]
    for code in codes:
        names |= {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_ATTR", "LOAD_METHOD")}
        names |= {x for x in code.co_consts if isinstance(x, str)}
        codes += [x for x in code.co_consts if isinstance(x, types.CodeType)]  # of functions inside of a method
    return names


# Where methods, properties, decorated functions and functions compiled by TensorFlow hold what they call.
_HELD_FUNCTIONS = ("fget", "func", "__func__", "python_function", "__wrapped__")


def _codes(value):
    """Returns the code of a method of any kind, also of the functions that it decorates; none of other attributes."""
    codes = []
    while value is not None:
        if isinstance(value, types.FunctionType):
            codes.append(value.__code__)
        value = next((f for name in _HELD_FUNCTIONS if (f := getattr(value, name, None)) is not None), None)
    return codes

"""Examines the code of custom layers: whether it reads a weight in a way that a mask would not reach."""

import dis
import functools
import types
from collections.abc import Sequence

import keras

from keras_sparse.layers.mask_in_place import plain_class

_WEIGHT_LISTS = {"weights", "trainable_weights", "variables", "trainable_variables"}
_LIBRARIES = ("keras", "keras_sparse", "tensorflow", "torch", "builtins")  # whose classes read weights by public names


def why_mask_has_no_effect(
    layer: keras.Layer, attribute: str, variable: keras.Variable, around: Sequence[keras.Layer] = ()
) -> str | None:
    """Returns why masking an attribute of a layer would have no effect on what it computes, a phrase; None if it would.

    A mask replaces the attribute by a property. A class may read the variable by another attribute, a list such as
    `self.trainable_weights`, or, in a subclass of Keras's layers, by the private name: `self._kernel` instead of
    `self.kernel`. The `call` of a layer around it may do the latter two as well.

    Args:
        layer: `keras.Layer`.
        attribute: str, the name of the weight in the layer.
        variable: `keras.Variable`.
        around: layers that have the layer inside.
    """
    for outer in (layer, *around):
        read = {name for cls in _custom_classes(outer) for name in _names_in(cls, "call")}
        # Models list their weights for penalties, and compute with their layers.
        lists = set() if isinstance(outer, keras.Model) else _WEIGHT_LISTS
        if found := sorted(read & {*lists, f"_{attribute}"}):
            return f"is read by `{found[0]}` in the `call` of {outer.name!r}, which gives the weight without the mask"
        assigned = {pair for cls in _custom_classes(outer) for pair in _assignments(cls)}
        if any(name == attribute and _find(outer, chain) is layer for chain, name in assigned):
            return f"is assigned to in the `call` of {outer.name!r}, and a masked weight is no variable there"
    own = _custom_classes(layer)
    if not own:
        return None
    names = (attribute, f"_{attribute}")
    others = [k for k, v in vars(layer).items() if v is variable and k not in names]
    held = [k for k, v in _own_attributes(layer).items() if any(x is variable for x in _elements(v))]
    if others or held:
        return f"is also held as {(others + held)[0]!r}, where its layer would read it without the mask"
    if any(f"_{attribute}" in _names_in(cls) for cls in own):
        return f"is read as `_{attribute}` by its layer's class, which is the weight without the mask"
    return None


def _custom_classes(layer):
    """Returns the classes of a layer that are not those of libraries."""
    cls = plain_class(layer) or type(layer)
    return [x for x in cls.__mro__ if x.__module__.split(".")[0] not in _LIBRARIES]


def _own_attributes(layer):
    """Returns the attributes of a layer that plain layers of Keras do not have."""
    known = vars(keras.layers.Layer())
    return {k: v for k, v in vars(layer).items() if k not in known and not k.startswith("_self_")}


def _elements(value):
    """Returns the elements of a list, tuple or dict; none of any other object."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else ()


@functools.lru_cache(1000)
def _names_in(cls, method=None):
    """Returns the names of attributes that the methods of a class read, or one of them, and the strings in them."""
    names = set()
    values = vars(cls).values() if method is None else [vars(cls).get(method)]
    codes = [code for value in values for code in _codes(value)]
    for code in codes:
        names |= {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_ATTR", "LOAD_METHOD")}
        names |= {x for x in code.co_consts if isinstance(x, str)}
        codes += [x for x in code.co_consts if isinstance(x, types.CodeType)]  # of functions inside of a method
    return names


@functools.lru_cache(1000)
def _assignments(cls):
    """Returns the variables to which the `call` of a class assigns, as in `self.block.conv.kernel.assign(x)`.

    Returns:
        Set of `(chain, name)`: ("block", "conv") and "kernel" in the example.
    """
    found, codes = set(), _codes(vars(cls).get("call"))
    this = codes[0].co_varnames[:1] if codes else ()
    for code in codes:
        codes += [x for x in code.co_consts if isinstance(x, types.CodeType)]  # of functions inside of a method
        reads = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
        for i, read in enumerate(reads):
            if read.argval not in ("assign", "assign_add", "assign_sub"):
                continue
            start = i
            while reads[start - 1].opname == "LOAD_ATTR":
                start -= 1
            names = [x.argval for x in reads[start:i]]
            if names and reads[start - 1].argval in this:
                found.add((tuple(names[:-1]), names[-1]))
    return found


def _find(layer, chain):
    """Returns the attribute of an attribute of a layer, and so on; None if there is none."""
    for name in chain:
        layer = getattr(layer, name, None)
    return layer


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

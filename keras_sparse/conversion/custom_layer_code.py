"""Examines the code of custom layers: whether it reads a weight in a way that a mask would not reach."""

import dis
import functools
import types
from collections.abc import Sequence

import keras

from keras_sparse.conversion.object_graph import globals_of, holds_one_of
from keras_sparse.layers.mask_in_place import plain_class
from keras_sparse.layers.traversal import flatten

_WEIGHT_LISTS = {"weights", "trainable_weights", "variables", "trainable_variables"}
_STRING = "a string"
_READ_BY_STRING = {"getattr", "attrgetter", "methodcaller", "vars", "__dict__", "__getattribute__"}
_ASSIGN = ("assign", "assign_add", "assign_sub")
_NOT_IN_CALL = ("build", "get_config", "from_config", "compute_output_shape", "compute_output_spec")  # of other times
_READS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")  # bytecode that reads an attribute, in Python 3.11 to 3.14
_LIBRARIES = ("keras", "keras_sparse", "tensorflow", "torch", "builtins")  # whose classes read weights by public names


def why_mask_has_no_effect(
    layer: keras.Layer, attribute: str, variable: keras.Variable, around: Sequence[keras.Layer] = ()
) -> str | None:
    """Returns why masking an attribute of a layer would have no effect on what it computes, a phrase; None if it would.

    A mask replaces the attribute by a property. A class may read the variable by another attribute, a list such as
    `self.trainable_weights`, or, in a subclass of Keras's layers, by the private name: `self._kernel` instead of
    `self.kernel`. The `call` of a layer around it may do the latter two as well, and what `call` calls.

    Args:
        layer: `keras.Layer`.
        attribute: str, the name of the weight in the layer.
        variable: `keras.Variable`.
        around: layers that have the layer inside.
    """
    for outer in (layer, *around):
        read = _reads_of_call(_custom_classes(outer))
        # Models list their weights for penalties, and compute with their layers.
        lists = set() if isinstance(outer, keras.Model) else _WEIGHT_LISTS
        if not any(name in _READ_BY_STRING for chain, name in read if chain is _STRING):
            read = {(chain, name) for chain, name in read if chain is not _STRING or name not in lists}
        found = {name for chain, name in read if name in lists and _may_be(outer, chain, layer, is_around=True)}
        found |= {name for chain, name in read if name == f"_{attribute}" and _may_be(outer, chain, layer)}
        if found:
            return f"is read by `{min(found)}` in the `call` of {outer.name!r}, which gives the weight without the mask"
        chains = [chain for chain, name in read if name in _ASSIGN and isinstance(chain, tuple)]
        assigned = [chain for chain in chains if chain[-1:] == (attribute,)]
        if any(_may_be(outer, chain[:-1], layer) for chain in assigned):
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


def adds_losses(layer: keras.Layer) -> bool:
    """Returns whether the `call` of a layer calls `add_loss`, in code that is not Keras's."""
    return any(name == "add_loss" for _, name in _reads_of_call(_custom_classes(layer)))


def methods_of_call(layer: keras.Layer) -> list[tuple[type, str]]:
    """Returns `(class, name)` of `call` and the methods and properties of custom classes that it uses, at any depth."""
    return _methods_of_call(_custom_classes(layer))


def check_global_names(model: keras.Model) -> None:
    """Raises ValueError if the `call` of a layer in a model reads layers of the model by global names.

    A copy of the model has layers of the same classes, which would read the layers of the original.
    """
    layers = [model, *flatten(model)]
    ids = {id(x) for x in (*layers, *model.variables)}
    for layer in layers:
        for cls, method in methods_of_call(layer):
            read = [pair for f in _functions(vars(cls)[method]) for pair in globals_of(f).items()]
            names = [name for name, value in read if holds_one_of(value, ids)]
            if names:
                raise ValueError(
                    f"The layer {layer.name!r} of class {cls.__name__} reads layers or weights of the model by global "
                    f"names in `{method}`: {names}. A copy would use those of the original. Hold them as attributes, "
                    "or use `in_place=True`, which copies nothing."
                )


@functools.lru_cache(10_000)
def _methods_of_call(classes):
    found, names = [], {"call": None}  # a dict as an ordered set
    queue = list(names)
    for name in queue:
        for cls in (x for x in classes if name in vars(x)):
            found.append((cls, name))
            new = {x: None for _, x in _reads(cls, name) if x not in names and x not in _NOT_IN_CALL}
            names |= new
            queue += new
    return found


@functools.lru_cache(10_000)
def _reads_of_call(classes):
    """Returns what `_reads` finds in all methods of `_methods_of_call`."""
    return frozenset(pair for cls, method in _methods_of_call(classes) for pair in _reads(cls, method))


def _custom_classes(layer):
    """Returns a tuple of the classes of a layer that are not those of libraries."""
    cls = plain_class(layer) or type(layer)
    return tuple(x for x in cls.__mro__ if x.__module__.split(".")[0] not in _LIBRARIES)


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
    """Returns the names of attributes that the methods of a class read, and the strings in them that may be names."""
    return {name for method in vars(cls) for _, name in _reads(cls, method)}


@functools.lru_cache(10_000)
def _reads(cls, method):
    """Returns the attributes that a method of a class reads, and how it comes to them.

    Returns:
        Set of `(chain, name)`: `self.block.conv.kernel` gives (("block", "conv"), "kernel") among others. The chain is
        None if it does not begin with `self`, and "a string" for strings, which may be names.
    """
    found, codes = set(), [f.__code__ for f in _functions(vars(cls).get(method))]
    this = codes[0].co_varnames[:1] if codes else ()
    for code in codes:
        codes += [x for x in code.co_consts if isinstance(x, types.CodeType)]  # of functions inside of a method
        found |= {(_STRING, x) for x in code.co_consts if isinstance(x, str)}
        found |= {(_STRING, x) for x in _READ_BY_STRING & set(code.co_names)}
        steps = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
        for i, step in enumerate(steps):
            if step.opname not in _READS:
                continue
            start = i
            while start and steps[start - 1].opname == "LOAD_ATTR":
                start -= 1
            from_self = start and steps[start - 1].argval in this
            found.add((tuple(x.argval for x in steps[start:i]) if from_self else None, step.argval))
    return found


def _may_be(outer, chain, layer, is_around=False):
    """Returns whether attributes of attributes of a layer lead to another one, or may do so, if they are unknown.

    Args:
        outer: the layer with the attributes.
        chain: tuple of the names of the attributes; anything else if they are unknown.
        layer: the other layer.
        is_around: bool, whether they may also lead to a layer that has the other one inside.
    """
    if not isinstance(chain, tuple):
        return True
    for name in chain:
        outer = getattr(outer, name, None)
    if outer is layer:
        return True
    return is_around and (not isinstance(outer, keras.Layer) or any(x is layer for x in flatten(outer)))


# Where methods, properties, decorated functions and functions compiled by TensorFlow hold what they call.
_HELD_FUNCTIONS = ("fget", "func", "__func__", "python_function", "__wrapped__")


def _functions(value):
    """Returns the functions of a method of any kind, also those that it decorates; none of other attributes."""
    functions = []
    while value is not None:
        if isinstance(value, types.FunctionType):
            functions.append(value)
        value = next((f for name in _HELD_FUNCTIONS if (f := getattr(value, name, None)) is not None), None)
    return functions

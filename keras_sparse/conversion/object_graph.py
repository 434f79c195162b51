"""Finds out which objects, such as functions and losses, refer to layers and variables."""

import dis
import functools
import gc
import itertools
import sys
import types
import weakref
from collections.abc import Callable, Iterable

import keras
import numpy as np

from keras_sparse.layers.traversal import flatten

# Objects of these packages are shared with the original, as functions and classes are, unless they hold layers.
_SHARED_PACKAGES = sys.stdlib_module_names | {"numpy", "tensorflow", "jax", "jaxlib", "torch", "absl", "ml_dtypes"}
_NO_REFERENCES = (str, bytes, bytearray, int, float, complex, type(None), np.ndarray, np.generic)
_NOT_FOLLOWED = (type, types.ModuleType, types.FrameType, types.CodeType, types.BuiltinFunctionType, *_NO_REFERENCES)
_KERAS = (keras.Operation, keras.Variable, keras.KerasTensor)
_HOLDERS = (types.FunctionType, types.MethodType, functools.partial, list, tuple, dict)
# Objects of Keras that may refer to variables, but do not compute the output of a layer.
NOT_COMPUTING = (keras.Initializer, keras.Regularizer, keras.constraints.Constraint, keras.Optimizer, keras.Metric)
_MOST_OBJECTS = 1_000_000  # that are looked at for one object


class References:
    """Answers whether objects refer to objects of Keras or to others that are copied, and remembers it.

    Args:
        copied: dict whose keys are the ids of the objects that are copied so far.
    """

    def __init__(self, copied: dict):
        self._copied = copied
        self._known = {}  # id -> whether it does
        self._asked = []  # keeps the objects alive, so that their ids stay unique

    def refers_to_keras(self, value) -> bool:
        """Returns whether a function or an object of a shared package refers to a layer, a variable or their tensors.

        Functions refer to what is in their closure, defaults and attributes, and to the global names that they read.
        """
        if id(value) not in self._known:
            self._known[id(value)] = self._search(value)
            self._asked.append(value)
        return self._known[id(value)]

    def _search(self, value):
        if not _may_refer_to_keras(value):
            return False
        for count, x in enumerate(_walk(value)):
            if isinstance(x, _KERAS) or id(x) in self._copied:
                return True
            if count > _MOST_OBJECTS:
                raise ValueError(
                    f"An object of class {type(value).__name__} in the model refers to more than {_MOST_OBJECTS:,} "
                    "others, too many to look for layers in. Received: an object that begins with "
                    f"{repr(value)[:100]}. Hold the layers as attributes of a layer or model, and data elsewhere; or "
                    "use `in_place=True`, which copies nothing."
                )
        return False


def refers_to(value, objects: Iterable) -> bool:
    """Returns whether a function or object refers to one of some layers and variables, or to a layer around them.

    It is True, too, if there are too many objects to look at.
    """
    ids = {id(x) for x in objects}
    for count, x in enumerate(_walk(value)):
        if id(x) in ids or (isinstance(x, keras.Layer) and any(id(y) in ids for y in flatten(x))):
            return True
        if count > _MOST_OBJECTS:
            return True
    return False


def variables_in(function: Callable) -> list[keras.Variable]:
    """Returns the variables that a function or callable object refers to, except by the layers that have them."""

    def is_followed(x):
        is_plain = not isinstance(x, (*_KERAS, *NOT_COMPUTING)) and is_plain_object(x)
        return is_plain or isinstance(x, (keras.Variable, *_HOLDERS))

    walk = itertools.islice(_walk(function, is_followed), _MOST_OBJECTS)
    return [x for x in walk if isinstance(x, keras.Variable)]


def holds_one_of(value, ids: set[int]) -> bool:
    """Returns whether an object is one of some layers and variables, or a function or container that holds one.

    Args:
        value: any object.
        ids: the ids of the layers and variables.
    """
    return any(id(x) in ids for x in _walk(value, lambda x: isinstance(x, (*_KERAS, *_HOLDERS))))


def _walk(value, is_followed=lambda x: True):
    """Yields an object and those that it refers to, at any depth, each once. What objects of Keras have is left out."""
    seen, queue = {id(value)}, [value]
    for x in queue:
        yield x
        for y in () if isinstance(x, _KERAS) else _referents(x):
            if id(y) not in seen and not isinstance(y, _NOT_FOLLOWED) and is_followed(y):
                seen.add(id(y))
                queue.append(y)


def _may_refer_to_keras(value):
    # Objects of TensorFlow, JAX and PyTorch share state with many others. Only functions compiled by them matter.
    is_of_stdlib = type(value).__module__.split(".")[0] in sys.stdlib_module_names
    return callable(value) or is_of_stdlib or is_plain_object(value)


def _referents(value):
    """Returns the objects that an object refers to."""
    if isinstance(value, types.FunctionType):
        held = [c.cell_contents for c in value.__closure__ or () if has_contents(c)]
        held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values()]
        return [*held, *globals_of(value).values()]
    if type(value) in weakref.ProxyTypes:
        return [value.__dir__.__self__]
    if isinstance(value, weakref.ref):
        return [] if value() is None else [value()]
    if isinstance(value, functools.partial):  # Its dict of keywords is known to the garbage collector only if tracked.
        return [value.func, *value.args, *value.keywords.values()]
    wrapped = vars(value).get("__wrapped__") if hasattr(value, "__dict__") else getattr(value, "__wrapped__", None)
    return [*gc.get_referents(value), *([] if wrapped is None else [wrapped])]


def is_plain_object(value) -> bool:
    """Returns whether an object has attributes to copy, and is not of a package whose objects are shared."""
    cls = type(value)
    if cls.__module__.split(".")[0] in _SHARED_PACKAGES and cls is not types.SimpleNamespace:
        return False
    return _is_python_class(cls)


def globals_of(function) -> dict:
    """Returns the global objects that a function reads, by name; none if it is of a shared package or of Keras."""
    if (function.__module__ or "").split(".")[0] in _SHARED_PACKAGES | {"keras"}:
        return {}
    found = {name: function.__globals__.get(name) for name in _global_names(function.__code__)}
    return {k: v for k, v in found.items() if not isinstance(v, _NOT_FOLLOWED) and _may_refer_to_keras(v)}


@functools.lru_cache(1000)
def _global_names(code):
    """Returns the global names that code reads, also in the functions that it defines."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(x) for x in code.co_consts if isinstance(x, types.CodeType)))


@functools.lru_cache(1000)
def _is_python_class(cls):
    """Returns whether `object.__new__` can make objects of a class: it and its bases are not implemented in C."""
    return not any(isinstance(vars(x).get("__new__"), types.BuiltinMethodType) for x in cls.__mro__ if x is not object)


def attributes_of(value) -> dict:
    """Returns the attributes of an object, from its dict and its slots."""
    held = {}
    for cls in type(value).__mro__:
        names = cls.__dict__.get("__slots__", ())
        for name in [names] if isinstance(names, str) else names:
            if name.startswith("__") and not name.endswith("__"):  # as Python mangles names
                name = f"_{cls.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                held[name] = getattr(value, name)
    return {**held, **getattr(value, "__dict__", {})}


def has_contents(cell) -> bool:
    """Returns whether a cell of a closure has been assigned."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True

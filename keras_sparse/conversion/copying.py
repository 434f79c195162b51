"""Copies a model object by object, without serializing it.

`keras.models.clone_model` makes each layer from its config, and loses what a config does not contain: custom functions
and classes, the state of adapted layers, the class of the model. Here the objects themselves are copied, as by
`copy.deepcopy`. `deepcopy` itself cannot be used, since Keras's classes define pickling, and so copying, by config.
"""

import collections
import copy
import enum
import functools
import random
import sys
import types
import weakref
from collections.abc import Callable

import keras
import numpy as np

from keras_sparse import _keras, backend
from keras_sparse.conversion.object_graph import References, attributes_of, globals_of, has_contents, is_plain_object

_CONSTANTS = (bool, int, float, complex, str, bytes, type, types.ModuleType, enum.Enum)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_ARRAYS = (np.ndarray, np.random.Generator, np.random.RandomState)
_STATEFUL = (random.Random, bytearray)  # of the standard library; not their subclasses, some of which cannot be copied


def copy_model(model: keras.Model) -> tuple[keras.Model, Callable]:
    """Copies a model, with new variables. The copy is not compiled.

    Layers, nested models, wrappers, adapted state and the graph of a functional model are copied, and keep class, name
    and path. Functions, classes and lookup tables are shared with the original, but a function that refers to a layer
    or variable, by its closure or by a global name, is copied. Like every Keras model, the copy belongs to the
    distribution strategy in whose scope it is made.

    Args:
        model: built `keras.Model` of any kind.

    Returns:
        `(copy, twin)`: the model, and a function from a layer of the original to the same layer of the copy.

    Raises:
        ValueError: if an object in the model cannot be copied. The message names the layer that holds it.
    """
    copier = _Copier()
    new = copier.copy(model)
    copier.finish()
    return new, copier.copy


class _Copier:
    """Copies objects that refer to each other, each object once.

    `copy` makes an empty object and adds it to a list; `finish` copies the attributes of the objects in the list. So
    the depth of the recursion does not grow with the depth of the network, which would exceed Python's limit.
    """

    def __init__(self):
        self._made = {}  # id of the original -> copy
        self._originals = []  # keeps the originals alive, so that their ids stay unique
        self._unfilled = []  # (original, copy) of objects whose attributes are still to be copied
        self._functions = []  # (original, copy) of each keras.Function
        self._layers = []  # (original, copy) of each layer and model
        self._optimizers = []  # (original, copy) of built optimizers, which identify variables by id
        self._trackers = []  # copies of Keras's trackers, which list variables by id
        self._holder = None  # the layer whose attributes are being copied, for messages
        self._references = References(self._made)
        self._compile_names, self._uncompiled = _keras.uncompiled_state()

    def copy(self, value):
        """Returns the copy of an object, or the object itself if it is shared."""
        # Already copied, or constant.
        if id(value) in self._made:
            return self._made[id(value)]
        if value is None or isinstance(value, _CONSTANTS):
            return value
        if type(value) in weakref.ProxyTypes:  # For `isinstance`, it is of the class of what it refers to.
            return self._note(value, weakref.proxy(self.copy(value.__dir__.__self__)))
        # Values: variables, arrays, and tensors of the backend.
        if isinstance(value, keras.Variable):
            return self._copy_variable(value)
        if isinstance(value, _ARRAYS) or type(value) in _STATEFUL:
            return self._note(value, copy.deepcopy(value))
        if (
            not isinstance(value, keras.Layer)
            and (native := backend.copy_native(value, self._made, self.copy)) is not value
        ):
            return self._note(value, native)
        # Containers and functions, with what they refer to.
        if isinstance(value, _CONTAINERS):
            return self._copy_container(value)
        if isinstance(value, types.FunctionType):
            return self._copy_function(value) if self._references.refers_to_keras(value) else value
        if isinstance(value, types.MethodType):
            return self._note(value, types.MethodType(self.copy(value.__func__), self.copy(value.__self__)))
        if isinstance(value, functools.partial):
            keywords = {k: self.copy(v) for k, v in value.keywords.items()}
            return self._note(value, functools.partial(self.copy(value.func), *map(self.copy, value.args), **keywords))
        if isinstance(value, weakref.ref):
            target = value()
            return value if target is None else self._note(value, weakref.ref(self.copy(target)))
        # Layers and all other objects.
        if isinstance(value, keras.DTypePolicy):
            return value
        if not is_plain_object(value):
            holds = type(value) is collections.deque or self._references.refers_to_keras(value)
            return self._copy_holder(value) if holds else value
        new = self._note(value, object.__new__(type(value)))
        self._unfilled.append((value, new))
        return new

    def finish(self):
        """Copies the attributes of all copied objects, then the graphs of functional models."""
        self._fill()
        # A node of a graph is one call of a layer. Nodes may belong to several functions, so each is copied once.
        nodes = {}
        for function, _ in self._functions:
            nodes.update((id(node), node) for node in _keras.graph_nodes(function))
        self._copy_nodes(nodes.values())
        # With its nodes copied, the remaining attributes of a function refer to copies only.
        for function, new in self._functions:
            for name in _keras.GRAPH_OF_FUNCTION[1:]:
                object.__setattr__(new, name, self.copy(getattr(function, name)))
            self._fill()
            _keras.name_nodes(new)
        for tracker in self._trackers:
            _keras.renew_tracker_ids(tracker)
        for optimizer, new in self._optimizers:
            _keras.renew_optimizer_keys(optimizer, new)
        for layer, new in self._layers:
            names = self._names_left_out(layer) if isinstance(layer, keras.Model) else ()
            backend.copy_dependencies(layer, new, names)

    def _names_left_out(self, model):
        """Returns the attributes that a copied model does not have: those set by `compile` and `fit`.

        A model that is not compiled may have an `optimizer` and a `loss` of its own. Optimizers that are not Keras's
        are objects of other packages, and would be shared.
        """
        if model.compiled:
            return self._compile_names
        is_keras = isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer)
        return _keras.SET_BY_FIT | (set() if is_keras else {"optimizer"})

    def _note(self, value, new):
        self._made[id(value)] = new
        self._originals.append(value)
        return new

    def _copy_variable(self, variable):
        new = self._note(variable, _keras.copy_variable(variable, backend.read(variable)))
        backend.link_native(variable, new, self._made)
        new.regularizer, new.constraint = self.copy(variable.regularizer), self.copy(variable.constraint)
        new.overwrite_with_gradient = variable.overwrite_with_gradient
        return new

    def _copy_container(self, value):
        cls = type(value)
        if cls.__module__.startswith("tensorflow."):
            # TensorFlow wraps containers for its checkpoints. Copy them as plain containers: what a wrapper has inside,
            # which may be a namedtuple, or the elements of its own kind of list.
            plain = getattr(value, "__wrapped__", None)
            if plain is None:
                plain = next(c for c in _CONTAINERS if isinstance(value, c))(value)
            self._originals.append(plain)
            return self._note(value, self._copy_container(plain))
        if isinstance(value, (tuple, frozenset)):
            items = [self.copy(x) for x in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            if hasattr(cls, "_make"):
                return self._note(value, cls._make(items))
            return self._note(value, cls.__new__(cls, items))
        new = self._note(value, cls.__new__(cls))
        if isinstance(value, dict):
            # Past the `__setitem__` of users' classes. An OrderedDict has its own list of the keys.
            set_item = next(c for c in (collections.OrderedDict, dict) if isinstance(value, c)).__setitem__
            for k, v in value.items():
                set_item(new, self.copy(k), self.copy(v))
            if hasattr(value, "default_factory"):
                new.default_factory = self.copy(value.default_factory)
        elif isinstance(value, list):
            list.extend(new, map(self.copy, value))
        else:
            set.update(new, map(self.copy, value))
        for k, v in getattr(value, "__dict__", {}).items():
            new.__dict__[k] = self.copy(v)
        return new

    def _copy_function(self, value):
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        # The copy has the globals of the module as they are now, if layers or variables are among those that it reads.
        read = {k: v for k, v in globals_of(value).items() if self._references.refers_to_keras(v)}
        names = {**value.__globals__} if read else value.__globals__
        new = types.FunctionType(value.__code__, names, value.__name__, None, cells or None)
        self._note(value, new)
        names.update({k: self.copy(v) for k, v in read.items()})
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            if has_contents(old):
                cell.cell_contents = self.copy(old.cell_contents)
        new.__defaults__ = self.copy(value.__defaults__)
        new.__kwdefaults__ = self.copy(value.__kwdefaults__)
        new.__dict__.update({k: self.copy(v) for k, v in vars(value).items()})
        for name in ("__doc__", "__qualname__", "__module__", "__annotations__"):
            setattr(new, name, getattr(value, name))
        return new

    def _copy_holder(self, value):
        """Copies an object of a shared package that refers to something that is copied, such as a deque of layers."""
        if isinstance(value, types.MappingProxyType):
            return self._note(value, types.MappingProxyType(self.copy(dict(value))))
        if hasattr(value, "cache_parameters"):  # of functools.lru_cache
            made = functools.lru_cache(**value.cache_parameters())(self.copy(value.__wrapped__))
            return self._note(value, made)
        # As `copy.deepcopy` does, by the protocol of pickle.
        function, arguments, state, items, pairs = (*_reduced(value), None, None, None)[:5]
        new = self._note(value, function(*map(self.copy, arguments)))
        if state is not None:
            (new.__setstate__ if hasattr(new, "__setstate__") else new.__dict__.update)(self.copy(state))
        for item in items or ():
            new.append(self.copy(item))
        for k, v in pairs or ():
            new[self.copy(k)] = self.copy(v)
        return new

    def _fill(self):
        while self._unfilled:
            value, new = self._unfilled.pop()
            if isinstance(value, keras.Layer):
                self._holder = value
            try:
                self._fill_one(value, new)
            except ValueError:
                raise
            except Exception as error:
                holder = self._holder
                raise ValueError(
                    f"The layer {holder.name!r} of class {type(holder).__name__} cannot be copied: an object of class "
                    f"{type(value).__name__} in it cannot be, or what that refers to. Received: "
                    f"{type(error).__name__}: {error}. Remove it, or use `in_place=True`, which copies nothing."
                ) from error

    def _fill_one(self, value, new):
        state, fresh = attributes_of(value), {}
        if isinstance(value, keras.Operation):
            fresh |= {name: [] for name in _keras.GRAPH_OF_OPERATION}
        if isinstance(value, keras.Function):
            self._functions.append((value, new))
            for name in _keras.GRAPH_OF_FUNCTION:
                state.pop(name, None)
        if isinstance(value, keras.Layer):
            self._layers.append((value, new))
            # What TensorFlow tracks is found anew, since it includes the optimizer. See `backend.copy_dependencies`.
            state = {n: v for n, v in state.items() if n not in backend.DEPENDENCY_ATTRIBUTES}
            # `losses` belong to the last call of the original.
            fresh |= _keras.no_losses()
        if isinstance(value, keras.Model):
            names = self._names_left_out(value)
            for name in names:
                state.pop(name, None)
            fresh |= {n: v for n, v in self._uncompiled.items() if n in names}
            state = {n: v for n, v in state.items() if not _keras.is_of_one_fit(v)}
        if isinstance(value, keras.KerasTensor):
            # The call that made a tensor is set when that call is copied. Tensors outside of the graphs keep theirs.
            fresh |= {name: state[name] for name in _keras.HISTORY if name in state}
        state = _keras.without_torch_parameters(state)
        if isinstance(value, keras.optimizers.Optimizer) and value.built:
            self._optimizers.append((value, new))
        self._originals.append(state)  # On PyTorch it has a new dict, whose id must stay unique.
        if _keras.is_tracker(value):
            self._trackers.append(new)
        # Bypass the `__setattr__` of the class: what it records is stored in attributes, which are copied as well.
        for name, held in state.items():
            if name not in fresh:
                object.__setattr__(new, name, self.copy(held))
        for name, held in fresh.items():
            object.__setattr__(new, name, held)

    def _copy_nodes(self, nodes):
        """Copies the nodes of graphs, in the order in which each operation was called."""
        nodes = list(nodes)
        for node, _ in _keras.calls_in_order(nodes):
            operation, new = self.copy(node.operation), self.copy(node)
            self._fill()
            _keras.add_call(operation, new)
        for node in nodes:
            _keras.add_uses(self.copy(node))


def _reduced(value):
    """Returns what an object of the standard library is pickled as: a tuple that begins with function and arguments.

    Raises:
        TypeError: if it gives nothing, or only a name, or is not of the standard library.
    """
    cls = type(value)
    try:
        reduced = value.__reduce_ex__(4) if cls.__module__.split(".")[0] in sys.stdlib_module_names else None
    except TypeError:
        reduced = None
    if not isinstance(reduced, tuple):
        raise TypeError(
            f"{value!r} refers to layers or variables, and objects of class {cls.__name__} cannot be copied"
        )
    return reduced

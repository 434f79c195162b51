"""Copies of layers and graphs of operations."""

import functools

import keras

from keras_sparse._keras.layers import layout_of, name_scopes


def graph_nodes(function):
    """Returns the nodes of a `keras.Function`, inputs first: `_nodes_by_depth`, since 3.0.

    Public: `Function.operations` has the operations, but not the tensors with which each was called.
    """
    return [
        node for depth in sorted(function._nodes_by_depth, reverse=True) for node in function._nodes_by_depth[depth]
    ]


HISTORY = ("_keras_history",)
GRAPH_OF_OPERATION = ("_inbound_nodes", "_outbound_nodes")
GRAPH_OF_FUNCTION = ("_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth")


def no_losses():
    """Returns the attributes in which a layer keeps the losses of its last call, empty: `Layer._losses`, since 3.0."""
    return {"_losses": [], "_loss_ids": set()}


def name_nodes(function):
    """Sets the keys of the nodes of a copied function, which contain the ids of the operations.

    `Function._nodes` and `keras.src.ops.function.make_node_key`, since 3.0: `get_config` and saving look them up.
    """
    function._nodes = {
        keras.src.ops.function.make_node_key(node.operation, index)
        for node, index in calls_in_order(graph_nodes(function))
    }


def calls_in_order(nodes):
    """Returns `(node, index of the call)` for some nodes, sorted by index: `Operation._inbound_nodes`, since 3.0."""
    numbered = [(n, next(i for i, x in enumerate(n.operation._inbound_nodes) if x is n)) for n in nodes]
    return sorted(numbered, key=lambda pair: pair[1])


def add_call(operation, node):
    """Records a call of an operation, and in its output tensors the index of the call: `_keras_history`, since 3.0."""
    index = len(operation._inbound_nodes)
    operation._inbound_nodes.append(node)
    for i, tensor in enumerate(node.outputs):
        tensor._keras_history = type(tensor._keras_history)(operation, index, i)


def add_uses(node):
    """Records a call in the operations that made its arguments: `Operation._outbound_nodes`, since 3.0."""
    for tensor in node.arguments.keras_tensors:
        operation = tensor._keras_history.operation
        if operation is not None:
            operation._outbound_nodes.append(node)


def renew_tracker_ids(tracker):
    """Updates the ids of the tracked objects in the tracker of a copied layer: `Tracker.stored_ids`, since 3.0."""
    tracker.stored_ids = {name: {id(x) for x in store} for name, (_, store) in tracker.config.items()}


def without_torch_parameters(state):
    """Returns the attributes of a layer without its second list of variables, which Keras makes anew on PyTorch.

    There a layer is a `torch.nn.Module`, too, with `_torch_params` among its `_modules`; since 3.0.
    """
    if not isinstance(modules := state.get("_modules"), dict):
        return state
    return {**state, "_modules": {k: v for k, v in modules.items() if k != "_torch_params"}}


def track_torch_parameters(model):
    """Lists the variables of all layers in a model as parameters of their `torch.nn.Module`s.

    `Layer._track_variables`, since 3.0, on PyTorch. Keras lists them when a layer is built, and not again when masks
    are added or removed later.
    """
    for module in model.modules():
        if isinstance(module, keras.Layer):
            module._track_variables()


def renew_optimizer_keys(optimizer, new):
    """Updates the dicts of a copied optimizer whose keys are ids of variables, such as `_trainable_variables_indices`.

    `Optimizer._var_key` and `_trainable_variables`, since 3.0.
    """
    pairs = zip(optimizer._trainable_variables, new._trainable_variables, strict=True)
    keys = {optimizer._var_key(v): new._var_key(w) for v, w in pairs}
    for name, held in list(vars(new).items()):
        if isinstance(held, dict) and held and held.keys() <= keys.keys():
            object.__setattr__(new, name, {keys[k]: v for k, v in held.items()})


def is_tracker(value):
    """Whether an object is the `Tracker` of a layer, a class that Keras does not export; since 3.0."""
    return isinstance(value, type(_probe()._tracker))


@functools.cache
def _probe():
    return keras.layers.Layer()


SET_BY_FIT = {"train_function", "test_function", "predict_function", "_distribute_strategy", "_initial_epoch"}
SET_BY_FIT |= {"_jax_state", "_jax_state_synced", "_eval_epoch_iterator"}


def uncompiled_state():
    """Returns the attributes of a model that `compile` and `fit` set, with their values in a new model.

    Public: there is no way to undo `compile`. The attributes that it sets are found by compiling an empty model, so
    that only those set by `fit` have to be listed here.

    Returns:
        Tuple `(names, values)`: a set of names, and a dict with the values of those that a new model has.
    """
    new, compiled = keras.Sequential(), keras.Sequential()
    before = dict(vars(compiled))
    compiled.compile("sgd", "mse", metrics=["accuracy"])
    missing = object()
    names = {n for n, v in vars(compiled).items() if before.get(n, missing) is not v}
    # Keras's list of layers changes with any attribute. TensorFlow's own attributes are added with the first one.
    names -= {"_tracker", "_layers", *(n for n in names if n.startswith("_self_"))}
    names |= SET_BY_FIT
    return names, {n: v for n, v in vars(new).items() if n in names}


def set_value(variable, value):
    """Sets the native variable of a Keras variable: `Variable._value`, since 3.0.

    Public: `Variable.assign` copies the numbers, and keeps the native variable.
    """
    variable._value = value


def copy_variable(variable, value):
    """Makes a variable with another value, an array, and the same name, path, layout and settings.

    `Variable._autocast`, since 3.0. Public: there is no way to ask whether a variable is cast under mixed precision.
    """
    with name_scopes(variable.path.split("/")[:-1]):
        return type(variable)(
            value,
            dtype=variable.dtype,
            trainable=variable.trainable,
            autocast=variable._autocast,
            aggregation=variable.aggregation,
            synchronization=variable.synchronization,
            name=variable.name,
            layout=layout_of(variable),
        )

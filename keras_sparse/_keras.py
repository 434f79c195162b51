"""All uses of undocumented attributes of Keras.

Each docstring names the private attribute, the first version of Keras known to have it, and the public alternative with
the reason why it does not suffice. `ATTRIBUTES` lists the attributes for `tests/test_keras_internals.py`, which fails
with the name of this file if a new version of Keras lacks one.
"""

import contextlib
import functools

import keras

# Kind of object -> private attributes that this file uses.
ATTRIBUTES = {
    "layer": ("_layers", "_tracker", "_losses", "_loss_ids", "_trainable_variables"),
    "operation": ("_inbound_nodes", "_outbound_nodes"),
    "function": ("_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth"),
    "model": ("_initial_epoch",),
    "tracker": ("config", "stored_ids", "locked", "lock", "unlock", "untrack"),
    "tensor": ("_keras_history",),
    "node": ("arguments", "outputs", "operation"),
    "variable": ("_value", "_layout", "_autocast"),
    "optimizer": ("_iterations", "_trainable_variables"),
}


def sublayers(layer):
    """Returns the direct sublayers of a layer, in the order in which they were added.

    `Layer._layers`, since 3.0. Public: `Model.layers`, for models only. `Layer._flatten_layers` has another order.
    """
    return list(layer._layers)


def lists_layers_in_config(model):
    """Returns whether the config of a model has that of each of its layers: a functional or Sequential model has.

    A subclass of these is made anew by its own code. `keras.src.models.Functional`, since 3.0; not exported.
    """
    return type(model) in (keras.Sequential, keras.src.models.Functional)


def conv_lstm_cell():
    """Returns the class of the cells of `keras.layers.ConvLSTM2D`; since 3.0; not exported."""
    return keras.src.layers.rnn.conv_lstm.ConvLSTMCell


def own_weights(layer):
    """Returns the weights of a layer without those of its sublayers, frozen ones too: `Layer._trainable_variables`.

    Since 3.0. Public: `Layer.trainable_variables`, with those of sublayers and without frozen ones.
    """
    return list(layer._trainable_variables)


def in_stateless_scope():
    """Whether a `keras.StatelessScope` is active. The class is public, but not this function (since 3.0)."""
    return keras.src.backend.in_stateless_scope()


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


# Copying.


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


def is_tracker(value):
    """Whether an object is the `Tracker` of a layer, a class that Keras does not export; since 3.0."""
    return isinstance(value, type(_probe()._tracker))


@functools.cache
def _probe():
    return keras.layers.Layer()


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
    names = {
        n for n, v in vars(compiled).items() if before.get(n, missing) is not v and n not in ("_tracker", "_layers")
    }
    names |= {"train_function", "test_function", "predict_function", "_distribute_strategy", "_initial_epoch"}
    names |= {"_jax_state", "_jax_state_synced", "_eval_epoch_iterator"}
    return names, {n: v for n, v in vars(new).items() if n in names}


def forget_compiled_functions(model):
    """Makes `fit`, `evaluate` and `predict` trace a model anew, whose layers have changed; since 3.0.

    Public: `compile`, which also makes the optimizer and metrics start anew.
    """
    for name in ("train_function", "test_function", "predict_function"):
        if hasattr(model, name):
            setattr(model, name, None)


def copy_variable(variable, value):
    """Makes a variable with another value, an array, and the same name, path, layout and settings.

    `Variable._autocast`, since 3.0. Public: there is no way to ask whether a variable is cast under mixed precision.
    """
    with _scope(variable.path.split("/")[:-1]):
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


def scope_of(layer):
    """Returns the name scope that gives the variables and sublayers of a layer their paths."""
    return _scope((layer.path or layer.name).split("/"))


def _scope(names):
    """Returns a context manager that enters the nested name scopes of a path."""
    stack = contextlib.ExitStack()
    for name in names:
        stack.enter_context(keras.name_scope(name))
    return stack


# Changing a layer's class.


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


def remove_sublayer(layer, name):
    """Deletes a sublayer of a built layer. Public: `delattr` leaves it in `Layer._layers` (since 3.0)."""
    sublayer = getattr(layer, name)
    with unlocked(layer):
        delattr(layer, name)
        layer._tracker.untrack(sublayer)


def batch_counter(optimizer):
    """Returns the variable in which an optimizer counts batches: `_iterations`, since 3.0.

    Public: `Optimizer.iterations` counts steps, which are fewer if gradients are accumulated over batches.
    """
    return optimizer._iterations


def wrapped_optimizers(optimizer):
    """Returns the optimizers inside a `LossScaleOptimizer` or `MultiOptimizer`: `_inner_optimizers`, since 3.15.

    Public: `inner_optimizer` exists for the former only.
    """
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "_inner_optimizers", ())]
    return [x for x in inner if x is not None]


def trained_variables(optimizer):
    """Returns the variables that a built optimizer trains: `_trainable_variables`, since 3.0.

    Public: `Optimizer.variables` has the optimizer's own variables only.
    """
    return optimizer._trainable_variables


def lists_of_variables(optimizer):
    """Returns the attributes of an optimizer that are lists, such as `_momentums` (since 3.0), as a dict.

    Public: `Optimizer.variables` is one flat list, in which only names tell to which trained variable a slot belongs.
    """
    lists = {name: value for name, value in vars(optimizer).items() if isinstance(value, list)}
    return {name: value for name, value in lists.items() if name not in ("_variables", "_trainable_variables")}


# Training.


def _super_batches():
    return getattr(keras.src.trainers.data_adapters.data_adapter_utils, "PartialBatchList", None)


# Since Keras 3.16, the train function on JAX gets all batches of an execution at once, stacked or as a list.
SUPER_BATCHES = _super_batches() is not None


def last_of_super_batch(batches):
    """Returns the last batch of one execution: `PartialBatchList`, since 3.16. Public: none."""
    if isinstance(batches, _super_batches()):
        return batches[-1]
    return keras.tree.map_structure(lambda x: None if x is None else x[-1], batches)


def refresh_held_state(model):
    """Copies the values of the variables to the state that `fit` holds on JAX: `Model._jax_state`, since 3.0.

    Public: `Model.jax_state_sync` (`state_sync` since 3.16) copies in the other direction only.
    """
    if getattr(model, "_jax_state", None) is None or not model._jax_state_synced:
        return
    model._jax_state = {
        "trainable_variables": [v.value for v in model.trainable_variables],
        "non_trainable_variables": [v.value for v in model.non_trainable_variables],
        "optimizer_variables": [v.value for v in model.optimizer.variables],
        "metrics_variables": [v.value for v in model.metrics_variables],
    }


def has_train_step_of_keras(model):
    """Whether the `train_step` of a model is the one of Keras, which `training/train_step.py` may have hooked."""
    step = model.train_step
    module = getattr(getattr(step, "__func__", step), "__module__", "")
    return module.startswith(("keras.src.backend.", "keras_sparse.backend."))


def begin_after(model, epochs):
    """Makes the current `fit` start after some epochs; None for its argument `initial_epoch`: `Model._initial_epoch`.

    Since 3.0, where `keras.callbacks.BackupAndRestore` sets it, too. Public: none.
    """
    model._initial_epoch = epochs

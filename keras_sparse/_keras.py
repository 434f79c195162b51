"""Every touch of what Keras does not document, in one place.

Each function says which attributes it needs, since which version of Keras they are known to be there, and which public
way was tried first. `ATTRIBUTES` lists them for `tests/test_keras_internals.py`, which fails with the name of this file
when a new version of Keras lacks one.
"""

import contextlib
import functools

import keras

# Kind of object -> attributes that this file uses.
ATTRIBUTES = {
    "layer": ("_layers", "_tracker", "_losses", "_loss_ids"),
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
    """The layers that a layer holds directly, in the order in which it got them.

    `Layer._layers`, since 3.0. Public: `Model.layers` is for models only. `Layer._flatten_layers` has another order.
    """
    return list(layer._layers)


def in_stateless_scope():
    """Whether variables are values that a function got: `keras.StatelessScope` is public, this question is not."""
    return keras.src.backend.in_stateless_scope()


def held_value(variable):
    """The array that a variable holds, or None: on JAX `fit` takes it away while it trains. `Variable._value`, of 3.0.

    Public: `Variable.value`, which makes one up where there is none.
    """
    return variable._value


def layout_of(variable):
    """How a variable is laid out over devices on JAX: a `keras.distribution.TensorLayout`, a JAX sharding, or None.

    `Variable._layout`, since 3.15 on all backends. Public: `Distribution.get_variable_layout` asks for this attribute
    first, but needs the distribution that was in force when the variable was made.
    """
    return variable._layout


def set_layout(variable, layout):
    """Lays a variable out, one without a value yet, too: made in a `keras.StatelessScope`, it gets one later.

    `Variable._layout` and `Variable._value`, since 3.15. Public: `keras.Variable` takes a `layout`, but
    `Layer.add_weight` does not.
    """
    variable._layout = layout
    if variable._value is not None:
        variable.assign(variable.value)


# Copying.


def graph_nodes(function):
    """The nodes of a `keras.Function`, inputs first: `_nodes_by_depth`, since 3.0.

    Public: `Function.operations` has the operations, but not with which tensors each was called.
    """
    return [
        node for depth in sorted(function._nodes_by_depth, reverse=True) for node in function._nodes_by_depth[depth]
    ]


HISTORY = ("_keras_history",)
GRAPH_OF_OPERATION = ("_inbound_nodes", "_outbound_nodes")
GRAPH_OF_FUNCTION = ("_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth")


def no_losses():
    """What a layer holds of the losses of its last call, before its first: `Layer._losses`, since 3.0."""
    return {"_losses": [], "_loss_ids": set()}


def name_nodes(function):
    """Sets the names of a copied function's nodes, which hold the ids of the operations.

    `Function._nodes` and `keras.src.ops.function.make_node_key`, since 3.0: `get_config` and saving ask for them.
    """
    function._nodes = {
        keras.src.ops.function.make_node_key(node.operation, index)
        for node, index in calls_in_order(graph_nodes(function))
    }


def calls_in_order(nodes):
    """`(node, which call of its operation it was)` of some nodes, early calls first: `Operation._inbound_nodes`."""
    numbered = [(n, next(i for i, x in enumerate(n.operation._inbound_nodes) if x is n)) for n in nodes]
    return sorted(numbered, key=lambda pair: pair[1])


def add_call(operation, node):
    """Notes a call of an operation, and in the tensors that it made which call it was: `_keras_history`, since 3.0."""
    index = len(operation._inbound_nodes)
    operation._inbound_nodes.append(node)
    for i, tensor in enumerate(node.outputs):
        tensor._keras_history = type(tensor._keras_history)(operation, index, i)


def add_uses(node):
    """Notes a call in the operations that made its arguments: `Operation._outbound_nodes`, since 3.0."""
    for tensor in node.arguments.keras_tensors:
        operation = tensor._keras_history.operation
        if operation is not None:
            operation._outbound_nodes.append(node)


def renew_tracker_ids(tracker):
    """Sets the ids by which a copied layer's tracker knows what the layer holds: `Tracker.stored_ids`, since 3.0."""
    tracker.stored_ids = {name: {id(x) for x in store} for name, (_, store) in tracker.config.items()}


def is_tracker(value):
    """Whether an object is the `Tracker` of a layer; since 3.0; not exported."""
    return isinstance(value, type(_probe()._tracker))


@functools.cache
def _probe():
    return keras.layers.Layer()


def uncompiled_state():
    """The attributes of a model that compiling and training set, with the values of a new model.

    There is no public way to undo `compile`. Which attributes it sets is found by compiling an empty model, so that no
    name is written down but those that only training sets.

    Returns:
        `(names, values)`: a set of names, and a dict of those that a new model has.
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


def copy_variable(variable, value):
    """A variable with another value, an array, and the same name, path, layout and settings.

    `Variable._autocast`, since 3.0. Public: nothing tells whether a variable is cast under mixed precision.
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
    """The name scope in which a layer's variables and sublayers get their paths."""
    return _scope((layer.path or layer.name).split("/"))


def _scope(names):
    """The nested name scopes of a path."""
    stack = contextlib.ExitStack()
    for name in names:
        stack.enter_context(keras.name_scope(name))
    return stack


# Changing a layer's class.


@contextlib.contextmanager
def unlocked(layer):
    """Lets a built layer get and lose sublayers and variables.

    `Layer._tracker.unlock`, since 3.0, as `Layer.enable_lora` does it. Public: none, a built layer is locked for good.
    """
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def remove_sublayer(layer, name):
    """Deletes a sublayer of a built layer: `delattr` alone leaves it in `Layer._layers`; since 3.0."""
    sublayer = getattr(layer, name)
    with unlocked(layer):
        delattr(layer, name)
        layer._tracker.untrack(sublayer)


def batch_counter(optimizer):
    """The variable in which an optimizer counts batches: `_iterations`, since 3.0.

    Public: `Optimizer.iterations`, which is the number of steps where gradients are accumulated over batches.
    """
    return optimizer._iterations


def wrapped_optimizers(optimizer):
    """The optimizers inside of a `LossScaleOptimizer` or `MultiOptimizer`; `_inner_optimizers`, since 3.15.

    Public: `inner_optimizer` of the former.
    """
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "_inner_optimizers", ())]
    return [x for x in inner if x is not None]


def trained_variables(optimizer):
    """The variables that a built optimizer trains: `_trainable_variables`, since 3.0.

    Public: `Optimizer.variables` has the slots only.
    """
    return optimizer._trainable_variables


def lists_of_variables(optimizer):
    """The lists that an optimizer holds, by attribute, such as `_momentums`; since 3.0.

    Public: `Optimizer.variables` is one flat list, in which the variable that a slot belongs to shows in its name only.
    """
    lists = {name: value for name, value in vars(optimizer).items() if isinstance(value, list)}
    return {name: value for name, value in lists.items() if name not in ("_variables", "_trainable_variables")}


# Training.


def _super_batches():
    return getattr(keras.src.trainers.data_adapters.data_adapter_utils, "PartialBatchList", None)


# From Keras 3.16 on JAX's train function gets all batches of an execution at once: stacked, or the last few as a list.
SUPER_BATCHES = _super_batches() is not None


def last_of_super_batch(batches):
    """The last batch of those of one execution; `PartialBatchList`, since 3.16."""
    if isinstance(batches, _super_batches()):
        return batches[-1]
    return keras.tree.map_structure(lambda x: None if x is None else x[-1], batches)


def refresh_held_state(model):
    """Makes the state that `fit` on JAX holds that of the variables: `Model._jax_state`, since 3.0.

    Public: `Model.jax_state_sync` (`state_sync` from 3.16) goes the other way only.
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
    """Whether a model trains by the `train_step` of Keras, which `training/train_step.py` may have hooked."""
    step = model.train_step
    module = getattr(getattr(step, "__func__", step), "__module__", "")
    return module.startswith(("keras.src.backend.", "keras_sparse.backend."))


def begin_after(model, epochs):
    """Lets the `fit` that begins start after some epochs, or None for where it was told to: `Model._initial_epoch`.

    Since 3.0, where `keras.callbacks.BackupAndRestore` sets it. Public: none.
    """
    model._initial_epoch = epochs

"""All uses of private attributes of Keras, in one place.

Each function says which attributes it needs, since which version of Keras they are known to be there, and which public
way was tried first. `ATTRIBUTES` lists them for `tests/test_keras_internals.py`, which fails with the name of this
folder when a new version of Keras lacks one.
"""

from keras_sparse._keras.copying import (
    GRAPH_OF_FUNCTION,
    GRAPH_OF_OPERATION,
    HISTORY,
    add_call,
    add_uses,
    calls_in_order,
    copy_variable,
    graph_nodes,
    is_tracker,
    name_nodes,
    no_losses,
    renew_tracker_ids,
    set_value,
    uncompiled_state,
)
from keras_sparse._keras.layers import (
    conv_lstm_cell,
    held_value,
    in_stateless_scope,
    is_functional,
    layout_of,
    lists_layers_in_config,
    name_scopes,
    own_weights,
    remove_sublayer,
    scope_of,
    set_layout,
    sublayers,
    unlocked,
)
from keras_sparse._keras.training import (
    SUPER_BATCHES,
    batch_counter,
    begin_after,
    forget_compiled_functions,
    has_train_step_of_keras,
    last_of_super_batch,
    lists_of_variables,
    refresh_held_state,
    trained_variables,
    wrapped_optimizers,
)

# Kind of object -> private attributes that this folder uses.
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

__all__ = [
    "ATTRIBUTES",
    "GRAPH_OF_FUNCTION",
    "GRAPH_OF_OPERATION",
    "HISTORY",
    "SUPER_BATCHES",
    "add_call",
    "add_uses",
    "batch_counter",
    "begin_after",
    "calls_in_order",
    "conv_lstm_cell",
    "copy_variable",
    "forget_compiled_functions",
    "graph_nodes",
    "has_train_step_of_keras",
    "held_value",
    "in_stateless_scope",
    "is_functional",
    "is_tracker",
    "last_of_super_batch",
    "layout_of",
    "lists_layers_in_config",
    "lists_of_variables",
    "name_nodes",
    "name_scopes",
    "no_losses",
    "own_weights",
    "refresh_held_state",
    "remove_sublayer",
    "renew_tracker_ids",
    "scope_of",
    "set_layout",
    "set_value",
    "sublayers",
    "trained_variables",
    "uncompiled_state",
    "unlocked",
    "wrapped_optimizers",
]

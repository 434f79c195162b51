"""Functions that differ between TensorFlow, JAX and PyTorch: one file for each backend, with the same functions.

`read`, `write_elements` and `assign` access variables between two steps. `hook_train_step`, `train_and_keep_batch` and
`dense_gradients` extend the training step. `copies` and `of_all_processes` serve the comparison of replicas.
"""

import importlib

import keras

from keras_sparse.backend.common import assign_all, inner_optimizer, scope, tensors

name = keras.backend.backend()
_backend = importlib.import_module(f"keras_sparse.backend.{name}")

assign = _backend.assign
can_assign = _backend.can_assign
compiled = _backend.compiled
copies = _backend.copies
DEPENDENCY_ATTRIBUTES = _backend.DEPENDENCY_ATTRIBUTES
copy_dependencies = _backend.copy_dependencies
copy_native = _backend.copy_native
dense_gradients = _backend.dense_gradients
hook_train_step = _backend.hook_train_step
is_native_optimizer = _backend.is_native_optimizer
layout_of = _backend.layout_of
link_native = _backend.link_native
native_slots = _backend.native_slots
of_all_processes = _backend.of_all_processes
read = _backend.read
to_numpy = _backend.to_numpy
refresh_held_state = _backend.refresh_held_state
track_parameters = _backend.track_parameters
train_and_keep_batch = _backend.train_and_keep_batch
where = _backend.where
write_elements = _backend.write_elements

__all__ = [
    "DEPENDENCY_ATTRIBUTES",
    "assign",
    "assign_all",
    "can_assign",
    "compiled",
    "copies",
    "copy_dependencies",
    "copy_native",
    "dense_gradients",
    "hook_train_step",
    "inner_optimizer",
    "is_native_optimizer",
    "layout_of",
    "link_native",
    "native_slots",
    "of_all_processes",
    "read",
    "refresh_held_state",
    "scope",
    "tensors",
    "to_numpy",
    "track_parameters",
    "train_and_keep_batch",
    "where",
    "write_elements",
]

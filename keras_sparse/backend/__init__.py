"""Functions that differ between TensorFlow, JAX and PyTorch: one file for each backend, and one with the defaults.

`read`, `write_elements` and `assign` access variables between two steps. `hook_train_step`, `train_and_keep_batch` and
`dense_gradients` extend the training step. `copies` and `of_all_processes` serve the comparison of replicas.
"""

import importlib

import keras

from keras_sparse.backend import default
from keras_sparse.backend.common import assign_all, inner_optimizer, scope, tensors

name = keras.backend.backend()
_backend = importlib.import_module(f"keras_sparse.backend.{name}")


def _chosen(name):
    """Returns what the backend has under a name, or the default if it has nothing."""
    return getattr(_backend if hasattr(_backend, name) else default, name)


DEPENDENCY_ATTRIBUTES = _chosen("DEPENDENCY_ATTRIBUTES")
assign = _chosen("assign")
can_assign = _chosen("can_assign")
compiled = _chosen("compiled")
copies = _chosen("copies")
copy_dependencies = _chosen("copy_dependencies")
copy_native = _chosen("copy_native")
dense_gradients = _chosen("dense_gradients")
hook_train_step = _chosen("hook_train_step")
is_native_optimizer = _chosen("is_native_optimizer")
layout_of = _chosen("layout_of")
link_native = _chosen("link_native")
native_slots = _chosen("native_slots")
of_all_processes = _chosen("of_all_processes")
read = _chosen("read")
to_numpy = _chosen("to_numpy")
refresh_held_state = _chosen("refresh_held_state")
track_parameters = _chosen("track_parameters")
train_and_keep_batch = _chosen("train_and_keep_batch")
where = _chosen("where")
with_gradient = _chosen("with_gradient")
write_elements = _chosen("write_elements")

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
    "with_gradient",
    "write_elements",
]

"""Whether masks and weights are the same on every device and in every process."""

import zlib

import keras
import numpy as np

from keras_sparse.backend.elements import view
from keras_sparse.layers.traversal import built_masked_layers


def check_replicas(model):
    """Compares the masks and masked kernels of all replicas by checksum.

    Under a `tf.distribute` strategy and `keras.distribution` each device holds a copy of every variable; they are
    updated alike, and stay alike. This makes sure.

    Args:
        model: `keras.Model` with masked layers.

    Raises:
        ValueError: if it is no model, or not built.
        RuntimeError: if a copy differs from the others, with the variable's path and the checksums.
    """
    variables = [v for x in built_masked_layers(model) for v in (x.kernel_mask.value, x.kernel_variable)]
    checksums = [[zlib.crc32(np.ascontiguousarray(c)) for c in _copies(v)] for v in variables]
    for variable, mine in zip(variables, _of_all_processes(checksums), strict=True):
        if len(set(mine)) > 1:
            raise RuntimeError(
                f"The replicas of {variable.path} differ: checksums {[f'{c:08x}' for c in mine]}. Something has "
                "written to one of them only. Load the last checkpoint into all of them, and change variables by "
                "`assign`, in the strategy's scope."
            )


def _copies(variable):
    """The variable on each device of this process, as NumPy arrays."""
    value = variable.value
    if hasattr(value, "values") and not callable(value.values):  # tf.distribute's
        return [v.numpy() for v in value.values]
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        # Each device copies what it has: JAX cannot take every array apart that it computes with.
        return [np.asarray(s.data) for s in jnp.copy(value).addressable_shards]
    return [view(variable)]


def _of_all_processes(checksums):
    """The lists with what the other processes of a `jax.distributed` cluster have for the same variables."""
    if keras.backend.backend() != "jax":
        return checksums
    import jax

    if jax.process_count() == 1:
        return checksums
    from jax.experimental import multihost_utils

    gathered = np.asarray(multihost_utils.process_allgather(np.array(checksums, "uint32")))
    return np.concatenate(list(gathered), axis=1).tolist()

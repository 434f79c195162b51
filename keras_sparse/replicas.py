"""Checks that masks and weights are the same on every device and in every process."""

import collections
import zlib

import keras
import numpy as np

from keras_sparse import backend
from keras_sparse.layers.traversal import masked_weights


def check_replicas(model: keras.Model) -> None:
    """Checks by checksum that the masks and masked kernels of all replicas are equal.

    Under a `tf.distribute` strategy and `keras.distribution.DataParallel` each device holds a copy of every variable,
    under `keras.distribution.ModelParallel` a copy of a part of it. All copies of the same part must be equal. Copies
    are compared over all processes: on a JAX cluster every process has to call this function.

    Args:
        model: built `keras.Model` with masked layers.

    Raises:
        ValueError: if `model` is not a Keras model or is not built.
        RuntimeError: if two copies differ. The message names the variable, the part and the checksums.

    Example:

    ```python
    keras_sparse.check_replicas(model)
    ```
    """
    variables = [v for x in masked_weights(model) for v in (x.mask.value, x.variable)]
    for variable, copies in zip(variables, _checksums([backend.copies(v) for v in variables]), strict=True):
        by_part = collections.defaultdict(list)
        for part, checksum in copies:
            by_part[part].append(checksum)
        for part, sums in by_part.items():
            if len(set(sums)) > 1:
                raise RuntimeError(
                    f"The replicas of {variable.path}{_format_part(part, variable.shape)} differ: checksums "
                    f"{[f'{c:08x}' for c in sums]}. Something has written to one of them only. Load the last "
                    "checkpoint into all of them, and change variables by `assign`, in the strategy's scope."
                )


def _checksums(copies):
    """Computes the checksums of the copies of some variables, over all processes.

    Args:
        copies: list with the result of `backend.copies` for each variable.

    Returns:
        List with a list of `(part, checksum)` for each variable.
    """
    # Every process knows all devices, but holds the arrays of its own devices only. So each one computes the checksums
    # of its own arrays, and the processes exchange them.
    arrays = [array for held in copies for _, array in held]
    known = np.array([array is not None for array in arrays])
    sums = np.array([0 if array is None else zlib.crc32(np.ascontiguousarray(array)) for array in arrays], "uint32")
    of_all = zip(*backend.of_all_processes(known, sums), strict=True)
    found = iter([sums[known].tolist() for known, sums in of_all])
    return [[(part, checksum) for part, _ in held for checksum in next(found)] for held in copies]


def _format_part(part, shape):
    """Formats a part of a variable as an index, such as "[0:4, 2:8]"; "" for the whole variable."""
    if part is None or all(ends == (0, n) for ends, n in zip(part, shape, strict=True)):
        return ""
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in part) + "]"

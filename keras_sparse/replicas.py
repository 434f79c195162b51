"""Whether masks and weights are the same on every device and in every process."""

import collections
import zlib

import numpy as np

from keras_sparse import backend
from keras_sparse.layers.traversal import built_masked_layers


def check_replicas(model):
    """Compares the masks and masked kernels of all replicas by checksum.

    Under a `tf.distribute` strategy and `keras.distribution.DataParallel` each device holds a copy of every variable,
    under `keras.distribution.ModelParallel` of a part of it. Copies of the same part are updated alike, and stay alike.
    This makes sure, over all processes: on a cluster of JAX each has to call it.

    Args:
        model: `keras.Model` with masked layers.

    Raises:
        ValueError: if it is no model, or not built.
        RuntimeError: if a copy differs from the others, with the variable's path, the part, and the checksums.
    """
    variables = [v for x in built_masked_layers(model) for v in (x.kernel_mask.value, x.kernel_variable)]
    for variable, copies in zip(variables, _checksums([backend.copies(v) for v in variables]), strict=True):
        by_part = collections.defaultdict(list)
        for part, checksum in copies:
            by_part[part].append(checksum)
        for part, sums in by_part.items():
            if len(set(sums)) > 1:
                raise RuntimeError(
                    f"The replicas of {variable.path}{_said(part, variable.shape)} differ: checksums "
                    f"{[f'{c:08x}' for c in sums]}. Something has written to one of them only. Load the last "
                    "checkpoint into all of them, and change variables by `assign`, in the strategy's scope."
                )


def _checksums(copies):
    """Of what `backend.copies` found of some variables: for each a list of `(part, checksum)`, of all processes."""
    arrays = [array for held in copies for _, array in held]
    known = np.array([array is not None for array in arrays])
    sums = np.array([0 if array is None else zlib.crc32(np.ascontiguousarray(array)) for array in arrays], "uint32")
    of_all = zip(*backend.of_all_processes(known, sums), strict=True)
    found = iter([sums[known].tolist() for known, sums in of_all])
    return [[(part, checksum) for part, _ in held for checksum in next(found)] for held in copies]


def _said(part, shape):
    """The part of a variable, as it is indexed; nothing for all of it."""
    if part is None or all(ends == (0, n) for ends, n in zip(part, shape, strict=True)):
        return ""
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in part) + "]"

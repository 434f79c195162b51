"""Rules for when LiteRT stores a weight in fewer bytes sparse than dense, and when a sparse dense layer is faster.

A sparse kernel skips dead weights, but processes live ones one by one, where a dense kernel processes 8 or 16 at once.
The thresholds are medians measured on one thread of a CPU with AVX-512. `tools/benchmark.py export` measures a machine.
"""

# Measured at batch 1. Layers as small as LeNet's fit into the caches, dense or sparse. Weights of 4096 x 4096 fit into
# no cache when they are dense. Between these sizes dense weights are read fast, so that more sparsity is needed.
_SMALL, _LARGE = 1024, 3072
_THRESHOLD, _MEDIUM_SIZE_THRESHOLD = 0.95, 0.98
_MAX_ROWS = 15  # A dense kernel reads each weight once for 16 rows or more.
_OVERHEAD = 400  # approximate bytes of the metadata of a sparse tensor and of its DENSIFY operator


def sparse_is_smaller(live, rows, row_length, itemsize):
    """Returns whether a weight takes fewer bytes in the compressed sparse row format than dense.

    Args:
        live: int, the number of nonzero weights.
        rows: int, the number of rows.
        row_length: int, the number of weights of a row, zeros included.
        itemsize: int, the bytes of a weight.

    Returns:
        bool.
    """
    stored = live * (itemsize + _index_size(row_length - 1)) + (rows + 1) * _index_size(live)
    return stored + _OVERHEAD < rows * row_length * itemsize


def _index_size(largest):
    """Returns the bytes of the smallest of the format's integer types that holds a number."""
    return 1 if largest < 2**8 else 2 if largest < 2**16 else 4


def sparse_is_faster(inputs, units, sparsity, rows=1):
    """Returns whether a sparse float32 dense layer is faster than a dense one.

    Args:
        inputs: int, the number of input units.
        units: int, the number of output units.
        sparsity: float in [0, 1], the fraction of zeros.
        rows: int, the number of input vectors in one call: the batch size, times the length for sequences.

    Returns:
        bool.
    """
    # The number of live weights is rounded, so that a sparsity of 0.98 may be slightly lower.
    return rows <= _MAX_ROWS and round(sparsity, 3) >= sparsity_threshold(inputs, units)


def sparsity_threshold(inputs, units):
    """Returns the sparsity, a float, from which a float32 dense layer is faster at batch 1."""
    # The limits lie between the sizes that were measured: 784 x 300, widths of 512 to 2048, and a width of 4096.
    medium = _SMALL * 300 < inputs * units <= _LARGE * _LARGE
    return _MEDIUM_SIZE_THRESHOLD if medium else _THRESHOLD

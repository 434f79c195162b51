"""Rules for when LiteRT stores a weight in fewer bytes sparse than dense, and when a sparse dense layer is faster.

A sparse kernel skips dead weights, but processes live ones one by one, where a dense kernel processes 8 or 16 at once.
The thresholds are medians measured on one thread of a CPU with AVX-512. `tools/benchmark.py export` measures a machine.
"""

# Measured with 1, 2, 4, 8 and 15 rows, and 17 sizes of layers.
# Layers as small as LeNet's fit into the caches, dense or sparse. Weights of 4096 x 4096 fit into no cache when they
# are dense. Between these sizes dense weights are read fast, so that more sparsity is needed.
_SMALL, _LARGE = 1024 * 300, 3072 * 3072
_THRESHOLD, _MEDIUM_SIZE_THRESHOLD = 0.95, 0.98
# A dense kernel computes 32 units at once, and is fastest if their number is a multiple of that.
_UNITS_AT_ONCE, _WHOLE_UNITS_THRESHOLD = 32, 0.97
# A sparse kernel needs some time for each unit, which counts if a unit has few live weights.
_FEW_INPUTS, _TOO_FEW_INPUTS, _FEW_INPUTS_THRESHOLD = 300, 128, 0.98
# A dense kernel reads each weight once for several rows: for 4 in almost the time of 2, and for 16 or more at no loss.
_MOST_VECTORS_ONE_BY_ONE, _MAX_VECTORS, _SEVERAL_VECTORS_THRESHOLD = 2, 15, 0.98
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


def sparse_is_faster(inputs, units, sparsity, vectors=1):
    """Returns whether a sparse float32 dense layer is faster than a dense one.

    Args:
        inputs: int, the number of input units.
        units: int, the number of output units.
        sparsity: float in [0, 1], the fraction of zeros.
        vectors: int, the number of input vectors in one call: the batch size, times the length for sequences.

    Returns:
        bool.
    """
    threshold = sparsity_threshold(inputs, units, vectors)
    # The number of live weights is rounded, so that a sparsity of 0.98 may be slightly lower.
    return vectors <= _MAX_VECTORS and threshold is not None and round(sparsity, 3) >= threshold


def sparsity_threshold(inputs, units, vectors=1):
    """Returns the sparsity from which a float32 dense layer is faster, a float; None if it is not at any.

    Args:
        inputs: int, the number of input units.
        units: int, the number of output units.
        vectors: int, the number of input vectors in one call; from 16 on, a dense layer is faster all the same.
    """
    if inputs < _TOO_FEW_INPUTS:
        return None
    if vectors > _MOST_VECTORS_ONE_BY_ONE:
        return _SEVERAL_VECTORS_THRESHOLD
    if inputs < _FEW_INPUTS:
        return _FEW_INPUTS_THRESHOLD
    # The limits lie between the sizes that were measured: 784 x 300, widths of 512 to 2048, and a width of 4096.
    if inputs * units > _LARGE:
        return _THRESHOLD
    if inputs * units > _SMALL:
        return _MEDIUM_SIZE_THRESHOLD
    return _THRESHOLD if units % _UNITS_AT_ONCE else _WHOLE_UNITS_THRESHOLD

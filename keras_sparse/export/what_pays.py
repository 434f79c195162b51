"""When sparse weights make inference faster: rules that were measured, on one thread with AVX-512, medians.

A sparse kernel skips the dead weights, but takes live ones one by one where a dense one takes 8 or 16 at once.
"""

# A dense layer at batch 1, by the larger of its sides: those of LeNet fit into the caches either way, and 4096 x 4096
# dense weights into none; between them, dense weights are read fast.
_SMALL, _LARGE = 1024, 3072
_FROM, _FROM_BETWEEN = 0.95, 0.98
_MOST_ROWS = 15  # from 16 on a dense kernel reads each weight once for all of them


def sparse_dense_pays(inputs, units, sparsity, rows=1):
    """Whether a sparse float32 dense layer is faster than a dense one.

    Args:
        inputs: int, units of the input.
        units: int, of the output.
        sparsity: float, the fraction of zeros.
        rows: int, how many inputs at once: those of a batch, times the places of a sequence.

    Returns:
        bool.
    """
    # Live weights are whole numbers, so that a sparsity of 0.98 may be a little less.
    return rows <= _MOST_ROWS and round(sparsity, 3) >= sparsity_that_pays(inputs, units)


def sparsity_that_pays(inputs, units):
    """The sparsity from which a float32 dense layer is faster at batch 1, a float."""
    # Half-way in bytes between the sizes that were measured: 784 x 300, 512 to 2048 wide, and 4096 wide.
    between = _SMALL * 300 < inputs * units <= _LARGE * _LARGE
    return _FROM_BETWEEN if between else _FROM

"""Granularity: which weights one mask element covers.

The shape of a mask divides the shape of its weight. If an axis of the weight has k entries and that of the mask s, each
mask element covers k // s consecutive entries. So single weights (s == k), whole axes (s == 1) and blocks are one case.
"""

import re

from keras_sparse.layers.nm_pattern import is_pattern

GRANULARITIES = ("weight", "kernel_slice")


def mask_shape(granularity: str | tuple, weight_shape: tuple, spatial_rank: int = 0) -> tuple:
    """Returns the shape of the mask of a weight.

    Args:
        granularity: "weight" for single weights; "kernel_slice" for k x k slices of a convolution, or single weights
            where there are no spatial axes; "4x4" for blocks of 4 by 4 entries of the last two axes, which are inputs
            and outputs in dense layers and convolutions; "2:4" for single weights, of which 2 of each 4 inputs are
            live; or the shape of the mask, a tuple that broadcasts to the shape of the weight, such as
            `(1, 1, 1, channels_out)`.
        weight_shape: tuple of ints.
        spatial_rank: int of at least 0, the number of leading axes that are spatial.

    Returns:
        Tuple of ints, each a divisor of the size of the axis of the weight.

    Raises:
        ValueError: if `granularity` is none of these, or the blocks do not divide the weight.

    Example:

    >>> mask_shape("kernel_slice", (3, 3, 16, 32), spatial_rank=2), mask_shape("4x4", (64, 40))
    ((1, 1, 16, 32), (16, 10))
    """
    shape = tuple(weight_shape)
    if granularity == "weight" or is_pattern(granularity):
        return shape
    if granularity == "kernel_slice":
        return (1,) * spatial_rank + shape[spatial_rank:]
    is_shape = isinstance(granularity, tuple) and len(granularity) == len(shape)
    if is_shape and all(n in (1, k) for n, k in zip(granularity, shape, strict=True)):
        return granularity
    if (block := block_of(granularity)) is not None:
        if len(shape) < 2 or any(k % n for k, n in zip(shape[-2:], block, strict=True)):
            raise ValueError(
                f"`granularity`={granularity!r} needs weights whose last two axes are multiples of {block}. Received: "
                f"the shape {shape}. Choose smaller blocks, or keep this layer dense by `keep_dense`."
            )
        return (*shape[:-2], shape[-2] // block[0], shape[-1] // block[1])
    raise ValueError(
        f'`granularity` must be one of {GRANULARITIES}, a pattern such as "2:4", blocks such as "4x4", or a tuple that '
        f"broadcasts to the weight's shape {shape} (each entry 1 or the weight's). Received: "
        f"granularity={granularity!r}."
    )


def block_of(granularity: str | tuple) -> tuple | None:
    """Returns the block `(inputs, outputs)` of a granularity such as "4x4"; None for other granularities."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", granularity) if isinstance(granularity, str) else None
    return match and tuple(map(int, match.groups()))

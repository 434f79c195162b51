"""Granularity: which weights one mask element covers, and N:M patterns.

The shape of a mask divides the shape of its weight. If an axis of the weight has k entries and that of the mask s, each
mask element covers k // s consecutive entries. So single weights (s == k), whole axes (s == 1) and blocks are one case.
"""

import dataclasses
import math
import re

import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse.criteria import grow_random

GRANULARITIES = ("weight", "kernel_slice")


def mask_shape(granularity: str | tuple, weight_shape: tuple, spatial_rank: int = 0) -> tuple:
    """Returns the shape of the mask of a weight.

    Args:
        granularity: "weight" for single weights; "kernel_slice" for k x k slices of a convolution, or single weights
            where there are no spatial axes; "4x4" for blocks of 4 inputs by 4 outputs, the last two axes; "2:4" for
            single weights, of which 2 of each 4 inputs are live; or the shape of the mask, a tuple that broadcasts to
            the shape of the weight, such as `(1, 1, 1, channels_out)`.
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
        if any(k % n for k, n in zip(shape[-2:], block, strict=True)):
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


def is_pattern(granularity: str | tuple) -> bool:
    """Returns whether a granularity is an N:M pattern, such as "2:4".

    Raises:
        ValueError: if it is of this form and N is not in [1, M).
    """
    match = re.fullmatch(r"(\d+):(\d+)", granularity) if isinstance(granularity, str) else None
    if match and not 0 < int(match[1]) < int(match[2]):
        raise ValueError(
            f"`granularity` of the form N:M keeps N of each M weights, with 0 < N < M. Received: {granularity!r}."
        )
    return bool(match)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The N:M pattern of a weight: of each group of M consecutive weights along the input axis, N are live.

    Attributes:
        live: int, N.
        size: int, M.
        shape: tuple of ints, shape of the weight.
        axis: int of at least 0, the input axis of the weight.

    Reference:
        Mishra et al., "Accelerating sparse deep neural networks", 2021.
    """

    live: int
    size: int
    shape: tuple
    axis: int

    @classmethod
    def of(cls, granularity: str | tuple, shape: tuple, axis: int) -> "Pattern | None":
        """Returns the pattern of a weight with a granularity such as "2:4"; None if `granularity` is no pattern.

        Raises:
            ValueError: if the size of the axis is no multiple of M.
        """
        if not is_pattern(granularity):
            return None
        live, size = map(int, granularity.split(":"))
        if shape[axis] % size:
            raise ValueError(
                f"`granularity`={granularity!r} needs a number of inputs that is a multiple of {size}. Received: "
                f"{shape[axis]} inputs, axis {axis} of the weight's shape {tuple(shape)}. Keep this layer dense by "
                "`keep_dense`."
            )
        return cls(live, size, tuple(shape), axis)

    def group(self, positions: np.ndarray) -> np.ndarray:
        """Returns the index of the group of each flat position in the weight: int array."""
        # A flat position is (along * after + inner), where `inner` counts the axes after the input axis.
        after = math.prod(self.shape[self.axis + 1 :])
        inner = positions % after
        # The axes up to `axis` as one: its size is a multiple of M, so no group crosses its end.
        along = positions // after
        return along // self.size * after + inner

    @property
    def groups(self) -> int:
        """The number of groups of the weight."""
        return math.prod(self.shape) // self.size

    def counts(self, positions: np.ndarray) -> np.ndarray:
        """Returns the number of the given flat positions in each group: int array of length `groups`."""
        return np.bincount(self.group(positions), minlength=self.groups)

    def strongest(self, scores: np.ndarray) -> np.ndarray:
        """Marks the N weights with the largest scores of each group. Ties go to the earlier weight.

        Args:
            scores: 1-D float array, the score of each weight.

        Returns:
            Boolean array of the same shape.
        """
        chosen = np.zeros(len(scores), bool)
        chosen[choose_in_groups(np.arange(len(scores)), scores, self, np.full(self.groups, self.live))] = True
        return chosen


def choose_in_groups(positions: np.ndarray, scores: np.ndarray, pattern: Pattern, counts: np.ndarray) -> np.ndarray:
    """Selects the positions of the largest scores in each group.

    Args:
        positions: int array, flat positions in the weight.
        scores: float array of the same shape.
        pattern: `Pattern`.
        counts: int array, for each group the number of positions to select, at most that of its positions.

    Returns:
        Sorted int array.
    """
    groups = pattern.group(positions)
    # Sort by group, then by descending score. The rank of a position is its place within its group.
    order = np.lexsort((positions, -scores, groups))
    sizes = np.bincount(groups, minlength=pattern.groups)
    rank = np.arange(len(positions)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(positions[order][rank < counts[groups[order]]])


def random_mask(shape: tuple, live: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a mask with exactly `live` True elements. All such masks are equally likely.

    Args:
        shape: tuple of ints.
        live: int in [0, product of `shape`].
        rng: `numpy.random.Generator`.

    Returns:
        Boolean NumPy array.
    """
    mask = np.zeros(shape, bool)
    mask.flat[grow_random(np.arange(0), mask.size, live, rng)] = True
    return mask


def live_count(size: int, sparsity: float) -> int:
    """Returns the number of live mask elements among `size` at a sparsity in [0, 1], rounded to the nearest."""
    return round(size * (1 - sparsity))


def mask_of(weight: np.ndarray, shape: tuple) -> np.ndarray:
    """Returns the mask of the nonzero weights: an element is live if any weight that it covers is not 0.

    Args:
        weight: array.
        shape: tuple of ints, shape of the mask.

    Returns:
        Boolean NumPy array of that shape.
    """
    return to_elements(weight, shape).any(axis=0).reshape(shape)


def to_elements(weights: np.ndarray, shape: tuple) -> np.ndarray:
    """Arranges a weight by mask elements.

    Args:
        weights: array of the shape of the weight.
        shape: tuple of ints, shape of the mask, which divides that of the weight.

    Returns:
        Array of shape `(weights per element, elements)`, a view if possible.
    """
    # Split each axis into (elements, weights within an element), and move the latter to the front.
    view, _ = _views(weights.shape, shape)
    elements = math.prod(shape)
    order = [*range(1, len(view), 2), *range(0, len(view), 2)]
    return weights.reshape(view).transpose(order).reshape(weights.size // elements, elements)


def from_elements(elements: np.ndarray, weight_shape: tuple, shape: tuple) -> np.ndarray:
    """Returns the weight that `to_elements` arranged.

    Args:
        elements: array of shape `(weights per element, elements)`.
        weight_shape: tuple of ints, shape of the weight.
        shape: tuple of ints, shape of the mask.

    Returns:
        Array of shape `weight_shape`.
    """
    view, _ = _views(weight_shape, shape)
    order = [*range(1, len(view), 2), *range(0, len(view), 2)]
    return elements.reshape([view[i] for i in order]).transpose(np.argsort(order)).reshape(weight_shape)


def spread(mask: np.ndarray, weight_shape: tuple) -> np.ndarray:
    """Repeats the elements of a mask over blocks, so that it broadcasts to the weight.

    Args:
        mask: boolean array, whose shape divides that of the weight.
        weight_shape: tuple of ints.

    Returns:
        Boolean array that broadcasts to `weight_shape`.
    """
    for axis, (n, k) in enumerate(zip(mask.shape, weight_shape, strict=True)):
        if n not in (1, k):
            mask = mask.repeat(k // n, axis=axis)
    return mask


def where_live(mask, weights, fill):
    """Returns a tensor of weights with `fill` at dead positions.

    Args:
        mask: tensor of booleans or of 0 and 1, whose shape divides that of the weights.
        weights: tensor.
        fill: float.

    Returns:
        Tensor of the shape and dtype of `weights`.
    """
    shape = tuple(weights.shape)
    if all(n in (1, k) for n, k in zip(mask.shape, shape, strict=True)):
        return backend.where(mask, weights, fill)
    view, mask_view = _views(shape, tuple(mask.shape))
    return ops.reshape(backend.where(ops.reshape(mask, mask_view), ops.reshape(weights, view), fill), shape)


def _views(weight_shape, shape):
    """Returns shapes of weight and mask that broadcast: each axis is split into `(elements, weights of an element)`."""
    pairs = [(n, k // n) if n else (0, 1) for n, k in zip(shape, weight_shape, strict=True)]
    return tuple(i for pair in pairs for i in pair), tuple(i for n, _ in pairs for i in (n, 1))

"""Which weights live and die together: the elements of a mask, and the N:M pattern.

A mask's shape divides the shape of the weight: along an axis of `k` weights, a mask of `s` elements has one for each
block of `k // s` weights. So single weights (`s == k`), whole axes (`s == 1`) and blocks are one case.
"""

import dataclasses
import math
import re

import numpy as np
from keras import ops

from keras_sparse.criteria import grow_random

GRANULARITIES = ("weight", "kernel_slice")


def mask_shape(granularity, weight_shape, spatial_rank=0):
    """Returns the shape of the mask over a weight.

    Args:
        granularity: "weight" for a mask element per weight; "kernel_slice" for one per k x k slice of a convolution (a
            weight without spatial axes has slices of one weight); "4x4" for blocks of 4 inputs by 4 outputs, the last
            two axes; "2:4" for a mask element per weight, of which 2 of each 4 inputs live; or the shape of the mask
            itself, a tuple that broadcasts to the weight's, such as `(1, 1, 1, channels_out)`.
        weight_shape: tuple of ints.
        spatial_rank: int, how many leading axes of the weight are spatial.

    Returns:
        Tuple of ints. Each divides the size of the weight's axis.

    Raises:
        ValueError: if `granularity` is none of these, or blocks do not divide the weight.
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


def block_of(granularity):
    """Returns the block `(inputs, outputs)` that "4x4" means, a tuple of ints; None if it means no block."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", granularity) if isinstance(granularity, str) else None
    return match and tuple(map(int, match.groups()))


def is_pattern(granularity):
    """Returns whether a granularity is an N:M pattern, such as "2:4".

    Raises:
        ValueError: if it is one, but N is not in [1, M).
    """
    match = re.fullmatch(r"(\d+):(\d+)", granularity) if isinstance(granularity, str) else None
    if match and not 0 < int(match[1]) < int(match[2]):
        raise ValueError(
            f"`granularity` of the form N:M keeps N of each M weights, with 0 < N < M. Received: {granularity!r}."
        )
    return bool(match)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The N:M pattern of a weight: of each group of `size` weights in a row along an axis, `live` live.

    Reference:
        Mishra et al., "Accelerating sparse deep neural networks", 2021.

    Attributes:
        live: int, the pattern's N.
        size: int, the pattern's M.
        shape: tuple of ints, the weight's.
        axis: int of at least 0, the weight's input axis.
    """

    live: int
    size: int
    shape: tuple
    axis: int

    @classmethod
    def of(cls, granularity, shape, axis):
        """Returns the pattern that "2:4" means for a weight, or None if `granularity` is no pattern.

        Raises:
            ValueError: if the axis is no multiple of M.
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

    def group(self, positions):
        """Returns the number of the group of each flat position in the weight, an int array like `positions`."""
        after = math.prod(self.shape[self.axis + 1 :])
        inner = positions % after
        along = positions // after  # All axes before `axis`, and it, as one: groups do not cross its ends.
        return along // self.size * after + inner

    @property
    def groups(self):
        """How many groups the weight has: int."""
        return math.prod(self.shape) // self.size

    def counts(self, positions):
        """Returns how many of some flat positions are in each group: int array of length `groups`."""
        return np.bincount(self.group(positions), minlength=self.groups)

    def strongest(self, scores, count=None):
        """Returns which weights have the largest scores of their group.

        Args:
            scores: float array of one number for each weight, flat.
            count: int, how many of each group; None for the pattern's N.

        Returns:
            Boolean array like `scores`. Of equal scores the first counts as larger.
        """
        chosen = np.zeros(len(scores), bool)
        chosen[choose_in_groups(np.arange(len(scores)), scores, self, np.full(self.groups, count or self.live))] = True
        return chosen


def choose_in_groups(positions, scores, pattern, counts):
    """Returns the positions of the largest scores, as many of each group as `counts` says.

    Args:
        positions: int array, flat positions in the weight.
        scores: float array like it.
        pattern: `Pattern`.
        counts: int array, for each group a number of at most that of its positions.

    Returns:
        Sorted int array.
    """
    groups = pattern.group(positions)
    order = np.lexsort((positions, -scores, groups))
    sizes = np.bincount(groups, minlength=pattern.groups)
    rank = np.arange(len(positions)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each within its group
    return np.sort(positions[order][rank < counts[groups[order]]])


def random_mask(shape, live, rng):
    """Draws a mask with exactly `live` elements True, all such masks being equally likely.

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


def live_count(size, sparsity):
    """Returns how many of `size` mask elements are live at `sparsity`, rounded to the nearest."""
    return round(size * (1 - sparsity))


def mask_of(weight, shape):
    """Returns the mask that keeps the zeros of a weight: an element lives if one of its weights is not 0.

    Args:
        weight: array.
        shape: tuple of ints, the mask's.

    Returns:
        Boolean NumPy array of that shape.
    """
    return to_elements(weight, shape).any(axis=0).reshape(shape)


def to_elements(weights, shape):
    """Arranges a weight by the elements of its mask.

    Args:
        weights: array, of the weight's shape.
        shape: the mask's shape, which divides it.

    Returns:
        Array of shape `(weights per element, elements)`, a view where possible.
    """
    view, _ = _views(weights.shape, shape)
    elements = math.prod(shape)
    order = [*range(1, len(view), 2), *range(0, len(view), 2)]  # axes within blocks first
    return weights.reshape(view).transpose(order).reshape(weights.size // elements, elements)


def from_elements(elements, weight_shape, shape):
    """The inverse of `to_elements`.

    Args:
        elements: array of shape `(weights per element, elements)`.
        weight_shape: shape of the weight.
        shape: the mask's shape.

    Returns:
        Array of shape `weight_shape`.
    """
    view, _ = _views(weight_shape, shape)
    order = [*range(1, len(view), 2), *range(0, len(view), 2)]
    return elements.reshape([view[i] for i in order]).transpose(np.argsort(order)).reshape(weight_shape)


def spread(mask, weight_shape):
    """Returns a NumPy mask that broadcasts to the weight: its elements are repeated over blocks.

    Args:
        mask: boolean array, whose shape divides the weight's.
        weight_shape: tuple of ints.
    """
    for axis, (n, k) in enumerate(zip(mask.shape, weight_shape, strict=True)):
        if n not in (1, k):
            mask = mask.repeat(k // n, axis=axis)
    return mask


def where_live(mask, weights, fill):
    """Returns a tensor with `fill` in place of the dead weights.

    Args:
        mask: tensor of booleans or of 0 and 1.
        weights: tensor, whose shape that of the mask divides.
        fill: float.

    Returns:
        Tensor like `weights`.
    """
    live, shape = ops.cast(mask, "bool"), tuple(weights.shape)
    if all(n in (1, k) for n, k in zip(mask.shape, shape, strict=True)):
        return ops.where(live, weights, ops.full_like(weights, fill))
    view, spread = _views(shape, tuple(mask.shape))
    weights = ops.reshape(weights, view)
    return ops.reshape(ops.where(ops.reshape(live, spread), weights, ops.full_like(weights, fill)), shape)


def _views(weight_shape, shape):
    """The shapes by which a weight and its mask broadcast: each axis as `(elements, weights of a block)`."""
    pairs = [(n, k // n) if n else (0, 1) for n, k in zip(shape, weight_shape, strict=True)]
    return tuple(i for pair in pairs for i in pair), tuple(i for n, _ in pairs for i in (n, 1))

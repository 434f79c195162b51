"""N:M patterns of masks: of each M consecutive weights along the input axis, N are live."""

import dataclasses
import math
import re

import numpy as np


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


def pattern_sparsity(granularity: str, sparsity: float | None) -> float:
    """Returns the sparsity of an N:M pattern, 1 - N / M; 0.0 for a network that will be pruned to it.

    Raises:
        ValueError: if `sparsity` is neither that of the pattern, nor 0, nor None.
    """
    live, size = map(int, granularity.split(":"))
    if sparsity not in (0, None) and not math.isclose(sparsity, 1 - live / size, abs_tol=1e-6):
        raise ValueError(
            f"`granularity`={granularity!r} keeps {live} of each {size} weights, so `sparsity` must be "
            f"{1 - live / size:g}, or 0 for a network that `GradualPruning` makes sparse. Received: {sparsity}."
        )
    return 1 - live / size if sparsity else 0.0


@dataclasses.dataclass(frozen=True)
class NMPattern:
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
    def of(cls, granularity: str | tuple, shape: tuple, axis: int) -> "NMPattern | None":
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


def choose_in_groups(positions: np.ndarray, scores: np.ndarray, pattern: NMPattern, counts: np.ndarray) -> np.ndarray:
    """Selects the positions of the largest scores in each group.

    Args:
        positions: int array, flat positions in the weight.
        scores: float array of the same shape.
        pattern: `NMPattern`.
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

"""Selects what to drop, how to share growth between layers, and where to grow: pure NumPy.

All counts are counts of mask elements. A mask element is a single weight, or a whole kernel slice if the mask is
coarser than the kernel. A mask is given as the sorted flat positions of its live elements, so that the cost depends on
the number of live elements and not on the size of the layer.
"""

from collections.abc import Sequence

import numpy as np


def below(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Marks the elements that score below a threshold, but never all elements of a layer.

    If all scores are below the threshold, the element with the largest score is kept.

    Args:
        scores: 1-D array, the scores of the live elements.
        threshold: positive float.

    Returns:
        Boolean array of the same shape, True for the elements to drop.
    """
    dropped = scores < threshold
    if dropped.size and dropped.all():
        dropped[scores.argmax()] = False
    return dropped


def weakest(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks the elements with the lowest scores. Ties go to the earlier element.

    Args:
        scores: 1-D array, the scores of the live elements.
        count: int in [0, number of scores], how many elements to mark.

    Returns:
        Boolean array of the same shape with exactly `count` entries True.
    """
    dropped = np.zeros(len(scores), bool)
    dropped[np.argsort(scores, kind="stable")[:count]] = True
    return dropped


def limit_dropped(dropped: list[np.ndarray], scores: list[np.ndarray], limit: int) -> list[np.ndarray]:
    """Reduces the dropped elements of several layers to the `limit` weakest ones.

    An update uses it if it would drop more elements than it can grow, which would change the budget.

    Args:
        dropped: list of 1-D boolean arrays, one for each layer, True for the elements to drop.
        scores: list of arrays of the same shapes.
        limit: int of at least 0, the maximum number of dropped elements over all layers.

    Returns:
        List of boolean arrays, each a subset of the one given.
    """
    if sum(map(np.count_nonzero, dropped)) <= limit:
        return dropped
    together, values = np.concatenate(dropped), np.concatenate(scores)
    weakest_first = np.flatnonzero(together)[np.argsort(values[together], kind="stable")]
    together[weakest_first[limit:]] = False
    return np.split(together, np.cumsum([len(d) for d in dropped])[:-1])


def apportion(total: int, shares: Sequence[int], capacities: Sequence[int]) -> list[int]:
    """Splits `total` into integers in proportion to `shares`, each at most its capacity.

    The result always sums to `total`. Fractions are rounded by the largest remainder (Hamilton's method, ties go to
    the earlier entry). What exceeds the capacity of an entry is shared among the others in the same proportions. If
    only entries with a share of 0 have capacity left, the rest is shared in proportion to that capacity.

    Args:
        total: int, at least 0.
        shares: sequence of ints, at least 0.
        capacities: sequence of ints, at least 0, of the same length.

    Returns:
        List of ints that sum to `total`.

    Raises:
        ValueError: if the capacities sum to less than `total`.

    Example:

    >>> apportion(10, shares=[3, 1], capacities=[5, 20])
    [5, 5]
    """
    total, shares = int(total), [int(s) for s in shares]
    room = [int(c) for c in capacities]
    if total > sum(room):
        raise ValueError(f"Cannot place {total} in capacities {room}, which sum to {sum(room)}.")
    result = [0] * len(room)
    while total:
        # Python integers are exact: products of counts neither overflow nor round.
        weights = [s if r else 0 for s, r in zip(shares, room, strict=True)]
        if not any(weights):
            weights = room
        whole = sum(weights)
        # Every entry gets the integer part of its quota; what is left goes to the largest remainders, one each.
        given = [total * w // whole for w in weights]
        order = sorted(range(len(room)), key=lambda i: (-(total * weights[i] % whole), i))
        for i in order[: total - sum(given)]:
            given[i] += 1
        # Entries above their capacity are cut; the next iteration shares what was cut.
        given = [min(g, r) for g, r in zip(given, room, strict=True)]
        result = [a + g for a, g in zip(result, given, strict=True)]
        room = [r - g for r, g in zip(room, given, strict=True)]
        total -= sum(given)
    return result


def grow_random(live: np.ndarray, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws positions uniformly and without replacement from those that are not live.

    Args:
        live: sorted int array, the positions that were live before the drop. Dropped positions are among them, so that
            an update does not grow what it has just dropped.
        size: int, number of positions, live and dead.
        count: int, at most the number of dead positions.
        rng: `numpy.random.Generator`.

    Returns:
        Sorted int array of `count` positions.
    """
    rank = np.sort(rng.choice(size - len(live), count, replace=False, shuffle=False))
    # The k-th dead position is k plus the number of live positions before it. live[i] - i is the number of dead
    # positions before live[i], so that number is found by a binary search.
    return rank + np.searchsorted(live - np.arange(len(live)), rank, side="right")


def between_live_units(
    live: np.ndarray,
    shape: tuple[int, ...],
    inputs: tuple[int, ...] = (-2,),
    outputs: tuple[int, ...] = (-1,),
) -> np.ndarray:
    """Marks the positions whose input unit and output unit each have a live weight in the layer.

    Args:
        live: sorted int array, the live positions.
        shape: tuple of ints, the shape of the mask.
        inputs: tuple of ints, the axes of the mask that index the input units.
        outputs: tuple of ints, the axes of the mask that index the output units. An axis may be in both.

    Returns:
        1-D boolean array with one entry for each position.
    """
    mask = np.zeros(shape, bool)
    mask.flat[live] = True
    connected = np.ones_like(mask)
    for axes in (inputs, outputs):
        units = {axis % mask.ndim for axis in axes}
        connected &= mask.any(axis=tuple(i for i in range(mask.ndim) if i not in units), keepdims=True)
    return connected.ravel()


def grow_strongest(live: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Selects the positions with the highest scores among those that are not live. Ties go to the earlier position.

    Args:
        live: sorted int array, the positions that were live before the drop.
        scores: 1-D array, at least 0, one score for each position, live or dead, such as the magnitude of the dense
            gradient. NaN ranks below all numbers.
        count: int, at most the number of dead positions.

    Returns:
        Sorted int array of `count` positions.
    """
    if not count:
        return np.zeros(0, "int64")
    scores = np.nan_to_num(scores, nan=-1.0)  # makes a copy, so that the caller's array is not written
    scores[live] = -np.inf
    # A partition takes linear time. A full sort of all dead positions would dominate the time of an update.
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    ties = np.flatnonzero(scores == least)[: count - len(above)]
    return np.sort(np.concatenate([above, ties]))


def adapt_threshold(threshold: float, dropped: int, target: int, tolerance: float) -> float:
    """Computes the next threshold: doubled if too few elements were dropped, halved if too many.

    Args:
        threshold: positive float, the threshold just used.
        dropped: int, how many elements it dropped.
        target: int, how many elements it should have dropped.
        tolerance: float in [0, 1), the accepted deviation as a fraction of `target`.

    Returns:
        Positive float. It does not become 0, however often it is halved.
    """
    if dropped < (1 - tolerance) * target:
        return threshold * 2
    if dropped > (1 + tolerance) * target:
        return max(threshold / 2, float(np.finfo("float32").tiny))
    return threshold


def live_count(size: int, sparsity: float) -> int:
    """Returns the number of live mask elements among `size` at a sparsity in [0, 1], rounded to the nearest."""
    return round(size * (1 - sparsity))


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

"""What to drop, how to share regrowth between layers, where to grow: pure NumPy.

Everything here is counted in *mask elements*: one element is a single weight, or a whole kernel slice where the mask is
coarser than the kernel (see `keras_sparse.layers.masks.mask_shape`). A mask is the sorted flat positions of its live
elements, so that the work grows with them and not with the dense size.
"""

import numpy as np


def below(scores, threshold):
    """Which elements of a layer score below a threshold; but never all of them: the largest one is kept.

    Args:
        scores: 1-D array, the scores of the live elements.
        threshold: positive float.

    Returns:
        Boolean array of the same shape, True where dropped.
    """
    dropped = scores < threshold
    if dropped.size and dropped.all():
        dropped[scores.argmax()] = False
    return dropped


def weakest(scores, count):
    """Which elements of a layer have the lowest scores; of equal ones the earlier.

    Args:
        scores: 1-D array, the scores of the live elements.
        count: int in [0, number of scores].

    Returns:
        Boolean array of the same shape, `count` times True.
    """
    dropped = np.zeros(len(scores), bool)
    dropped[np.argsort(scores, kind="stable")[:count]] = True
    return dropped


def keep_strongest(dropped, scores, limit):
    """Withdraws the strongest of the `dropped` of several layers until at most `limit` are left.

    Needed where fewer positions are free than were dropped: what cannot be grown again must not be dropped.

    Args:
        dropped: list of 1-D boolean arrays, one for each layer.
        scores: list of arrays of the same shapes.
        limit: int, how many may be dropped over all layers.

    Returns:
        List of boolean arrays, each a subset of the one given.
    """
    if sum(map(np.count_nonzero, dropped)) <= limit:
        return dropped
    together, values = np.concatenate(dropped), np.concatenate(scores)
    weakest_first = np.flatnonzero(together)[np.argsort(values[together], kind="stable")]
    together[weakest_first[limit:]] = False
    return np.split(together, np.cumsum([len(d) for d in dropped])[:-1])


def apportion(total, shares, capacities):
    """Splits `total` into whole numbers in proportion to `shares`, none above its capacity, exactly.

    Rounding goes by largest remainder (Hamilton's method; ties to the earlier entry), so no entry is favoured
    over many calls. What a full entry cannot take is spread over the others in the same proportions; if only
    entries without a share have room left, in proportion to their room.

    Args:
        total: int, at least 0.
        shares: sequence of ints, at least 0.
        capacities: sequence of ints, at least 0, of the same length.

    Returns:
        List of ints that sum to `total`.

    Raises:
        ValueError: if the capacities sum to less than `total`.
    """
    total, shares = int(total), [int(s) for s in shares]
    room = [int(c) for c in capacities]
    if total > sum(room):
        raise ValueError(f"Cannot place {total} in capacities {room}, which sum to {sum(room)}.")
    result = [0] * len(room)
    while total:
        # Whole numbers of Python throughout: no product of counts can overflow or round.
        weights = [s if r else 0 for s, r in zip(shares, room, strict=True)]
        if not any(weights):
            weights = room
        whole = sum(weights)
        given = [total * w // whole for w in weights]
        order = sorted(range(len(room)), key=lambda i: (-(total * weights[i] % whole), i))
        for i in order[: total - sum(given)]:
            given[i] += 1
        given = [min(g, r) for g, r in zip(given, room, strict=True)]
        result = [a + g for a, g in zip(result, given, strict=True)]
        room = [r - g for r, g in zip(room, given, strict=True)]
        total -= sum(given)
    return result


def grow_random(live, size, count, rng):
    """Positions drawn uniformly, without replacement, from those that are not live.

    Args:
        live: sorted int array, the live positions. Pass those from *before* the drop, so that what was just dropped
            cannot come straight back.
        size: int, number of positions, live and dead.
        count: int, at most the number of dead positions.
        rng: `numpy.random.Generator`.

    Returns:
        Sorted int array of `count` positions.
    """
    rank = np.sort(rng.choice(size - len(live), count, replace=False, shuffle=False))
    # The dead position of that rank: as many further on as there are live ones before it.
    return rank + np.searchsorted(live - np.arange(len(live)), rank, side="right")


def between_live_units(live, shape, inputs=(-2,), outputs=(-1,)):
    """Which positions lie between two units that each have a live weight in the layer.

    Args:
        live: sorted int array, the live positions.
        shape: shape of the mask.
        inputs: tuple of ints, the axes of the mask that number the input units.
        outputs: tuple of ints, the axes that number the output units; an axis may number both.

    Returns:
        Boolean array of one dimension, an entry for each position.
    """
    mask = np.zeros(shape, bool)
    mask.flat[live] = True
    connected = np.ones_like(mask)
    for axes in (inputs, outputs):
        numbering = {axis % mask.ndim for axis in axes}
        connected &= mask.any(axis=tuple(i for i in range(mask.ndim) if i not in numbering), keepdims=True)
    return connected.ravel()


def grow_strongest(live, scores, count):
    """The positions of the highest scores among those that are not live; of equal ones the earlier.

    Args:
        live: sorted int array, the live positions before the drop.
        scores: 1-D array of at least 0, a score of every position, live or dead, such as the
            magnitude of its dense gradient.
        count: int, at most the number of dead positions.

    Returns:
        Sorted int array of `count` positions.
    """
    if not count:
        return np.zeros(0, "int64")
    scores = np.nan_to_num(scores, nan=-1.0)  # a copy; NaN is the last choice
    scores[live] = -np.inf
    # A partition, since a sort of all dead positions would take most of an update.
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    ties = np.flatnonzero(scores == least)[: count - len(above)]
    return np.sort(np.concatenate([above, ties]))


def adapt_threshold(threshold, dropped, target, tolerance):
    """The next threshold: doubled where too few were dropped, halved where too many.

    Args:
        threshold: positive float, the one just used.
        dropped: int, how many it dropped.
        target: int, how many it should have dropped.
        tolerance: float in [0, 1), the fraction of `target` it may be off.

    Returns:
        Positive float.
    """
    if dropped < (1 - tolerance) * target:
        return threshold * 2
    if dropped > (1 + tolerance) * target:
        return threshold / 2
    return threshold

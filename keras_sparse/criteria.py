"""What to drop, how to share regrowth between layers, where to grow: pure NumPy.

Every array here is in *mask elements*: one element is a single weight, or a whole kernel slice where the
mask is coarser than the kernel (see `keras_sparse.masks.mask_shape`).
"""

import numpy as np


def score(kernel, mask_shape):
    """Mean magnitude of the weights under each mask element.

    Args:
        kernel: array, the weights of one layer.
        mask_shape: shape of the layer's mask; it broadcasts to `kernel.shape`.

    Returns:
        Array of shape `mask_shape`.
    """
    axes = tuple(i for i, n in enumerate(mask_shape) if n != kernel.shape[i])
    magnitude = np.abs(kernel)
    return magnitude.mean(axis=axes, keepdims=True) if axes else magnitude


def below(scores, mask, threshold):
    """Live elements whose score is below `threshold`, but never all of a layer: the largest one is kept.

    Args:
        scores: array of scores.
        mask: boolean array of the same shape, True where live.
        threshold: positive float.

    Returns:
        Boolean array of the same shape, True where dropped.
    """
    dropped = mask & (scores < threshold)
    if dropped.any() and np.array_equal(dropped, mask):
        dropped.flat[np.where(mask, scores, -1.0).argmax()] = False
    return dropped


def keep_strongest(dropped, scores, limit):
    """Withdraws the strongest of the `dropped` of several layers until at most `limit` are left.

    Needed where fewer positions are free than were dropped: what cannot be regrown must not be dropped.

    Args:
        dropped: list of boolean arrays, True where dropped.
        scores: list of arrays of the same shapes.
        limit: int, how many may be dropped over all layers.

    Returns:
        List of boolean arrays, each a subset of the one given.
    """
    where = [np.flatnonzero(d) for d in dropped]
    excess = sum(map(len, where)) - limit
    if excess <= 0:
        return dropped
    values = np.concatenate([s.flat[w] for s, w in zip(scores, where, strict=True)])
    weakest = np.zeros(values.size, bool)
    weakest[np.argsort(values, kind="stable")[:limit]] = True
    kept = np.split(weakest, np.cumsum([len(w) for w in where])[:-1])
    result = [np.zeros_like(d) for d in dropped]
    for r, w, k in zip(result, where, kept, strict=True):
        r.flat[w[k]] = True
    return result


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


def grow_random(mask, count, rng):
    """`count` positions drawn uniformly from those that are dead in `mask`.

    Args:
        mask: boolean array. Pass the mask from *before* the drop, so that what was just dropped cannot come
            straight back.
        count: int, at most the number of dead positions.
        rng: `numpy.random.Generator`.

    Returns:
        Boolean array of the shape of `mask`, True where grown.
    """
    grown = np.zeros_like(mask)
    free = np.flatnonzero(~mask)
    grown.flat[rng.choice(free, count, replace=False, shuffle=False)] = True
    return grown


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

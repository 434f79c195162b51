"""Algorithm 1 of Mostafa & Wang in plain Python, written from the paper: lists and loops, nothing of keras_sparse.

A layer is a list of weights and a list of booleans, both flat.
"""

from fractions import Fraction


def algorithm_1(weights, masks, threshold, prune_count, tolerance, choose):
    """Makes one reparameterization of a network whose mask elements are single weights.

    Args:
        weights: list of lists of floats.
        masks: list of lists of bools.
        threshold: H.
        prune_count: K.
        tolerance: delta.
        choose: function `(layer, free positions, count) -> positions`, the random draw.

    Returns:
        `(dropped, grown, threshold)`: sets of positions for each layer, and the next H.
    """
    dropped = []
    for w, m in zip(weights, masks, strict=True):
        live = [i for i in range(len(w)) if m[i]]
        below = {i for i in live if abs(w[i]) < threshold}
        if live and len(below) == len(live):
            below.remove(max(live, key=lambda i: abs(w[i])))
        dropped.append(below)
    pruned = sum(map(len, dropped))
    if pruned < (1 - tolerance) * prune_count:
        next_threshold = threshold * 2
    elif pruned > (1 + tolerance) * prune_count:
        next_threshold = threshold / 2
    else:
        next_threshold = threshold

    free = [[i for i in range(len(m)) if not m[i]] for m in masks]
    room = sum(map(len, free))
    if pruned > room:  # If fewer positions are free than were dropped, the largest weights are kept.
        order = sorted(
            ((abs(weights[layer][i]), layer, i) for layer, below in enumerate(dropped) for i in below),
        )
        for _, layer, i in order[room:]:
            dropped[layer].remove(i)
        pruned = room
    remaining = [sum(m) - len(d) for m, d in zip(masks, dropped, strict=True)]
    counts = split(pruned, remaining, [len(f) for f in free])
    grown = [set(choose(layer, free[layer], n)) for layer, n in enumerate(counts)]
    return dropped, grown, next_threshold


def split(total, shares, room):
    """Splits `total` in proportion to `shares` by largest remainder; what exceeds a capacity is split again."""
    counts = [0] * len(shares)
    while total > 0:
        open_layers = [i for i in range(len(shares)) if counts[i] < room[i]]
        weights = {i: shares[i] for i in open_layers if shares[i] > 0}
        weights = weights or {i: room[i] - counts[i] for i in open_layers}
        exact = {i: Fraction(total * w, sum(weights.values())) for i, w in weights.items()}
        give = {i: int(x) for i, x in exact.items()}
        for i in sorted(exact, key=lambda i: (give[i] - exact[i], i))[: total - sum(give.values())]:
            give[i] += 1
        for i, n in give.items():
            n = min(n, room[i] - counts[i])
            counts[i] += n
            total -= n
    return counts

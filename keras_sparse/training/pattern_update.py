"""Updates of a mask with an N:M pattern: what is dropped grows within its group of M weights."""

import numpy as np

from keras_sparse.layers.granularity import choose_in_groups


def limit_dropped(layer, dropped):
    """Returns what of a layer's weights may be dropped: in each group as many as can grow there.

    A group of M weights with n live ones has M - n dead ones, and only those that were dead before an update grow. So
    of 3:4 one weight a group may move at once. Of more the weakest are dropped.

    Args:
        layer: `keras_sparse.training.layer_state.LayerState`, with a pattern or without.
        dropped: boolean array like its `live`.

    Returns:
        Boolean array like `dropped`.
    """
    pattern = layer.pattern
    if pattern is None or not dropped.any() or len(layer.live) == layer.size:  # A dense layer is pruned, none grows.
        return dropped
    live = pattern.counts(layer.live)
    most = np.where(live > pattern.live, live, pattern.size - live)
    gone = layer.live[dropped]
    most = np.minimum(most, pattern.counts(gone))
    return np.isin(layer.live, choose_in_groups(gone, -layer.scores[dropped], pattern, most), assume_unique=True)


def needed(layer):
    """Returns which live weights a pruning must leave: the strongest of each group, the pattern's N.

    Args:
        layer: `LayerState` with a pattern.

    Returns:
        Boolean array like its `live`.
    """
    counts = np.minimum(layer.pattern.counts(layer.live), layer.pattern.live)
    kept = choose_in_groups(layer.live, layer.scores, layer.pattern, counts)
    return np.isin(layer.live, kept, assume_unique=True)


def grow(method, layer, dropped, count, rng):
    """Returns where a layer with a pattern grows: in each group as many weights as it lost.

    Args:
        method: `keras_sparse.SparseMethod`, whose `regrowth` has preferences.
        layer: `LayerState` with a pattern.
        dropped: boolean array like its `live`.
        count: int, how many grow: as many as are dropped, or 0 where weights are pruned.
        rng: `numpy.random.Generator`.

    Returns:
        Sorted int array, positions that were dead before.
    """
    lost = layer.pattern.counts(layer.live[dropped])
    if count == 0:
        return np.zeros(0, "int64")
    dead = np.setdiff1d(np.arange(layer.size), layer.live, assume_unique=True)
    return choose_in_groups(dead, method.regrowth.preferences(layer, dead, rng), layer.pattern, lost)


def check_pattern(name, layer, dropped, grown):
    """Raises RuntimeError if an update would break a layer's pattern.

    A group with N live weights keeps N. One with more, in a network that is being pruned, keeps at least N.
    """
    pattern = layer.pattern
    if pattern is None:
        return
    before = pattern.counts(layer.live)
    after = before - pattern.counts(layer.live[dropped]) + pattern.counts(np.asarray(grown, "int64"))
    if np.any((after < np.minimum(before, pattern.live)) | (after > np.maximum(before, pattern.live))):
        raise RuntimeError(
            f"{name} broke an invariant, and the update was not made: of each {pattern.size} weights {pattern.live} "
            f"must live. Received groups with {sorted(set(after.tolist()))} live weights."
        )

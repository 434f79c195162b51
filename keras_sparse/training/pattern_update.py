"""Updates of masks with an N:M pattern: a dropped weight is replaced within its group of M weights."""

import numpy as np

from keras_sparse.layers.nm_pattern import choose_in_groups
from keras_sparse.training.layer_state import LayerState


def limit_to_replaceable(layer: LayerState, dropped: np.ndarray) -> np.ndarray:
    """Limits the dropped weights of a layer to as many in each group as can grow there.

    Weights grow only at positions that were dead before the update. A group of M weights with n live ones has M - n of
    these: with 3:4, one weight of a group can move at once. If more are to be dropped, the weakest are.

    Args:
        layer: `keras_sparse.training.layer_state.LayerState`, with or without a pattern.
        dropped: boolean array of the shape of `layer.live`.

    Returns:
        Boolean array of the same shape, a subset of `dropped`.
    """
    pattern = layer.pattern
    if pattern is None or not dropped.any() or len(layer.live) == layer.size:  # a dense layer is only pruned
        return dropped
    live = pattern.counts(layer.live)
    # A group with more than N live weights belongs to a network that is being pruned, so nothing has to grow there.
    most = np.where(live > pattern.live, live, pattern.size - live)
    gone = layer.live[dropped]
    most = np.minimum(most, pattern.counts(gone))
    return np.isin(layer.live, choose_in_groups(gone, -layer.scores[dropped], pattern, most), assume_unique=True)


def strongest_of_groups(layer: LayerState) -> np.ndarray:
    """Marks the live weights that pruning must keep: the N strongest of each group.

    Args:
        layer: `LayerState` with a pattern.

    Returns:
        Boolean array of the shape of `layer.live`.
    """
    counts = np.minimum(layer.pattern.counts(layer.live), layer.pattern.live)
    kept = choose_in_groups(layer.live, layer.scores, layer.pattern, counts)
    return np.isin(layer.live, kept, assume_unique=True)


def grow_in_groups(method, layer: LayerState, dropped: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Selects the positions to grow in a layer with a pattern: in each group as many as were dropped.

    Args:
        method: `keras_sparse.SparseMethod`, whose growth strategy scores the dead positions.
        layer: `LayerState` with a pattern.
        dropped: boolean array of the shape of `layer.live`.
        count: int, the number of weights to grow: that of the dropped ones, or 0 if the method prunes.
        rng: `numpy.random.Generator`.

    Returns:
        Sorted int array of positions that were dead before.
    """
    lost = layer.pattern.counts(layer.live[dropped])
    if count == 0:
        return np.zeros(0, "int64")
    dead = np.setdiff1d(np.arange(layer.size), layer.live, assume_unique=True)
    return choose_in_groups(dead, method.growth_strategy.preferences(layer, dead, rng), layer.pattern, lost)


def check_pattern(name: str, layer: LayerState, dropped: np.ndarray, grown: np.ndarray) -> None:
    """Raises RuntimeError if an update would break the pattern of a layer.

    A group with N live weights must keep N. A group with more, in a network that is being pruned, must keep at least N.
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

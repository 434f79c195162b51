"""Checks what a method returned for an update, before anything is written."""

import numpy as np

from keras_sparse.training import pattern_update
from keras_sparse.training.layer_state import LayerState


def check_update(
    name: str, layers: list[LayerState], dropped: list[np.ndarray], grown: list[np.ndarray], budget: int
) -> None:
    """Raises an error if an update is malformed or would break an invariant.

    Args:
        name: str, name of the method, for messages.
        layers: list of `LayerState`.
        dropped: list of boolean arrays, each of the shape of `live`, True for the elements to drop; checked by
            `check_dropped` before.
        grown: list of int arrays, the positions of the mask elements to grow.
        budget: int, the number of weights that must be live after the update.

    Raises:
        ValueError: if `grown` is malformed.
        RuntimeError: if the number of live weights would not be `budget`, or an element to grow was live before or
            occurs twice, or an N:M pattern would be broken.
    """
    for layer, new in zip(layers, grown, strict=True):
        if np.ndim(new) != 1 or np.asarray(new).dtype.kind not in "iu" or np.any((new < 0) | (new >= layer.size)):
            raise ValueError(
                f"`grow` of {name} must return an int array of one dimension, of positions in [0, {layer.size}). "
                f"Received: {new!r}."
            )
    sizes = zip(layers, dropped, grown, strict=True)
    after = sum((len(s.live) - np.count_nonzero(d) + len(new)) * s.element_size for s, d, new in sizes)
    if after != budget:
        raise RuntimeError(
            f"{name} broke an invariant, and the update was not made: {budget} weights must be live after it, as "
            f"`budget` says. Received: drops and growth that leave {after}. `redistribute` decides how many grow."
        )
    for i, (layer, new) in enumerate(zip(layers, grown, strict=True)):
        if _is_live_or_repeated(layer.live, np.sort(new)):
            raise RuntimeError(
                f"{name} broke an invariant, and the update was not made: only elements dead before the update may "
                f"grow, each once. Received from `grow`, for weight {i} of the shape {layer.kernel.shape}: {new!r}."
            )
    for layer, d, new in zip(layers, dropped, grown, strict=True):
        pattern_update.check_pattern(name, layer, d, new)


def check_dropped(name: str, layers: list[LayerState], dropped: list[np.ndarray]) -> None:
    """Raises ValueError unless `dropped` has, for each layer, a boolean array of the shape of its `live`."""
    is_list = isinstance(dropped, (list, tuple))
    received = [(np.asarray(d).dtype.name, np.shape(d)) for d in dropped] if is_list else dropped
    expected = [("bool", s.live.shape) for s in layers]
    if received != expected:
        raise ValueError(
            f"`drop` of {name} must return for each layer a boolean array as long as its `live`, True where an element "
            f"is dropped. Expected: {expected}. Received: {received}. From positions, make it by "
            "numpy.isin(layer.live, positions)."
        )


def check_counts(name: str, layers: list[LayerState], counts: list[int]) -> None:
    """Raises ValueError unless `counts` has, for each layer, an int of at least 0."""
    whole = isinstance(counts, (list, tuple, np.ndarray)) and all(
        isinstance(n, (int, np.integer)) and n >= 0 for n in counts
    )
    if not whole or len(counts) != len(layers):
        raise ValueError(
            f"`redistribute` of {name} must return a whole number of at least 0 for each of the {len(layers)} layers, "
            f"how many elements it grows. Received: {counts!r}."
        )


def _is_live_or_repeated(live, new):
    """Returns whether an entry of the sorted array `new` is in the sorted array `live`, or occurs twice."""
    place = np.searchsorted(live, new)  # A binary search, since few elements grow in comparison to the live ones.
    inside = place < len(live)
    is_live = (live[place[inside]] == new[inside]).any()
    return bool(is_live or (new[1:] == new[:-1]).any())

"""The masks with which sparse training starts: at random, by magnitude, or where a model has zeros."""

import math

import numpy as np

from keras_sparse import backend, criteria
from keras_sparse.layers.granularity import Pattern, live_count, mask_of, mask_shape, to_elements

INITIAL = ("random", "magnitude", "global_magnitude")


def is_trained(model) -> bool:
    """Returns whether a model is compiled with an optimizer that has taken steps."""
    optimizer = getattr(model, "optimizer", None)
    return optimizer is not None and int(backend.read(optimizer.iterations)) > 0


def masks_of_zeros(weights, granularity) -> list[np.ndarray]:
    """Returns the masks that keep exactly the zeros of some weights.

    Raises:
        ValueError: if all of a weight is 0.
    """
    masks = []
    for w in weights:
        mask = mask_of(backend.read(w.variable), mask_shape(granularity, w.shape, w.spatial_rank))
        if not mask.any():
            raise ValueError(
                f"All weights of {w.name!r} are 0, and sparsity=None would make them all dead. Train the model first, "
                "give a `sparsity`, or keep the layer dense by `keep_dense`."
            )
        masks.append(mask)
    return masks


def masks_by_magnitude(weights, sparsities, granularity, one_threshold=False) -> list[np.ndarray]:
    """Returns the masks that keep the weights of largest mean |w|.

    Args:
        weights: list of `keras_sparse.conversion.eligible.Weight`.
        sparsities: list of floats, of each.
        granularity: as for `keras_sparse.sparsify`.
        one_threshold: bool, whether the weights of all layers compete with each other. Each layer keeps its largest.

    Returns:
        List of boolean arrays, in the shapes of the masks.
    """
    shapes = [mask_shape(granularity, w.shape, w.spatial_rank) for w in weights]
    scores = [
        np.abs(to_elements(backend.read(w.variable), s)).mean(axis=0) for w, s in zip(weights, shapes, strict=True)
    ]
    masks = []
    if one_threshold:
        units = [w.size // math.prod(s) for w, s in zip(weights, shapes, strict=True)]
        kept = _above_one_threshold(
            scores, units, [live_count(len(x), s) for x, s in zip(scores, sparsities, strict=True)]
        )
    else:
        counts = [max(1, live_count(len(x), s)) for x, s in zip(scores, sparsities, strict=True)]
        kept = [~criteria.weakest(x, len(x) - n) for x, n in zip(scores, counts, strict=True)]
    for w, s, keep, shape, score in zip(weights, sparsities, kept, shapes, scores, strict=True):
        pattern = Pattern.of(granularity, w.shape, w.units.input_axis) if s else None
        masks.append((keep if pattern is None else pattern.strongest(score)).reshape(shape))
    return masks


def _above_one_threshold(scores, units, counts):
    """Which elements are kept by one threshold over all layers; where elements differ in size, over those of a size."""
    kept = [np.zeros(len(x), bool) for x in scores]
    for unit in set(units):
        members = [i for i, u in enumerate(units) if u == unit]
        for i in members:
            kept[i][np.argmax(scores[i])] = True
        # The largest of each layer comes first, then all others by magnitude.
        ranked = np.concatenate([np.where(kept[i], np.inf, scores[i]) for i in members])
        total = max(len(members), sum(counts[i] for i in members))
        chosen = ~criteria.weakest(ranked, len(ranked) - total)
        for i, part in zip(members, np.split(chosen, np.cumsum([len(scores[i]) for i in members])[:-1]), strict=True):
            kept[i] = part
    return kept

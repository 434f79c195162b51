"""Initial masks from the weights of a model: by magnitude, or from its zeros."""

import math

import keras
import numpy as np

from keras_sparse import _keras, backend, criteria
from keras_sparse.conversion.trainable_weights import TrainableWeight
from keras_sparse.criteria import live_count
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.mask_elements import mask_of, to_elements
from keras_sparse.layers.nm_pattern import NMPattern

INITIAL = ("random", "magnitude", "global_magnitude")


def is_trained(model: keras.Model) -> bool:
    """Returns whether a model is compiled with an optimizer that has taken steps."""
    optimizer = getattr(model, "optimizer", None)
    if not getattr(model, "compiled", False) or not isinstance(optimizer, keras.optimizers.Optimizer):
        return False
    return int(backend.read(_keras.batch_counter(backend.inner_optimizer(optimizer)))) > 0


def masks_of_zeros(weights: list[TrainableWeight], granularity: str | tuple) -> list[np.ndarray]:
    """Returns masks in which the zeros of the weights are dead, and nothing else.

    With an N:M pattern, zeros are live where a group has fewer than N nonzero weights.

    Args:
        weights: list of `keras_sparse.conversion.trainable_weights.TrainableWeight`.
        granularity: as for `keras_sparse.sparsify`.

    Returns:
        List of boolean arrays, in the shapes of the masks.

    Raises:
        ValueError: if all entries of a weight are 0, or more than N of each M are not, for a pattern N:M.
    """
    masks = []
    for w in weights:
        values = backend.read(w.variable)
        mask = mask_of(values, mask_shape(granularity, w.shape, w.spatial_rank))
        if not mask.any():
            raise ValueError(
                f"All weights of {w.name!r} are 0, and sparsity=None would make them all dead. Train the model first, "
                "give a `sparsity`, or keep the layer dense by `keep_dense`."
            )
        if (pattern := NMPattern.of(granularity, w.shape, w.units.input_axis)) is not None:
            if (largest := pattern.counts(np.flatnonzero(mask)).max()) > pattern.live:
                raise ValueError(
                    f"sparsity=None takes the zeros of the model, and those of {w.name!r} have not the pattern "
                    f"`granularity`={granularity!r}. Expected: at most {pattern.live} nonzero weights in each group of "
                    f"{pattern.size} inputs. Received: up to {largest}. Give a `sparsity`, or granularity='weight'."
                )
            mask = pattern.strongest(np.abs(values).ravel()).reshape(w.shape)
        masks.append(mask)
    return masks


def masks_by_magnitude(
    weights: list[TrainableWeight], sparsities: list[float], granularity: str | tuple, one_threshold: bool = False
) -> list[np.ndarray]:
    """Returns masks in which the elements with the largest mean |w| are live.

    Args:
        weights: list of `keras_sparse.conversion.trainable_weights.TrainableWeight`.
        sparsities: list of floats in [0, 1), the sparsity of each weight.
        granularity: as for `keras_sparse.sparsify`.
        one_threshold: bool, whether one threshold is used for all layers instead of one a layer. Then `sparsities`
            determine the total only, and at least the largest element of each layer is live.

    Returns:
        List of boolean arrays, in the shapes of the masks.
    """
    shapes = [mask_shape(granularity, w.shape, w.spatial_rank) for w in weights]
    scores = [
        np.abs(to_elements(backend.read(w.variable), s)).mean(axis=0) for w, s in zip(weights, shapes, strict=True)
    ]
    masks = []
    if one_threshold:
        sizes = [w.size // math.prod(s) for w, s in zip(weights, shapes, strict=True)]
        kept = _above_one_threshold(
            scores, sizes, [live_count(len(x), s) for x, s in zip(scores, sparsities, strict=True)]
        )
    else:
        counts = [max(1, live_count(len(x), s)) for x, s in zip(scores, sparsities, strict=True)]
        kept = [~criteria.weakest(x, len(x) - n) for x, n in zip(scores, counts, strict=True)]
    for w, s, keep, shape, score in zip(weights, sparsities, kept, shapes, scores, strict=True):
        pattern = NMPattern.of(granularity, w.shape, w.units.input_axis) if s else None
        masks.append((keep if pattern is None else pattern.strongest(score)).reshape(shape))
    return masks


def _above_one_threshold(scores, element_sizes, counts):
    """Marks the elements above one threshold. Layers whose elements differ in size have separate thresholds."""
    kept = [np.zeros(len(x), bool) for x in scores]
    for size in set(element_sizes):
        members = [i for i, s in enumerate(element_sizes) if s == size]
        for i in members:
            kept[i][np.argmax(scores[i])] = True
        # Rank the largest element of each layer first, then all others by magnitude.
        ranked = np.concatenate([np.where(kept[i], np.inf, scores[i]) for i in members])
        total = max(len(members), sum(counts[i] for i in members))
        chosen = ~criteria.weakest(ranked, len(ranked) - total)
        for i, part in zip(members, np.split(chosen, np.cumsum([len(scores[i]) for i in members])[:-1]), strict=True):
            kept[i] = part
    return kept

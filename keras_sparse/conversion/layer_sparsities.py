"""Computes the sparsity of each weight, from a distribution or a dict, in whole mask elements."""

import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from keras_sparse.conversion.trainable_weights import TrainableWeight
from keras_sparse.conversion.weight_selection import named_sparsity
from keras_sparse.criteria import apportion, live_count
from keras_sparse.distributions import KernelShape
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.nm_pattern import is_pattern, pattern_sparsity


def layer_sparsities(
    weights: list[TrainableWeight], sparsity: float | dict, distribution: Callable, granularity: str | tuple
) -> list[float]:
    """Returns the sparsity of each weight, rounded to whole mask elements.

    The distribution returns sparsities of weights, and a mask element may cover several weights. So layers with
    the same element size are rounded together: their live elements sum to the rounded total of the distribution.

    Args:
        weights: list of `keras_sparse.conversion.trainable_weights.TrainableWeight`.
        sparsity: float in [0, 1), or dict from names to floats.
        distribution: function `(shapes, sparsity) -> list of sparsities`. Not used if `sparsity` is a dict or
            `granularity` a pattern.
        granularity: as for `keras_sparse.sparsify`.

    Raises:
        ValueError: if the distribution returns something else, the sparsity does not fit the pattern, or is so high
            that a layer would have no live element.
    """
    if isinstance(sparsity, dict):
        given = [named_sparsity(w, sparsity) for w in weights]
    elif is_pattern(granularity):
        given = [sparsity] * len(weights)
    else:
        given = distribution([KernelShape(w.units.as_convolution, w.units.groups) for w in weights], sparsity)
        if not _are_sparsities(given, len(weights)):
            raise ValueError(
                f"`distribution` must return a list with a sparsity in [0, 1] for each of the {len(weights)} kernels "
                f"{[w.shape for w in weights]}. Received: {given!r}."
            )
    if is_pattern(granularity):
        return [pattern_sparsity(granularity, s) for s in given]
    elements = [math.prod(mask_shape(granularity, w.shape, w.spatial_rank)) for w in weights]
    live = [live_count(w.size, s) for w, s in zip(weights, given, strict=True)]
    if isinstance(sparsity, dict):
        live = [max(1, live_count(e, s)) for e, s in zip(elements, given, strict=True)]
    else:
        live = _in_whole_elements(weights, elements, live)
    return [1 - k / e for k, e in zip(live, elements, strict=True)]


def _in_whole_elements(weights, elements, live):
    """Returns the number of live mask elements of each layer, from the number of live weights."""
    groups = defaultdict(list)
    for i, (w, e) in enumerate(zip(weights, elements, strict=True)):
        groups[w.size // e].append(i)
    counts = [0] * len(weights)
    for element_size, members in groups.items():
        total = round(sum(live[i] for i in members) / element_size)
        shares = apportion(total, [live[i] for i in members], [elements[i] for i in members])
        for i, k in zip(members, shares, strict=True):
            counts[i] = k
        _fill_empty_layers(counts, members, weights)
    return counts


def _are_sparsities(given, count):
    return (
        isinstance(given, Sequence | np.ndarray)
        and len(given) == count
        and all(isinstance(s, numbers.Real) and 0 <= s <= 1 for s in given)
    )


def _fill_empty_layers(live, members, weights):
    """Gives each layer without a live element one from the layer that has most, in place."""
    for i in members:
        if live[i]:
            continue
        richest = max(members, key=lambda j: live[j])
        if live[richest] < 2:
            raise ValueError(
                f"`sparsity` leaves {sum(live[j] for j in members)} live mask elements for {len(members)} layers, and "
                f"each needs one: {[weights[j].name for j in members]}. Lower it, or keep small layers dense by "
                "`keep_dense`."
            )
        live[richest], live[i] = live[richest] - 1, 1

"""The sparsity of each layer of a model, by a distribution, in whole mask elements."""

import math
import numbers
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from keras_sparse.criteria import apportion
from keras_sparse.distributions import KernelShape
from keras_sparse.layers.masks import live_count, mask_shape
from keras_sparse.layers.units import units_of


def layer_sparsities(layers, sparsity, distribution, granularity):
    """The sparsity of each layer, whole mask elements, exact for the network to less than one element.

    The distribution speaks of weights. Where mask elements hold several weights each, the layers whose elements are
    of one size share what it gave them in whole elements.
    """
    shapes = [tuple(x.kernel.shape) for x in layers]
    sizes = [math.prod(s) for s in shapes]
    elements = [
        math.prod(mask_shape(granularity, s, getattr(x, "rank", 0))) for x, s in zip(layers, shapes, strict=True)
    ]
    given = distribution([_as_convolution(x, s) for x, s in zip(layers, shapes, strict=True)], sparsity)
    if not _are_sparsities(given, len(layers)):
        raise ValueError(
            f"`distribution` must return a list with a sparsity in [0, 1] for each of the {len(layers)} kernels "
            f"{shapes}. Received: {given!r}."
        )
    weights = [live_count(n, s) for n, s in zip(sizes, given, strict=True)]
    groups = defaultdict(list)
    for i, (n, e) in enumerate(zip(sizes, elements, strict=True)):
        groups[n // e].append(i)
    live = [0] * len(layers)
    for unit, members in groups.items():
        total = round(sum(weights[i] for i in members) / unit)
        for i, k in zip(
            members,
            apportion(total, [weights[i] for i in members], [elements[i] for i in members]),
            strict=True,
        ):
            live[i] = k
        _feed_the_empty(live, members, layers)
    return [1 - k / e for k, e in zip(live, elements, strict=True)]


def _are_sparsities(given, count):
    return (
        isinstance(given, Sequence | np.ndarray)
        and len(given) == count
        and all(isinstance(s, numbers.Real) and 0 <= s <= 1 for s in given)
    )


def _feed_the_empty(live, members, layers):
    """Gives each layer without a live element one of the layer that has most, in place."""
    for i in members:
        if live[i]:
            continue
        richest = max(members, key=lambda j: live[j])
        if live[richest] < 2:
            raise ValueError(
                f"`sparsity` leaves {sum(live[j] for j in members)} live mask elements for {len(members)} layers, and "
                f"each needs one: {[layers[j].name for j in members]}. Lower it, or keep small layers dense by "
                "`keep_dense`."
            )
        live[richest], live[i] = live[richest] - 1, 1


def _as_convolution(layer, shape):
    """The shape of a layer's kernel as distributions take it."""
    units = units_of(layer, shape)
    return KernelShape(units.as_convolution, units.groups)

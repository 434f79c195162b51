"""From the shapes of all kernels and one sparsity to the sparsity of each layer.

All three are exact to the weight: with n the size of a layer's mask, `round(n * (1 - sparsity))` sums over the layers
to `round(sum(n) * (1 - sparsity of the network))`.
"""

import math
import numbers
from collections import defaultdict
from collections.abc import Sequence

import keras
import numpy as np

from keras_sparse.criteria import apportion
from keras_sparse.masks import check_sparsity, live_count, mask_shape, unit_axes


def uniform(shapes, sparsity):
    """The same sparsity in every layer, as in Table 4 of Mostafa & Wang.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or `shapes` is no list of shapes; as do all distributions.
    """
    return _exact(shapes, sparsity, lambda s: 1.0)


def erdos_renyi(shapes, sparsity):
    """Density in proportion to (n_in + n_out) / (n_in * n_out): small layers stay denser.

    For convolutions n_in and n_out count channels only, as in SET.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape; layers whose density would exceed 1 are dense, and the
        others share what that leaves.

    Reference:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired
        by network science", 2018.
    """
    return _exact(shapes, sparsity, lambda s: sum(s[-2:]) / math.prod(s[-2:]))


def erdos_renyi_kernel(shapes, sparsity):
    """Density in proportion to (n_in + n_out + k_h + k_w) / (n_in * n_out * k_h * k_w), all kernel axes included.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape; layers whose density would exceed 1 are dense, and the
        others share what that leaves.

    Reference:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020.
    """
    return _exact(shapes, sparsity, lambda s: sum(s) / math.prod(s))


DISTRIBUTIONS = {f.__name__: f for f in (uniform, erdos_renyi, erdos_renyi_kernel)}


def get(identifier):
    """A distribution by its name, or the function itself.

    Args:
        identifier: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a callable
            `(shapes, sparsity) -> list of sparsities`.

    Raises:
        ValueError: if it is neither.
    """
    if callable(identifier):
        return identifier
    if not isinstance(identifier, str) or identifier not in DISTRIBUTIONS:
        raise ValueError(
            f"Unknown distribution: {identifier!r}. Expected one of {sorted(DISTRIBUTIONS)} or a function "
            "(shapes, sparsity) -> list of sparsities."
        )
    return DISTRIBUTIONS[identifier]


def _exact(shapes, sparsity, density):
    """Sparsities with relative densities, a function of the shape, whose whole counts sum to the network's."""
    check_sparsity(sparsity)
    try:
        sizes, densities = [math.prod(s) for s in shapes], [density(s) for s in shapes]
    except TypeError:
        raise ValueError(
            f"`shapes` must be a list of kernel shapes, such as [(784, 300), (300, 10)]. Received: {shapes!r}."
        ) from None
    # Counts are apportioned as whole numbers, so relative densities become whole shares at a fine resolution.
    shares = [round(n * d * 2**53) for n, d in zip(sizes, densities, strict=True)]
    live = apportion(round(sum(sizes) * (1 - sparsity)), shares, sizes)
    return [1 - k / n for k, n in zip(live, sizes, strict=True)]


def of_layers(layers, sparsity, distribution, granularity):
    """The sparsity of each layer, whole mask elements, exact for the network to less than one element.

    The distribution speaks of weights. Where mask elements hold several weights each, the layers whose elements are
    of one size share what it gave them in whole elements.
    """
    shapes = [tuple(x.kernel.shape) for x in layers]
    sizes = [math.prod(s) for s in shapes]
    elements = [
        math.prod(mask_shape(granularity, s, getattr(x, "rank", 0))) for x, s in zip(layers, shapes, strict=True)
    ]
    given = distribution([_as_conv(x, s) for x, s in zip(layers, shapes, strict=True)], sparsity)
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


def _as_conv(layer, shape):
    """The shape `(..., inputs, outputs)` of a kernel; those of EinsumDense have any axes for each."""
    if not isinstance(layer, keras.layers.EinsumDense):
        return shape
    inputs, outputs = map(set, unit_axes(layer, len(shape)))
    parts = inputs - outputs, outputs - inputs
    others = [n for i, n in enumerate(shape) if i not in inputs ^ outputs]
    return (*others, *(math.prod(shape[i] for i in part) for part in parts))

"""From the shapes of all kernels and one sparsity to the sparsity of each layer.

All three are exact to the weight: with n the size of a layer's mask, `round(n * (1 - sparsity))` sums over the layers
to `round(sum(n) * (1 - sparsity of the network))`.
"""

import math

from keras_sparse.criteria import apportion
from keras_sparse.validation import check_sparsity


class KernelShape(tuple):
    """The shape `(..., inputs, outputs)` of the kernel of a convolution with groups; without, any tuple will do.

    Of the inputs, as in Keras, it counts those of one group, and of the outputs those of all groups. A depthwise
    convolution is one with as many groups as channels.

    Args:
        shape: sequence of ints.
        groups: int of at least 1 that divides the last of them.

    Example:

    >>> erdos_renyi([KernelShape((3, 3, 4, 16), groups=4), (16, 10)], 0.5)
    [0.4131944444444444, 0.8125]
    """

    def __new__(cls, shape, groups=1):
        """The tuple, with its groups."""
        self = super().__new__(cls, shape)
        self.groups = groups
        return self


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

    For convolutions n_in and n_out count channels only, as in SET; for grouped ones, the channels of one group: each
    group is a graph of its own, in which the papers' formula holds.

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
    return _exact(shapes, sparsity, lambda s: _ratio(_of_a_group(s)[-2:]))


def erdos_renyi_kernel(shapes, sparsity):
    """Density in proportion to (n_in + n_out + k_h + k_w) / (n_in * n_out * k_h * k_w), all kernel axes included.

    For grouped convolutions n_in and n_out are the channels of one group.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape; layers whose density would exceed 1 are dense, and the
        others share what that leaves.

    Reference:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020.
    """
    return _exact(shapes, sparsity, lambda s: _ratio(_of_a_group(s)))


DISTRIBUTIONS = {f.__name__: f for f in (uniform, erdos_renyi, erdos_renyi_kernel)}


def get(identifier):
    """A distribution by its name, or the function itself.

    Args:
        identifier: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a callable
            `(shapes, sparsity) -> list of sparsities`. Its shapes are `KernelShape`s.

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


def _of_a_group(shape):
    """The shape of the kernel of one group."""
    return (*shape[:-1], shape[-1] // getattr(shape, "groups", 1))


def _ratio(sizes):
    return sum(sizes) / math.prod(sizes)


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

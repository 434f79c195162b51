"""Distributions: compute the sparsity of each layer from the shapes of all kernels and the sparsity of the network.

They are exact to the weight. With n the number of weights of a layer, the sum of `round(n * (1 - sparsity))` over all
layers is `round(sum(n) * (1 - sparsity of the network))`.
"""

import math
from collections.abc import Callable, Sequence

from keras_sparse.criteria import apportion
from keras_sparse.validation import check_callable, check_sparsity


class KernelShape(tuple):
    """Shape `(..., inputs, outputs)` of a kernel, with the number of groups of a grouped convolution.

    As in Keras, `inputs` is the number of input channels of one group, `outputs` the number of output channels of all
    groups. A depthwise convolution has as many groups as channels. For kernels without groups a plain tuple is enough.

    Args:
        shape: sequence of ints.
        groups: int of at least 1 that divides the last entry of `shape`.

    Example:

    >>> erdos_renyi([KernelShape((3, 3, 4, 16), groups=4), (16, 10)], 0.5)
    [0.4131944444444444, 0.8125]
    """

    def __new__(cls, shape: Sequence[int], groups: int = 1):
        """Makes the tuple and sets its `groups`."""
        self = super().__new__(cls, shape)
        self.groups = groups
        return self


def uniform(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Gives every layer the same sparsity, up to rounding.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or `shapes` is not a list of shapes.

    Reference:
        Table 4 of Mostafa & Wang, "Parameter efficient training of deep convolutional neural networks by dynamic
        sparse reparameterization", ICML 2019.
    """
    return _exact(shapes, sparsity, lambda s: 1.0)


def erdos_renyi(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Gives each layer a density in proportion to (n_in + n_out) / (n_in * n_out), so that small layers are denser.

    n_in and n_out are the numbers of input and output units. In convolutions they are the numbers of channels, as in
    SET. In grouped convolutions they are the channels of one group, since each group is a bipartite graph of its own.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape. Layers whose density would exceed 1 are dense, and the remaining
        live weights are shared among the other layers in the same proportions.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or `shapes` is not a list of shapes.

    Reference:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired
        by network science", 2018.
    """
    return _exact(shapes, sparsity, lambda s: _ratio(_of_a_group(s)[-2:]))


def erdos_renyi_kernel(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Gives each layer a density in proportion to (n_in + n_out + k_h + k_w) / (n_in * n_out * k_h * k_w).

    k_h and k_w are the height and width of a convolution kernel. In grouped convolutions n_in and n_out are the
    channels of one group.

    Args:
        shapes: list of kernel shapes, each `(..., inputs, outputs)`.
        sparsity: float in [0, 1), the removed fraction of all weights.

    Returns:
        List of floats in [0, 1], one for each shape. Layers whose density would exceed 1 are dense, and the remaining
        live weights are shared among the other layers in the same proportions.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or `shapes` is not a list of shapes.

    Reference:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020.
    """
    return _exact(shapes, sparsity, lambda s: _ratio(_of_a_group(s)))


DISTRIBUTIONS = {f.__name__: f for f in (uniform, erdos_renyi, erdos_renyi_kernel)}


def get(identifier: str | Callable[[list[KernelShape], float], list[float]]) -> Callable:
    """Returns the distribution with a given name; a callable is returned unchanged.

    Args:
        identifier: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a callable
            `(shapes, sparsity) -> list of sparsities`, whose shapes are `KernelShape`s.

    Returns:
        Callable `(shapes, sparsity) -> list of sparsities`.

    Raises:
        ValueError: if `identifier` is neither a known name nor a function of two arguments.
    """
    if callable(identifier):
        check_callable(identifier, "distribution", "(shapes, sparsity) -> list of sparsities")
        return identifier
    if not isinstance(identifier, str) or identifier not in DISTRIBUTIONS:
        raise ValueError(
            f"Unknown distribution: {identifier!r}. Expected one of {sorted(DISTRIBUTIONS)} or a function "
            "(shapes, sparsity) -> list of sparsities."
        )
    return DISTRIBUTIONS[identifier]


def _of_a_group(shape):
    """Returns the shape of the kernel of one group."""
    return (*shape[:-1], shape[-1] // getattr(shape, "groups", 1))


def _ratio(sizes):
    """Computes the unnormalized Erdos-Renyi density: the sum of some axes' sizes over their product."""
    return sum(sizes) / math.prod(sizes)


def _exact(shapes, sparsity, density):
    """Computes the sparsities of layers with given relative densities.

    Args:
        shapes: list of kernel shapes.
        sparsity: float in [0, 1), the sparsity of the network.
        density: function from a shape to a positive float, the density up to a common factor.
    """
    check_sparsity(sparsity)
    try:
        sizes, densities = [math.prod(s) for s in shapes], [density(s) for s in shapes]
    except TypeError:
        raise ValueError(
            f"`shapes` must be a list of kernel shapes, such as [(784, 300), (300, 10)]. Received: {shapes!r}."
        ) from None
    # `apportion` takes integer shares: the expected numbers of live weights are scaled up before they are rounded.
    shares = [round(n * d * 2**53) for n, d in zip(sizes, densities, strict=True)]
    live = apportion(round(sum(sizes) * (1 - sparsity)), shares, sizes)
    return [1 - k / n for k, n in zip(live, sizes, strict=True)]

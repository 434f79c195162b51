"""From a dense model to a masked copy."""

import numpy as np

from keras_sparse import backend, distributions
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.eligible import check_convertible, eligible
from keras_sparse.conversion.layer_sparsities import layer_sparsities
from keras_sparse.layers.masked import mask_layer
from keras_sparse.layers.masks import mask_of, mask_shape
from keras_sparse.layers.traversal import masked_layers
from keras_sparse.validation import check_seed, check_sparsity


def sparsify(model, sparsity, distribution="uniform", keep_dense=(), granularity="weight", seed=0):
    """Copies a model and masks every Dense, convolution and EinsumDense layer of the copy.

    The copy has the names, weights and connections of the model: branches, shared layers and nested models stay
    what they are, and so does the class of each. Weights that live keep their value, so both fresh and pretrained
    models can be given. The model itself is not touched. The copy is not compiled, and like every Keras model it is
    placed by the distribution strategy in whose scope it is made.

    Args:
        model: a built Sequential or functional `keras.Model`.
        sparsity: float in [0, 1), the removed fraction of the weights of all layers that are masked. None keeps the
            zeros that the model has, one that was pruned elsewhere: exactly they are dead, and `distribution` and
            `seed` have no say.
        distribution: how the sparsity is spread over them: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a
            function (see `keras_sparse.distributions`).
        keep_dense: which layers stay dense: a list of layer names, or a function `layer -> bool`. A model or composite
            layer that it names stays dense with all layers in it.
        granularity: "weight" masks single weights, "kernel_slice" whole k x k slices of convolutions; or, where all
            kernels have one rank, the mask's shape, a tuple that broadcasts to the kernel's.
        seed: int of at least 0, of the random masks. A layer's mask depends on the seed and its place in the
            model only.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or so high that a layer would have no weight; the model is
            subclassed, not built, has no layer to mask, or a masked, quantized or LoRA-enabled one, or one that cannot
            be copied; a name in `keep_dense` is no layer's; `distribution` returns no sparsities.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, name="fc"), keras.layers.Dense(10)])
    >>> sparse = sparsify(model, sparsity=0.9)
    >>> [int(layer.kernel_mask.numpy().sum()) for layer in masked_layers(sparse)]
    [23520, 300]
    """
    if sparsity is not None:
        check_sparsity(sparsity)
    check_seed(seed)
    distribution = distributions.get(distribution)
    check_convertible(
        model,
        "sparsify",
        "Build the class from the layers of `keras_sparse.layers` instead, such as MaskedDense(300, sparsity=0.9); "
        "callbacks and the report find them.",
    )
    layers = eligible(model, keep_dense)
    if sparsity is None:
        masks = [_mask_of_zeros(x, granularity) for x in layers]
        sparsities = [1 - np.count_nonzero(m) / m.size for m in masks]
    else:
        masks = [None] * len(layers)
        sparsities = layer_sparsities(layers, sparsity, distribution, granularity)
    copy, twin = copy_model(model)
    for place, (layer, mask, its_sparsity) in enumerate(zip(layers, masks, sparsities, strict=True)):
        # Seeded by place, not by path: nested models may hold layers of one path, and Keras numbers names through.
        mask_layer(twin(layer), mask, its_sparsity, granularity, seed=(int(seed), place))
    masked_layers(copy)[0].kernel_mask.add_method_state()
    return copy


def _mask_of_zeros(layer, granularity):
    """The mask that keeps the zeros of a dense layer."""
    kernel = backend.read(layer.kernel)
    mask = mask_of(kernel, mask_shape(granularity, kernel.shape, getattr(layer, "rank", 0)))
    if not mask.any():
        raise ValueError(
            f"All weights of {layer.name!r} are 0, and sparsity=None would make them all dead. Train the model first, "
            "give a `sparsity`, or keep the layer dense by `keep_dense`."
        )
    return mask

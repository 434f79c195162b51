"""Between dense and masked models: `sparsify`, `densify`, and the masked layers of a model."""

import keras
import numpy as np
from keras import ops

from keras_sparse import distributions
from keras_sparse.conversion.eligible import check_convertible, eligible
from keras_sparse.conversion.layer_sparsities import layer_sparsities
from keras_sparse.layers.masked import MASKED, MaskedKernel
from keras_sparse.layers.masks import mask_of, mask_shape
from keras_sparse.validation import check_seed, check_sparsity


def sparsify(model, sparsity, distribution="uniform", keep_dense=(), granularity="weight", seed=0):
    """A copy of a model in which every Dense, convolution and EinsumDense layer is masked.

    The copy has the names, weights and connections of the model: branches, shared layers and nested models stay
    what they are. Weights that live keep their value, so both fresh and pretrained models can be given. The model
    itself is not touched. Like every Keras model, the copy is placed by the distribution strategy in whose scope it is
    made, and has to be compiled.

    Args:
        model: a built Sequential or functional `keras.Model`.
        sparsity: float in [0, 1), the removed fraction of the weights of all layers that are masked. None keeps the
            zeros that the model has, one that was pruned elsewhere: exactly they are dead, and `distribution` and
            `seed` have no say.
        distribution: how the sparsity is spread over them: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a
            function (see `keras_sparse.distributions`).
        keep_dense: which layers stay dense: a list of layer names, or a function `layer -> bool`.
        granularity: "weight" masks single weights, "kernel_slice" whole k x k slices of convolutions; or, where all
            kernels have one rank, the mask's shape, a tuple that broadcasts to the kernel's.
        seed: int of at least 0, of the random masks. A layer's mask depends on the seed and its place in the
            model only.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or so high that a layer would have no weight; the model is
            subclassed (a class derived from Sequential, too), not built, has no layer to mask, or a masked, quantized
            or LoRA-enabled one, or one that cannot be copied; a name in `keep_dense` is no layer's; `distribution`
            returns no sparsities.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, name="fc"), keras.layers.Dense(10)])
    >>> sparse = sparsify(model, sparsity=0.9)
    >>> [int(layer.kernel_mask.numpy().sum()) for layer in masked_layers(sparse)]
    [23520, 300]
    """
    keeps_zeros = sparsity is None
    if not keeps_zeros:
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
    if keeps_zeros:
        sparsities = [_sparsity_of_zeros(x, granularity) for x in layers]
    else:
        sparsities = layer_sparsities(layers, sparsity, distribution, granularity)
    place = {id(layer): i for i, layer in enumerate(layers)}

    def convert(layer):
        if id(layer) not in place:
            return _copy(layer)
        return MASKED[type(layer)].from_config(
            {
                **_config(layer),
                "sparsity": sparsities[place[id(layer)]],
                "granularity": granularity,
                # By place, not by path: nested models may hold layers of one path, and Keras numbers names through.
                "seed": (int(seed), place[id(layer)]),
            }
        )

    return _clone(model, convert, keeps_zeros)


def _clone(model, convert, keep_zeros=False):
    """Clones a model with `convert` for each layer and gives the clones the weights of the originals."""
    pairs = []

    def convert_and_note(layer):
        new = convert(layer)
        if isinstance(layer, keras.layers.Layer):  # and not an operation, such as the + of a residual connection
            pairs.append((layer, new))
        return new

    clone = keras.models.clone_model(model, clone_function=convert_and_note, recursive=True)
    for old, new in zip(_models(model), _models(clone), strict=True):
        if type(old) is not type(new):
            raise ValueError(
                f"{old.name!r} is of the class {type(old).__name__}, and its copy would be a plain "
                f"{type(new).__name__}, without what the class adds, such as its train_step. Build the class from the "
                "layers of keras_sparse.layers, or give keras.Model(model.inputs, model.outputs) in its place."
            )
    for old, new in pairs:
        _copy_weights(old, new, keep_zeros)
    return clone


def _models(model):
    """A model and those nested in it."""
    return [x for x in model._flatten_layers() if isinstance(x, keras.Model)]


def _copy(layer):
    """The layer anew, without its weights."""
    # Keras refuses code in a file of someone else's; this is the user's own, in the user's own process.
    trusted = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
    try:
        return type(layer).from_config(_config(layer), **trusted)
    except Exception as error:
        raise ValueError(
            f"The layer {layer.name!r} of class {type(layer).__name__} cannot be copied, since from_config does not "
            "take what get_config returns. Give the class a get_config with every argument of its constructor."
        ) from error


def _config(layer):
    """Its config, in which functions and the like are what they are: the user's own need no registration for a copy."""
    kinds = ("activation", "initializer", "regularizer", "constraint")
    config = layer.get_config()
    return {k: getattr(layer, k, v) if k.split("_")[-1] in kinds else v for k, v in config.items()}


def _copy_weights(old, new, keep_zeros):
    if isinstance(new, MaskedKernel):
        kernel = ops.convert_to_numpy(old.kernel)
        if keep_zeros:
            new.kernel_mask.value.assign(mask_of(kernel, tuple(new.kernel_mask.value.shape)))
        new.kernel_variable.assign(np.where(new.kernel_mask.numpy(), kernel, np.zeros_like(kernel)))
    elif isinstance(old, MaskedKernel):
        new.kernel.assign(old.kernel)
    else:
        new.set_weights(old.get_weights())
        if hasattr(new, "finalize_state"):  # Normalization and its like compute with what they make of their weights.
            new.finalize_state()
        return
    if getattr(old, "bias", None) is not None:
        new.bias.assign(old.bias)


def _sparsity_of_zeros(layer, granularity):
    """Of the mask that keeps the zeros of a dense layer."""
    kernel = ops.convert_to_numpy(layer.kernel)
    mask = mask_of(kernel, mask_shape(granularity, kernel.shape, getattr(layer, "rank", 0)))
    if not mask.any():
        raise ValueError(
            f"All weights of {layer.name!r} are 0, and sparsity=None would make them all dead. Train the model first, "
            "give a `sparsity`, or keep the layer dense by `keep_dense`."
        )
    return 1 - np.count_nonzero(mask) / mask.size


def densify(model):
    """A copy of a model in which every masked layer is the plain Keras layer again, its dead weights 0.

    The copy computes the same function, has the same names, and needs nothing of keras_sparse to be loaded.

    Args:
        model: a built Sequential or functional `keras.Model`.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: if the model is subclassed or not built, or has a layer that cannot be copied.
    """
    check_convertible(
        model,
        "densify",
        "Build the class from Keras's own layers, and give each the `kernel` of the masked one, zeros in place.",
    )
    dense = {masked: plain for plain, masked in MASKED.items()}

    def convert(layer):
        if type(layer) not in dense:
            return _copy(layer)
        return dense[type(layer)].from_config(
            {k: v for k, v in _config(layer).items() if k not in ("sparsity", "granularity", "seed")}
        )

    return _clone(model, convert)

"""From a dense model to a masked one."""

import warnings

import numpy as np

from keras_sparse import _keras, distributions
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.eligible import check_convertible, eligible, kept_dense, weights_of
from keras_sparse.conversion.initial_masks import INITIAL, is_trained, masks_by_magnitude, masks_of_zeros
from keras_sparse.conversion.layer_sparsities import layer_sparsities
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.masked_weight import MaskSettings
from keras_sparse.layers.masking import mask_layer, mask_recurrent, record_masks
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.validation import check_choice, check_seed, check_sparsity


def sparsify(
    model,
    sparsity,
    distribution="uniform",
    keep_dense=(),
    granularity="weight",
    seed=0,
    initial=None,
    include=(),
    in_place=False,
):
    """Masks the weights of a copy of a model: those of dense, convolution, EinsumDense and recurrent layers.

    Layers are masked wherever they are: inside of attention and other composite layers, wrappers, blocks of your own,
    nested and subclassed models. The copy has the names, weights and connections of the model, and so does the class
    of each layer, but for a subclass of it. Weights that live keep their value. The model itself is not touched. The
    copy is not compiled, and like every Keras model it is placed by the distribution strategy in whose scope it is
    made.

    Biases, normalizations and embeddings stay dense, and so do the weights of layers of your own, unless `include`
    names them; `keras_sparse.report` lists them. A warning says if that is more than half of the parameters.

    Args:
        model: a built `keras.Model` of any kind.
        sparsity: float in [0, 1), the removed fraction of all weights that are masked. Or a dict from names, of layers,
            of models or of weights in the form "layer/recurrent_kernel", to such a float, or to None for dense; what
            it does not name stays dense. None keeps the zeros that the model has, one that was pruned elsewhere:
            exactly they are dead, and `distribution`, `initial` and `seed` have no say.
        distribution: how the sparsity is spread over them: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a
            function (see `keras_sparse.distributions`).
        keep_dense: which layers stay dense: a list of names or paths, or a function `layer -> bool`. A model or
            composite layer that it names stays dense with all layers in it.
        granularity: "weight" masks single weights, "kernel_slice" whole k x k slices of convolutions, a tuple of two
            ints such as `(4, 4)` or "4x4" blocks of inputs by outputs, "2:4" two of each four inputs; or, where all
            weights have one rank, the mask's shape, a tuple that broadcasts to the weight's.
        seed: int of at least 0, of the random masks. A mask depends on the seed and the weight's place in the model
            only.
        initial: which weights live first: "random"; "magnitude", in each layer those of largest |w|;
            "global_magnitude", those of the network, by one threshold, so that `distribution` has no say. None for
            "magnitude" where the model is compiled with an optimizer that has taken steps, else "random". For a model
            with pretrained weights give "magnitude".
        include: which weights are masked beside those: a list of names as for a dict, such as "embeddings" or
            "my_layer/w", or a function `variable -> bool`.
        in_place: bool, whether to mask the layers of the model itself, which then stays compiled. For a class that
            cannot be copied.

    Returns:
        A new model of the same class or a subclass of it; with `in_place`, the model.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or so high that a layer would have no weight; the model is not
            built, has no layer to mask, or a masked, quantized or LoRA-enabled one, or one that cannot be copied; a
            name is unknown; `distribution` returns no sparsities; a weight has no whole number of blocks or groups.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, name="fc"), keras.layers.Dense(10)])
    >>> sparse = sparsify(model, sparsity=0.9)
    >>> [int(layer.kernel_mask.numpy().sum()) for layer in masked_layers(sparse)]
    [23520, 300]
    """
    sparsities = sparsity if isinstance(sparsity, dict) else None
    for number in sparsities.values() if sparsities is not None else [sparsity]:
        if number is not None:
            check_sparsity(number)
    check_seed(seed)
    if initial is not None:
        check_choice(initial, "initial", INITIAL)
    distribution = distributions.get(distribution)
    check_convertible(model, "sparsify")
    weights = eligible(model, keep_dense, include, sparsities)
    granularity = _as_blocks(granularity, weights)
    if sparsity is None:
        masks = masks_of_zeros(weights, granularity)
        given = [1 - np.count_nonzero(m) / m.size for m in masks]
    else:
        masks = [None] * len(weights)
        given = layer_sparsities(weights, sparsity, distribution, granularity)
        initial = initial or ("magnitude" if is_trained(model) else "random")
        if initial != "random":
            masks = masks_by_magnitude(weights, given, granularity, one_threshold=initial == "global_magnitude")
            given = [1 - np.count_nonzero(m) / m.size for m in masks]
    _warn_of_coverage(model, weights, keep_dense)
    made, twin = (model, lambda layer: layer) if in_place else copy_model(model)
    # Seeded by place, not by path: nested models may hold layers of one path, and Keras numbers names through.
    settings = [MaskSettings(float(s), granularity, (int(seed), place)) for place, s in enumerate(given)]
    by_layer = {}
    for weight, mask, setting in zip(weights, masks, settings, strict=True):
        _, its_masks, its_settings = by_layer.setdefault(id(weight.layer), (weight.layer, {}, {}))
        its_masks[weight.attribute], its_settings[weight.attribute] = mask, setting
    for layer, its_masks, its_settings in by_layer.values():
        mask_layer(twin(layer), its_masks, its_settings)
    masked_weights(made)[0].mask.add_method_state()
    mask_recurrent(made)
    record_masks(made)
    if in_place:
        _keras.forget_compiled_functions(made)
    return made


def _as_blocks(granularity, weights):
    """A granularity, where a tuple of two ints that is no mask's shape means blocks: (4, 4) is "4x4"."""
    if not isinstance(granularity, tuple) or len(granularity) != 2:
        return granularity
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in granularity):
        return granularity
    try:
        for w in weights:
            mask_shape(granularity, w.shape, w.spatial_rank)
    except ValueError:
        return f"{granularity[0]}x{granularity[1]}"
    return granularity


def _warn_of_coverage(model, weights, keep_dense):
    """Warns if less than half of the parameters are masked that nobody keeps dense, and names the largest others."""
    masked = {id(w.variable) for w in weights} | {id(w.variable) for w in kept_dense(model, keep_dense)}
    others = sorted((w for w in weights_of(model) if id(w.variable) not in masked), key=lambda w: -w.size)
    covered, total = sum(w.size for w in weights), sum(w.size for w in weights) + sum(w.size for w in others)
    if 2 * covered < total:
        largest = ", ".join(f"{w.path} ({w.size:,}: {w.dense_reason()})" for w in others[:3])
        warnings.warn(
            f"`sparsify` masks {covered:,} of {total:,} parameters of {model.name!r}, {covered / total:.0%}. The rest "
            f"stays dense, the largest {largest}. Name what should be masked by `include`, or what should not by "
            "`keep_dense`; `keras_sparse.report` lists all.",
            stacklevel=3,
        )

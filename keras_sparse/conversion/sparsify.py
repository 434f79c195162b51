"""Converts a dense model to a masked one."""

import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_sparse import _keras, backend, distributions
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.custom_layer_code import check_global_names
from keras_sparse.conversion.initial_masks import INITIAL, is_trained, masks_by_magnitude, masks_of_zeros
from keras_sparse.conversion.layer_sparsities import layer_sparsities
from keras_sparse.conversion.trainable_weights import check_convertible, layers_without_weights, trainable_weights
from keras_sparse.conversion.weight_selection import layers_kept_dense, names_or_function, select_weights
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.mask_in_place import mask_layer, record_masks
from keras_sparse.layers.masked_weight import MaskSettings
from keras_sparse.layers.nm_pattern import NMPattern, is_pattern
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.validation import check_choice, check_seed, check_sparsity


def sparsify(
    model: keras.Model,
    sparsity: float | dict[str, float | None] | None,
    distribution: str | Callable = "uniform",
    keep_dense: Sequence[str] | Callable = (),
    granularity: str | tuple = "weight",
    seed: int = 0,
    initial: str | None = None,
    include: Sequence[str] | Callable = (),
    in_place: bool = False,
) -> keras.Model:
    """Returns a copy of a model with masks over the weights of dense, convolution, EinsumDense and recurrent layers.

    These layers are masked at any depth: inside attention and other composite layers, wrappers, nested and subclassed
    models. Classes, names and connections stay the same, except that a masked layer has a subclass of its class. Live
    weights keep their values. The copy is not compiled, and belongs to the distribution strategy in whose scope it is
    made.

    Biases, normalizations, embeddings and the weights of custom layers stay dense, unless `include` selects them.
    `keras_sparse.report` lists them. If they are more than half of the parameters, a warning is given.

    Args:
        model: built `keras.Model` of any kind.
        sparsity: float in [0, 1), the removed fraction of all masked weights. Or a dict from names of layers, models or
            weights, such as "lstm_cell/recurrent_kernel", to such floats, or to None for dense; weights without a name
            in the dict stay dense. Or None to derive the masks from the zeros of a pruned model; `distribution`
            and `initial` cannot be set then.
        distribution: the sparsity of each layer: "uniform", "erdos_renyi", "erdos_renyi_kernel", or a function (see
            `keras_sparse.distributions`).
        keep_dense: layers that stay dense, or as they are if they have masks: list of names or paths, or function
            `layer -> bool`. All layers inside a model or composite layer that it selects stay so, too.
        granularity: "weight" for single weights, "kernel_slice" for k x k slices of convolutions, `(4, 4)` or "4x4" for
            blocks of the last two axes, in most layers inputs by outputs, "2:4" for two live weights of each four
            inputs; or, if all weights have the same rank, the shape of the mask, a tuple that broadcasts to the shape
            of each weight.
        seed: int of at least 0. A random mask is a function of the seed and the place of the weight in the model.
        initial: the weights that are live first: "random"; "magnitude", those with the largest |w| in each layer; or
            "global_magnitude", those with the largest |w| in the network, so that a layer has no sparsity of its own.
            None for "magnitude" if the model is compiled with an optimizer that has taken steps, else "random". Use
            "magnitude" for pretrained weights.
        include: weights to mask in addition: list of names such as "embeddings" or "my_layer/w", or function
            `variable -> bool`.
        in_place: bool, whether to mask the model itself, which stays compiled. Use it if the model cannot be copied.

    Returns:
        A new model of the same class or a subclass of it. With `in_place`, the model.

    Raises:
        ValueError: if an argument is out of its range or contradicts another one; a name is unknown; the model is not
            built, cannot be copied, or has no layer to mask, or a masked, quantized or LoRA-enabled one; the sparsity
            leaves a layer without weights; or blocks or N:M groups do not divide a weight.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, name="fc"), keras.layers.Dense(10)])
    >>> sparse = sparsify(model, sparsity=0.9)
    >>> [int(layer.kernel_mask.numpy().sum()) for layer in masked_layers(sparse)]
    [23520, 300]
    """
    # Check the arguments and select the weights.
    sparsities = sparsity if isinstance(sparsity, dict) else None
    for number in sparsities.values() if sparsities is not None else [sparsity]:
        if number is not None:
            check_sparsity(number)
    check_seed(seed)
    if initial is not None:
        check_choice(initial, "initial", INITIAL)
    keep_dense = names_or_function(keep_dense, "keep_dense", "layer names", "layer -> bool")
    include = names_or_function(include, "include", "names of weights or layers", "variable -> bool")
    _check_combination(sparsity, distribution, initial, granularity, include)
    distribution = distributions.get(distribution)
    check_convertible(model, "sparsify")
    all_weights = trainable_weights(model)
    weights, kept = select_weights(model, all_weights, keep_dense, include, sparsities)
    granularity = _as_blocks(granularity, weights)
    # Find the sparsity of each weight and, unless masks are random, the masks.
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
    for w in weights:  # before anything changes, which may be the model itself
        mask_shape(granularity, w.shape, w.spatial_rank)
        NMPattern.of(granularity, w.shape, w.units.input_axis)
    if sparsities is None:
        _warn_of_unbuilt(model, keep_dense)
    if sparsity is not None and initial == "random":
        _warn_of_frozen(weights)
    _warn_of_coverage(model, weights, [w for w in all_weights if w not in weights and w not in kept])
    if not in_place:
        check_global_names(model)
    # Mask each layer of the copy, or of the model.
    made, twin = (model, lambda layer: layer) if in_place else copy_model(model)
    # Masks are seeded by place, not by path: nested models may have layers of equal paths, and Keras adds a counter to
    # default names.
    settings = [MaskSettings(float(s), granularity, (int(seed), place)) for place, s in enumerate(given)]
    by_layer = {}
    for weight, mask, setting in zip(weights, masks, settings, strict=True):
        _, its_masks, its_settings = by_layer.setdefault(id(weight.layer), (weight.layer, {}, {}))
        its_masks[weight.attribute], its_settings[weight.attribute] = mask, setting
    for layer, its_masks, its_settings in by_layer.values():
        mask_layer(twin(layer), its_masks, its_settings)
    # Add what belongs to the model as a whole: the state of the method, masks in configs and once a sequence.
    masked_weights(made)[0].mask.add_method_state()
    record_masks(made)
    backend.track_parameters(made)
    if in_place:
        _keras.forget_compiled_functions(made)
    return made


def _check_combination(sparsity, distribution, initial, granularity, include):
    """Raises ValueError if an argument would have no effect."""
    is_uniform = isinstance(distribution, str) and distribution == "uniform"
    if sparsity is None and (initial is not None or not is_uniform):
        problem = "if `sparsity` is None, the zeros of the model determine the masks, not `initial` or `distribution`"
    elif initial == "global_magnitude" and (isinstance(sparsity, dict) or not is_uniform):
        problem = "one threshold for the network determines the sparsity of each layer, not a dict or `distribution`"
    elif initial == "global_magnitude" and is_pattern(granularity):
        problem = f"the pattern {granularity!r} determines the sparsity of each layer, not one threshold"
    elif is_pattern(granularity) and not is_uniform:
        problem = f"the pattern {granularity!r} determines the sparsity of each layer, not `distribution`"
    elif isinstance(sparsity, dict) and not is_uniform:
        problem = "a dict determines the sparsity of each layer, not `distribution`"
    elif isinstance(sparsity, dict) and include:
        problem = "a dict names all weights that are masked, not `include`"
    else:
        return
    raise ValueError(
        f"Arguments of `sparsify` contradict each other: {problem}. Received: sparsity={sparsity!r}, "
        f"distribution={distribution!r}, initial={initial!r}, granularity={granularity!r}, include={include!r}. Leave "
        "one of them at its default."
    )


def _as_blocks(granularity, weights):
    """Returns the granularity, with "4x4" in place of (4, 4), unless that is the shape of a mask of all weights."""
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


def _warn_of_unbuilt(model, keep_dense):
    """Warns if layers have no weights to mask, since nothing has called them."""
    unbuilt = layers_without_weights(model)
    kept = layers_kept_dense(model, keep_dense) if unbuilt else ()
    if unbuilt := [x.name for x in unbuilt if id(x) not in kept]:
        warnings.warn(
            f"Layers of {model.name!r} have no weights yet, and stay dense: {unbuilt}. If the model uses them only in "
            "training, call it once with training=True before `sparsify`; if not at all, name them by `keep_dense`.",
            stacklevel=3,
        )


def _warn_of_frozen(weights):
    """Warns if random masks are to remove weights of frozen layers, which cannot adapt to it."""
    frozen = [w.name for w in weights if not (w.layer.trainable and w.variable.trainable)]
    if frozen:
        warnings.warn(
            f"`sparsify` masks {len(frozen)} frozen weights at random, such as {frozen[:3]}. What is left of them does "
            "not train, and no method moves their masks. Keep them dense by `keep_dense`, such as "
            "keep_dense=lambda layer: not layer.trainable, or choose the largest weights by initial='magnitude'.",
            stacklevel=3,
        )


def _warn_of_coverage(model, weights, others):
    """Warns if the masked weights have fewer parameters than the others. What `keep_dense` selects is in neither."""
    others = sorted(others, key=lambda w: -w.size)
    covered, total = sum(w.size for w in weights), sum(w.size for w in [*weights, *others])
    if 2 * covered < total:
        largest = ", ".join(f"{w.path} ({w.size:,}: {w.dense_reason()})" for w in others[:3])
        warnings.warn(
            f"`sparsify` masks {covered:,} of {total:,} parameters of {model.name!r}, {covered / total:.0%}. The rest "
            f"stays dense, the largest {largest}. Name what should be masked by `include`, or what should not by "
            "`keep_dense`; `keras_sparse.report` lists all.",
            stacklevel=3,
        )

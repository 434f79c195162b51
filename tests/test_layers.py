"""Tests every masked layer class: forward pass, gradient, saving and loading, arguments."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_sparse as ks
from keras_sparse.layers import MASKED, MaskedConv2D, MaskedDense
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.method_state import MethodState
from keras_sparse.training.saved_state import LastWritten, read_state
from nets import numpy

CASES = {
    "Dense": ((7,), {"units": 5}),
    "Dense on sequences": ((4, 7), {"units": 5, "use_bias": False, "activation": "relu"}),
    "Conv1D": ((9, 3), {"filters": 4, "kernel_size": 3, "padding": "causal"}),
    "Conv2D": ((8, 8, 4), {"filters": 6, "kernel_size": (3, 2), "strides": 2, "groups": 2}),
    "Conv2D by slices": (
        (8, 8, 3),
        {"filters": 4, "kernel_size": 3, "granularity": "kernel_slice"},
    ),
    "Conv2D by channels": (
        (8, 8, 3),
        {"filters": 6, "kernel_size": 3, "granularity": (1, 1, 1, 6)},
    ),
    "Conv3D": ((5, 5, 5, 2), {"filters": 3, "kernel_size": 2}),
    "Conv2DTranspose": ((4, 4, 3), {"filters": 5, "kernel_size": 3, "strides": 2}),
    "DepthwiseConv2D": ((6, 6, 3), {"kernel_size": 3, "depth_multiplier": 2}),
    "EinsumDense": (
        (4, 6),
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
    ),
}


def build(case, sparsity=0.6):
    shape, arguments = CASES[case]
    dense = getattr(layers, case.split()[0])
    return keras.Sequential([keras.Input(shape), MASKED[dense](sparsity=sparsity, name="it", **arguments)])


def inputs(case):
    return np.random.default_rng(0).normal(size=(3, *CASES[case][0])).astype("float32")


def test_every_masked_layer_has_a_case():
    assert {c.split()[0] for c in CASES} == {c.__name__ for c in MASKED}


@pytest.mark.parametrize("case", CASES)
def test_forward_equals_the_dense_layer_with_a_zeroed_kernel(case):
    model = build(case)
    layer = model.layers[0]
    shape, arguments = CASES[case]
    arguments = {k: v for k, v in arguments.items() if k != "granularity"}
    dense = keras.Sequential([keras.Input(shape), getattr(layers, case.split()[0])(**arguments)])
    mask = np.broadcast_to(layer.kernel_mask.numpy(), layer.kernel_variable.shape)
    values = np.random.default_rng(1).normal(size=mask.shape).astype("float32")
    layer.kernel_variable.assign(values)  # in dead weights, too, which the mask must hide
    dense.layers[0].kernel.assign(np.where(mask, values, 0))
    np.testing.assert_array_equal(numpy(layer.kernel), np.where(mask, values, 0))
    np.testing.assert_allclose(numpy(model(inputs(case))), numpy(dense(inputs(case))), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_density_and_initial_zeros(case):
    layer = build(case).layers[0]
    mask = layer.kernel_mask.numpy()
    assert mask.sum() == round(mask.size * 0.4)
    weights = numpy(layer.kernel_variable)
    np.testing.assert_array_equal(weights != 0, np.broadcast_to(mask, weights.shape))


@pytest.mark.parametrize("case", CASES)
def test_no_gradient_at_dead_weights_and_some_at_live_ones(case):
    model = build(case)
    layer = model.layers[0]
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    before = numpy(layer.kernel_variable).copy()
    x = inputs(case)
    model.train_on_batch(x, np.ones(model(x).shape, "float32"))
    moved = numpy(layer.kernel_variable) != before
    mask = np.broadcast_to(layer.kernel_mask.numpy(), moved.shape)
    assert not moved[~mask].any()
    assert moved[mask].any()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["m.keras", "m.weights.h5"])
def test_save_and_load(case, form, tmp_path):
    """A mask that is a weight of a Dense subclass can be saved, but not loaded."""
    model = build(case)
    mask = model.layers[0].kernel_mask
    mask.value.assign(np.roll(mask.numpy(), 1))  # another mask than that of the seed
    kernel = model.layers[0].kernel_variable
    kernel.assign(np.where(mask.numpy(), np.random.default_rng(2).normal(size=kernel.shape), 0))
    LastWritten().write(model, MethodState("DynamicSparse", 7, {"threshold": 0.5}))
    if form.endswith(".keras"):
        model.save(tmp_path / form)
        other = keras.models.load_model(tmp_path / form)
    else:
        model.save_weights(tmp_path / form)
        other = build(case, sparsity=0.1)
        other.load_weights(tmp_path / form)
    assert read_state(other) == MethodState("DynamicSparse", 7, {"threshold": 0.5})
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b), err_msg=a.path)
    np.testing.assert_array_equal(numpy(model(inputs(case))), numpy(other(inputs(case))))


@pytest.mark.parametrize("case", CASES)
def test_config_keeps_every_argument(case):
    """If the config lacks an argument, the loaded layer silently differs."""
    layer = build(case).layers[0]
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert (again.sparsity, again.granularity, again.seed) == (
        layer.sparsity,
        layer.granularity,
        layer.seed,
    )


def test_nan_in_a_dead_weight_does_not_leak():
    layer = MaskedDense(4, sparsity=0.5)
    layer.build((None, 4))
    layer.kernel_variable.assign(np.where(layer.kernel_mask.numpy(), 1.0, np.nan))
    assert np.isfinite(numpy(layer(np.ones((1, 4), "float32")))).all()


def test_a_layer_built_inside_a_stateless_scope_is_masked():
    """Keras builds an unbuilt Sequential symbolically at its first `fit`."""
    model = keras.Sequential([MaskedDense(6, sparsity=0.5), MaskedDense(1, sparsity=0.5)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 6), "float32"), np.ones((4, 1), "float32"), verbose=0)
    for layer in model.layers:
        assert layer.kernel_mask.numpy().sum() == layer.kernel_mask.numpy().size // 2
        assert not numpy(layer.kernel_variable)[~layer.kernel_mask.numpy()].any()


def test_masks_depend_on_seed_and_path_alone():
    def mask(seed, name):
        layer = MaskedDense(20, sparsity=0.5, seed=seed, name=name)
        layer.build((None, 20))
        return layer.kernel_mask.numpy()

    np.testing.assert_array_equal(mask(3, "a"), mask(3, "a"))
    assert (mask(3, "a") != mask(4, "a")).any()
    assert (mask(3, "a") != mask(3, "b")).any()
    # The expected numbers are fixed, so that a difference on another process, host or backend is noticed.
    expected = np.zeros(400, bool)
    expected[np.random.default_rng([3, 0xE8B7BE43]).choice(400, 200, replace=False, shuffle=False)] = True
    np.testing.assert_array_equal(mask(3, "a").ravel(), expected)  # 0xE8B7BE43 is CRC-32 of "a"


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.5, "0.9", None, True, float("nan")])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` is the removed fraction.*\[0, 1\).*Received"):
        MaskedDense(3, sparsity=sparsity)


@pytest.mark.parametrize("granularity", ["channel", (1, 1), (2, 1, 1, 4), ()])
def test_bad_granularity(granularity):
    with pytest.raises(ValueError, match="`granularity` must be one of"):
        MaskedConv2D(4, 3, granularity=granularity).build((None, 8, 8, 3))


def test_granularity_is_a_shape():
    assert mask_shape("weight", (3, 3, 4, 5), 2) == (3, 3, 4, 5)
    assert mask_shape("kernel_slice", (3, 3, 4, 5), 2) == (1, 1, 4, 5)
    assert mask_shape("kernel_slice", (4, 5), 0) == (4, 5)
    assert mask_shape((1, 1, 1, 5), (3, 3, 4, 5), 2) == (1, 1, 1, 5)


def test_lora_and_quantization_are_refused():
    layer = MaskedDense(3, sparsity=0.5)
    # On PyTorch a layer is a torch module, which replaces the message of an AttributeError.
    with pytest.raises(AttributeError, match="Build the layer|no attribute 'kernel'"):
        _ = layer.kernel
    layer.build((None, 3))
    with pytest.raises(NotImplementedError, match="densify"):
        layer.enable_lora(2)
    with pytest.raises(NotImplementedError, match="densify"):
        layer.quantize("int8")
    with pytest.raises(ValueError, match="neither LoRA nor quantization"):
        MaskedDense(3, sparsity=0.5, lora_rank=2)


def test_mixed_precision_computes_in_half_and_keeps_float32_variables():
    layer = MaskedDense(3, sparsity=0.5, dtype="mixed_bfloat16")
    out = layer(np.ones((2, 4), "float32"))
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    assert layer.kernel_variable.dtype == "float32"
    assert layer.kernel_mask.value.dtype == "uint8"


def test_usable_on_their_own():
    layer = ks.layers.MaskedDense(300, sparsity=0.98)
    layer(ops.ones((1, 784)))
    assert layer.kernel_mask.numpy().sum() == 4704


@keras.saving.register_keras_serializable()
class Pull(keras.regularizers.Regularizer):
    def __call__(self, w):
        return ops.sum((w - 1.0) ** 2)

    def get_config(self):
        return {}


@pytest.mark.parametrize("regularizer", ["l1", keras.regularizers.L1L2(0.1, 0.1), "orthogonal_regularizer", Pull()])
def test_regularizers_move_live_weights_only(regularizer):
    """On JAX the slope of |w| at 0 is 1."""
    model = keras.Sequential([keras.Input((7,)), MaskedDense(5, sparsity=0.6, kernel_regularizer=regularizer)])
    layer = model.layers[0]
    before = numpy(layer.kernel_variable).copy()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(np.ones((8, 7)), np.ones((8, 5)), epochs=2, verbose=0)
    after, live = numpy(layer.kernel_variable), layer.kernel_mask.numpy()
    assert not after[~live].any()
    assert not numpy(model.optimizer.momentums[0])[~live].any()
    assert (after != before)[live].all()
    loss = {"l1": 0.01 * np.abs(after).sum()}.get(regularizer)
    assert loss is None or float(numpy(model.losses[0])) == pytest.approx(loss)
    again = MaskedDense.from_config(layer.get_config())
    assert type(again.kernel_regularizer) is type(layer.kernel_regularizer)


def test_a_state_that_is_too_long_or_unknown_is_refused():
    with pytest.raises(ValueError, match="must fit into 1024 bytes as JSON. Received: .* of the entries .'long'.*Keep"):
        MethodState("Own", 1, {"long": np.zeros(1000)}).to_bytes()
    with pytest.raises(ValueError, match="must return a dict of numbers, strings, lists and small arrays"):
        MethodState("Own", 1, {"model": object()}).to_bytes()
    state = MethodState("Own", 1, {"array": np.arange(3, dtype="int16"), "name": "x", "flag": True})
    again = MethodState.from_bytes(state.to_bytes())
    np.testing.assert_array_equal(again.state.pop("array"), np.arange(3, dtype="int16"))
    assert again.state == {"name": "x", "flag": True}


def test_a_masked_layer_with_a_pattern_takes_its_sparsity_only():
    with pytest.raises(ValueError, match="'2:4' keeps 2 of each 4 weights, so `sparsity` must be 0.5"):
        MaskedDense(4, sparsity=0.9, granularity="2:4")
    layer = MaskedDense(4, sparsity=0.5, granularity="2:4")
    layer.build((None, 8))
    assert layer.kernel_mask.numpy().sum() == 16

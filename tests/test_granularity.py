"""Blocks and N:M patterns: the masks, and the invariant of each after every update of every method."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from keras_sparse.layers.connected_units import Units
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.mask_elements import from_elements, spread, to_elements, where_live
from keras_sparse.layers.nm_pattern import NMPattern
from keras_sparse.training.growth import RandomGrowth
from keras_sparse.training.layer_state import LayerState
from nets import compiled, numpy

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(4, name="out"),
        ]
    )


def data(count=64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 8, 8, 4)).astype("float32"), rng.integers(0, 4, count)


METHODS = {
    "dynamic_sparse": lambda: ks.DynamicSparse(fraction=0.2, period=2, threshold=0.05),
    "dynamic_sparse_live_units": lambda: ks.DynamicSparse(fraction=0.2, period=2, threshold=0.05, growth="live_units"),
    "set": lambda: ks.SET(0.3, period=2),
    "rigl": lambda: ks.RigL(0.3, period=2),
    "deepr": lambda: ks.DeepR(1e-2, 1e-4),
    "deepr_table_4": lambda: ks.DeepR(1e-2, 1e-4, reading="table_4"),
}


class Watch(keras.callbacks.Callback):
    """Calls a function with the masks after every step."""

    def __init__(self, check):
        super().__init__()
        self.check, self.moved, self.before = check, 0, None

    def on_train_batch_end(self, batch, logs=None):
        masks = [w.mask.numpy() for w in ks.masked_weights(self.model)]
        for weight, mask in zip(ks.masked_weights(self.model), masks, strict=True):
            self.check(weight, mask)
        if self.before is not None:
            self.moved += sum(int((a != b).sum()) for a, b in zip(masks, self.before, strict=True))
        self.before = masks


def groups(weight, mask, size=4):
    """The mask as (groups, size): the input axis of dense layers and convolutions is the last but one."""
    return np.moveaxis(mask, -2, -1).reshape(-1, size)


def train(model, method, check, epochs=3):
    x, y = data()
    watch = Watch(check)
    model.compile("adam", LOSS, jit_compile=keras.backend.backend() == "jax")
    callbacks = [method, watch] if method else [watch]
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)
    for weight in ks.masked_weights(model):
        live = np.asarray(where_all(weight))
        assert not numpy(weight.variable)[~live].any()
    return watch


def where_all(weight):
    """The mask in the shape of the weight, by repeating each element over its block."""
    mask = weight.mask.numpy()
    for axis, (n, k) in enumerate(zip(mask.shape, weight.shape, strict=True)):
        mask = np.repeat(mask, k // n, axis=axis)
    return mask


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four_live_in_each_group_after_every_step(method):
    model = ks.sparsify(network(), 0.5, granularity="2:4")

    def check(weight, mask):
        assert (groups(weight, mask).sum(axis=1) == 2).all()

    assert train(model, METHODS[method](), check).moved > 0


@pytest.mark.parametrize("method", ["dynamic_sparse", "set", "rigl", "deepr"])
def test_three_of_four_live_in_each_group_after_every_step(method):
    """Only one weight of a group can move at once: those that grow were dead before."""
    model = ks.sparsify(network(), 0.25, granularity="3:4")

    def check(weight, mask):
        assert (groups(weight, mask).sum(axis=1) == 3).all()

    assert train(model, METHODS[method](), check).moved > 0


@pytest.mark.parametrize("method", ["dynamic_sparse", "set", "rigl"])
@pytest.mark.parametrize("block", [(4, 4), "2x4"])
def test_blocks_live_and_die_as_a_whole(method, block):
    model = ks.sparsify(network(), 0.5, granularity=block)
    rows, columns = (4, 4) if block == (4, 4) else (2, 4)
    live = sum(int(where_all(w).sum()) for w in ks.masked_weights(model))

    def check(weight, mask):
        *outer, inputs, outputs = weight.shape
        assert mask.shape == (*outer, inputs // rows, outputs // columns)
        assert sum(int(where_all(w).sum()) for w in ks.masked_weights(model)) == live

    assert train(model, METHODS[method](), check).moved > 0
    kernel = numpy(ks.masked_weights(model)[1].value())
    blocks = kernel.reshape(kernel.shape[0] // rows, rows, kernel.shape[1] // columns, columns).swapaxes(1, 2)
    dead = (blocks == 0).all(axis=(2, 3))
    np.testing.assert_array_equal(dead, ~ks.masked_weights(model)[1].mask.numpy())


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_pruning_ends_with_the_pattern(scope):
    model = ks.sparsify(network(), 0.0, granularity="2:4")
    schedule = ks.schedules.polynomial_decay(0.0, 0.5, begin_step=0, end_step=20, frequency=4)

    def check(weight, mask):
        assert (groups(weight, mask).sum(axis=1) >= 2).all()

    train(model, ks.GradualPruning(schedule, scope), check)
    for weight in ks.masked_weights(model):
        assert (groups(weight, weight.mask.numpy()).sum(axis=1) == 2).all()


def test_a_pattern_by_hand():
    pattern = NMPattern(1, 2, (4, 2), 0)
    scores = np.array([[3.0, 1.0], [2.0, 5.0], [0.0, 4.0], [7.0, 4.0]])
    expected = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], bool)  # of equal ones the first
    np.testing.assert_array_equal(pattern.strongest(scores.ravel()).reshape(4, 2), expected)
    np.testing.assert_array_equal(pattern.group(np.arange(8)), [0, 1, 0, 1, 2, 3, 2, 3])


def test_magnitude_keeps_the_largest_of_each_group():
    dense = network()
    model = ks.sparsify(dense, 0.5, granularity="2:4", initial="magnitude")
    for weight, name in zip(ks.masked_weights(model), ("conv", "hidden", "out"), strict=True):
        by_group = groups(weight, np.abs(numpy(dense.get_layer(name).kernel)))
        kept = np.where(groups(weight, weight.mask.numpy()), by_group, np.inf).min(axis=1)
        gone = np.where(groups(weight, weight.mask.numpy()), -np.inf, by_group).max(axis=1)
        assert (kept >= gone).all()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_elements_and_back(data):
    pairs = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
    shape, weight = tuple(n for n, _ in pairs), tuple(n * b for n, b in pairs)
    array = np.arange(np.prod(weight), dtype="float32").reshape(weight)
    elements = to_elements(array, shape)
    np.testing.assert_array_equal(from_elements(elements, weight, shape), array)
    mask = np.random.default_rng(0).random(shape) < 0.5
    expected = array * np.kron(mask, np.ones([b for _, b in pairs]))
    np.testing.assert_array_equal(numpy(where_live(mask, keras.ops.convert_to_tensor(array), 0)), expected)
    by_element = [
        sorted(array[np.kron(np.arange(mask.size).reshape(shape), np.ones([b for _, b in pairs])) == i])
        for i in range(mask.size)
    ]
    np.testing.assert_array_equal(np.sort(elements.T, axis=1), by_element)


@pytest.mark.parametrize(
    ("sparsity", "granularity", "message"),
    [
        (0.9, "2:4", r"so `sparsity` must be 0.5, or 0"),
        (0.5, "4:4", r"0 < N < M. Received: '4:4'"),
        (1 / 3, "2:3", r"a multiple of 3. Received: 4 inputs.*keep_dense"),
        (0.5, (3, 4), r"multiples of \(3, 4\). Received: the shape \(3, 3, 4, 8\)"),
        (0.5, "3by4", r'`granularity` must be one of.*"2:4".*"4x4".*Received: granularity=\'3by4\''),
    ],
)
def test_what_does_not_fit_is_an_error(sparsity, granularity, message):
    with pytest.raises(ValueError, match=message):
        ks.sparsify(network(), sparsity, granularity=granularity)


def test_a_pattern_is_kept_by_files(tmp_path):
    model = ks.sparsify(network(), 0.5, granularity="2:4")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [w.pattern for w in ks.masked_weights(loaded)] == [w.pattern for w in ks.masked_weights(model)]
    assert mask_shape("2:4", (4, 4)) == (4, 4)


def images(layer):
    inputs = keras.Input((8, 8, 8))
    x = keras.layers.Flatten()(keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    return keras.Model(inputs, keras.layers.Dense(4)(x))


@pytest.mark.parametrize("granularity", ["weight", "kernel_slice", "4x4", "2x2", "1x4", "8x4", "2:4"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dense(16),
        lambda: keras.layers.Conv2D(8, 3, groups=2, padding="same"),
        lambda: keras.layers.Conv2DTranspose(8, 3, padding="same"),
        lambda: keras.layers.SeparableConv2D(8, 3, depth_multiplier=4, padding="same"),
    ],
)
def test_everything_that_reads_masks_reads_all_granularities(layer, granularity, tmp_path):
    """Reports, images, TensorBoard and the deployment report, for a network and its training."""
    try:
        model = ks.sparsify(images(layer()), 0.5, granularity=granularity)
    except ValueError:
        pytest.skip("the blocks do not divide all weights")
    compiled(model)
    x, y = np.random.default_rng(0).normal(size=(8, 8, 8, 8)).astype("float32"), np.arange(8) % 4
    model.fit(x, y, epochs=1, verbose=0, callbacks=[ks.SET(0.3, period=1), ks.SparsityTensorBoard(tmp_path)])
    deployment = ks.deployment_report(model)
    for weight, row in zip(ks.masked_weights(model), ks.report(model).layers, strict=True):
        mask = spread(weight.mask.numpy(), weight.shape) & np.ones(weight.shape, bool)
        assert row.density == pytest.approx(mask.mean())
        of_layer = [x for x in deployment.layers if x.name.startswith(weight.path) and x.shape == weight.shape]
        assert of_layer[0].sparsity == pytest.approx(1 - np.count_nonzero(numpy(weight.value())) / mask.size)
        full = mask.reshape(weight.units.split(weight.shape))
        dead_units = weight.units.dead(weight.mask.numpy())
        for axes, dead in zip((weight.units.inputs, weight.units.outputs), dead_units, strict=True):
            others = tuple(i for i in range(full.ndim) if i not in axes)
            assert dead == np.count_nonzero(~full.any(axis=others))


def test_a_rank_of_a_users_layer_is_not_that_of_a_convolution():
    class LowRank(keras.layers.Layer):
        rank = 1

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

        def call(self, x):
            return x @ self.kernel

    model = keras.Sequential([keras.Input((8,)), LowRank()])
    sparse = ks.sparsify(model, 0.5, granularity="kernel_slice", include=["kernel"])
    assert ks.masked_weights(sparse)[0].mask.shape == (8, 8)


def test_growth_between_live_units_is_preferred_within_groups():
    """Of the inputs 0, 1 and 3, at which the dropped weight of input 2 can grow, only input 3 has a live weight."""
    kernel = np.zeros((8, 2), "float32")
    kernel[[2, 4], 0], kernel[[3, 5], 1] = [1, 5], [5, 5]
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, use_bias=False)])
    model.layers[0].kernel.assign(kernel)
    for seed in range(5):
        sparse = compiled(ks.sparsify(model, 0.75, granularity="1:4", initial="magnitude"))
        ks.DynamicSparse(1, growth="live_units", threshold=2.0, seed=seed).update(sparse, 1)
        live = np.argwhere(ks.masked_weights(sparse)[0].mask.numpy()).tolist()
        assert live == [[3, 0], [3, 1], [4, 0], [5, 1]]


def test_growth_between_live_units_of_blocks_that_belong_to_several_groups():
    """A block covers one input and the four outputs of two groups, at one of two positions of the kernel.

    The live block is that of input 0 and the first two groups, at the first position. Its units are also those of the
    block at the second position. All others have a dead input unit or dead output units.
    """
    units = Units((2, 1, 2, 8), (2, 3), (3, 4), last_groups=4)
    kernel, mask = np.ones((2, 1, 2, 8), "float32"), np.zeros((2, 1, 2, 2), bool)
    mask[0, 0, 0, 0] = True
    state, growth = LayerState.of(kernel, mask, units), RandomGrowth("live_units")
    assert growth.room(state) == 1
    positions = growth.positions(state, 1, np.random.default_rng(0))
    assert [tuple(map(int, x)) for x in zip(*np.unravel_index(positions, mask.shape), strict=True)] == [(1, 0, 0, 0)]
    inputs = keras.Input((8, 8, 32))
    model = keras.Model(inputs, layers.Conv2D(16, 3, groups=8, name="conv")(inputs))
    sparse = compiled(ks.sparsify(model, 0.5, granularity=(4, 4)))
    (weight,) = ks.masked_weights(sparse)
    before = weight.count_live()
    ks.SET(0.3, growth="live_units").update(sparse, 1)
    assert weight.count_live() == before

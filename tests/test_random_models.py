"""Random models of 20 kinds of layers, wrappers, blocks of one's own, shared layers and models nested to depth 3.

Of each model, sparsify(0.0) and densify must not change a bit of its outputs, weights must go through another model's,
and the invariants must hold after each update of a random method, with masks of single weights, slices, blocks or an
N:M pattern. Every tenth model is trained by `fit` and checked after each step (every fiftieth on JAX, where steps that
are not compiled take ten times longer), and again without these checks, so that steps mask gradients only if they can.
"""

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from any_models import Block, OwnDense, Private, Tied
from keras_sparse.conversion.trainable_weights import trainable_weights
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.mask_elements import spread
from keras_sparse.layers.nm_pattern import NMPattern
from keras_sparse.training.optimizer_state import slots
from nets import compiled, numpy

pytestmark = pytest.mark.long

STEPS, WIDTH = 4, 4
PARTS = 4  # for several processes
PHASES = (Phase.generate, Phase.shrink)  # Without Phase.explain, which takes minutes.


class Attend(layers.Layer):
    """Attention of a sequence to itself."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


KINDS = {
    "dense": lambda: layers.Dense(WIDTH, activation="relu"),
    "einsum": lambda: layers.EinsumDense("abc,cd->abd", (STEPS, WIDTH), bias_axes="d"),
    "conv": lambda: layers.Conv1D(WIDTH, 3, padding="same"),
    "grouped conv": lambda: layers.Conv1D(WIDTH, 2, padding="same", groups=2),
    "transposed conv": lambda: layers.Conv1DTranspose(WIDTH, 3, padding="same"),
    "depthwise conv": lambda: layers.DepthwiseConv1D(3, padding="same"),
    "separable conv": lambda: layers.SeparableConv1D(WIDTH, 3, padding="same"),
    "lstm": lambda: layers.LSTM(WIDTH, return_sequences=True),
    "gru": lambda: layers.GRU(WIDTH, return_sequences=True, reset_after=False),
    "simple rnn": lambda: layers.SimpleRNN(WIDTH, return_sequences=True, unroll=True),
    "bidirectional": lambda: layers.Bidirectional(layers.GRU(WIDTH // 2, return_sequences=True)),
    "time distributed": lambda: layers.TimeDistributed(layers.Dense(WIDTH)),
    "spectral": lambda: layers.SpectralNormalization(layers.Dense(WIDTH)),
    "attention": lambda: Attend(layers.MultiHeadAttention(2, 2)),
    "grouped attention": lambda: Attend(layers.GroupQueryAttention(2, 2, 1)),
    "layer norm": lambda: layers.LayerNormalization(),
    "batch norm": lambda: layers.BatchNormalization(),
    "prelu": lambda: layers.PReLU(),
    "block": lambda: Block(WIDTH),
    "own dense": lambda: OwnDense(WIDTH),
    "private": lambda: Private(WIDTH),
    "tied": lambda: Tied(WIDTH),
}
LEAF = st.sampled_from(sorted(KINDS))
# A tree: kinds of layers, and how its parts are joined.
TREES = st.recursive(
    LEAF,
    lambda parts: st.tuples(
        st.sampled_from(["chain", "residual", "concatenated", "twice", "nested", "nested sequential"]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


def apply(tree, x, depth=0):
    """Applies what a tree describes to a tensor of the shape (batch, STEPS, WIDTH)."""
    if isinstance(tree, str):
        return KINDS[tree]()(x)
    how, parts = tree
    if how == "residual":
        return layers.add([x, *(apply(p, x, depth) for p in parts)])
    if how == "concatenated":
        return layers.Dense(WIDTH)(layers.concatenate([x, *(apply(p, x, depth) for p in parts)]))
    if how == "twice" and isinstance(parts[0], str):
        layer = KINDS[parts[0]]()
        return layer(layer(x))
    if how.startswith("nested") and depth < 3:
        if how == "nested sequential" and all(isinstance(p, str) for p in parts):
            return keras.Sequential([keras.Input((STEPS, WIDTH)), *(KINDS[p]() for p in parts)])(x)
        inner = keras.Input((STEPS, WIDTH))
        y = inner
        for part in parts:
            y = apply(part, y, depth + 1)
        return keras.Model(inner, y)(x)
    for part in parts:
        x = apply(part, x, depth)
    return x


def model_of(tree):
    inputs = keras.Input((STEPS, WIDTH))
    x = layers.Flatten()(apply(tree, inputs))
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


METHODS = {
    "dynamic_sparse": lambda: ks.DynamicSparse(fraction=0.3, period=1, threshold=0.1),
    "set": lambda: ks.SET(0.4, period=1),
    "rigl": lambda: ks.RigL(0.5, period=1, until=5, probe=(X, Y)),
    "live_units": lambda: ks.DynamicSparse(fraction=0.3, period=1, threshold=0.1, growth="live_units"),
    "deepr": lambda: ks.DeepR(1e-2, 1e-3),
}
DRAWN = [*sorted(METHODS), *sorted(METHODS.keys() - {"deepr"}) * 2]  # DeepR is compiled for each model.
GRANULARITY = st.sampled_from(["weight", "weight", "kernel_slice", "2x2", "1:2"])
X = np.random.default_rng(0).normal(size=(4, STEPS, WIDTH)).astype("float32")
Y = np.array([0, 1, 1, 0])


def live(model):
    return [int(w.mask.numpy().sum()) for w in ks.masked_weights(model)]


def misfits(model, granularity):
    """Returns the paths of the weights that blocks do not divide, or whose number of inputs is odd."""
    found = []
    for w in trainable_weights(model):
        try:
            mask_shape(granularity, w.shape, w.spatial_rank)
            NMPattern.of(granularity, w.shape, w.units.input_axis)
        except ValueError:
            found.append(w.path)
    return found


def check(model, budget):
    assert sum(live(model)) == budget
    assert min(live(model)) > 0
    for weight in ks.masked_weights(model):
        mask = weight.mask.numpy()
        if weight.settings.granularity == "1:2":
            pairs = np.moveaxis(mask, weight.units.input_axis, 0).reshape(
                -1, 2, mask.size // mask.shape[weight.units.input_axis]
            )
            assert (pairs.sum(axis=1) == 1).all(), weight.path
        dead = ~np.broadcast_to(spread(mask, weight.shape), weight.shape)
        assert not numpy(weight.variable)[dead].any(), weight.path
        for slot, fresh in slots(model.optimizer, weight.variable):
            assert (numpy(slot)[dead] == fresh).all(), weight.path


class Check(keras.callbacks.Callback):
    def __init__(self, budget):
        super().__init__()
        self.budget = budget

    def on_train_batch_end(self, batch, logs=None):
        check(self.model, self.budget)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_models_stay_what_they_are(part, request):
    count = max(10, request.config.getoption("--examples") // PARTS)
    every = 50 if keras.backend.backend() == "jax" else 10
    seen = set()

    @seed(part)
    @given(TREES, st.floats(0.1, 0.9), GRANULARITY, st.sampled_from(DRAWN), st.integers(0, 9))
    @settings(max_examples=count, phases=PHASES)
    def run(tree, sparsity, granularity, method, number):
        if method == "deepr" and granularity not in ("weight", "1:2"):
            method = "set"
        if granularity == "1:2":
            sparsity = 0.5
        elif granularity != "weight":
            sparsity *= 0.6  # Each layer needs a live slice or block.
        seen.add((method, granularity))
        keras.utils.set_random_seed(number)
        dense = model_of(tree)
        common = {"granularity": granularity, "keep_dense": misfits(dense, granularity), "include": is_own}
        whole = ks.sparsify(dense, 0.0, **common)
        np.testing.assert_array_equal(numpy(whole(X)), numpy(dense(X)))
        sparse = ready_to_train(ks.sparsify(dense, sparsity, seed=number, **common))
        budget = sum(live(sparse))
        if len(run.models) % every == 0:
            again = ready_to_train(ks.sparsify(dense, sparsity, seed=number, **common))
            for model, checks in ((sparse, [Check(budget)]), (again, [])):
                keras.utils.set_random_seed(number)
                model.fit(X, Y, batch_size=2, verbose=0, callbacks=[METHODS[method](), *checks])
            for one, other in zip(sparse.weights, again.weights, strict=True):
                np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-5, atol=1e-6)
        else:
            update = METHODS[method]()
            rng = np.random.default_rng(number)
            for step in (1, 2):
                for weight in ks.masked_weights(sparse):  # as if steps had been made
                    moved = rng.normal(size=weight.shape) * spread(weight.mask.numpy(), weight.shape)
                    weight.variable.assign(moved)
                    for slot, _ in slots(sparse.optimizer, weight.variable):
                        slot.assign(moved)
                update.update(sparse, step)
                check(sparse, budget)
        run.models.append(tree)
        expected = numpy(sparse(X))
        whole.set_weights(sparse.get_weights())
        np.testing.assert_array_equal(numpy(whole(X)), expected)
        plain = ks.densify(sparse)
        np.testing.assert_array_equal(numpy(plain(X)), expected)
        assert [type(a) for a in plain._flatten_layers()] == [type(a) for a in dense._flatten_layers()]

    run.models = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.showwarning", lambda *a, **k: None)
        run()
    assert len(run.models) >= count // 2
    methods, granularities = map(set, zip(*seen, strict=True))
    assert (methods == set(METHODS) and len(granularities) == 4) or count < 50


def ready_to_train(model):
    compiled(model, keras.optimizers.SGD(0.1, momentum=0.9), run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


def is_own(variable):
    """Whether it is a weight of `Block` or `Private`."""
    return variable.name == "w"

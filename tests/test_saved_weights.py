"""Tests that everything saved or exported has zeros for dead weights, and the messages of invalid uses."""

import pickle
import warnings

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_sparse as ks
from nets import compiled, live_weights, mlp, numpy, ready, state

BACKEND = keras.backend.backend()
# On TensorFlow tracing takes longer than a few eager steps, on JAX it is the reverse.
EAGERLY = {} if BACKEND == "jax" else {"run_eagerly": True}
ONCE = {"epochs": 1, "batch_size": 24, "verbose": 0}


def masks(model):
    return [m for _, m in state(model)]


def assert_masks_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_dead_kernels_are_zero(model):
    for w, m in state(model):
        assert not w[~np.broadcast_to(m, w.shape)].any()


# TensorBoard.


def small_conv():
    images = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 3, name="conv")(images)
    x = layers.Conv1D(4, 2, name="conv1d")(layers.Reshape((16, 3))(x))
    return ks.sparsify(keras.Model(images, layers.Dense(3, name="dense")(layers.Flatten()(x))), 0.5)


def by_slices():
    images = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="conv")(images)
    return ks.sparsify(
        keras.Model(images, layers.Dense(3)(layers.Flatten()(x))), 0.5, granularity="kernel_slice", seed=1
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize(("build", "shape"), [(mlp, (8,)), (small_conv, (6, 6, 1)), (by_slices, (6, 6, 2))])
@pytest.mark.parametrize("callbacks", [[], [lambda: ks.SET(0.3, period=2)]], ids=["alone", "with SET"])
def test_tensorboard_draws_histograms_and_images_of_a_masked_model(build, shape, callbacks, tmp_path):
    model = compiled(build(), **EAGERLY)
    x, y = np.random.default_rng(0).normal(size=(48, *shape)).astype("float32"), np.arange(48) % 3
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1, write_images=True, write_graph=False)
    model.fit(x, y, callbacks=[*(make() for make in callbacks), board], **ONCE)
    assert list((tmp_path / "train").iterdir())


# Saving and exporting with an optimizer that changes dead weights, and without a method.


@keras.saving.register_keras_serializable("test_saved_weights")
class Shaking(keras.optimizers.SGD):
    """Optimizer that changes every weight, whatever its gradient."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)
        self.assign_add(variable, 0.01 * ops.ones(variable.shape, variable.dtype))


MOVING = {
    "Muon": lambda: keras.optimizers.Muon(0.05),
    "Muon with weight decay": lambda: keras.optimizers.Muon(0.05, weight_decay=0.1),
    "one's own": lambda: Shaking(0.05),
}


def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(7, activation="relu", name="inner")])
    inputs = keras.Input((8,))
    return ks.sparsify(keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs))), 0.6)


NETS = {"mlp": mlp, "nested": nested}


@pytest.fixture(params=[("mlp", "Muon"), ("mlp", "Muon with weight decay"), ("nested", "Muon"), ("mlp", "one's own")])
def moved(request, blobs):
    """Makes a masked model and trains it without a method."""
    net, optimizer = request.param
    model = compiled(NETS[net](), MOVING[optimizer](), **EAGERLY)
    model.fit(*blobs, **ONCE)
    model.train_on_batch(blobs[0][:8], blobs[1][:8])
    return model


def assert_holds_zeros(arrays, model):
    """Asserts that the kernels are among some arrays, by shape, with dead weights 0."""
    arrays = [np.asarray(a) for a in arrays]
    for w, m in state(model):
        dead = ~np.broadcast_to(m, w.shape)
        kernels = [a for a in arrays if a.shape == w.shape and a.dtype.kind == "f"]
        assert kernels
        for kernel in kernels:
            assert np.count_nonzero(kernel[dead]) == 0
        assert any(kernel[~dead].any() for kernel in kernels)


def datasets(file):
    """Reads all arrays of an HDF5 file."""
    h5py = pytest.importorskip("h5py")
    found = []
    file.visititems(lambda name, x: found.append(x[()]) if isinstance(x, h5py.Dataset) else None)
    return found


def in_get_weights(model, folder):
    return model.get_weights()


def in_get_weights_of_layers(model, folder):
    return [w for layer in ks.masked_layers(model) for w in layer.get_weights()]


def in_kernels(model, folder):
    return [numpy(layer.kernel) for layer in ks.masked_layers(model)]


def in_the_state_tree(model, folder):
    return [np.asarray(numpy(x)) for x in keras.tree.flatten(model.get_state_tree())]


def in_a_weights_file(model, folder):
    h5py = pytest.importorskip("h5py")
    model.save_weights(folder / "w.weights.h5")
    with h5py.File(folder / "w.weights.h5") as file:
        return datasets(file)


def in_a_legacy_file(model, folder):
    h5py = pytest.importorskip("h5py")
    model.save(folder / "m.h5")
    with h5py.File(folder / "m.h5") as file:
        return datasets(file)


def in_a_keras_file(model, folder):
    model.save(folder / "m.keras")
    loaded = keras.models.load_model(folder / "m.keras", compile=False)
    return [numpy(v) for v in loaded.variables]


def in_an_npz_of_get_weights(model, folder):
    np.savez(folder / "w.npz", *model.get_weights())
    return list(np.load(folder / "w.npz").values())


def in_a_pickle(model, folder):
    other = pickle.loads(pickle.dumps(model))
    return [numpy(v) for v in other.variables]


def in_a_dense_copy(model, folder):
    return [numpy(v) for v in ks.densify(model).variables]


def in_a_clone_with_the_weights(model, folder):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return [numpy(v) for v in clone.variables]


ROUTES = [
    in_get_weights,
    in_get_weights_of_layers,
    in_kernels,
    in_the_state_tree,
    in_a_weights_file,
    in_a_legacy_file,
    in_a_keras_file,
    in_an_npz_of_get_weights,
    in_a_pickle,
    in_a_dense_copy,
    in_a_clone_with_the_weights,
]
QUIET = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning"
)  # warnings of Keras about old formats


@QUIET
def test_dead_weights_are_0_by_every_way_out_of_the_model(moved, tmp_path):
    failed = []
    for route in ROUTES:
        try:
            assert_holds_zeros(route(moved, tmp_path), moved)
        except AssertionError:
            failed.append(route.__name__)
    assert not failed


@pytest.mark.tensorflow
@QUIET
def test_dead_weights_are_0_in_what_is_exported(moved, tmp_path):
    import tensorflow as tf

    moved.export(tmp_path / "saved", verbose=False)
    arrays = tf.train.load_checkpoint(str(tmp_path / "saved/variables/variables"))
    read = [arrays.get_tensor(name) for name in arrays.get_variable_to_shape_map()]
    assert_holds_zeros([a for a in read if isinstance(a, np.ndarray)], moved)
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(saved.serve(x).numpy(), numpy(moved(x)), rtol=1e-5, atol=1e-5)


@QUIET
def test_a_legacy_file_is_loaded_with_its_masks(blobs, tmp_path):
    model = compiled(mlp(), MOVING["Muon"](), **EAGERLY)
    model.fit(*blobs, **ONCE)
    expected = numpy(model(blobs[0]))
    model.save(tmp_path / "m.h5")
    loaded = keras.models.load_model(tmp_path / "m.h5", compile=False)
    assert_masks_equal(masks(model), masks(loaded))
    assert_dead_kernels_are_zero(loaded)
    np.testing.assert_allclose(numpy(loaded(blobs[0])), expected, rtol=1e-5, atol=1e-6)


def test_dead_weights_are_0_after_each_epoch_of_a_fit_without_a_method(blobs):
    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert_holds_zeros(self.model.get_weights(), self.model)

    model = compiled(mlp(), MOVING["Muon"](), **EAGERLY)
    model.fit(*blobs, epochs=2, batch_size=24, verbose=0, callbacks=[Look()])


def test_live_weights_learn_by_muon_all_the_same(blobs):
    model = compiled(mlp(), MOVING["Muon"](), metrics=["accuracy"], **EAGERLY)
    history = model.fit(*blobs, epochs=6, batch_size=8, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert live_weights(model) == live_weights(mlp())


# Messages.


def says(*parts):
    """Returns a pattern that matches texts with all given words, in any order."""
    return "(?s)^" + "".join(f"(?=.*{part})" for part in parts)


def test_a_layer_that_is_unfrozen_without_compiling_again_is_named(blobs):
    model = mlp()
    model.get_layer("second").trainable = False
    compiled(model, **EAGERLY)
    model.fit(*blobs, **ONCE)
    model.get_layer("second").trainable = True
    for method in (ks.SET(0.3, period=2), ks.RigL(0.3, period=2), ks.DeepR(1e-3, 1e-4, eta=0.05), ks.Static()):
        with pytest.raises(ValueError, match=says("second", "compile")):
            model.fit(*blobs, callbacks=[method], **ONCE)


def test_a_layer_that_is_unfrozen_is_trained_once_the_model_is_compiled_again(blobs):
    model = mlp()
    model.get_layer("second").trainable = False
    compiled(model, **EAGERLY).fit(*blobs, **ONCE)
    model.get_layer("second").trainable = True
    before = masks(model)[1]
    compiled(model, **EAGERLY).fit(*blobs, callbacks=[ks.SET(0.3, period=2)], **ONCE)
    assert (masks(model)[1] != before).any()
    assert_dead_kernels_are_zero(model)


@pytest.mark.tensorflow
@pytest.mark.parametrize("function", [lambda m: ks.sparsify(m, 0.5), ks.densify, ks.masked_layers, ks.report])
def test_a_model_of_tf_keras_is_refused_as_what_it_is(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf_keras = pytest.importorskip("tf_keras")
        model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(8,))])
    with pytest.raises(ValueError, match=says("(tf_keras|Keras 2)", "Keras 3|keras[.]Model")):
        function(model)


HOOKED = {
    "DynamicSparse": lambda probe: ks.DynamicSparse(prune_count=15, period=4, threshold=0.02),
    "SET": lambda probe: ks.SET(fraction=0.3, period=4),
    "SET by epoch": lambda probe: ks.SET(fraction=0.3),
    "RigL": lambda probe: ks.RigL(period=4, until=3, probe=probe),
    "RigL without until": lambda probe: ks.RigL(period=4, probe=probe),
    "RigL without a batch": lambda probe: ks.RigL(period=4, until=3),
    "DeepR": lambda probe: ks.DeepR(alpha=1e-3, temperature=1e-4, eta=0.05),
    "GradualPruning": lambda probe: ks.GradualPruning(lambda step: (step % 4 == 1, 0.7)),
    "Static": lambda probe: ks.Static(),
}


ON_BATCH = "train_on_batch"  # where a method that acts inside the step of `fit` cannot act


def loop(model, hooks, x, y, epochs=2):
    hooks.on_train_begin()
    for epoch in range(epochs):
        hooks.on_epoch_begin(epoch)
        for i in range(12):
            hooks.on_train_batch_begin(i)
            model.train_on_batch(x[8 * i : 8 * i + 8], y[8 * i : 8 * i + 8])
            hooks.on_train_batch_end(i)
        hooks.on_epoch_end(epoch)
    hooks.on_train_end()


@pytest.mark.filterwarnings("ignore:.*(made no update|none of them dropped):UserWarning")
@pytest.mark.parametrize("name", HOOKED)
def test_hooks_that_are_called_by_hand_do_their_work_or_say_what_they_lack(name, blobs):
    model = ready()
    budget = live_weights(model)
    method = HOOKED[name]((blobs[0][:8], blobs[1][:8]))
    method.set_model(model)
    try:
        loop(model, method, *blobs)
    except (ValueError, RuntimeError) as error:
        if not any(word in str(error) for word in ("set_params", "params", "probe=", "until", "update(", ON_BATCH)):
            raise
        return
    assert live_weights(model) == budget or name == "GradualPruning"
    assert_dead_kernels_are_zero(model)


@pytest.mark.filterwarnings("ignore:.*(made no update|none of them dropped):UserWarning")
@pytest.mark.parametrize("name", HOOKED)
def test_hooks_that_keras_callback_list_calls_do_their_work(name, blobs):
    model = ready()
    budget, before = live_weights(model), masks(model)
    method = HOOKED[name]((blobs[0][:8], blobs[1][:8]))
    hooks = keras.callbacks.CallbackList([method], model=model, epochs=2, steps=12)
    try:
        loop(model, hooks, *blobs)
    except (ValueError, RuntimeError) as error:
        if name in ("RigL without a batch", "DeepR") and any(w in str(error) for w in ("probe=", "update(", ON_BATCH)):
            return
        raise
    assert live_weights(model) == budget or name == "GradualPruning"
    assert_dead_kernels_are_zero(model)
    if name not in ("Static", "DeepR"):
        assert any((a != b).any() for a, b in zip(masks(model), before, strict=True))


def by_build():
    model = keras.Sequential([layers.Dense(4, activation="relu", name="a"), layers.Dense(3, name="b")])
    model.build((None, 8))
    return model


def by_call():
    model = keras.Sequential([layers.Dense(4, activation="relu", name="a"), layers.Dense(3, name="b")])
    model(np.zeros((1, 8), "float32"))
    return model


def by_fit():
    model = keras.Sequential([layers.Dense(4, activation="relu", name="a"), layers.Dense(3, name="b")])
    compiled(model, **EAGERLY).fit(np.zeros((2, 8), "float32"), np.zeros(2), verbose=0)
    return model


def without_inputs_inside_of_another():
    inputs = keras.Input((8,))
    inner = keras.Sequential([layers.Dense(4, activation="relu", name="a")])
    return keras.Model(inputs, layers.Dense(3, name="b")(inner(inputs)))


@pytest.mark.parametrize("build", [by_build, by_call, by_fit, without_inputs_inside_of_another])
def test_a_sequential_that_was_built_without_an_input_is_taken_or_told_how(build, blobs):
    model = build()
    try:
        sparse = ks.sparsify(model, 0.0)
    except ValueError as error:
        # The message must not ask for `build`, which the user has called.
        if "keras.Input" not in str(error) or ".build(" in str(error):
            raise
        return
    assert [x.name for x in ks.masked_layers(sparse)] == ["a", "b"]
    np.testing.assert_allclose(numpy(sparse(blobs[0])), numpy(model(blobs[0])), rtol=1e-5, atol=1e-6)
    dense = ks.densify(sparse)
    np.testing.assert_allclose(numpy(dense(blobs[0])), numpy(model(blobs[0])), rtol=1e-5, atol=1e-6)


def dense_mlp():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.Dense(12, activation="relu", name="second"),
            layers.Dense(3, name="last"),
        ]
    )


def write(model, file):
    model.save_weights(file) if file.name.endswith(".weights.h5") else model.save(file)


FORMS = ["w.weights.h5", "m.keras", "m.h5"]


@QUIET
@pytest.mark.parametrize("form", FORMS)
def test_weights_of_a_sparse_model_get_into_a_dense_one_by_a_masked_one(form, tmp_path):
    """Keras loads weights by the classes of layers: load them into a masked model, and then call `densify`."""
    sparse, dense = mlp(), dense_mlp()
    write(sparse, tmp_path / form)
    masked = ks.sparsify(dense, 0.0)
    masked.load_weights(tmp_path / form)
    dense.set_weights(ks.densify(masked).get_weights())
    for layer in ks.masked_layers(sparse):
        np.testing.assert_array_equal(numpy(layer.kernel), numpy(dense.get_layer(layer.name).kernel))


@QUIET
@pytest.mark.parametrize(
    "form", ["w.weights.h5", "m.keras"]
)  # for .h5 files Keras compares numbers of weights before it calls a layer
def test_weights_of_a_dense_model_are_not_loaded_into_a_masked_one_and_it_is_said_how(form, tmp_path):
    sparse = mlp()
    before = state(sparse)
    write(dense_mlp(), tmp_path / form)
    with pytest.raises(ValueError, match=says("dense", "keras_sparse.sparsify")):
        sparse.load_weights(tmp_path / form)
    for (_, m), (w, n) in zip(before, state(sparse), strict=True):
        np.testing.assert_array_equal(m, n)
        assert not w[~n].any()


# Custom methods with errors.


class Own(ks.SparseMethod):
    """Drops the first live element of each layer, and grows another one."""

    def drop(self, tensors):
        return [np.arange(len(t.live)) < 2 for t in tensors]

    def grow(self, tensor, count, rng):
        return np.setdiff1d(np.arange(tensor.size), tensor.live)[:count]


class Ints(Own):
    def drop(self, tensors):
        return [np.arange(2) for t in tensors]


class IntsOfTheRightLength(Own):
    def drop(self, tensors):
        return [np.arange(len(t.live)) for t in tensors]


class Lists(Own):
    def drop(self, tensors):
        return [[0, 1] for t in tensors]


class Floats(Own):
    def drop(self, tensors):
        return [np.linspace(0, 1, len(t.live)) for t in tensors]


class TooShort(Own):
    def drop(self, tensors):
        return [np.ones(1, bool) for t in tensors]


class OneOnly(Own):
    def drop(self, tensors):
        return super().drop(tensors)[:1]


class NoneDropped(Own):
    def drop(self, tensors):
        return None


class OverTheWholeMask(Own):
    def drop(self, tensors):
        return [np.arange(t.size) < 2 for t in tensors]


class FloatPositions(Own):
    def grow(self, tensor, count, rng):
        return super().grow(tensor, count, rng).astype(float)


class TooMany(Own):
    def grow(self, tensor, count, rng):
        return super().grow(tensor, count + 1, rng)


class Outside(Own):
    def grow(self, tensor, count, rng):
        return tensor.size + np.arange(count)


class Negative(Own):
    def grow(self, tensor, count, rng):
        return -1 - np.arange(count)


class Twice(Own):
    def grow(self, tensor, count, rng):
        return np.repeat(super().grow(tensor, 1, rng), count)


class NoneGrown(Own):
    def grow(self, tensor, count, rng):
        return None


class WrongCounts(Own):
    def redistribute(self, tensors, dropped):
        return [2]


class NoDrop(ks.SparseMethod):
    def grow(self, tensor, count, rng):
        return np.zeros(0, int)


WRONG = {
    Ints: "drop",
    IntsOfTheRightLength: "drop",
    Lists: "drop",
    Floats: "drop",
    TooShort: "drop",
    OneOnly: "drop",
    NoneDropped: "drop",
    OverTheWholeMask: "drop",
    FloatPositions: "grow",
    TooMany: "(grow|broke an invariant)",
    Outside: "(grow|broke an invariant)",
    Negative: "(grow|broke an invariant)",
    Twice: "(grow|broke an invariant)",
    NoneGrown: "grow",
    WrongCounts: "redistribute",
    NoDrop: "drop",
}
RAISED = (ValueError, TypeError, RuntimeError, NotImplementedError)


def test_a_method_of_ones_own_moves_weights():
    model = ready()
    budget, before = live_weights(model), masks(model)
    Own().update(model, 1)
    assert live_weights(model) == budget
    assert all((a != b).any() for a, b in zip(masks(model), before, strict=True))
    assert_dead_kernels_are_zero(model)


@pytest.mark.parametrize("cls", WRONG, ids=lambda cls: cls.__name__)
def test_a_method_of_ones_own_that_is_not_right_is_told_where_and_changes_nothing(cls):
    model = ready()
    before = state(model)
    with pytest.raises(RAISED, match=says(cls.__name__, WRONG[cls])):
        cls().update(model, 1)
    for (w, m), (v, n) in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(w, v)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda folder: ks.ModelCheckpoint(folder / "best.keras", save_best_only=True), "ModelCheckpoint"),
        (lambda folder: ks.EarlyStopping("loss", patience=2), "EarlyStopping"),
    ],
)
def test_a_callback_without_from_sparsity_says_what_it_wants(make, name, tmp_path):
    pattern = says("from_sparsity", f"keras.callbacks.{name}")
    with pytest.raises((TypeError, ValueError), match=pattern):
        make(tmp_path)


# Random models, saved and loaded.

SHAPES = {
    "dense": lambda n: layers.Dense(n, activation="relu"),
    "conv": lambda n: layers.Conv1D(n, 2, padding="same"),
    "einsum": lambda n: layers.EinsumDense("abc,cd->abd", output_shape=(4, n)),
    "norm": lambda n: layers.BatchNormalization(),
}
LAYERS = st.lists(st.tuples(st.sampled_from(sorted(SHAPES)), st.integers(2, 6)), min_size=1, max_size=4)


@QUIET
def test_any_model_that_an_optimizer_has_shaken_leaves_with_zeros(request, tmp_path):
    examples = max(25, request.config.getoption("--examples") // 4)

    @settings(max_examples=examples, deadline=None, phases=(Phase.generate, Phase.shrink))
    @given(
        LAYERS,
        st.sampled_from([0.3, 0.7]),
        st.sampled_from(["weight", "kernel_slice"]),
        st.booleans(),
        st.sampled_from([in_get_weights, in_the_state_tree, in_a_weights_file, in_a_legacy_file, in_a_dense_copy]),
    )
    def check(parts, sparsity, granularity, wrapped, route):
        body = [SHAPES[kind](n) for kind, n in parts]
        if wrapped:
            body = [keras.Sequential([keras.Input((4, 5)), *body])]
        net = keras.Sequential([keras.Input((4, 5)), *body, layers.Flatten(), layers.Dense(3)])
        model = ks.sparsify(net, sparsity, granularity=granularity)
        optimizer = Shaking(0.05)
        optimizer.build(model.trainable_variables)
        optimizer.apply([ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
        model.compile(optimizer)
        # Kernels may have the same shape, so that they are compared by shape.
        arrays = [np.asarray(a) for a in route(model, tmp_path)]
        dead = {}
        for w, m in state(model):
            dead.setdefault(w.shape, []).append(~np.broadcast_to(m, w.shape))
        for shape, alike in dead.items():
            kernels = [a for a in arrays if a.shape == shape and a.dtype.kind == "f"]
            assert len(kernels) >= len(alike)
            for d in alike:
                assert any(not k[d].any() for k in kernels)

    check()


def test_weights_and_masks_that_are_set_one_after_the_other_are_what_was_set(blobs):
    """`set_weights` sets variables in the order of `get_weights`, in which kernels come before their masks."""
    one, other = mlp(seed=1), mlp(seed=2)
    for kind in ("trainable_variables", "non_trainable_variables"):
        for variable, value in zip(getattr(other, kind), getattr(one, kind), strict=True):
            variable.assign(numpy(value))
    for (w, m), (v, n) in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(w, v)

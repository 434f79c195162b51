"""Models of many kinds: masked wherever a weight is, trained with the budget kept, saved, loaded, made dense again."""

import keras
import numpy as np
import pytest
from keras import layers

import any_models
import keras_sparse as ks
from any_models import CASES
from keras_sparse.layers.masked import MaskedLayer
from nets import compiled, numpy

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
JIT = "auto" if keras.backend.backend() == "jax" else False


def outputs(model, x):
    return np.array(model.predict(x, verbose=0))


def live(model):
    return [int(w.mask.numpy().sum()) for w in ks.masked_weights(model)]


def check_dead(model):
    """Dead weights are 0, and so are their optimizer slots."""
    for weight in ks.masked_weights(model):
        dead = ~weight.mask.numpy()
        assert not numpy(weight.variable)[dead].any(), weight.path
        if model.compiled:
            from keras_sparse.training.optimizer_state import slots

            for slot, fresh in slots(model.optimizer, weight.variable):
                assert (numpy(slot)[dead] == fresh).all(), weight.path


def fit(model, case, method, epochs=1):
    x, y = any_models.data(CASES[case][1])
    if not model.compiled:
        model.compile("adam", LOSS, jit_compile=JIT)
    return model.fit(x, y, batch_size=6, epochs=epochs, verbose=0, callbacks=[method]).history


QUICK = ("lstm", "attention", "block", "subclassed")


# Keras says so of a layer without `build` whenever it loads one, masked or not.
@pytest.mark.filterwarnings("ignore:`build..` was called on layer")
@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.long) for c in CASES])
def test_a_model_is_masked_trained_saved_and_made_dense(case, tmp_path):
    make, shape, count, include = CASES[case]
    x, _ = any_models.data(shape)
    dense = make()
    sparse = ks.sparsify(dense, 0.6, include=include)
    assert len(ks.masked_weights(sparse)) == count
    assert not any(isinstance(layer, MaskedLayer) for layer in dense._flatten_layers()), "the original is untouched"
    np.testing.assert_array_equal(outputs(ks.sparsify(dense, 0.0, include=include), x), outputs(dense, x))
    total = sum(live(sparse))

    history = fit(sparse, case, ks.DynamicSparse(fraction=0.2, period=2, threshold=0.05), epochs=2)
    assert sum(history["dropped"]) > 0
    assert history["sparsity"][-1] == pytest.approx(1 - total / ks.report(sparse).sparse_weights)
    assert sum(live(sparse)) == total
    check_dead(sparse)
    trained = outputs(sparse, x)

    sparse.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert live(loaded) == live(sparse)
    np.testing.assert_array_equal(outputs(loaded, x), trained)
    threshold = ks.DynamicSparse(fraction=0.2, period=2, threshold=0.05)
    fit(loaded, case, threshold)
    assert sum(live(loaded)) == total
    check_dead(loaded)

    sparse.save_weights(tmp_path / "m.weights.h5")
    other = ks.sparsify(dense, 0.6, seed=1, include=include)
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(outputs(other, x), trained)

    plain = ks.densify(sparse)
    assert type(plain) is type(dense)
    assert [type(a) for a in plain._flatten_layers()] == [type(a) for a in dense._flatten_layers()]
    np.testing.assert_allclose(outputs(plain, x), trained, atol=1e-6)
    plain.save(tmp_path / "d.keras")
    np.testing.assert_allclose(outputs(keras.models.load_model(tmp_path / "d.keras"), x), trained, atol=1e-6)


METHODS = {
    "rigl": lambda: ks.RigL(period=2),
    "deepr": lambda: ks.DeepR(1e-2, 1.0),
    "set": lambda: ks.SET(0.3, period=2),
}


@pytest.mark.parametrize("case", ["lstm", "attention", "subclassed"])
@pytest.mark.parametrize("method", METHODS)
def test_other_methods_keep_the_budget(case, method):
    make, _, _, include = CASES[case]
    model = ks.sparsify(make(), 0.6, include=include)
    before = live(model)
    assert sum(fit(model, case, METHODS[method](), epochs=2)["dropped"]) > 0
    assert live(model) == before
    check_dead(model)


@pytest.mark.parametrize("case", ["subclassed", "attention"])
def test_in_place(case):
    make, shape, count, include = CASES[case]
    x, y = any_models.data(shape)
    model = make()
    model.compile("adam", LOSS, jit_compile=JIT)
    model.fit(x, y, verbose=0)
    assert ks.sparsify(model, 0.6, include=include, in_place=True) is model
    assert model.compiled
    assert len(ks.masked_weights(model)) == count
    fit(model, case, ks.DynamicSparse(fraction=0.2, period=2, threshold=0.05), epochs=2)
    check_dead(model)
    trained = outputs(model, x)
    assert ks.densify(model, in_place=True) is model
    assert model.compiled
    np.testing.assert_allclose(outputs(model, x), trained, atol=1e-6)
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("case", ["lstm", "subclassed"])
def test_a_backup_goes_on_to_the_bit(case, tmp_path):
    make, _, _, include = CASES[case]

    def run(folder, stop_after):
        keras.utils.set_random_seed(0)
        model = ks.sparsify(make(), 0.6, include=include)
        model.compile("adam", LOSS, jit_compile=JIT)
        for epochs in (stop_after, 4) if stop_after else (4,):
            callbacks = [ks.BackupAndRestore(folder, delete_checkpoint=False)]
            callbacks += [ks.DynamicSparse(fraction=0.2, period=2, threshold=0.05)]
            x, y = any_models.data(CASES[case][1])
            model.fit(x, y, batch_size=6, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return [numpy(v) for v in model.weights]

    whole, resumed = run(tmp_path / "a", None), run(tmp_path / "b", 2)
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_holders_of_one_variable_keep_it_dense():
    class Holder(layers.Layer):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def build(self, shape):
            self.borrowed = self.other.kernel

        def call(self, x):
            return keras.ops.matmul(x, self.borrowed)

    x = keras.Input((4,))
    first = layers.Dense(4, use_bias=False, name="first")
    model = keras.Model(x, layers.Dense(9, name="out")(Holder(first)(first(x))))
    sparse = ks.sparsify(model, 0.5)
    assert [w.path for w in ks.masked_weights(sparse)] == ["out"]
    (shared,) = [w for w in ks.report(sparse).dense if len(w.shape) == 2]
    assert "shared with the layer" in shared.reason


def test_the_masks_of_a_recurrent_cell_are_applied_once_for_a_sequence(monkeypatch):
    from keras_sparse.layers.masked_weight import MaskedWeight

    model = ks.sparsify(keras.Sequential([keras.Input((20, 4)), layers.LSTM(8, unroll=True)]), 0.5)
    calls = []
    value = MaskedWeight.value
    monkeypatch.setattr(MaskedWeight, "value", lambda self: calls.append(self.attribute) or value(self))
    model(np.zeros((1, 20, 4), "float32"))
    assert sorted(calls) == ["kernel", "recurrent_kernel"]


def test_a_mask_can_be_given_where_an_array_can():
    mask = ks.sparsify(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), 0.5).layers[0].kernel_mask
    assert (mask.shape, mask.ndim, mask.size, mask.dtype) == ((4, 3), 2, 12, "bool")
    np.testing.assert_array_equal(np.asarray(mask), mask.numpy())
    np.testing.assert_array_equal(numpy(keras.ops.logical_not(mask)), ~mask.numpy())
    assert int(keras.ops.sum(keras.ops.cast(mask, "int32"))) == np.count_nonzero(mask) == 6
    np.testing.assert_array_equal(mask[0], mask.numpy()[0])


def test_a_class_without_a_config_is_refused_when_it_is_saved(tmp_path):
    class NoConfig(keras.Model):
        def __init__(self, function):
            super().__init__()
            self.layer, self.function = layers.Dense(3), function

        def call(self, x):
            return self.function(self.layer(x))

    model = NoConfig(lambda x: x + 1)
    model(np.zeros((1, 4), "float32"))
    sparse = ks.sparsify(model, 0.5)
    with pytest.raises(NotImplementedError, match="get_config"):
        sparse.save(tmp_path / "m.keras")
    sparse.save_weights(tmp_path / "m.weights.h5")
    other = ks.sparsify(model, 0.5, seed=1)
    other.load_weights(tmp_path / "m.weights.h5")
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(numpy(other(x)), numpy(sparse(x)))


def test_include_may_be_a_generator():
    model = keras.Sequential([keras.Input((4,)), layers.Embedding(10, 8, name="e"), layers.Flatten(), layers.Dense(30)])
    masked = ks.masked_weights(ks.sparsify(model, 0.5, include=(n for n in ["embeddings"])))
    assert [w.attribute for w in masked] == ["embeddings", "kernel"]


@pytest.mark.parametrize("name", ["b/bias", "norm"])
def test_a_dict_that_gives_a_sparsity_to_what_cannot_be_masked_is_refused(name):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="b"), layers.BatchNormalization(name="norm")])
    with pytest.raises(ValueError, match=f"`sparsity` names '{name}', which cannot be masked: .* has one axis"):
        ks.sparsify(model, {"b": 0.5, name: 0.5})
    assert ks.masked_layers(ks.sparsify(model, {"b": 0.5, name: None}))


def test_masking_frozen_layers_at_random_is_warned_of():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="base"), layers.Dense(3, name="head")])
    model.get_layer("base").trainable = False
    with pytest.warns(UserWarning, match=r"masks 1 frozen weights at random, such as \['base'\].*keep_dense"):
        ks.sparsify(model, 0.5)
    assert [w.name for w in ks.masked_weights(ks.sparsify(model, 0.5, keep_dense=lambda x: not x.trainable))] == [
        "head"
    ]
    ks.sparsify(model, 0.5, initial="magnitude")


def test_files_of_a_layer_that_assigns_to_its_weights_by_attribute_can_be_loaded(tmp_path):
    tokens = keras.Input((8,), dtype="int32")
    embedding = layers.ReversibleEmbedding(50, 8, tie_weights=False, name="tokens")
    dense = keras.Model(tokens, embedding(layers.Dense(8)(embedding(tokens)), reverse=True))
    sparse = ks.sparsify(dense, 0.6, include=["tokens"])
    x = np.random.default_rng(0).integers(0, 50, (4, 8))
    expected = outputs(sparse, x)
    sparse.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "m.keras"), x), expected)
    sparse.save_weights(tmp_path / "m.weights.h5")
    other = ks.sparsify(dense, 0.6, include=["tokens"], seed=1)
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(outputs(other, x), expected)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch has state dicts")
def test_the_state_dict_has_the_masks_of_a_sparse_model_only():
    import torch

    def build():
        return keras.Sequential([keras.Input((8,)), layers.Dense(16, name="a"), layers.Dense(3, name="b")], name="net")

    model, x = ks.sparsify(build(), 0.8), np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    compiled(model).fit(x, np.arange(4) % 3, verbose=0, callbacks=[ks.SET(0.5, period=1)])
    loaded = ks.sparsify(build(), 0.8, seed=1)
    loaded.load_state_dict({k: torch.clone(v) for k, v in model.state_dict().items()})
    np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))
    assert set(ks.densify(model).state_dict()) == set(build().state_dict())
    assert {"mask" in k for k in ks.sparsify(build(), 0.8, in_place=True).state_dict()} == {True, False}

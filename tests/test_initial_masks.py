"""Where sparse training starts: masks by magnitude, a sparsity for each layer, what is masked beside the defaults."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from nets import numpy


def network():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, name="tokens"),
            layers.LSTM(8, name="lstm"),
            layers.Dense(10, name="hidden"),
            layers.Dense(4, name="out"),
        ]
    )


def masks(model):
    return {w.path: w.mask.numpy() for w in ks.masked_weights(model)}


def test_magnitude_keeps_the_largest_of_each_layer():
    dense = network()
    sparse = ks.sparsify(dense, 0.75, initial="magnitude")
    for weight in ks.masked_weights(sparse):
        live, size = weight.mask.numpy(), weight.mask.size
        original = np.abs(
            numpy(
                getattr(
                    dense.get_layer("lstm").cell if "lstm" in weight.path else dense.get_layer(weight.layer.name),
                    weight.attribute,
                )
            )
        )
        assert live.sum() == round(size / 4)
        assert original[live].min() >= original[~live].max()


@given(st.floats(0, 0.99), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_one_threshold_for_all_layers(sparsity, seed):
    dense = keras.Sequential([keras.Input((12,)), layers.Dense(9), layers.Dense(7), layers.Dense(5)])
    rng = np.random.default_rng(seed)
    for i, layer in enumerate(dense.layers):
        layer.kernel.assign(rng.normal(0, 10.0**-i, layer.kernel.shape))
    sparse = ks.sparsify(dense, sparsity, initial="global_magnitude")
    found = [
        (w.mask.numpy(), np.abs(numpy(x.kernel))) for w, x in zip(ks.masked_weights(sparse), dense.layers, strict=True)
    ]
    uniform = ks.sparsify(dense, sparsity)
    assert sum(m.sum() for m, _ in found) == sum(w.mask.numpy().sum() for w in ks.masked_weights(uniform))
    strongest = [k.ravel().argmax() for _, k in found]
    assert all(m.ravel()[i] for (m, _), i in zip(found, strongest, strict=True))
    # But for the strongest of each layer, which always lives, one threshold parts the live from the dead.
    kept = [np.delete(np.where(m, k, np.inf).ravel(), i) for (m, k), i in zip(found, strongest, strict=True)]
    gone = [np.where(m, -np.inf, k).ravel() for m, k in found]
    assert np.concatenate(kept).min(initial=np.inf) >= np.concatenate(gone).max(initial=-np.inf)


def test_a_trained_model_starts_by_magnitude_and_a_fresh_one_at_random():
    dense = keras.Sequential([keras.Input((6,)), layers.Dense(8)])
    dense.compile("sgd", "mse")
    random = masks(ks.sparsify(dense, 0.5))
    dense.fit(np.ones((4, 6)), np.ones((4, 8)), verbose=0)
    by_magnitude = masks(ks.sparsify(dense, 0.5, initial="magnitude"))
    for initial, expected in ((None, by_magnitude), ("random", random)):
        found = masks(ks.sparsify(dense, 0.5, initial=initial))
        assert all((found[k] == expected[k]).all() for k in expected)
    assert any((random[k] != by_magnitude[k]).any() for k in random)


def test_a_sparsity_for_each_layer():
    names = {"lstm": 0.5, "lstm_cell/recurrent_kernel": 0.75, "hidden": None, "out": 0.9}
    model = network()
    names = {k.replace("lstm_cell", model.get_layer("lstm").cell.name): v for k, v in names.items()}
    found = {
        w.path.split("/")[-1] if "lstm" in w.path else w.path: w for w in ks.masked_weights(ks.sparsify(model, names))
    }
    assert {k: int(w.mask.numpy().sum()) for k, w in found.items()} == {
        "kernel": 8 * 32 // 2,
        "recurrent_kernel": 8 * 32 // 4,
        **{k: 4 for k in found if k.endswith("out")},
    }


def test_what_is_included():
    assert not any("tokens" in p for p in masks(ks.sparsify(network(), 0.5)))
    for include in (["embeddings"], "tokens", lambda variable: variable.path.endswith("embeddings")):
        assert any("tokens" in p for p in masks(ks.sparsify(network(), 0.5, include=include)))
    with pytest.raises(ValueError, match="`include` names nothing in the model: 'nothing'. Its weights:"):
        ks.sparsify(network(), 0.5, include=["nothing"])
    with pytest.raises(ValueError, match="which cannot be masked: .*has one axis"):
        ks.sparsify(network(), 0.5, include=["out/bias"])
    with pytest.raises(ValueError, match="`include` must be a list of names"):
        ks.sparsify(network(), 0.5, include=3)
    with pytest.raises(ValueError, match="`sparsity` names nothing in the model: 'nothing'"):
        ks.sparsify(network(), {"nothing": 0.5, "out": 0.5})
    with pytest.raises(ValueError, match="`initial` must be one of"):
        ks.sparsify(network(), 0.5, initial="largest")


def test_a_warning_says_if_less_than_half_is_masked():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Embedding(100, 8, name="tokens"), layers.Flatten(), layers.Dense(2)]
    )
    with pytest.warns(
        UserWarning, match=r"masks 96 of 898 parameters.*11%.*tokens/embeddings \(800: embedding\).*`include`"
    ):
        ks.sparsify(model, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ks.sparsify(model, 0.5, keep_dense=["tokens"])  # on purpose
        ks.sparsify(model, 0.5, include=["embeddings"])


def test_the_report_lists_what_is_dense_and_why():
    report = ks.report(ks.sparsify(network(), 0.5, keep_dense=["out"]))
    reasons = {x.name.split("/")[-2] + "/" + x.name.split("/")[-1]: x.reason for x in report.dense}
    assert reasons["tokens/embeddings"] == "embedding"
    assert reasons["out/kernel"] == "kept dense"
    assert reasons["out/bias"] == "has one axis"
    total = 20 * 8 + (8 * 32 + 8 * 32 + 32) + 8 * 10 + 10 + 10 * 4 + 4
    assert sum(x.weights for x in (*report.layers, *report.dense)) == total
    removed = (8 * 32 + 8 * 32 + 8 * 10) // 2
    assert report.network_sparsity == pytest.approx(removed / total)
    # The LSTM runs for 6 steps, the embedding is looked up.
    assert report.dense_macs == 6 * (8 * 32 + 8 * 32) + 8 * 10 + 10 * 4
    assert report.macs == 6 * (8 * 32 + 8 * 32) // 2 + 8 * 10 // 2 + 10 * 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"sparsity": {"a": 0.9}, "initial": "global_magnitude"},
        {"sparsity": 0.9, "initial": "global_magnitude", "distribution": "erdos_renyi"},
        {"sparsity": {"a": 0.9}, "distribution": "erdos_renyi"},
        {"sparsity": None, "initial": "random"},
        {"sparsity": None, "distribution": "erdos_renyi"},
        {"sparsity": {"a": 0.9}, "include": ["b"]},
        {"sparsity": 0.5, "granularity": "2:4", "distribution": "erdos_renyi"},
    ],
    ids=str,
)
def test_arguments_without_effect_are_refused(arguments):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(9, name="a"), keras.layers.Dense(3, name="b")])
    with pytest.raises(ValueError, match="contradict each other: .*Leave one of them at its default"):
        ks.sparsify(model, **arguments)

"""Backbones and tasks of keras-hub, made from small configs: masked, trained, saved, loaded and made dense again."""

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.layers.method_state import MethodState
from keras_sparse.training.saved_state import read_state
from nets import numpy

models = pytest.importorskip("keras_hub", reason="pip install keras-hub").models

pytestmark = pytest.mark.long
IMAGE, WORDS, TOKENS = (16, 16, 3), 50, 8
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def vit():
    backbone = models.ViTBackbone(IMAGE, patch_size=8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64)
    return models.ViTImageClassifier(backbone, num_classes=3)


def resnet():
    backbone = models.ResNetBackbone([64], [3], [64], [1], [1], "basic_block", image_shape=IMAGE)
    return models.ResNetImageClassifier(backbone, num_classes=3)


def densenet():
    return models.DenseNetImageClassifier(models.DenseNetBackbone([1, 1], image_shape=IMAGE), num_classes=3)


def mit():
    backbone = models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[16, 32],
    )
    return models.MiTImageClassifier(backbone, num_classes=3)


def mobilenet():
    backbone = models.MobileNetBackbone(
        stackwise_expansion=[[16], [32]],
        stackwise_num_blocks=[1, 1],
        stackwise_num_filters=[[16], [24]],
        stackwise_kernel_size=[[3], [3]],
        stackwise_num_strides=[[2], [1]],
        stackwise_se_ratio=[[0.25], [None]],
        stackwise_activation=[["relu"], ["hard_swish"]],
        stackwise_padding=[[1], [1]],
        output_num_filters=64,
        input_num_filters=16,
        input_activation="hard_swish",
        output_activation="hard_swish",
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=None,
        last_layer_filter=64,
        image_shape=IMAGE,
    )
    return models.MobileNetImageClassifier(backbone, num_classes=3)


def bert():
    backbone = models.BertBackbone(WORDS, 1, 2, 32, 64, max_sequence_length=TOKENS)
    return models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)


def gpt2():
    backbone = models.GPT2Backbone(WORDS, 1, 2, 32, 64, max_sequence_length=TOKENS)
    return models.GPT2CausalLM(backbone, preprocessor=None)


def gemma():
    return models.GemmaCausalLM(models.GemmaBackbone(WORDS, 1, 4, 2, 32, 64, head_dim=8), preprocessor=None)


def llama():
    return models.LlamaCausalLM(models.LlamaBackbone(WORDS, 1, 4, 32, 64, 2), preprocessor=None)


def data(model, count=8):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    if not isinstance(model.input, dict):
        return rng.normal(size=(count, *model.input.shape[1:])).astype("float32"), labels
    tokens = rng.integers(1, WORDS, (count, TOKENS)).astype("int32")
    values = {"token_ids": tokens, "padding_mask": np.ones_like(tokens), "segment_ids": np.zeros_like(tokens)}
    x = {name: values[name] for name in model.input}
    return x, tokens if isinstance(model, models.CausalLM) else labels


def outputs(model, x):
    return numpy(model(x, training=False))


def live(model):
    return [int(w.mask.numpy().sum()) for w in ks.masked_weights(model)]


# Tasks have a `compile` of their own: Keras does not compile what it loads, nor load the optimizer, masked or not.
@pytest.mark.filterwarnings("ignore:`compile", "ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("make", [vit, bert, gpt2, gemma, llama, resnet, densenet, mit, mobilenet])
def test_a_task_is_masked_trained_saved_and_made_dense(make, tmp_path):
    dense = make()
    x, y = data(dense)
    whole = ks.sparsify(dense, 0.0)
    np.testing.assert_array_equal(outputs(whole, x), outputs(dense, x))

    sparse = ks.sparsify(dense, 0.8)
    assert isinstance(sparse, type(dense))
    report = ks.report(sparse)
    others = [w for w in report.dense if len(w.shape) > 1 and w.reason not in ("embedding", "bias")]
    assert report.sparse_weights > 0.9 * (report.sparse_weights + sum(w.weights for w in others))

    budget = sum(live(sparse))
    sparse.compile("adam", LOSS, jit_compile=keras.backend.backend() == "jax")
    for method in (ks.RigL(period=2), ks.DynamicSparse(fraction=0.2, period=2, threshold=0.02)):
        history = sparse.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0, callbacks=[method]).history
        assert sum(history["dropped"]) > 0
        assert sum(live(sparse)) == budget
        for weight in ks.masked_weights(sparse):
            assert not numpy(weight.variable)[~weight.mask.numpy()].any()
    trained = outputs(sparse, x)

    sparse.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, type(dense))
    assert live(loaded) == live(sparse)
    np.testing.assert_allclose(outputs(loaded, x), trained, atol=1e-6)
    assert read_state(loaded) == read_state(sparse) != MethodState()

    plain = ks.densify(sparse)
    assert type(plain) is type(dense)
    np.testing.assert_allclose(outputs(plain, x), trained, atol=1e-5)
    plain.save(tmp_path / "d.keras")
    np.testing.assert_allclose(outputs(keras.models.load_model(tmp_path / "d.keras"), x), trained, atol=1e-5)


def test_a_causal_model_generates_from_masked_weights():
    sparse = ks.sparsify(gpt2(), 0.5)
    padding = (np.arange(TOKENS) < 3).astype("int32")[None]
    prompt = {"token_ids": np.ones((1, TOKENS), "int32"), "padding_mask": padding}
    made, again = (m.generate(prompt, stop_token_ids=None) for m in (sparse, ks.densify(sparse)))
    np.testing.assert_array_equal(made["token_ids"], again["token_ids"])
    assert made["token_ids"].shape == (1, TOKENS)

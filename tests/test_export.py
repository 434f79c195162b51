"""Tests that exported files compute what the model does, store sparse tensors, and that damage is detected."""

import contextlib
import os
import warnings

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from keras_sparse.export import flatbuffer, litert, run_exported, sparse_tensors
from keras_sparse.export.output_comparison import (
    check_exported_outputs,
    effect_of_rounding,
    outputs_of,
    random_inputs,
)
from keras_sparse.export.signature import Signature
from nets import mlp, numpy
from test_save_model import lenet

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow
NOT_FASTER = "ignore:The export to:UserWarning"


def pruned(model, sparsity, seed=0):
    """Returns the model with random kernels of the given sparsity."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            shape = layer.kernel.shape
            scale = np.sqrt(2 / (np.prod(shape[:-1]) * (1 - sparsity)))
            layer.kernel.assign(rng.normal(size=shape) * (rng.random(shape) > sparsity) * scale)
    return model


def convolutional():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(64, 3, padding="same")(x)))
    x = layers.add([x, layers.Conv2D(64, 1)(x)])
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def operators(path):
    """Returns the list of kinds of operators in a file, and the set of kinds of those that use a sparse tensor."""
    s = flatbuffer.schema()
    names = {v: k for k, v in vars(s.BuiltinOperator).items() if isinstance(v, int)}
    model = flatbuffer.read(path.read_bytes(), path.name)
    (graph,) = model.subgraphs
    kinds = [names[sparse_tensors._operator_kind(model, op)] for op in graph.operators]
    sparse = {i for i, t in enumerate(graph.tensors) if t.sparsity is not None}
    return kinds, {k for k, op in zip(kinds, graph.operators, strict=True) if sparse & set(map(int, op.inputs))}


def test_lenet_takes_40_kb_and_computes_with_sparse_weights(tmp_path):
    model, path = lenet(), tmp_path / "m.tflite"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The export to")
        size = ks.export(model, path)
    assert size == path.stat().st_size <= 40_000
    assert "FULLY_CONNECTED" in operators(path)[1]
    x = np.random.default_rng(3).random((7, 28, 28, 1)).astype("float32")
    (y,) = ks.load_litert(path)(x)
    np.testing.assert_allclose(y, np.asarray(model(x)), atol=1e-5 * max(1, abs(y).max()))


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_convolutions_are_smaller_and_a_warning_tells_that_they_are_not_faster(tmp_path, weights):
    model, x = pruned(convolutional(), 0.9), np.random.default_rng(1).normal(size=(60, 16, 16, 3)).astype("float32")
    path = tmp_path / "m.tflite"
    with pytest.warns(UserWarning, match="smaller .* but not faster"):
        size = ks.export(model, path, weights=weights, representative_dataset=x)
    _, sparse = operators(path)
    assert sparse == {"DENSIFY"}
    converted = litert.convert(ks.densify(model), tmp_path / "dense.tflite", weights, [x], 1)
    assert size == len(converted.sparse) < 0.75 * len(converted.dense)
    # Outputs are equal to those of the dense file that TensorFlow writes, bit by bit.
    dense, ours = run_exported.litert_function(converted.dense), ks.load_litert(path)
    for a, b in zip(dense(x[:5]), ours(x[:5]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_int8_dense_layers_stay_dense(tmp_path):
    model, path = lenet(), tmp_path / "m.tflite"
    x = np.random.default_rng(1).normal(size=(60, 28, 28, 1)).astype("float32")
    with pytest.warns(UserWarning, match="neither smaller .* nor faster"):
        ks.export(model, path, weights="int8", representative_dataset=x)
    assert not operators(path)[1]


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("batch_size", [1, 4, 12, 32, None])
def test_any_batch_size(tmp_path, batch_size):
    model, path = lenet(), tmp_path / "m.tflite"
    ks.export(model, path, batch_size=batch_size)
    assert ("FULLY_CONNECTED" in operators(path)[1]) == (batch_size in (1, 4, 12))
    x = np.random.default_rng(3).random((96, 28, 28, 1)).astype("float32")
    (y,) = ks.load_litert(path)(x)
    np.testing.assert_allclose(y, np.asarray(model(x)), atol=1e-4)
    if (batch_size or 1) > 1:
        with pytest.raises(ValueError, match=f"computes {batch_size} inputs a call.*Received: 3"):
            ks.load_litert(path)(x[:3])


def test_weights_that_would_not_be_smaller_stay_dense(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.warns(UserWarning, match="neither smaller"):
        ks.export(mlp(sparsity=0.1), path)
    assert not operators(path)[1]


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("ending", [".tflite", ".onnx", ""])
@pytest.mark.parametrize("kind", ["list", "dict", "tokens", "sequence"])
def test_several_inputs_and_outputs_and_other_layers(tmp_path, kind, ending):
    if ending == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("tf2onnx")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
    if kind == "list":
        inputs = [keras.Input((6,)), keras.Input((4,))]
        x = layers.Concatenate()([layers.Dense(50)(inputs[0]), inputs[1]])
        model = keras.Model(inputs, [layers.Dense(7)(x), layers.Dense(3)(x)])
    elif kind == "dict":
        inputs = {"b": keras.Input((6,), name="b"), "a": keras.Input((6,), name="a")}
        x = layers.Concatenate()([layers.Dense(50)(inputs["a"]), inputs["b"]])
        model = keras.Model(inputs, layers.Dense(7)(x))
    elif kind == "tokens":
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Embedding(20, 16)(inputs))))
    else:
        inputs = keras.Input((5, 8))
        x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
        model = keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(x + inputs)))
    sparse = ks.sparsify(model, 0.9)
    assert ks.export(sparse, tmp_path / f"m{ending}") > 0  # `export` compares the outputs.


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("before", [None, b"older"])
def test_a_file_with_other_outputs_is_not_kept(tmp_path, monkeypatch, before):
    """An operator of version 1 reads sparse weights as dense ones, and returns wrong numbers without an error."""
    path = tmp_path / "m.tflite"
    if before:
        path.write_bytes(before)
    monkeypatch.setattr(sparse_tensors, "_SPARSE_FULLY_CONNECTED_VERSION", 1)
    with pytest.raises(RuntimeError, match="does not compute what .* does, and was not kept"):
        ks.export(lenet(), path)
    assert os.listdir(tmp_path) == (["m.tflite"] if before else [])
    if before:
        assert path.read_bytes() == before


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_small_outputs_are_compared(tmp_path, monkeypatch, weights):
    model = mlp()
    last = model.layers[-1]
    last.kernel_variable.assign(last.kernel_variable * 1e-6)
    write = flatbuffer.write

    def write_zeros(model):
        """Returns the file with all constants set to 0."""
        for buffer in model.buffers:
            if buffer.data is not None and len(buffer.data) > 16 and not bytes(buffer.data).startswith(b"keras_sparse"):
                buffer.data = np.zeros(len(buffer.data), np.uint8)
        return write(model)

    monkeypatch.setattr(flatbuffer, "write", write_zeros)
    x = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    with pytest.raises(RuntimeError, match="not kept"):
        ks.export(model, tmp_path / "m.tflite", weights=weights, representative_dataset=x)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_deep_networks_may_differ_by_their_own_rounding_only(tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((64,))
    for _ in range(30):
        x = layers.LayerNormalization()(layers.Dense(64, activation="gelu")(x))
    model = keras.Model(inputs, x)
    samples = random_inputs(model, 16)
    (expected,) = outputs_of(model, samples)
    ks.export(model, tmp_path / "m.tflite", representative_dataset=samples[0])
    (got,) = ks.load_litert(tmp_path / "m.tflite")(samples[0])
    assert np.abs(got - expected).max() > 1e-5 * np.abs(expected).max()  # a fixed tolerance would refuse it
    (effect,) = effect_of_rounding(model, samples, [expected])
    for error, fits in ((effect, True), (10 * effect, False)):
        with contextlib.nullcontext() if fits else pytest.raises(RuntimeError, match="not kept"):
            check_exported_outputs(model, lambda _, error=error: [expected + error], samples, "float32", "m.tflite")


def test_nan_counts_as_a_difference(tmp_path):
    model = mlp()
    model.layers[-1].kernel_variable.assign(np.full((12, 3), np.nan))
    with pytest.raises(RuntimeError, match="not kept"):
        ks.export(model, tmp_path / "m.tflite")
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_flipped_bytes_and_missing_ends_are_detected(tmp_path):
    path, broken = tmp_path / "m.tflite", tmp_path / "broken.tflite"
    ks.export(mlp(), path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(1000):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        broken.write_bytes(data)
        with pytest.raises(ValueError, match="damaged|checksum|LiteRT file"):
            ks.load_litert(broken)
    for length in [0, 3, 8, 100, len(whole) // 2, len(whole) - 1]:
        broken.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged|checksum|LiteRT file"):
            ks.load_litert(broken)


def test_files_of_other_programs_and_versions_are_refused(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"PK\3\4 a zip archive, say")
    with pytest.raises(ValueError, match="has b'TFL3' at its fifth byte. Received: .*m.tflite"):
        ks.load_litert(path)
    dense = litert.convert(ks.densify(mlp()), path, "float32", None, 1).dense
    path.write_bytes(dense)
    with pytest.raises(ValueError, match="no checksum of keras_sparse: another program"):
        ks.load_litert(path)
    model = flatbuffer.read(dense, "m")
    model.version = 4
    with pytest.raises(ValueError, match="version 3 is expected. Received: 'm' of version 4"):
        flatbuffer.read(flatbuffer.write(model), "m")
    with pytest.raises(FileNotFoundError):
        ks.load_litert(tmp_path / "none.tflite")


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("m.tf", {}, "must end in .*unless `format` is given"),
        ("m.tflite", {"format": "onnx"}, "must end in '.onnx'"),
        ("m.tflite", {"weights": "int4"}, "`weights` must be one of"),
        ("m.onnx", {"weights": "int8"}, "are for LiteRT"),
        ("m.tflite", {"weights": "int8"}, "needs `representative_dataset`"),
        ("m.tflite", {"representative_dataset": np.zeros((3, 9))}, r"\(samples, 8\) of float32.*Received: .*\(3, 9\)"),
        ("m.tflite", {"representative_dataset": np.zeros((0, 8))}, "does not fit the inputs"),
        ("m.tflite", {"representative_dataset": [np.ones((3, 8)), np.ones((3, 8))]}, "does not fit the inputs"),
        ("m.tflite", {"representative_dataset": (x for x in np.ones((3, 8)))}, "not a function or an iterator"),
        ("m.tflite", {"representative_dataset": np.full((3, 8), np.nan)}, "must be finite.* 24 NaN or"),
        ("m.tflite", {"batch_size": 0}, "`batch_size` must be an int"),
    ],
)
def test_invalid_arguments(tmp_path, path, settings, message):
    with pytest.raises(ValueError, match=message):
        ks.export(mlp(), tmp_path / path, **settings)
    assert not os.listdir(tmp_path)


def two_inputs(structure):
    """Returns a model whose inputs are not in the order of their names, or whose outputs are not in natural order."""
    user, item = keras.Input((5,), name="user"), keras.Input((3,), name="item")
    together = layers.Concatenate()([user, item])
    if structure == "lists":
        return keras.Model([user, item], [layers.Dense(3)(together), layers.Dense(2)(user)])
    outputs = {f"out_{i}": layers.Dense(2 + i % 3)(together) for i in range(11)}
    return keras.Model({"user": user, "item": item}, outputs)


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("structure", ["lists", "dicts"])
@pytest.mark.parametrize("settings", [{}, {"weights": "int8"}, {"format": "tf_saved_model"}], ids=str)
def test_inputs_and_outputs_are_in_the_order_of_the_model(structure, settings, tmp_path):
    model = ks.sparsify(two_inputs(structure), 0.5)
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(20, n)).astype("float32") for name, n in (("user", 5), ("item", 3))}
    inputs = [x["user"], x["item"]] if structure == "lists" else x
    path = tmp_path / ("saved" if "format" in settings else "m.tflite")
    ks.export(model, path, representative_dataset=inputs, **settings)  # compares the outputs
    if "format" in settings:
        return
    run = ks.load_litert(path)
    expected = [numpy(y) for y in keras.tree.flatten(model(inputs))]
    for arrays in (keras.tree.flatten(inputs), x):
        for y, z in zip(run(arrays), expected, strict=True):
            np.testing.assert_allclose(y, z, atol=0.2 if settings else 1e-5)
    for wrong in (keras.tree.flatten(inputs)[::-1], {"user": x["user"]}, x["user"], [x["user"], x["item"][:3]]):
        with pytest.raises(ValueError, match=r"'(user|item)': \(samples, [35]\) of float32, '"):
            run(wrong)


NAMES = ["user", "item", "b", "a", "x10", "x9", "x_1"]
PHASES = (Phase.generate, Phase.shrink)


def structures(items):
    """Returns a strategy for structures of `(name, tensor)`: a tensor, a list, a dict, or a structure in a list."""
    tensors = [tensor for _, tensor in items]
    if len(items) == 1:
        return st.sampled_from([tensors[0], tensors, dict(items)])
    nested = structures(items[1:]).map(lambda x: [tensors[0], x])
    return st.one_of(st.just(tensors), st.permutations(items).map(dict), nested)


@pytest.mark.long
@pytest.mark.filterwarnings(NOT_FASTER)
def test_random_structures_of_inputs_and_outputs(request, tmp_path):
    """Inputs of equal sizes could be swapped without an error, and then the outputs differ."""

    @settings(max_examples=max(3, request.config.getoption("--examples") // 50), phases=PHASES, database=None)
    @given(st.data(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), st.sampled_from([3, 5]))
    def run(data, names, size):
        inputs = [keras.Input((size + data.draw(st.integers(0, 1)),), name=name) for name in names]
        together = layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        outputs = [layers.Dense(data.draw(st.integers(2, 3)))(together) for _ in range(data.draw(st.integers(1, 3)))]
        named = [(f"out_{i}", y) for i, y in enumerate(outputs)]
        inputs_by_name = list(zip(names, inputs, strict=True))
        model = keras.Model(data.draw(structures(inputs_by_name)), data.draw(structures(named)))
        model = ks.sparsify(model, 0.3)
        rng = np.random.default_rng(0)
        x = [rng.normal(size=(4, *i.shape[1:])).astype("float32") for i in model.inputs]
        samples = x if len(x) > 1 else x[0]
        ks.export(model, tmp_path / "saved", representative_dataset=samples)  # compares the outputs
        ks.export(model, tmp_path / "m.tflite", representative_dataset=samples)
        expected = [numpy(y) for y in keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, x)))]
        compute = ks.load_litert(tmp_path / "m.tflite")
        by_name = {i.name: array for i, array in zip(model.inputs, x, strict=True)}
        for arrays in (x, by_name):
            for y, z in zip(compute(arrays), expected, strict=True):
                np.testing.assert_allclose(y, z, atol=1e-5)

    run()


@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_dict_of_samples_is_matched_by_the_names_of_the_inputs(tmp_path):
    user, item = keras.Input((8,), name="user"), keras.Input((8,), name="item")
    scaled = layers.Dense(32, activation="relu")(layers.Rescaling(0.01)(item))
    model = keras.Model([user, item], layers.Dense(2)(layers.Concatenate()([layers.Dense(32)(user), scaled])))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 8)).astype("float32")
    y = (100 * rng.normal(size=(100, 8))).astype("float32")
    ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset={"user": x, "item": y})
    (got,) = ks.load_litert(tmp_path / "m.tflite")([x, y])
    assert np.sqrt(np.mean((got - numpy(model([x, y]))) ** 2)) < 0.05 * got.std()
    with pytest.raises(ValueError, match=r"names of the inputs.*'user': .*'item': .*Received: \['user'\]"):
        ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset={"user": x})


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("given", [True, False])
def test_states_of_recurrent_layers_stay_and_fixed_batch_sizes_are_kept(tmp_path, given):
    inputs = keras.Input(batch_shape=(3, 5, 2))
    recurrent = layers.GRU(8, stateful=True)
    model = keras.Model(inputs, layers.Dense(2)(recurrent(inputs)))
    ks.export(model, tmp_path / "m.tflite", representative_dataset=np.ones((3, 5, 2)) if given else None)
    assert not numpy(recurrent.states[0]).any()
    with pytest.raises(ValueError, match="must be that of the model's inputs, 3"):
        ks.export(model, tmp_path / "m.tflite", batch_size=2)


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("operation", [keras.ops.mean, keras.ops.transpose])
def test_outputs_need_no_batch_axis(tmp_path, operation):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, operation(layers.Dense(4)(inputs)))
    ks.export(model, tmp_path / "m.tflite")
    x = np.random.default_rng(0).normal(size=(1, 8)).astype("float32")
    np.testing.assert_allclose(ks.load_litert(tmp_path / "m.tflite")(x)[0], numpy(model(x)), atol=1e-5)


def test_errors_of_the_converter_are_explained(tmp_path):
    inputs = keras.Input((8,), name="in one")
    with pytest.raises(RuntimeError, match=r"could not export 'net' as 'litert'.*inputs \['in one'\].*'float32'"):
        ks.export(keras.Model(inputs, layers.Dense(4)(inputs), name="net"), tmp_path / "m.tflite")
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_numbers_that_the_dtype_of_the_input_does_not_have_are_refused(tmp_path):
    inputs = keras.Input((8,), dtype="uint8")
    ks.export(keras.Model(inputs, layers.Dense(2)(layers.Rescaling(1 / 255)(inputs))), tmp_path / "m.tflite")
    run = ks.load_litert(tmp_path / "m.tflite")
    assert run(np.arange(16).reshape(2, 8))[0].shape == (2, 2)
    for wrong in (np.full((2, 8), 0.5), np.full((2, 8), -3), np.full((2, 8), "a"), np.full((2, 8), 1j)):
        with pytest.raises(ValueError, match=r"numbers that the inputs .* cannot have.*of uint8"):
            run(wrong)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_arrays_that_do_not_fit_the_input_are_refused(tmp_path):
    model = ks.sparsify(keras.Sequential([keras.Input((4,)), layers.Dense(3, name="fc")]), 0.5)
    ks.export(model, tmp_path / "m.tflite")
    run = ks.load_litert(tmp_path / "m.tflite")
    batch = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(run([[1, 2, 3, 4]])[0], run(np.array([[1, 2, 3, 4]]))[0])  # not a list of arrays
    for accepted in (batch, batch.tolist(), [batch], batch.astype("float64")):
        np.testing.assert_allclose(run(accepted)[0], numpy(model(batch.astype("float32"))), rtol=1e-5)
    for wrong in (np.ones((2, 5)), np.ones(4), np.ones((0, 4)), [[1, 2], [3]], {"other": batch}):
        with pytest.raises(ValueError, match=r"for each input an array .*: '.*': \(samples, 4\) of float32"):
            run(wrong)
    with pytest.raises(ValueError, match="`threads` must be an int of at least 1"):
        ks.load_litert(tmp_path / "m.tflite", threads=0)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_no_folder_with_other_files_is_replaced(tmp_path, monkeypatch):
    model = ks.sparsify(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), 0.5)
    for name in ("mine", "mine.tflite", "mine.keras"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    refused = [
        lambda: ks.export(model, tmp_path / "mine", format="tf_saved_model"),
        lambda: ks.export(model, tmp_path / "mine.tflite"),
        lambda: ks.save_model(model, tmp_path / "mine.keras"),
        lambda: ks.export(model, tmp_path / "file", format="tf_saved_model"),
        lambda: ks.export(model, ".", format="tf_saved_model"),
        lambda: ks.export(model, "../empty", format="tf_saved_model"),
    ]
    for export in refused:
        with pytest.raises(FileExistsError, match="Nothing was changed. Give another path"):
            export()
    assert sorted(tmp_path.rglob("*")) == before
    for _ in range(2):  # A new folder, and one that has a SavedModel.
        ks.export(model, tmp_path / "saved", format="tf_saved_model")
    assert (tmp_path / "saved/saved_model.pb").is_file()


@given(
    st.lists(st.text(), max_size=3),
    st.lists(st.text(), max_size=3),
    st.binary().filter(lambda x: b"keras_sparse" not in x),
)
def test_names_of_inputs_and_outputs_are_read_from_the_bytes_of_a_file(inputs, outputs, other):
    written = Signature(inputs, outputs)
    assert Signature.from_file(other + written.to_bytes() + other) == written
    assert Signature.from_file(other) == Signature([], [])


def saved_model(folder):
    """Writes a SavedModel into a folder."""
    ks.export(mlp(), folder)
    return folder


@pytest.mark.filterwarnings(NOT_FASTER)
def test_other_files_beside_a_saved_model_are_not_deleted(tmp_path):
    folder = saved_model(tmp_path / "project")
    (folder / "labels.txt").write_text("cat")
    before = (folder / "saved_model.pb").read_bytes()
    with pytest.raises(FileExistsError, match="a folder with other files"):
        ks.export(mlp(seed=1), folder)
    assert (folder / "labels.txt").read_text() == "cat"
    assert (folder / "saved_model.pb").read_bytes() == before


@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    folder, link = saved_model(tmp_path / "v1"), tmp_path / "current"
    link.symlink_to(folder)
    before = (folder / "variables").stat().st_ino
    ks.export(mlp(), link)
    blob, named = tmp_path / "ab12", tmp_path / "m.tflite"  # as tools for versions of data store files
    named.symlink_to(blob)
    ks.export(mlp(), named)
    ks.load_litert(blob)
    file, short = tmp_path / "long.keras", tmp_path / "m.keras"
    short.symlink_to(file)
    ks.save_model(mlp(), short)
    assert link.is_symlink()
    assert short.is_symlink()
    assert file.is_file()
    assert (folder / "variables").stat().st_ino != before
    assert {x.name for x in tmp_path.iterdir()} == {"v1", "current", "ab12", "m.tflite", "long.keras", "m.keras"}


@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_saved_model_may_have_any_name(tmp_path):
    for _ in range(2):
        ks.export(mlp(), tmp_path / "old")
    assert [x.name for x in tmp_path.iterdir()] == ["old"]


@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_file_of_a_fixed_batch_size_computes_several_batches(tmp_path):
    x = keras.Input(batch_shape=(4, 8))
    model, data = keras.Model(x, layers.Dense(3)(x)), np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    ks.export(model, tmp_path / "m.tflite")
    (outputs,) = ks.load_litert(tmp_path / "m.tflite")(data)
    np.testing.assert_allclose(outputs, model.predict(data, batch_size=4, verbose=0), atol=1e-5)


@pytest.mark.parametrize("names", [("user-id", "item-id"), ("10", "9"), ("b.x", "a.x")])
@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_saved_model_may_have_inputs_of_any_names(names, tmp_path):
    a, b = (keras.Input((5,), name=n) for n in names)
    model = keras.Model([a, b], layers.Dense(3)(layers.Concatenate()([a, layers.Dense(2)(b)])))
    assert ks.export(model, tmp_path / "m") > 0


@pytest.mark.filterwarnings(NOT_FASTER)
def test_inputs_of_int8_for_which_the_model_overflows_are_refused(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.ops.exp(layers.Dense(4)(inputs)))
    samples = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset=samples)
    before = (tmp_path / "m.tflite").read_bytes()
    with pytest.raises(ValueError, match="outputs with NaN or infinity for some inputs"):
        ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset=samples * 1e4)
    assert (tmp_path / "m.tflite").read_bytes() == before


@pytest.mark.parametrize(
    ("got", "fits"),
    [([np.inf, 1.0, -np.inf], True), ([3.4028235e38, 1.0, -3.4028235e38], True), ([np.inf, 1.0, 0.0], False)],
)
def test_infinite_outputs_do_not_hide_differences_of_others(got, fits):
    model = keras.Sequential([keras.Input((3,)), layers.Identity()])
    given = [np.array([[np.inf, 1.0, -np.inf]], "float32")]

    def check(values):
        check_exported_outputs(model, lambda x: [np.array([values], "float32")], given, "float32", "m")

    if fits:
        check(got)
        got[1] += 1e-4
    with pytest.raises(RuntimeError, match="does not compute"):
        check(got)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_outputs_without_a_batch_axis_are_those_of_one_call(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.ops.transpose(layers.Dense(4)(inputs)))
    ks.export(model, tmp_path / "m.tflite")
    run = ks.load_litert(tmp_path / "m.tflite")
    assert run(np.ones((1, 8)))[0].shape == (4, 1)
    with pytest.raises(ValueError, match="no batch axis, or depend on .* computes 1 inputs a call. Received: 3 inputs"):
        run(np.ones((3, 8)))


@pytest.mark.filterwarnings(NOT_FASTER, "ignore:In the future `np.object`:FutureWarning")
def test_onnx_of_half_precision_differs_by_its_rounding(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    h = layers.Dense(64, dtype="mixed_float16")(inputs)
    assert ks.export(keras.Model(inputs, layers.Dense(3, dtype="mixed_float16")(h)), tmp_path / "m.onnx") > 0


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize(("count", "batch_size", "calls"), [(20, 4, 5), (10, 4, 3), (3, 1, 3), (2, 4, 1)])
def test_int8_is_calibrated_on_each_sample_once(tmp_path, count, batch_size, calls):
    made = litert._converter_settings("int8", [np.arange(count)[:, None]], ["x"], batch_size)
    batches = [x["x"] for x in made["representative_dataset"]()]
    assert len(batches) == calls
    assert {len(x) for x in batches} == {batch_size}
    assert set(np.concatenate(batches).ravel()) == set(range(count))


@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_model_that_random_inputs_do_not_suit_needs_others(tmp_path):
    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, layers.Dense(3)(layers.Flatten()(layers.Embedding(1, 4)(tokens))))
    with pytest.raises(ValueError, match="random inputs, which .* cannot take.*`representative_dataset`"):
        ks.export(model, tmp_path / "m.tflite")
    ks.export(model, tmp_path / "m.tflite", representative_dataset=np.zeros((3, 4), "int32"))
    inputs = keras.Input((4,))
    logarithm = keras.Model(inputs, layers.Dense(3)(keras.ops.log(inputs)))
    with pytest.raises(
        RuntimeError, match="Those of the model itself are NaN: give inputs as `representative_dataset`"
    ):
        ks.export(logarithm, tmp_path / "log.tflite")
    ks.export(logarithm, tmp_path / "log.tflite", representative_dataset=np.ones((3, 4)))


@pytest.mark.filterwarnings(NOT_FASTER)
def test_inputs_may_be_strings(tmp_path):
    words = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["a", "é"], output_mode="one_hot")
    model, x = keras.Model(words, layers.Dense(3)(lookup(words))), np.array([["a"], ["é"]])
    ks.export(model, tmp_path / "m.tflite", representative_dataset=x)
    expected = numpy(model(keras.ops.convert_to_tensor(x)))
    for strings in (x, x.tolist(), x.astype(object), np.char.encode(x, "utf-8")):
        np.testing.assert_allclose(ks.load_litert(tmp_path / "m.tflite")(strings)[0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(samples, 1\) of string"):
        ks.load_litert(tmp_path / "m.tflite")(np.ones((2, 1)))


def test_errors_of_onnx_runtime_are_explained(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.ops.argmax(layers.Dense(4)(inputs), axis=-1))
    with pytest.raises(RuntimeError, match="could not export .* as 'onnx'"):
        ks.export(model, tmp_path / "m.onnx")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_int8_of_loops_is_refused_before_the_converter_ends_the_process(tmp_path, kind):
    x = np.random.default_rng(0).normal(size=(20, 6, 4)).astype("float32")
    model = keras.Sequential([keras.Input((6, 4)), kind(8, name="rnn"), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"cannot calibrate loops.*recurrent layers \['rnn'\].*unroll=True"):
        ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset=x)
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings(NOT_FASTER)
@pytest.mark.parametrize("kind", ["embedding", "ConvLSTM2D"])
def test_float16_weights_that_other_operators_read_stay_dense(tmp_path, kind):
    if kind == "embedding":
        tokens = keras.Input((6,), dtype="int32")
        x, given = layers.Embedding(500, 64)(tokens), np.arange(48).reshape(8, 6)
        model = keras.Model(tokens, layers.Dense(3)(layers.Flatten()(x)))
        name = "embeddings"
    else:
        images = keras.Input((3, 8, 8, 4))
        model = keras.Model(images, layers.ConvLSTM2D(16, 3, name="loop")(images))
        given, name = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 4)).astype("float32"), "loop"
    sparse = ks.sparsify(model, 0.95, include=[name])
    ks.export(sparse, tmp_path / "m.tflite", weights="float16", representative_dataset=given)
    got = ks.load_litert(tmp_path / "m.tflite")(given)[0]
    np.testing.assert_allclose(got, sparse.predict(given, verbose=0), atol=2e-3)


def test_a_warning_names_the_report_with_the_same_arguments(tmp_path):
    with pytest.warns(UserWarning, match=r"deployment_report\(model, weights='float32', batch_size=None\)"):
        ks.export(lenet(), tmp_path / "m.tflite", batch_size=None)
    assert not ks.deployment_report(lenet(), batch_size=None).faster


def test_the_mode_of_a_file_stays_when_it_is_replaced(tmp_path):
    path = tmp_path / "m.keras"
    ks.save_model(mlp(), path)
    path.chmod(0o600)
    ks.save_model(mlp(), path)
    assert path.stat().st_mode & 0o777 == 0o600
    ks.save_model(mlp(), tmp_path / f"{'n' * 240}.keras")


@pytest.mark.filterwarnings(NOT_FASTER)
def test_outputs_whose_variation_is_lost_are_warned_of(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(200, 20)).astype("float32")
    model = keras.Sequential([keras.Input((20,)), layers.Dense(64, activation="relu"), layers.Dense(1)])
    model.layers[-1].bias.assign([20_000.0])
    with pytest.warns(UserWarning, match="int8 hardly tells inputs apart. Subtract a large offset"):
        ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset=x)


@pytest.mark.parametrize("make", [lambda x: lambda: iter([x]), lambda x: (y for y in x)], ids=["function", "generator"])
def test_iterators_of_samples_are_refused_with_advice(tmp_path, make):
    x = np.zeros((4, 8), "float32")
    with pytest.raises(ValueError, match=r"must be arrays, and not a function.*numpy.concatenate\(list\(dataset\)\)"):
        ks.export(mlp(), tmp_path / "m.tflite", representative_dataset=make(x))


def test_recurrent_models_of_any_batch_size_are_told_how(tmp_path):
    model = keras.Sequential([keras.Input((6, 4)), layers.LSTM(8), layers.Dense(3)])
    with pytest.raises(RuntimeError, match="Recurrent layers need a fixed `batch_size`, or unroll=True"):
        ks.export(model, tmp_path / "m.tflite", batch_size=None)


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # of tf2onnx
@pytest.mark.parametrize(
    ("name", "told"), [("m.onnx", r"numbers\. .*target='onnxruntime'\) gives"), ("m", r"numbers\.$")]
)
def test_the_warning_for_formats_without_sparsity_names_a_report_of_this_format(tmp_path, name, told):
    pytest.importorskip("tf2onnx")
    with pytest.warns(UserWarning, match=told):
        ks.export(mlp(), tmp_path / name)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_the_batch_that_built_a_sequential_model_does_not_fix_the_batch_size_of_the_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
    model = keras.Sequential([layers.Dense(30, activation="relu"), layers.Dense(5)])
    expected = numpy(model(x))
    for batch_size in (1, 4, None):
        ks.export(model, tmp_path / "m.tflite", batch_size=batch_size)
        np.testing.assert_allclose(ks.load_litert(tmp_path / "m.tflite")(x[:4])[0], expected[:4], atol=1e-5)
    ks.export(model, tmp_path / "m.tflite", batch_size=1)
    assert ks.load_litert(tmp_path / "m.tflite")(x[:3])[0].shape == (3, 5)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_a_sequential_model_whose_layers_need_its_batch_size_keeps_it(tmp_path):
    data = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    halves = layers.Lambda(lambda x: keras.ops.reshape(x, (4, 2, 3)))
    model = keras.Sequential([keras.Input(batch_shape=(4, 6)), halves, layers.Dense(2)])
    ks.export(model, tmp_path / "m.tflite")
    np.testing.assert_allclose(ks.load_litert(tmp_path / "m.tflite")(data)[0], numpy(model(data)), atol=1e-5)


@pytest.mark.filterwarnings(NOT_FASTER)
def test_int8_of_a_graph_that_needs_its_batch_size(tmp_path):
    data = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    x = keras.Input(batch_shape=(4, 6))
    model = keras.Model(x, layers.Flatten()(layers.Dense(2)(keras.ops.reshape(x, (4, 2, 3)))))
    ks.export(model, tmp_path / "m.tflite", weights="int8", representative_dataset=data)
    got = ks.load_litert(tmp_path / "m.tflite")(data[:4])[0]
    np.testing.assert_allclose(got, numpy(model(data[:4])), atol=0.1)

"""Tests that the callback writes the state of the model, wherever it is in the list of callbacks."""

import zlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse as ks
from keras_sparse.callbacks import event_file
from keras_sparse.callbacks.mask_history import MaskHistory
from keras_sparse.report import mask_images
from nets import compiled, mlp, ready

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
make_ndarray = pytest.importorskip("tensorboard.util.tensor_util").make_ndarray


def events(folder):
    """Returns `{(part, tag): (list of (step, array), metadata)}` of a folder of logs."""
    found = {}
    for part in sorted(p.name for p in folder.iterdir() if p.is_dir()):
        made = accumulator.EventAccumulator(str(folder / part), size_guidance={accumulator.TENSORS: 0}).Reload()
        for tag in made.Tags()["tensors"]:
            values = [(e.step, make_ndarray(e.tensor_proto)) for e in made.Tensors(tag)]
            found[part, tag] = (values, made.SummaryMetadata(tag).SerializeToString())
    return found


def scalars(folder):
    """Returns `{tag: list of (step, number)}` of the scalars in the part "train"."""
    found = {tag: values for (part, tag), (values, _) in events(folder).items() if part == "train"}
    return {tag: [(s, float(v)) for s, v in values] for tag, values in found.items() if not values[0][1].ndim}


def method():
    return ks.DynamicSparse(10, 5, threshold=0.05)


def fit(blobs, *callbacks, model=None, **arguments):
    model = model or ready()
    model.fit(*blobs, batch_size=8, verbose=0, shuffle=False, callbacks=list(callbacks), **{"epochs": 3, **arguments})
    return model


def board(folder, **settings):
    return ks.SparsityTensorBoard(folder, **settings)


def test_the_scalars_that_keras_writes(blobs, tmp_path):
    pytest.importorskip("tensorflow")
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    own = keras.callbacks.TensorBoard(tmp_path / "keras", write_graph=False)
    fit(blobs, method(), rates, own, board(tmp_path / "ours"), validation_data=blobs)
    written, theirs = events(tmp_path / "ours"), events(tmp_path / "keras")
    assert {key: written[key] for key in theirs} == theirs
    assert {tag for part, tag in written if part == "validation"} == {"epoch_loss", "evaluation_loss_vs_iterations"}
    names = ("loss", "learning_rate", "sparsity", "threshold", "dropped", "grown")
    assert {tag for part, tag in theirs if part == "train"} == {f"epoch_{name}" for name in names}
    assert [step for step, _ in written["validation", "evaluation_loss_vs_iterations"][0]] == [12, 24, 36]


def test_numbers_of_each_weight_are_those_of_the_model(blobs, tmp_path):
    seen = []
    observer = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((ks.report(model), dict(logs)))
    )
    model = ready()
    fit(blobs, method(), board(tmp_path), observer, model=model)
    written = scalars(tmp_path)
    for epoch, (report, logs) in enumerate(seen):
        now = {tag: dict(values)[epoch] for tag, values in written.items()}
        for row in report.layers:
            assert now[f"density/{row.name}"] == pytest.approx(row.density)
            expected = (row.live, row.macs, row.dead_inputs, row.dead_outputs)
            assert tuple(now[f"{x}/{row.name}"] for x in ("live", "macs", "dead_inputs", "dead_outputs")) == expected
        assert (now["network/live"], now["network/macs"]) == (report.live_weights, report.macs)
        for name in ("dropped", "grown"):  # all updates of the epoch, not the difference of its masks
            assert now[f"network/{name}"] == logs[name] == sum(now[f"{name}/{row.name}"] for row in report.layers)
        assert now["network/threshold"] == pytest.approx(logs["threshold"])
    assert sum(logs["dropped"] for _, logs in seen) > 0
    explored = [value for _, value in written["network/explored"]]
    assert explored == sorted(explored)
    assert explored[-1] > 1 - seen[-1][0].sparsity


@pytest.mark.parametrize("settings", [{}, {"update_freq": 4}], ids=["by epoch", "by step"])
@pytest.mark.parametrize(
    "make",
    [method, lambda: ks.SET(fraction=0.3, period="epoch"), lambda: ks.DeepR(1e-3, 1e-3), ks.Static],
    ids=["dynamic sparse", "SET between epochs", "DeepR", "static"],
)
def test_any_order_of_the_callbacks_gives_the_same_scalars(make, settings, blobs, tmp_path):
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    fit(blobs, make(), rates, board(tmp_path / "last", **settings))
    fit(blobs, board(tmp_path / "first", **settings), rates, make())
    last, first = scalars(tmp_path / "last"), scalars(tmp_path / "first")
    assert first == last
    assert {"epoch_sparsity", "epoch_dropped", "epoch_learning_rate", "network/live"} <= set(first)
    assert len(first["network/live"]) == (9 if settings else 3)


def test_entries_by_step(blobs, tmp_path):
    fit(blobs, method(), board(tmp_path, update_freq=4))
    assert [step for step, _ in scalars(tmp_path)["network/live"]] == [*range(4, 37, 4)]


def test_logs_are_on_the_disk_after_each_epoch(blobs, tmp_path):
    seen = []
    observer = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            [len(scalars(tmp_path)[t]) for t in ("epoch_loss", "network/live")]
        )
    )
    fit(blobs, method(), board(tmp_path), observer)
    assert seen == [[1, 1], [2, 2], [3, 3]]
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["train"]  # There is no validation data.


@pytest.mark.parametrize("update_freq", ["epoch", 7])
@pytest.mark.parametrize("first", [True, False], ids=["before the method", "after it"])
def test_a_resumed_run_has_the_entries_of_an_uninterrupted_run(first, update_freq, blobs, tmp_path):
    def run(name, **arguments):
        parts = [method(), board(tmp_path / name, update_freq=update_freq)]
        fit(blobs, *(reversed(parts) if first else parts), backup(name), model=ready(), **arguments)

    def backup(name):
        return ks.BackupAndRestore(tmp_path / f"{name}_backup", delete_checkpoint=False)

    run("whole", epochs=4)
    run("parts", epochs=2)
    run("parts", epochs=4)
    whole, parts = scalars(tmp_path / "whole"), scalars(tmp_path / "parts")
    for tag in whole:
        assert dict(parts[tag]) == pytest.approx(dict(whole[tag])), tag


def test_a_resumed_run_counts_the_updates_since_the_last_entry(blobs, tmp_path):
    """The backup is made after step 24, the entry before it at step 20, and an update at step 22."""

    def run(name, epochs):
        callbacks = [ks.SET(fraction=0.3, period=22), board(tmp_path / name, update_freq=20)]
        backup = ks.BackupAndRestore(tmp_path / f"{name}_backup", delete_checkpoint=False)
        fit(blobs, *callbacks, backup, model=ready(), epochs=epochs)

    run("whole", 4)
    run("parts", 2)
    run("parts", 4)
    whole, parts = (dict(scalars(tmp_path / name)["network/grown"]) for name in ("whole", "parts"))
    assert parts == whole
    assert whole[40] > 0


def test_histograms_are_of_live_weights(blobs, tmp_path):
    model = fit(blobs, ks.Static(), board(tmp_path))
    (weight, *_) = ks.masked_weights(model)
    live = keras.ops.convert_to_numpy(weight.variable)[weight.mask.numpy()]
    values, _ = events(tmp_path)["train", f"live_weights/{weight.path}"]
    step, buckets = values[-1]
    assert (step, buckets.shape, buckets[:, 2].sum()) == (2, (30, 3), live.size)
    assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((live.min(), live.max()))


def test_images_at_an_interval_and_at_the_end(blobs, tmp_path):
    model = fit(blobs, method(), board(tmp_path, image_freq=2, histogram_freq=0), epochs=4)
    written = {tag: values for (_, tag), (values, _) in events(tmp_path).items()}
    paths = [w.path for w in ks.masked_weights(model)]
    assert {tag for tag in written if tag.startswith("masks/")} == {f"masks/{path}" for path in paths}
    assert [step for step, _ in written[f"masks/{paths[0]}"]] == [0, 2, 3]
    assert not any(tag.startswith("live_weights/") for tag in written)
    width, height, png = written[f"masks/{paths[0]}"][-1][1]
    assert png.startswith(b"\x89PNG")
    assert (int(width), int(height)) == (16 * 16, 8 * 16)  # Small masks are enlarged.


def test_a_model_without_masks_has_its_logs_written(blobs, tmp_path):
    model = compiled(keras.Sequential([keras.Input((8,)), layers.Dense(3)]))
    fit(blobs, board(tmp_path), model=model)
    assert set(scalars(tmp_path)) == {"epoch_loss"}


def test_write_logs_false(blobs, tmp_path):
    fit(blobs, method(), board(tmp_path, write_logs=False), validation_data=blobs)
    assert not [tag for _, tag in events(tmp_path) if tag.startswith(("epoch_", "evaluation_"))]
    assert "network/live" in scalars(tmp_path)


def test_hparams(blobs, tmp_path):
    from tensorboard.plugins.hparams import metadata

    fit(blobs, method(), board(tmp_path, hparams={"rate": 0.1, "name": "a", "on": True, "none": None}), epochs=1)
    made = accumulator.EventAccumulator(str(tmp_path)).Reload()
    start = made.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(start).hparams
    assert {name: value.WhichOneof("kind") for name, value in settings.items()} == {
        "rate": "number_value",
        "name": "string_value",
        "on": "bool_value",
    }
    end = made.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(end).status == 1  # success


def test_a_full_disk_is_an_os_error(blobs, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            pass

        def write(self, record):
            raise OSError(28, "No space left on device")

    event, _ = event_file._import_writer()
    monkeypatch.setattr(event_file, "_import_writer", lambda: (event, Full))
    with pytest.raises(OSError, match="No space left"):
        fit(blobs, board(tmp_path))


def test_weights_that_are_not_finite(blobs, tmp_path):
    model = ready()
    x, y = blobs
    with pytest.warns(UserWarning, match="NaN"):
        fit((x * np.float32("nan"), y), method(), board(tmp_path), model=model)
    assert len(scalars(tmp_path)["network/live"]) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_freq": 0}, "update_freq"),
        ({"histogram_freq": -1}, "histogram_freq"),
        ({"image_freq": 1.5}, "image_freq"),
        ({"hparams": {"a": [1, 2]}}, "`hparams` must be a dict of str to bool, number or str"),
        ({"hparams": ["a"]}, "`hparams` must be a dict"),
        ({"hparams": 3}, "`hparams` must be a dict"),
    ],
)
def test_arguments_out_of_range(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        board(tmp_path, **settings)


def test_without_the_package_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file, "import_error", lambda: "No module named 'tensorboard'")
    with pytest.raises(ImportError, match="No module named 'tensorboard'.*pip install tensorboard"):
        board(tmp_path)


# MaskHistory.


def test_a_history_of_another_model_is_not_restored(tmp_path):
    history = MaskHistory(ready())
    history.save(tmp_path / "explored.npz", 3)
    other = MaskHistory(ks.sparsify(keras.Sequential([keras.Input((5,)), layers.Dense(7)]), 0.5))
    before = other.explored
    other.load(tmp_path / "explored.npz", 3)
    assert other.explored == before
    (tmp_path / "explored.npz").write_bytes(b"PK\x03\x04cut off")
    other.load(tmp_path / "explored.npz", 3)
    assert other.explored == before


# Images of masks.


def decoded(png):
    """Returns the pixels of a PNG file that `encode_png` made: array of shape `(height, width, 3)`."""
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    start = png.index(b"IDAT") + 4
    lines = np.frombuffer(zlib.decompress(png[start : png.index(b"IEND") - 8]), "uint8").reshape(height, -1)
    return lines[:, 1:].reshape(height, width, 3)


def test_an_image_is_dark_where_weights_are_dead():
    pixels = decoded(mask_images.encode_png(np.array([[0, 1], [0.5, 0]]), min_size=8))
    assert pixels.shape == (8, 8, 3)
    assert tuple(pixels[0, 0]) == tuple(pixels[7, 7]) == tuple(mask_images.COLORMAP[0])
    assert tuple(pixels[0, 7]) == tuple(mask_images.COLORMAP[-1])
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 3
    assert decoded(mask_images.encode_png(np.zeros((3, 300)))).shape == (3, 300, 3)


def test_downsampling_keeps_the_mean():
    matrix = np.random.default_rng(0).random((1000, 700)) < 0.1
    small = mask_images.downsample(matrix.astype(float), 100)
    assert small.shape == (100, 100)
    assert small.mean() == pytest.approx(matrix.mean())
    assert small[0, 0] == matrix[:10, :7].mean()
    assert mask_images.downsample(np.arange(5.0).reshape(5, 1), 3).tolist() == [[0.5], [2.5], [4]]
    assert mask_images.downsample(matrix[:3, :5]).shape == (3, 5)


def test_connectivity_of_pixels():
    model = keras.Sequential([keras.Input((4, 5, 2)), layers.Flatten(), layers.Dense(6, name="a"), layers.Dense(3)])
    model = ks.sparsify(model, 0.5)
    first, second = ks.masked_weights(model)
    mask = np.zeros((40, 6), "uint8")
    mask[[12, 13], :3] = 1  # both channels of pixel (1, 1)
    first.mask.value.assign(mask)
    name, image = mask_images.first_layer_image(model, first)
    assert (name, image.shape, image[1, 1], image.sum()) == ("connectivity", (4, 5), 6, 6)
    assert mask_images.first_layer_image(model, second) == (None, None)


def test_windows_of_a_convolution():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, (2, 3))])
    (weight,) = ks.masked_weights(ks.sparsify(model, 0.5))
    name, image = mask_images.first_layer_image(model, weight)
    assert (name, image.shape) == ("windows", (3 * 3 - 1, 4 * 4 - 1))
    np.testing.assert_array_equal(image[3:5, 4:7], weight.mask.numpy()[:, :, 1, 1])


def test_windows_of_other_convolutions():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2DTranspose(4, (2, 3))])
    (weight,) = ks.masked_weights(ks.sparsify(model, 0.5))
    image = mask_images.kernel_windows(weight)
    assert image.shape == (3 * 3 - 1, 4 * 4 - 1)  # a row for each input, a column for each output
    np.testing.assert_array_equal(image[3:5, 8:11], weight.mask.numpy()[:, :, 2, 1])

    class Own(layers.Conv2D):
        """A layer without a config."""

        def get_config(self):
            raise NotImplementedError

    model = keras.Sequential([keras.Input((8, 8, 3)), Own(4, (2, 3))])
    (weight,) = ks.masked_weights(ks.sparsify(model, 0.5))
    assert mask_images.kernel_windows(weight).shape == (3 * 3 - 1, 4 * 4 - 1)


def test_a_metric_of_several_numbers_has_a_tag_for_each(blobs, tmp_path):
    targets = np.eye(3, dtype="float32")[blobs[1]]
    model = mlp(0.8)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[keras.metrics.F1Score()])
    fit((blobs[0], targets), method(), board(tmp_path), model=model, validation_data=(blobs[0], targets))
    written = scalars(tmp_path)
    for i in range(3):
        assert len(written[f"epoch_f1_score/{i}"]) == 3
    assert ("validation", "evaluation_f1_score_vs_iterations/2") in events(tmp_path)


def test_the_explored_fraction_of_the_network_counts_mask_elements(blobs, tmp_path):
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype("float32")
    net = [keras.Input((8, 8, 2)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    model = compiled(ks.sparsify(keras.Sequential(net), {"conv2d": 0.5, "dense": 0.9}, granularity="kernel_slice"))
    fit((images, np.arange(16) % 3), ks.Static(), board(tmp_path), model=model, epochs=1)
    masks = [w.mask.numpy() for w in ks.masked_weights(model)]
    expected = sum(m.sum() for m in masks) / sum(m.size for m in masks)
    assert scalars(tmp_path)["network/explored"][-1][1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("layer", "shape", "size"),
    [
        (layers.Dense(4), (6,), (6, 4)),
        (layers.Conv2D(4, 3), (8, 8, 2), (2, 4)),
        (layers.Conv2D(4, 3, groups=2), (8, 8, 2), (2, 2)),
        (layers.Conv2DTranspose(4, 3), (8, 8, 2), (2, 4)),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (7, 5), (5, 6)),
        (layers.EinsumDense("abde,dec->abc", (None, 5)), (7, 2, 3), (6, 5)),
    ],
)
def test_a_mask_is_inputs_by_outputs(layer, shape, size):
    (weight,) = ks.masked_weights(ks.sparsify(keras.Sequential([keras.Input(shape), layer]), 0.5))
    matrix = mask_images.mask_matrix(weight)
    assert matrix.shape == size
    assert matrix.mean() == pytest.approx(weight.mask.numpy().mean())


@pytest.mark.parametrize(
    ("before", "drawn"),
    [
        ([keras.layers.Rescaling(2.0), keras.layers.Flatten(), keras.layers.Dropout(0.1)], True),
        ([keras.layers.Permute((3, 1, 2)), keras.layers.Flatten()], False),
        ([keras.layers.AveragePooling2D(2), keras.layers.Flatten(), keras.layers.Dense(60, name="hidden")], False),
    ],
)
def test_connectivity_is_drawn_for_layers_that_read_pixels_in_their_order(before, drawn):
    model = keras.Sequential([keras.Input((6, 5, 2)), *before, keras.layers.Dense(7)])
    sparse = ks.sparsify(model, 0.6, keep_dense=[x.name for x in before if x.name == "hidden"])
    kind, _ = mask_images.first_layer_image(sparse, ks.masked_weights(sparse)[0])
    assert kind == ("connectivity" if drawn else None)

"""Tests that a saved model is small and loads in plain Keras, and that a failed write keeps the existing file."""

import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse as ks
from keras_sparse.export import saving
from nets import compiled, mlp, numpy


def lenet(sparsity=0.98):
    image = keras.Input((28, 28, 1))
    x = layers.Flatten()(image)
    for units in (300, 100, 10):
        x = layers.BatchNormalization()(layers.Dense(units, use_bias=False)(x))
        x = layers.ReLU()(x) if units > 10 else x
    return ks.sparsify(keras.Model(image, x), sparsity)


@pytest.mark.parametrize("keep_masks", [False, True])
def test_a_loaded_model_is_equal(tmp_path, keep_masks, blobs):
    model = compiled(mlp())
    model.fit(*blobs, verbose=0)
    ks.save_model(model, tmp_path / "m.keras", keep_masks=keep_masks)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert not loaded.compiled
    assert model.compiled
    np.testing.assert_array_equal(loaded.predict(blobs[0], verbose=0), model.predict(blobs[0], verbose=0))
    assert [w.name for w in ks.masked_weights(loaded)] == [w.name for w in ks.masked_weights(model) if keep_masks]
    for mine, theirs in zip(ks.masked_weights(loaded), ks.masked_weights(model), strict=False):
        np.testing.assert_array_equal(mine.mask.numpy(), theirs.mask.numpy())


def test_loading_does_not_import_keras_sparse(tmp_path):
    ks.save_model(mlp(), tmp_path / "m.keras")
    code = "import sys, keras; keras.models.load_model(sys.argv[1]); assert 'keras_sparse' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.keras")], check=True, cwd=tmp_path)


def test_lenet_takes_38_kb(tmp_path):
    size = ks.save_model(lenet(), tmp_path / "m.keras")
    assert size == os.path.getsize(tmp_path / "m.keras") <= 38_000
    # Only the configs of the masked layers are larger.
    assert ks.save_model(lenet(), tmp_path / "masks.keras", keep_masks=True) <= size + 1_000


def test_lzma_is_a_twentieth_smaller_than_bzip2(tmp_path):
    """With the parameters of Python's `zipfile`, it is larger."""
    model = lenet(0.9)
    sizes = {x: ks.save_model(model, tmp_path / f"{x}.keras", compression=x) for x in ("bzip2", "lzma")}
    assert sizes["lzma"] < 0.95 * sizes["bzip2"]
    loaded = keras.models.load_model(tmp_path / "lzma.keras")
    for mine, theirs in zip(loaded.weights, ks.densify(model).weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@pytest.mark.parametrize("granularity", ["weight", (4, 4), "2:4"])
def test_masks_are_kept_where_live_weights_are_zero(granularity, tmp_path):
    """The file has the differences between the masks and those of the nonzero weights."""
    dense = keras.Sequential([keras.Input((8,)), layers.Dense(16), layers.Dense(4)])
    model = ks.sparsify(dense, 0.5, granularity=granularity)
    model.layers[0].kernel_variable.assign(np.zeros((8, 16)))
    model.layers[1].kernel_variable.assign(np.ones((16, 4)))  # dead weights, too, as an optimizer may leave them
    ks.save_model(model, tmp_path / "m.keras", keep_masks=True)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for mine, theirs in zip(ks.masked_weights(loaded), ks.masked_weights(model), strict=True):
        np.testing.assert_array_equal(mine.mask.numpy(), theirs.mask.numpy())
        np.testing.assert_array_equal(numpy(mine.value()), numpy(theirs.value()))
    # A model that was loaded is saved and trained as any other.
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again.layers[0].kernel_mask, model.layers[0].kernel_mask)


@pytest.mark.parametrize("compression", ["bzip2", "lzma", "deflate", "none"])
def test_each_compression(tmp_path, compression):
    model = mlp()
    ks.save_model(model, tmp_path / "m.keras", compression=compression)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.testzip() is None
        assert {x.compress_type for x in archive.infolist()} == {saving._COMPRESSIONS[compression]}
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(numpy(keras.models.load_model(tmp_path / "m.keras")(x)), numpy(model(x)))


def test_a_failed_write_keeps_the_existing_file(tmp_path, monkeypatch):
    path = tmp_path / "m.keras"
    ks.save_model(mlp(), path)
    before = path.read_bytes()

    def full(reader, writer, length):
        writer.write(reader.read(10))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        ks.save_model(mlp(seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.keras"]


def test_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match="must end in '.keras'"):
        ks.save_model(mlp(), tmp_path / "m.h5")
    with pytest.raises(ValueError, match="`compression` must be one of .*'bzip2'"):
        ks.save_model(mlp(), tmp_path / "m.keras", compression="zip")
    with pytest.raises(FileNotFoundError, match="Make .*none"):
        ks.save_model(mlp(), tmp_path / "none" / "m.keras")
    with pytest.raises(ValueError, match="save_model"):
        ks.save_model(7, tmp_path / "m.keras")
    with pytest.raises(ValueError, match="not built"):
        ks.save_model(keras.Sequential([layers.Dense(2)]), tmp_path / "m.keras")


@pytest.mark.long
def test_damaged_files_fail_to_load_or_are_equal(tmp_path):
    """The checksums of the archive cover all bytes that matter."""
    model, x = mlp(), np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    path, broken = tmp_path / "m.keras", tmp_path / "broken.keras"
    ks.save_model(model, path)
    whole, expected, rng = path.read_bytes(), numpy(model(x)), np.random.default_rng(1)
    loaded = 0
    for i in range(1000):
        data = bytearray(whole)
        if i % 4:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            del data[rng.integers(len(data)) :]
        broken.write_bytes(data)
        try:
            got = keras.models.load_model(broken)
        except Exception:
            continue
        loaded += 1
        np.testing.assert_array_equal(numpy(got(x)), expected)
    assert loaded < 500


@pytest.mark.parametrize("compression", ["none", "bzip2"])
def test_a_file_may_have_any_name(tmp_path, compression):
    for name in ("uncompressed.keras", "model.keras"):
        ks.save_model(mlp(), tmp_path / name, compression=compression)
        assert keras.models.load_model(tmp_path / name).count_params()
    assert len(list(tmp_path.iterdir())) == 2

